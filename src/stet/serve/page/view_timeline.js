// The time line: above what the draft wrote in each round, below the target's passes.

import { el } from "./dom.js";
import { rounds } from "./model.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 1000; // of the drawing; the page stretches it
const [DRAFT, TARGET, LANE] = [1, 15, 11];

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

export class TimelineView {
  constructor(onPick) {
    this.drawn = { rounds: [], seconds: 0 };
    this.svg = shape("svg", { viewBox: `0 0 ${WIDTH} 28`, preserveAspectRatio: "none", role: "img", "aria-label": "No passes yet" });
    this.parts = ["accepted", "rejected", "passes"].map((name) => {
      const path = shape("path", { class: name });
      this.svg.append(path);
      return path;
    });
    this.cursor = shape("rect", { class: "cursor", y: 0, height: 28, width: 0 });
    this.svg.append(this.cursor);
    this.svg.addEventListener("click", (event) => {
      const box = this.svg.getBoundingClientRect();
      const time = ((event.clientX - box.left) / box.width) * this.drawn.seconds;
      const round = this.drawn.rounds.findLast((r) => r.from <= time);
      if (round) onPick(round.at);
    });
    this.end = el("span.seconds");
    this.root = el(
      "div.timeline",
      {},
      el("div.lanes", { "aria-hidden": "true" }, el("span", {}, "draft"), el("span", {}, "target")),
      this.svg,
      this.end,
    );
  }

  /** Draw a run on a scale of so many seconds, which two runs share. */
  draw(run, seconds) {
    const found = rounds(run);
    const scale = seconds > 0 ? WIDTH / seconds : 0;
    const [accepted, rejected, passes] = [[], [], []];
    let [draft, target] = [0, 0];
    for (const round of found) {
      const width = ((round.turn - round.from) * scale) / (round.drafted || 1);
      for (let k = 0; k < round.drafted; k++) {
        const x = round.from * scale + k * width;
        // Rejected ones are half as high, too: colour is never the only mark.
        if (k < round.accepted) box(accepted, x, DRAFT, width, LANE);
        else box(rejected, x, DRAFT + LANE / 2, width, LANE / 2);
      }
      draft += round.drafted;
      if (round.target) {
        target++;
        box(passes, round.turn * scale, TARGET, (round.until - round.turn) * scale, LANE);
      }
    }
    [accepted, rejected, passes].forEach((d, i) => this.parts[i].setAttribute("d", d.join("")));
    this.svg.setAttribute("aria-label", `Time line: ${draft} passes of the draft, ${target} of the target`);
    this.end.textContent = seconds > 0 ? `${seconds.toFixed(seconds < 10 ? 2 : 1)} s` : "";
    this.drawn = { rounds: found, seconds };
  }

  /** Point at the round that a token came from. */
  look(i) {
    const { rounds: found, seconds } = this.drawn;
    const round = found.findLast((r) => r.at <= i);
    if (!round || !(seconds > 0)) return;
    this.cursor.setAttribute("x", (round.from / seconds) * WIDTH);
    this.cursor.setAttribute("width", Math.max(((round.until - round.from) / seconds) * WIDTH, 2));
  }
}

/** A box with a gap behind it, which vanishes where boxes are as narrow as that. */
function box(path, x, y, width, height) {
  const w = Math.max(width - Math.min(1.2, width * 0.3), 0.3);
  path.push(`M${x.toFixed(2)} ${y}h${w.toFixed(2)}v${height}h${(-w).toFixed(2)}z`);
}
