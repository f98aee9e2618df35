"use strict";
(() => {
  const controls = document.getElementById("controls");
  if (!controls) return;
  controls.hidden = false;
  const changes = [...document.querySelectorAll("details.change")];
  const texts = new Map(changes.map((c) => [c, c.querySelector("summary").textContent.toLowerCase()]));
  const policy = document.getElementById("by-policy");
  const kind = document.getElementById("by-kind");
  const words = document.getElementById("by-words");
  const count = document.getElementById("shown-count");
  const apply = () => {
    const wanted = words.value.trim().toLowerCase();
    let shown = 0;
    for (const change of changes) {
      change.hidden =
        (kind.value !== "" && change.dataset.kind !== kind.value) ||
        (policy.value !== "" && change.dataset.policy !== policy.value) ||
        !texts.get(change).includes(wanted);
      if (!change.hidden) shown += 1;
    }
    for (const section of document.querySelectorAll("section.changes")) {
      section.hidden = policy.value !== "" && section.dataset.policy !== policy.value;
    }
    count.textContent = `${shown} of ${changes.length} shown`;
  };
  const open = (value) => () => {
    for (const change of changes) change.open = value && !change.hidden;
  };
  for (const control of [policy, kind, words]) control.addEventListener("input", apply);
  document.getElementById("open-all").addEventListener("click", open(true));
  document.getElementById("close-all").addEventListener("click", open(false));
  apply();
})();
