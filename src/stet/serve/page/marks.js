// An answer's tokens with an editor's marks: rejected text struck through, what replaces it behind
// a caret, and dots below text that stands against the target's choice ("stet").

import { el } from "./dom.js";
import { letStand, quoted } from "./model.js";

const INVISIBLE = /^[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Mn}]*$/u;
const LONGEST = 60; // of rejected text in the line; the card has the rest

/** The element of a token: a button to a reader's ears, as it opens a card. */
export function tokenElement(run, i) {
  const made = el("span", { role: "button", tabindex: "-1", "data-i": i });
  decorate(made, run, i);
  return made;
}

/** Bring an element up to date with what is known of its token now. */
export function decorate(made, run, i) {
  const token = run.tokens[i];
  const shown = run.shown[i];
  const struck = struckAt(run, i);
  const classes = ["k", token.origin === "draft" ? "d" : "t"];
  if (letStand(run, i)) classes.push("stet");
  if (struck) classes.push("put");
  if (run.ends.has(i)) classes.push("end");
  else if (INVISIBLE.test(shown) && !shown.includes("\n")) classes.push("ghost");
  const ends = shown.endsWith("\n"); // it begins a row, and its sign is no part of the text
  if (ends) classes.push("nl");
  const text = ends ? shown.slice(0, -1) : shown;
  const name = classes.join(" ");
  if (made.className === name && made.textContent === text) return;
  made.className = name;
  if (name === "k d") made.textContent = text;
  else {
    const space = /^ */.exec(text)[0]; // marks are on words, not on the spaces before them
    made.replaceChildren(space, el("span.w", {}, text.slice(space.length)));
  }
  const words = [quoted(shown || token.text), token.origin, token.reason.replaceAll("_", " ")];
  if (struck) words.push(`in place of ${struck.text ? quoted(struck.text) : `${struck.count} drafted tokens`}`);
  made.setAttribute("aria-label", words.join(", "));
}

/** The rejected text before a token. What was drafted behind the end of an answer is not shown. */
export function struckAt(run, i) {
  return i < run.tokens.length ? (run.struck.get(i) ?? null) : null;
}

export function struckElement({ text, count, whole }) {
  const cut = text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text + (whole ? "" : "…");
  const seen = text ? cut.replaceAll("\n", "↵") : `${count} drafted`;
  return el(text ? "del" : "del.count", { "aria-hidden": "true" }, seen);
}

export function replacedElement(text) {
  return el("del.step", {}, text.trimEnd());
}

/** The key: each mark on the words that it means. */
export function legendItems() {
  const word = (marks, text) => el(`span.k.${marks}`, {}, el("span.w", {}, text));
  return [
    el("span", { title: "Drafted tokens that the policy accepted" }, word("d", "the draft’s")),
    el("span", { title: "Tokens that the target wrote" }, word("t", "the target’s")),
    el(
      "span",
      { title: "Drafted tokens that were rejected, and what stands in their place" },
      el("del", {}, "rejected"),
      " ",
      word("t.put", "recovered"),
    ),
    el("span", { title: "The draft’s, accepted against the target’s own choice" }, word("d.stet", "accepted mismatch")),
  ];
}
