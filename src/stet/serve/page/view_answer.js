// One answer on the page. New tokens are appended in frames, none is ever built twice, and rows
// out of sight cost no layout (content-visibility), so a long answer stays as quick as a short one.

import { el, setText } from "./dom.js";
import { decorate, replacedElement, struckAt, struckElement, tokenElement } from "./marks.js";
import { replacedStep, letStand, stands } from "./model.js";
import { stepHead } from "./view_step.js";

const PER_FRAME = 300;

export class AnswerView {
  /** `card` is told which token is looked at, and whether it is to stay. */
  constructor(card, onLook) {
    this.card = card;
    this.onLook = onLook;
    this.root = el("div.answer", { role: "group", "aria-label": "Answer, token by token" });
    this.root.addEventListener("keydown", (event) => this.#key(event));
    this.root.addEventListener("focusin", (event) => this.#look(event.target, true));
    this.root.addEventListener("pointerover", (event) => {
      if (event.pointerType === "mouse") this.#look(event.target, false);
    });
    this.root.addEventListener("pointerleave", () => this.card.leave());
    this.root.addEventListener("click", (event) => {
      const i = this.#indexOf(event.target);
      if (i >= 0) this.#pin(i);
    });
    this.show(null);
  }

  show(run) {
    this.run = run;
    this.elements = [];
    this.heads = new Map(); // step -> its head
    this.row = null;
    this.stale = new Set(); // tokens that changed after they were shown
    this.late = []; // steps that were recorded after their tokens were shown
    this.here = 0; // the token that Tab leads to
    this.frames = 0;
    this.root.replaceChildren();
    this.root.classList.toggle("single", Boolean(run?.single));
  }

  changed({ tokens, steps }) {
    for (const i of tokens) if (i < this.elements.length) this.stale.add(i);
    for (const index of steps) {
      if (this.run.steps[index].position < this.elements.length) this.late.push(index);
    }
  }

  /** Show a frame's worth of what is new; returns whether there is more. */
  frame() {
    const { run } = this;
    if (!run) return false;
    for (const index of this.late) this.#insertHead(index);
    this.late = [];
    for (const i of this.stale) this.#renew(i);
    this.stale.clear();
    const first = this.elements.length;
    const last = Math.min(run.tokens.length, first + PER_FRAME);
    if (first === last) return false;
    this.frames++;
    const rows = document.createDocumentFragment();
    for (let i = first; i < last; i++) {
      const step = run.stepAt.get(i);
      if (step !== undefined) {
        rows.append(this.#head(step));
        this.row = null;
      }
      if (!this.row) {
        this.row = newRow();
        rows.append(this.row.element);
      }
      const made = tokenElement(run, i);
      if (i === this.here) made.tabIndex = 0;
      const struck = struckAt(run, i);
      this.row.text.append(...(struck ? [struckElement(struck), made] : [made]));
      this.#margin(this.row.element, i);
      this.elements.push(made);
      if (run.shown[i].endsWith("\n")) this.row = null;
    }
    this.root.append(rows);
    return last < run.tokens.length;
  }

  #head(index) {
    const head = stepHead(this.run, index);
    const step = this.run.steps[index];
    const replaced = replacedStep(this.run, step);
    if (replaced) head.append(replacedElement(replaced));
    if (stands(this.run, step)) head.classList.add("stands");
    this.heads.set(index, head);
    return head;
  }

  /** A step was decided after its tokens were shown: its head goes before them, in a row of their own. */
  #insertHead(index) {
    if (this.heads.has(index)) return;
    const made = this.elements[this.run.steps[index].position];
    if (!made) return; // it comes with its token
    const text = made.parentNode;
    const start = made.previousSibling?.nodeName === "DEL" ? made.previousSibling : made;
    const row = text.parentNode;
    if (start === text.firstChild) {
      row.before(this.#head(index));
      return;
    }
    const rest = newRow();
    while (start.nextSibling) rest.text.append(start.nextSibling);
    rest.text.prepend(start);
    row.after(this.#head(index), rest.element);
    if (this.row?.element === row) this.row = rest;
  }

  #renew(i) {
    const made = this.elements[i];
    const struck = struckAt(this.run, i);
    decorate(made, this.run, i);
    if (struck && made.previousSibling?.nodeName !== "DEL") made.before(struckElement(struck));
    this.#margin(made.parentNode.parentNode, i);
  }

  /** The margin says what an editor would write there. */
  #margin(row, i) {
    const step = this.run.steps[this.run.stepOf[i]];
    if (letStand(this.run, i) || (step && stands(this.run, step))) row.classList.add("has-stet");
  }

  #indexOf(node) {
    const held = node.closest?.("[data-i]");
    return held && this.root.contains(held) ? Number(held.dataset.i) : -1;
  }

  #look(node, focused) {
    const i = this.#indexOf(node);
    if (i < 0) return;
    if (focused) this.#roveTo(i);
    this.card.show(this.run, i, this.elements[i], focused);
    this.onLook(i);
  }

  #pin(i) {
    this.#roveTo(i);
    this.elements[i].focus({ preventScroll: true });
    this.card.pin();
  }

  #roveTo(i) {
    if (this.elements[this.here]) this.elements[this.here].tabIndex = -1;
    this.here = i;
    this.elements[i].tabIndex = 0;
  }

  focus(i) {
    this.elements[Math.max(0, Math.min(i, this.elements.length - 1))]?.focus();
  }

  #key(event) {
    const i = this.#indexOf(event.target);
    if (i < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = {
      ArrowRight: () => i + 1,
      ArrowLeft: () => i - 1,
      ArrowDown: () => this.#nextLine(i, 1),
      ArrowUp: () => this.#nextLine(i, -1),
      Home: () => 0,
      End: () => this.elements.length - 1,
      n: () => this.#nextMark(i, 1),
      p: () => this.#nextMark(i, -1),
    };
    if (event.key in moves) this.focus(moves[event.key]());
    else if (event.key === "Enter" || event.key === " ") this.#pin(i);
    else if (event.key === "Escape") this.card.close();
    else return;
    event.preventDefault();
  }

  #nextMark(i, by) {
    for (let k = i + by; this.elements[k]; k += by) {
      if (struckAt(this.run, k) || letStand(this.run, k)) return k;
    }
    return i;
  }

  /** The token above or below, as the lines are broken on this screen. */
  #nextLine(i, by) {
    const from = this.elements[i].getBoundingClientRect();
    const middle = (from.left + from.right) / 2;
    let best = i;
    let line = null;
    let distance = Infinity;
    for (let k = i + by; this.elements[k]; k += by) {
      const box = this.elements[k].getBoundingClientRect();
      if (Math.abs(box.top - from.top) < 4) continue;
      line ??= box.top;
      if (Math.abs(box.top - line) > 4) break;
      const away = Math.abs((box.left + box.right) / 2 - middle);
      if (away < distance) [best, distance] = [k, away];
    }
    return best;
  }
}

function newRow() {
  const text = el("div.line", { dir: "auto" });
  return { element: el("div.row", {}, text), text };
}

/** The numbers above an answer, in one list whose cells are made once. */
export class NumbersView {
  constructor() {
    this.cells = new Map();
    this.root = el("dl.numbers");
  }

  show(items) {
    for (const [name, value, title] of items) {
      let cell = this.cells.get(name);
      if (!cell) {
        cell = el("dd");
        this.cells.set(name, cell);
        this.root.append(el("div", { title }, el("dt", {}, name), cell));
      }
      setText(cell, value);
      cell.parentNode.hidden = value === "";
    }
  }
}
