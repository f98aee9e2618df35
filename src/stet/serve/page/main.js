// The page: what is asked, what is shown, and the one loop in which everything is drawn.

import { Failure, getJson, stream } from "./api.js";
import { byId, el, setText } from "./dom.js";
import { legendItems } from "./marks.js";
import { addPiece, compare, createRun, endRun, numbers, readTraces, runOfTrace } from "./model.js";
import { asLines, asPage, download } from "./share.js";
import { Card } from "./view_card.js";
import { Column } from "./view_column.js";
import { EXAMPLES, PolicyChoice, numberOf } from "./view_form.js";

const card = new Card();
const columns = [new Column(card, 0), new Column(card, 1)];
const choices = [new PolicyChoice("left"), new PolicyChoice("right", { optional: true })];
let offer = null; // what /v1/policies says
let model = null;
let stopping = null; // aborts what is running
let traces = []; // of the file that is open
const vocabularies = new Map(); // target -> texts of tokens, as far as answers have had them

// Drawing: whoever changes something asks for a frame, and a frame draws what it has room for.

let asked = false;
function draw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame((now) => {
    asked = false;
    const runs = columns.map((column) => column.run).filter(Boolean);
    const scale = Math.max(0, ...runs.map((run) => Math.max(run.trace?.seconds ?? 0, run.elapsed)));
    const more = columns.map((column) => column.frame(now, scale)).some(Boolean);
    if (drawVerdict(now) || more) draw();
  });
}
setInterval(() => {
  if (stopping) draw(); // seconds pass without news, too
}, 1000);

let verdictFor = "";
let verdictAt = 0;
/** Returns whether it is to be drawn anew soon: while runs go on, not in every frame. */
function drawVerdict(now) {
  const [a, b] = columns.map((column) => column.run);
  const state = a && b ? [a, b].map((run) => `${run.status}${run.times.length}`).join() : "";
  if (state === verdictFor) return false;
  if (stopping && now - verdictAt < 250) return true;
  verdictFor = state;
  verdictAt = now;
  const said = compare(a, b);
  const root = byId("verdict");
  root.hidden = !said.length;
  root.replaceChildren(
    ...said.flatMap(({ figure, text, at }) => [
      ...(figure ? [el("strong", {}, figure)] : []),
      at === undefined
        ? el("span", {}, text)
        : el("button.link", { type: "button", onclick: () => columns[0].answer.focus(at) }, text),
    ]),
  );
  if (said.length && a.together) root.append(el("span.quiet", {}, "Both shared the machine; one after the other, each has it alone."));
  return false;
}

// Asking.

async function ask(event) {
  event?.preventDefault();
  if (stopping || !offer) return;
  complain("");
  let wanted;
  try {
    wanted = wishes();
  } catch (error) {
    complain(error.message);
    return;
  }
  const { runs, bodies, path } = wanted;
  showRuns(runs);
  showFile([]);
  const { top } = byId("results").getBoundingClientRect();
  if (top > innerHeight * 0.6) byId("results").scrollIntoView(); // a phone, or a low window
  stopping = new AbortController();
  busy(true);
  const answer = (run, i) => follow(run, columns[i], path, bodies[i]);
  if (byId("order").value === "turns") {
    for (const [i, run] of runs.entries()) await answer(run, i);
  } else {
    for (const run of runs) run.together = runs.length > 1;
    await Promise.all(runs.map(answer));
  }
  stopping = null;
  busy(false);
  draw();
}

function wishes() {
  const problem = byId("problem").value;
  if (!problem.trim()) throw new Error("There is no problem yet: type one, or choose an example.");
  const chosen = choices.map((choice) => choice.get()).filter(Boolean);
  const value = (id, name) => (byId(id).value.trim() === "" ? undefined : numberOf(name, byId(id).value));
  const chat = offer.chat && byId("shape").value === "chat";
  const common = {
    model,
    ...(chat ? { messages: [{ role: "user", content: problem }] } : { prompt: problem }),
    stream: true,
    stream_options: { include_usage: true },
    max_tokens: value("max-tokens", "the most tokens") ?? Math.min(256, offer.max_tokens ?? 256),
    temperature: value("temperature", "the temperature") ?? 0,
    seed: value("seed", "the seed") ?? 0,
  };
  return {
    path: chat ? "v1/chat/completions" : "v1/completions",
    bodies: chosen.map(({ policy, parameters }) => ({
      ...common,
      speculation: { policy: policy.name, metrics: "trace", ...parameters },
    })),
    runs: chosen.map(({ policy: { name, lossless }, parameters }) =>
      createRun({ policy: name, parameters, lossless, prompt: problem, known: knownTo(offer.pair.target) }),
    ),
  };
}

function knownTo(target) {
  if (!vocabularies.has(target)) vocabularies.set(target, new Map());
  return vocabularies.get(target);
}

/** Follow one answer to its end, whatever the end is; only this changes the run's status. */
async function follow(run, column, path, body) {
  const { signal } = stopping;
  if (signal.aborted) return finish(run, "stopped");
  try {
    await stream(path, body, { key: key(), signal, onEvent: (event) => hear(run, column, event) });
    if (run.finish === null) throw new Failure("The answer has no end: the server said nothing of it.");
    finish(run, "done");
  } catch (error) {
    if (error.name === "AbortError") return finish(run, "stopped");
    if (error.status === 401) showKey(error.message);
    run.error = error.message;
    finish(run, "failed");
  }
}

function hear(run, column, event) {
  const choice = event.choices?.[0];
  if (choice) {
    const { tokens, blocks, steps, elapsed, policy, lossless, trace } = choice.speculation ?? {};
    const text = choice.text ?? choice.delta?.content ?? "";
    column.changed(addPiece(run, { text, tokens, blocks, steps, elapsed }));
    if (policy) {
      const { name, ...parameters } = policy;
      run.parameters = parameters;
      run.lossless = lossless ?? run.lossless;
    }
    if (choice.finish_reason) {
      column.changed(endRun(run, { finish: trace?.finish_reason ?? choice.finish_reason, trace: trace ?? null }));
      if (trace && trace.tokens.length !== run.tokens.length) {
        // A stop string took back tokens that had come: the trace has the last word.
        Object.assign(run, runOfTrace(trace, run.known), { prompt: run.prompt });
        column.show(run);
      }
    }
  }
  draw();
}

function finish(run, status) {
  run.status = status;
  const n = numbers(run);
  setText(byId("news"), `${run.policy}: ${status}, ${n.tokens} tokens${n.perPass ? `, ${n.perPass.toFixed(1)} per target pass` : ""}`);
  tools();
  draw();
}

function busy(is) {
  byId("run").hidden = is;
  byId("stop").hidden = !is;
  // Focus is not lost with the button that had it.
  if (document.activeElement === document.body) byId(is ? "stop" : "run").focus({ preventScroll: true });
}

function showRuns(runs) {
  card.close();
  columns.forEach((column, i) => column.show(runs[i] ?? null));
  byId("columns").classList.toggle("one", runs.length === 1);
  byId("empty").hidden = byId("empty").hidden || runs.length > 0;
  tools();
  draw();
}

// Files.

function finished() {
  return columns.map((column) => column.run?.trace).filter(Boolean);
}

function tools() {
  for (const button of document.querySelectorAll(".save")) button.hidden = !finished().length;
}

function openText(text, name) {
  if (stopping) stopping.abort();
  try {
    showFile(readTraces(text));
    complain("");
  } catch (error) {
    complain(`${name}: ${error.message}`);
  }
}

/** The traces of a file: two of them are shown, of one prompt where there are such. */
function showFile(read) {
  traces = read;
  for (const { tokens, settings } of traces) {
    for (const token of tokens) knownTo(settings.target?.name).set(token.id, token.text);
  }
  const names = traces.map(
    ({ settings, prompt }, i) => `${i + 1} of ${traces.length}: ${settings.policy.name}, ${prompt.trim().slice(0, 40)}`,
  );
  columns.forEach(({ picker }, side) => {
    picker.hidden = traces.length < 2;
    picker.replaceChildren(...names.map((name, i) => el("option", { value: i }, name)));
    picker.onchange = () => showSide(side, runOfFile(picker.value));
  });
  byId("prompt").hidden = !traces.length;
  if (!traces.length) return;
  const [first] = traces;
  const second = traces.findIndex((t, i) => i > 0 && t.prompt === first.prompt);
  const shown = traces.length === 1 ? [0] : [0, second > 0 ? second : 1];
  showRuns(shown.map(runOfFile));
  shown.forEach((i, side) => (columns[side].picker.value = i));
  showPrompt();
}

function runOfFile(i) {
  return runOfTrace(traces[i], knownTo(traces[i].settings.target?.name));
}

function showSide(side, run) {
  card.close();
  columns[side].show(run);
  verdictFor = "";
  showPrompt();
  draw();
}

function showPrompt() {
  const prompts = new Set(columns.map((column) => column.run?.prompt).filter((p) => p !== undefined));
  setText(byId("prompt"), [...prompts].join("\n"));
}

async function readFile(file) {
  if (file) openText(await file.text(), file.name);
}

function saveTraces() {
  download("stet-traces.jsonl", "application/jsonl", asLines(finished()));
}

async function savePage() {
  try {
    const page = await asPage(finished(), async (path) => {
      const response = await fetch(new URL(path, document.baseURI));
      if (!response.ok) throw new Error(response.status);
      return response.text();
    });
    download("stet-run.html", "text/html", page);
  } catch {
    complain("The page could not be read from the server, so it cannot be saved.");
  }
}

// The rest of the page.

function complain(sentence) {
  const line = byId("problem-line");
  line.hidden = !sentence;
  setText(line, sentence);
}

function key() {
  try {
    return sessionStorage.getItem("stet-key") ?? "";
  } catch {
    return byId("key").value;
  }
}

function showKey(sentence) {
  byId("key-form").hidden = false;
  complain(sentence);
  byId("key").focus();
}

async function connect() {
  try {
    const [policies, models] = await Promise.all([getJson("v1/policies", key()), getJson("v1/models", key())]);
    offer = policies;
    model = models.data?.[0]?.id ?? "";
    const { target, draft } = offer.pair;
    setText(byId("pair"), draft ? `target ${target} · draft ${draft}` : `target ${target}`);
    choices[0].offer(offer.policies, choices[0].select.value || offer.default);
    choices[1].offer(offer.policies, choices[1].select.value || "target");
    byId("shape-field").hidden = !offer.chat;
    if (offer.max_tokens) byId("max-tokens").placeholder = Math.min(256, offer.max_tokens);
    byId("key-form").hidden = true;
    byId("run").disabled = false;
    complain("");
  } catch (error) {
    if (error.status === 401) showKey(error.message);
    else complain(error.message);
  }
}

function build() {
  byId("columns").append(...columns.map((column) => column.root));
  byId("choices").append(...choices.map((choice) => choice.root));
  byId("legend").append(
    ...legendItems(),
    el(
      "span.buttons",
      {},
      switchButton("Marks", true, (on) => byId("columns").classList.toggle("unmarked", !on)),
      switchButton("Fixed width", false, (on) => byId("columns").classList.toggle("mono", on)),
      el("button.save.plain", { type: "button", hidden: true, onclick: saveTraces }, "Save traces"),
      el("button.save.plain", { type: "button", hidden: true, id: "save-page", onclick: savePage }, "Save as a page"),
    ),
  );
  byId("empty").append(
    "A draft model writes ahead, a target model reads it, and a policy decides whether the text stands. ",
    "Ask above to watch two policies answer, or drop a file of traces anywhere on this page.",
  );
  byId("examples").append(
    ...EXAMPLES.map(([name, text]) => el("button.link", { type: "button", onclick: () => setProblem(text) }, name)),
  );
  byId("ask").addEventListener("submit", ask);
  byId("ask").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask(event);
  });
  byId("stop").addEventListener("click", () => stopping?.abort());
  byId("open").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", (event) => {
    readFile(event.target.files[0]);
    event.target.value = ""; // the same file can be opened again
  });
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    try {
      sessionStorage.setItem("stet-key", byId("key").value.trim());
    } catch {}
    connect();
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    readFile(event.dataTransfer?.files[0]);
  });
}

function setProblem(text) {
  byId("problem").value = text;
  byId("problem").focus();
}

function switchButton(name, on, apply) {
  const press = () => {
    on = !on;
    button.setAttribute("aria-pressed", on);
    apply(on);
  };
  const button = el("button.plain", { type: "button", "aria-pressed": String(on), onclick: press }, name);
  return button;
}

build();
const saved = byId("saved"); // the traces of a page that was saved, which has no server
if (saved) {
  byId("ask").hidden = byId("save-page").hidden = true;
  byId("save-page").classList.remove("save");
  showFile(JSON.parse(saved.textContent));
} else {
  byId("run").disabled = true;
  connect();
}
