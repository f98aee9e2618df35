// The card of a token: who wrote it, why it stands, and what both models thought of it.

import { byId, el } from "./dom.js";
import { describe } from "./model.js";
import { probabilityBars } from "./view_step.js";

export class Card {
  constructor() {
    this.root = byId("card");
    this.pinned = false;
    this.anchor = null;
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
    document.addEventListener("pointerdown", (event) => {
      if (!event.target.closest?.("[data-i], #card")) this.close();
    });
    // It belongs to a place in the text, and is not to stay behind when that moves.
    addEventListener("scroll", () => this.#place(), { passive: true });
    addEventListener("resize", () => this.#place());
  }

  show(run, i, anchor, focused) {
    if (this.pinned && !focused) return; // the mouse passes over others; the kept one stays
    const it = describe(run, i);
    const mark = it.origin === "draft" ? "d" : "t";
    this.root.replaceChildren(
      el("p.card-head", {}, el(`code.k.${mark}`, { dir: "auto" }, it.text), el("span.origin", {}, `${it.origin} · ${it.reason}`)),
      (it.target ?? it.draft ?? null) === null
        ? el("p.quiet", {}, "Probabilities were not recorded.")
        : el("div.meters", {}, ...probabilityBars(it.target, it.draft)),
    );
    if (it.why) this.root.append(el("p", {}, it.why));
    for (const line of it.lines) this.root.append(el("p", { dir: "auto" }, line));
    this.root.append(el("p.quiet", {}, it.where));
    this.anchor?.removeAttribute("aria-describedby");
    this.anchor?.classList.remove("looked");
    this.anchor = anchor;
    anchor.classList.add("looked");
    if (focused) anchor.setAttribute("aria-describedby", "card");
    this.root.hidden = false;
    this.#place();
  }

  pin() {
    this.pinned = true;
    this.root.classList.add("pinned");
  }

  leave() {
    if (this.pinned) return;
    if (this.anchor !== document.activeElement) this.close();
  }

  close() {
    this.pinned = false;
    this.root.classList.remove("pinned");
    this.root.hidden = true;
    this.anchor?.classList.remove("looked");
    this.anchor?.removeAttribute("aria-describedby");
    this.anchor = null;
  }

  /** Below the token, or above it where there is no room; a narrow page has it at the bottom. */
  #place() {
    if (!this.anchor || this.root.hidden) return;
    const { style } = this.root;
    if (matchMedia("(max-width: 640px)").matches) {
      style.left = style.top = "";
      return;
    }
    const box = this.anchor.getClientRects()[0];
    if (!box) return;
    const { offsetWidth: width, offsetHeight: height } = this.root;
    const below = box.bottom + 10;
    const fits = below + height < innerHeight - 8;
    style.left = `${Math.max(8, Math.min(box.left - 12, innerWidth - width - 16))}px`;
    style.top = `${fits ? below : Math.max(8, box.top - height - 10)}px`;
  }
}
