// What is known of a run. Plain data and functions of it, without a document: a stream adds to it
// piece by piece, a trace all at once, and everything that is shown is read from it.

/** Reasons in words; a reason that is not here is shown as the policy gave it. */
const REASONS = {
  accepted: "The draft wrote it and the policy accepted it.",
  accepted_mismatch: "The draft wrote it and the policy accepted it against the target’s own choice.",
  recovered: "It follows the accepted tokens of a block whose next token was rejected.",
  bonus: "The target wrote it: it follows a wholly accepted block, or no block was drafted.",
  combined: "Neither model’s own choice: the policy took it from both models’ distributions.",
  drafted: "The draft wrote it and nobody verified it.",
  "step accepted": "It is part of a draft’s step that the policy accepted.",
  "step preferred to the target's":
    "It is part of a draft’s step that was rejected, and stands after all: the target’s was held no better.",
};

/** Reasons of text that stands although the target would have written something else. */
const LET_STAND = new Set(["accepted_mismatch", "step preferred to the target's"]);

/** `known` holds texts of tokens by id; runs of one vocabulary may share it. */
export function createRun({ policy, parameters = {}, lossless = null, prompt = "", known = new Map() }) {
  return {
    policy,
    parameters,
    lossless,
    prompt,
    single: policy === "target" || policy === "draft",
    status: "waiting", // then running, and at last done, stopped or failed
    error: "",
    finish: null,
    text: "",
    tokens: [],
    shown: [], // the text of each token as it is in the answer
    ends: new Set(), // tokens that are no part of the text, such as a stop token
    blocks: [],
    blockOf: [], // of each token the index of its block
    struck: new Map(), // token -> rejected text that it replaces
    steps: [],
    stepAt: new Map(), // first token -> index of the step
    stepOf: [],
    known,
    times: [], // [tokens, seconds] after each piece
    elapsed: 0,
    trace: null,
    aligned: 0,
    cursor: 0,
  };
}

/**
 * Add a piece. Returns what changed: `tokens` that look different now, though they may have been
 * shown already, and the indices of new `steps`.
 */
export function addPiece(run, { text = "", tokens = [], blocks = [], steps = [], elapsed = null }) {
  const touched = new Set();
  if (run.status === "waiting") run.status = "running";
  run.text += text;
  for (const token of tokens) {
    run.tokens.push(token);
    run.shown.push(token.text);
    if (token.id !== null) run.known.set(token.id, token.text);
  }
  const firstStep = run.steps.length;
  for (const step of steps) addStep(run, step, touched);
  for (const block of blocks) addBlock(run, block, touched);
  if (elapsed !== null) {
    run.elapsed = elapsed;
    run.times.push([run.tokens.length, elapsed]);
  }
  align(run, false, touched);
  return { tokens: touched, steps: run.steps.slice(firstStep).map((_, i) => firstStep + i) };
}

/** The stream's last piece of the answer has come. */
export function endRun(run, { finish = null, trace = null } = {}) {
  const touched = new Set();
  run.finish = finish;
  run.trace = trace;
  align(run, true, touched);
  return { tokens: touched, steps: [] };
}

function addBlock(run, block, touched) {
  const index = run.blocks.push(block) - 1;
  const { position, accepted, drafted } = block;
  (block.drafted_text ?? []).forEach((text, k) => run.known.set(drafted[k], text));
  for (const { target, target_text: text } of block.mismatches ?? []) {
    if (text !== undefined) run.known.set(target, text);
  }
  const covered = accepted + (block.next_token === null ? 0 : 1);
  for (let i = position; i < position + covered; i++) {
    run.blockOf[i] = index;
    touched.add(i);
  }
  if (accepted < drafted.length) {
    run.struck.set(position + accepted, rejectedText(run, block));
    touched.add(position + accepted);
  }
}

function addStep(run, step, touched) {
  const index = run.steps.push(step) - 1;
  run.stepAt.set(step.position, index);
  for (let i = step.position; i < step.position + step.tokens; i++) {
    run.stepOf[i] = index;
    touched.add(i);
  }
}

/** The rejected end of a block; `count` stands for it where its text is in no record. */
function rejectedText(run, block) {
  const { drafted, accepted } = block;
  const rest = drafted.slice(accepted);
  const texts = block.drafted_text?.slice(accepted) ?? rest.map((id) => run.known.get(id));
  const first = texts.findIndex((text) => text === undefined);
  const known = first < 0 ? texts : texts.slice(0, first);
  return { text: known.join(""), whole: first < 0, count: rest.length, block };
}

/** Whether a block is the candidate of the step that begins with it, read by the target. */
function opensStep(block, step) {
  const ids = step.candidates[step.chosen]?.ids ?? [];
  return block.position === step.position && String(ids) === String(block.drafted);
}

/** The draft's step that the target's replaces, unless the marks in its first block show it. */
export function replacedStep(run, step) {
  if (step.decision !== "rewritten") return null;
  const block = run.blocks[run.blockOf[step.position]] ?? run.struck.get(step.position)?.block;
  if (block && opensStep(block, step)) return null;
  const text = step.candidates[step.chosen]?.text ?? "";
  const written = run.shown.slice(step.position, step.position + step.tokens).join("");
  return text === "" || written.startsWith(text) ? null : text; // in a shadow run it may stand
}

/** Whether a step stands though the target had written another one. */
export function stands(run, step) {
  return step.decision === "accepted" && step.target_candidates.length > 0 && !shadow(run);
}

function shadow(run) {
  return run.parameters.shadow === true;
}

export function letStand(run, i) {
  const token = run.tokens[i];
  return token.origin === "draft" && LET_STAND.has(token.reason);
}

/**
 * Give tokens the text that they have in the answer. A token alone may hold part of a character
 * (U+FFFD), or lack the space before it. Where the text has not come yet, tokens wait.
 */
function align(run, last, touched) {
  const { tokens, shown, text } = run;
  const show = (i, piece) => {
    if (shown[i] !== piece) touched.add(i);
    shown[i] = piece;
  };
  let i = run.aligned;
  while (i < tokens.length) {
    let j = i;
    while (j < tokens.length && tokens[j].text.includes("\ufffd")) j++;
    if (j === tokens.length && j > i && !last) break;
    const next = j < tokens.length ? tokens[j].text : "";
    const room = run.cursor + next.length + 8 * (j - i);
    if (!last && room > text.length && run.cursor + next.length > text.length) break;
    const window = text.slice(run.cursor, room + 2);
    const at = j < tokens.length ? window.indexOf(next) : window.length;
    if (j > i) {
      if (at >= 0) {
        for (let k = i; k < j; k++) show(k, k === i ? window.slice(0, at) : "");
        run.cursor += at;
      }
      i = j;
      continue;
    }
    if (at >= 0) {
      show(i, window.slice(0, at + next.length));
      run.cursor += at + next.length;
    } else if (last && run.cursor >= text.length) {
      run.ends.add(i);
      touched.add(i);
    }
    i++;
  }
  run.aligned = i;
}

/**
 * The passes of a run in order: of each round how many tokens were drafted, how many of them
 * accepted, whether the target made a pass, and the seconds it began and ended. Rounds end when
 * their tokens came; inside a piece, and in a trace, passes share the time by their mean cost.
 */
export function rounds(run) {
  const found = [];
  const openings = new Set();
  const block = new Map(run.blocks.map((b) => [b.position, b]));
  const end = run.tokens.length;
  for (let i = 0; i < end; ) {
    const step = run.steps[run.stepAt.get(i)];
    const at = block.get(i);
    if (step && !openings.has(i)) {
      openings.add(i);
      const own = at && opensStep(at, step) ? at.drafted.length : 0;
      const whole = step.decision === "accepted" && !at && step.tokens > 0;
      const reads = whole && step.target_seconds > 0;
      const drafted = step.draft_tokens - own;
      if (drafted || reads) {
        const accepted = whole ? Math.min(step.tokens, drafted) : 0;
        found.push({ at: i, drafted, accepted, target: reads, next: whole ? i + step.tokens : i });
      }
      if (whole) {
        i += step.tokens;
        continue;
      }
    }
    const drafted = at?.drafted.length ?? (run.tokens[i].origin === "draft" ? 1 : 0);
    const accepted = at ? at.accepted : drafted;
    const target = Boolean(at) || run.tokens[i].origin === "target";
    // At least one token on, whatever a record says: a file may say anything.
    const next = i + Math.max(at ? accepted + (at.next_token === null ? 0 : 1) : 1, 1);
    found.push({ at: i, drafted, accepted, target, next });
    i = next;
  }
  spread(run, found);
  return found;
}

function spread(run, found) {
  const { draft, target } = costs(run);
  const times = run.times.length ? run.times : [[run.tokens.length, run.elapsed]];
  let i = 0;
  let from = 0;
  for (const [tokens, until] of times) {
    const first = i;
    let weight = 0;
    while (i < found.length && (found[i].next <= tokens || tokens >= run.tokens.length)) {
      weight += found[i].drafted * draft + (found[i].target ? target : 0);
      i++;
    }
    if (i === first) continue;
    const scale = (until - from) / (weight || 1);
    for (const round of found.slice(first, i)) {
      round.from = from;
      round.turn = from + round.drafted * draft * scale; // the draft ends, the target begins
      round.until = round.turn + (round.target ? target * scale : 0);
      from = round.until;
    }
    from = until;
  }
}

function costs(run) {
  const c = run.trace?.counters;
  const known = c && c.draft_passes && c.target_passes && c.draft_seconds && c.target_seconds;
  return known
    ? { draft: c.draft_seconds / c.draft_passes, target: c.target_seconds / c.target_passes }
    : { draft: 0.25, target: 1 };
}

/** The numbers of a run: counted while it goes on, the server's own at its end. */
export function numbers(run) {
  const c = run.trace?.counters ?? counted(run);
  const tokens = run.tokens.length;
  const seconds = run.trace?.seconds ?? run.elapsed;
  return {
    tokens,
    seconds,
    perSecond: seconds > 0 ? tokens / seconds : null,
    targetPasses: c.target_passes,
    draftPasses: c.draft_passes,
    perPass: c.target_passes ? tokens / c.target_passes : null,
    acceptance: c.drafted_tokens ? c.accepted_tokens / c.drafted_tokens : null,
    steps: c.steps,
    acceptedSteps: c.accepted_steps,
    mismatches: run.tokens.reduce((n, t) => n + (t.reason === "accepted_mismatch" ? 1 : 0), 0),
  };
}

function counted(run) {
  let [target, draft, drafted, accepted] = [0, 0, 0, 0];
  for (const round of rounds(run)) {
    draft += round.drafted;
    if (round.target) target++;
  }
  for (const block of run.blocks) {
    drafted += block.drafted.length;
    accepted += block.accepted;
  }
  return {
    target_passes: target,
    draft_passes: draft,
    drafted_tokens: drafted,
    accepted_tokens: accepted,
    steps: run.steps.length,
    accepted_steps: run.steps.filter((s) => s.decision === "accepted").length,
  };
}

export const active = (run) => run.status === "waiting" || run.status === "running";

/** Two runs of one prompt beside each other, in sentences. */
export function compare(a, b) {
  if (!a || !b || !a.tokens.length || !b.tokens.length) return [];
  const said = [];
  const over = a.status === "done" && b.status === "done";
  const [x, y] = [numbers(a), numbers(b)];
  const [base, other] = a.policy === "target" ? [x, y] : [y, x];
  const [baseRun, otherRun] = a.policy === "target" ? [a, b] : [b, a];
  const name = otherRun.policy === baseRun.policy ? "the left one" : otherRun.policy;
  if (over && base.seconds > 0 && other.seconds > 0) {
    const ratio = base.seconds / other.seconds;
    const than = baseRun.policy === "target" ? "the target alone" : baseRun.policy;
    const times = `${name} took ${other.seconds.toFixed(2)} s, ${than} ${base.seconds.toFixed(2)} s`;
    said.push({ figure: `${ratio.toFixed(2)}×`, text: `as fast as ${than}: ${times}.` });
  } else if ((active(a) || active(b)) && base.perSecond && other.perSecond) {
    const ratio = other.perSecond / base.perSecond;
    said.push({ figure: `${ratio.toFixed(2)}×`, text: `the tokens a second of ${baseRun.policy}, so far.` });
  }
  if (over && a.prompt === b.prompt) {
    if (a.text === b.text) said.push({ text: "Both texts are the same." });
    else {
      const i = a.shown.findIndex((text, k) => text !== b.shown[k] || a.tokens[k].id !== b.tokens[k]?.id);
      if (i >= 0) said.push({ text: `The texts part at token ${i + 1}.`, at: i });
    }
  }
  return said;
}

/** Everything that is known of one token, for its card. */
export function describe(run, i) {
  const token = run.tokens[i];
  const block = run.blocks[run.blockOf[i]];
  const step = run.steps[run.stepOf[i]];
  const within = block ? i - block.position : null;
  const decided = block?.mismatches?.find((m) => m.at === within);
  const lines = [];
  const struck = run.struck.get(i);
  if (struck) {
    const count = `${struck.count} drafted token${struck.count === 1 ? "" : "s"}`;
    const what = struck.text ? `In place of ${quoted(struck.text)}${struck.whole ? "" : " …"}: ` : "";
    lines.push(`${what}${count} rejected here.`);
  }
  if (decided && decided.draft === token.id) {
    const other = named(run, decided.target);
    lines.push(`The arbiter gives the draft’s token ${percent(decided.score)}; the target would have put ${other}.`);
  } else if (decided) {
    lines.push(`The arbiter gave the draft’s token ${percent(decided.score)}, and it was rejected.`);
  }
  for (const [id, logprob] of Object.entries(token.top_logprobs ?? {})) {
    if (Number(id) !== token.id && logprob > Math.log(0.05)) {
      lines.push(`The target also had ${named(run, Number(id))} at ${percent(Math.exp(logprob))}.`);
    }
  }
  const where = [`token ${i + 1}`];
  if (block) {
    const place = within < block.accepted ? `${within + 1} of ${block.drafted.length} drafted` : "after it";
    where.push(`block ${run.blockOf[i] + 1}, ${place}`);
  }
  if (step) where.push(`step ${run.stepOf[i] + 1}, ${step.decision}`);
  if (token.id !== null) where.push(`id ${token.id}`);
  return {
    text: quoted(run.shown[i] || token.text),
    origin: token.origin,
    reason: token.reason.replaceAll("_", " "),
    why: REASONS[token.reason] ?? "",
    lines,
    where: where.join(" · "),
    target: token.p_target,
    draft: token.p_draft,
  };
}

function named(run, id) {
  const text = run.known.get(id);
  return text === undefined ? `token ${id}` : quoted(text);
}

/** Text in quotes, with what cannot be seen written out. */
export function quoted(text) {
  const seen = text.replace(
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\u00a0]/gu,
    (c) => ESCAPES[c] ?? `\\u{${c.codePointAt(0).toString(16)}}`,
  );
  return `“${seen.length > 200 ? `${seen.slice(0, 200)}…` : seen}”`;
}

const ESCAPES = { "\n": "↵", "\t": "⇥", "\r": "\\r" };

export function percent(p) {
  if (p === null || p === undefined) return "–";
  if (p > 0 && p < 0.001) return "< 0.1 %";
  if (p < 1 && p >= 0.9995) return "> 99.9 %";
  return `${(100 * p).toFixed(1)} %`;
}

/** Read a file of traces; throws a sentence that names the first line that is not one. */
export function readTraces(text) {
  const lines = text.split("\n"); // and at no other separator: strings may hold U+2028
  const traces = [];
  lines.forEach((line, index) => {
    if (!line.trim()) return;
    let trace;
    try {
      trace = JSON.parse(line);
    } catch {
      if (index === lines.length - 1 && traces.length) return; // an interrupted write
      throw new Error(`Line ${index + 1} is not JSON.`);
    }
    if (trace?.version === 2) {
      throw new Error(`Line ${index + 1} is a trace of version 2; stet.core.trace.read brings it to version 3.`);
    }
    if (!isTrace(trace)) throw new Error(`Line ${index + 1} is not a trace of version 3.`);
    traces.push(trace);
  });
  if (!traces.length) throw new Error("There is no trace in this file.");
  return traces;
}

const whole = (n) => Number.isSafeInteger(n) && n >= 0;
const ids = (list) => Array.isArray(list) && list.every(Number.isSafeInteger);

function isTrace(t) {
  return (
    t?.version === 3 &&
    typeof t.text === "string" &&
    typeof t.prompt === "string" &&
    typeof t.seconds === "number" &&
    typeof t.settings?.policy?.name === "string" &&
    t.counters !== null && typeof t.counters === "object" &&
    Array.isArray(t.tokens) &&
    t.tokens.every((k) => typeof k?.text === "string" && typeof k.reason === "string") &&
    Array.isArray(t.blocks) &&
    t.blocks.every(isBlock) &&
    Array.isArray(t.steps ?? []) &&
    (t.steps ?? []).every((step) => isStep(step) && step.position + step.tokens <= t.tokens.length)
  );
}

const isBlock = (b) =>
  whole(b?.position) && ids(b.drafted) && whole(b.accepted) && b.accepted <= b.drafted.length;

const isCandidate = (c) => typeof c?.text === "string" && isNumbers(c.signals);
const isNumbers = (o) => o !== null && typeof o === "object";

const isStep = (s) =>
  whole(s?.position) &&
  whole(s.tokens) &&
  Array.isArray(s.candidates) &&
  s.candidates.every(isCandidate) &&
  isNumbers(s.signals) &&
  isNumbers(s.normalised) &&
  Array.isArray(s.target_candidates) &&
  s.target_candidates.every((text) => typeof text === "string");

export function runOfTrace(trace, known = new Map()) {
  const { name, ...parameters } = trace.settings.policy;
  const run = createRun({ policy: name, parameters, lossless: trace.settings.lossless, prompt: trace.prompt, known });
  const { text, tokens, blocks } = trace;
  addPiece(run, { text, tokens, blocks, steps: trace.steps ?? [] });
  endRun(run, { finish: trace.finish_reason, trace });
  run.elapsed = trace.seconds;
  run.status = "done";
  return run;
}
