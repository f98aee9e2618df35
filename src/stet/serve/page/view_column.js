// One of the two sides: its heading, numbers, time line and answer.

import { el, setText } from "./dom.js";
import { active, numbers, percent } from "./model.js";
import { AnswerView, NumbersView } from "./view_answer.js";
import { TimelineView } from "./view_timeline.js";

const REDRAW = 200; // milliseconds between drawings of the time line, which are made anew

export class Column {
  constructor(card, index) {
    this.title = el("h2", { id: `side-${index}` });
    this.tag = el("span.tag");
    this.status = el("span.status");
    this.parameters = el("p.parameters.quiet");
    this.failure = el("p.failure", { role: "alert", hidden: true });
    this.answer = new AnswerView(card, (i) => this.timeline.look(i));
    this.timeline = new TimelineView((i) => this.answer.focus(i));
    this.numbers = new NumbersView();
    this.picker = el("select.pick", { "aria-label": "Which trace of the file", hidden: true });
    this.root = el(
      "article.side",
      { "aria-labelledby": `side-${index}` },
      el("header", {}, this.title, this.tag, this.status, this.picker),
      this.parameters,
      this.numbers.root,
      this.timeline.root,
      this.failure,
      this.answer.root,
    );
    this.show(null);
  }

  show(run) {
    this.run = run;
    this.drawnAt = 0;
    this.drawnFor = "";
    this.heard = performance.now();
    this.root.hidden = !run;
    this.answer.show(run);
    if (!run) return;
    setText(this.title, run.policy);
    this.tag.hidden = run.lossless === null;
    setText(this.tag, run.lossless ? "lossless" : "not lossless");
    this.tag.classList.toggle("lossless", run.lossless === true);
    const set = Object.entries(run.parameters).filter(([, v]) => v !== null && typeof v !== "object");
    setText(this.parameters, set.map(([k, v]) => `${k} ${String(v).replaceAll("\n", "↵")}`).join(" · "));
    this.parameters.hidden = !set.length;
  }

  changed(change) {
    this.heard = performance.now();
    this.answer.changed(change);
  }

  /** Bring what is seen up to date; returns whether there is more to show. */
  frame(now, scale) {
    const { run } = this;
    if (!run) return false;
    const more = this.answer.frame();
    const over = !active(run);
    const state = `${run.status} ${run.tokens.length} ${scale}`;
    if (state !== this.drawnFor && (over || now - this.drawnAt >= REDRAW)) {
      this.drawnAt = now;
      this.drawnFor = state;
      this.timeline.draw(run, scale);
      this.numbers.show(items(run));
    }
    setText(this.status, this.#statusText(now));
    this.root.dataset.status = run.status;
    this.root.setAttribute("aria-busy", String(!over));
    this.failure.hidden = !run.error;
    setText(this.failure, run.error);
    return more || state !== this.drawnFor;
  }

  #statusText(now) {
    const { run } = this;
    const quiet = Math.floor((now - this.heard) / 1000);
    const waits = quiet >= 3 ? `, nothing new for ${quiet} s` : "";
    switch (run.status) {
      case "waiting":
        return `waiting${waits}`;
      case "running":
        return `writing${waits}`;
      case "stopped":
        return "stopped";
      case "failed":
        return "failed";
      default:
        return ENDS[run.finish] ?? run.finish ?? "";
    }
  }
}

const ENDS = {
  stop: "finished",
  length: "at its limit of tokens",
  loop: "ended: the draft’s steps went in a circle",
  timeout: "out of time",
  error: "failed",
};

function items(run) {
  const n = numbers(run);
  const two = (x, unit = "") => (x === null ? "–" : `${x.toFixed(2)}${unit}`);
  return [
    ["tokens", String(n.tokens), "Tokens in the answer"],
    ["tokens per target pass", two(n.perPass), "Emitted tokens for each forward pass of the target"],
    ["acceptance rate", n.acceptance === null ? "" : percent(n.acceptance), "Accepted tokens over drafted tokens"],
    ["accepted mismatches", n.mismatches ? String(n.mismatches) : "", "Tokens of the draft that stand against the target’s own choice"],
    ["steps accepted", n.steps ? `${n.acceptedSteps} of ${n.steps}` : "", "Steps of the draft that were accepted"],
    ["passes, target + draft", `${n.targetPasses} + ${n.draftPasses}`, "Forward passes after the prompt"],
    ["tokens a second", n.perSecond === null ? "–" : n.perSecond.toFixed(1), "Emitted tokens a second"],
    ["seconds", two(n.seconds), "Since the request began to run"],
  ];
}
