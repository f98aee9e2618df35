// Making elements. Text goes in as text nodes and nowhere else.

/** `el("p.quiet", {title: "x"}, "text", child)`; handlers are given as functions under `onclick`. */
export function el(kind, attributes = {}, ...children) {
  const [tag, ...classes] = kind.split(".");
  const made = document.createElement(tag);
  if (classes.length) made.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);

/** Set text only where it changed: a live page sets the same numbers many times a second. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
