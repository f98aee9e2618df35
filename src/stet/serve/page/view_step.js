// The head of a step, which folds open to what the decision was made from.

import { el } from "./dom.js";
import { percent, replacedStep, stands } from "./model.js";

export function stepHead(run, index) {
  const step = run.steps[index];
  const verdict = stands(run, step) ? "stands after all" : step.decision;
  const compared = step.score !== null && step.threshold !== null;
  const sign = step.score >= step.threshold ? "≥" : "<";
  const score = compared ? `${number(step.score)} ${sign} ${number(step.threshold)}` : "";
  const head = el("div.step-head");
  let body = null;
  const button = el(
    "button.fold",
    {
      type: "button",
      "aria-expanded": "false",
      onclick: () => {
        const open = button.getAttribute("aria-expanded") !== "true";
        button.setAttribute("aria-expanded", open);
        if (!body) button.after((body = stepBody(run, step))); // made when it is first asked for
        body.hidden = !open;
      },
    },
    el("span.name", {}, `Step ${index + 1}`),
    el(`span.decision.${step.decision}`, {}, verdict),
    el("span.score", {}, score),
  );
  head.append(button);
  return head;
}

function stepBody(run, step) {
  const body = el("div.step-body");
  const { score, threshold } = step;
  const top = Math.max(score ?? 0, threshold ?? 0, 1);
  const reach = top > 1 ? 10 ** Math.ceil(Math.log10(top)) : 1; // ratings go to ten, scores to one
  body.append(el("p", {}, `The policy says: ${step.reason}.`));
  const meters = el("div.meters");
  if (score !== null) meters.append(...meter("score", score, reach, threshold));
  for (const [name, value] of Object.entries(step.normalised)) {
    const raw = step.signals[name];
    meters.append(...meter(words(name), value, 1, null, raw === undefined ? "" : number(raw)));
  }
  for (const [name, value] of Object.entries(step.signals)) {
    if (!(name in step.normalised)) {
      meters.append(el("span.meter-name", {}, words(name)), el("span"), el("span.meter-value", {}, number(value)));
    }
  }
  if (meters.firstChild) body.append(meters);
  const many = step.candidates.length > 1;
  body.append(el("h3", {}, many ? "Candidates of the draft" : "The draft’s step"));
  step.candidates.forEach((candidate, i) => {
    const chosen = i === step.chosen;
    const signals = Object.entries(candidate.signals).map(([k, v]) => `${words(k)} ${number(v)}`);
    const note = [many && chosen ? "chosen" : "", ...signals].filter(Boolean).join(" · ");
    const gone = chosen && step.decision === "rewritten" && replacedStep(run, step) !== null;
    body.append(
      el(
        `figure.candidate${chosen ? ".chosen" : ""}`,
        {},
        el("blockquote", { dir: "auto" }, gone ? el("del.step", {}, candidate.text.trimEnd()) : candidate.text.trimEnd() || "(nothing)"),
        note ? el("figcaption", {}, note) : null,
      ),
    );
  });
  if (step.target_candidates.length) {
    body.append(el("h3", {}, stands(run, step) ? "What the target wrote, and did not replace it" : "The target’s rewrite"));
    for (const text of step.target_candidates) {
      body.append(el("figure.candidate.target", {}, el("blockquote", { dir: "auto" }, text.trimEnd() || "(nothing)")));
    }
  }
  const cost = (model) => `${tokens(step[`${model}_tokens`])}, ${milliseconds(step[`${model}_seconds`])}`;
  body.append(el("p.quiet", {}, `Draft: ${cost("draft")}. Target: ${cost("target")}.`));
  return body;
}

/** A bar with its threshold as a line across it; the numbers say the same. */
function meter(name, value, reach, threshold, note = "") {
  const share = (x) => `${Math.min(Math.max(x / reach, 0), 1) * 100}%`;
  const fill = el(`span.fill${threshold !== null && value < threshold ? ".below" : ""}`);
  fill.style.width = share(value);
  const bar = el("span.bar", { "aria-hidden": "true" }, fill);
  let said = number(value);
  if (threshold !== null) {
    const line = el("span.threshold");
    line.style.left = share(threshold);
    bar.append(line);
    said += ` (threshold ${number(threshold)})`;
  } else if (note) said += ` (raw ${note})`;
  return [el("span.meter-name", {}, name), bar, el("span.meter-value", {}, said)];
}

const words = (name) => name.replaceAll("_", " ");
const tokens = (n) => `${n} token${n === 1 ? "" : "s"}`;
const milliseconds = (s) => (s >= 1 ? `${s.toFixed(2)} s` : `${(1000 * s).toFixed(1)} ms`);

export function number(x) {
  if (typeof x !== "number" || !Number.isFinite(x)) return "–";
  const text = Math.abs(x) >= 100 ? x.toFixed(0) : x.toFixed(2);
  return text.replace("-", "−");
}

/** Both models' probabilities of a token, as bars. */
export function probabilityBars(target, draft) {
  return [["target", target], ["draft", draft]].flatMap(([name, p]) => {
    const fill = el(`span.fill.${name}`);
    fill.style.width = `${100 * Math.min(Math.max(p ?? 0, 0), 1)}%`;
    const missing = p === null || p === undefined;
    return [
      el("span.meter-name", {}, name),
      el("span.bar", { "aria-hidden": "true" }, fill),
      el("span.meter-value", {}, missing ? "not recorded" : percent(p)),
    ];
  });
}
