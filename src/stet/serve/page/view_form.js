// The choice of a policy and its parameters, from what the server says there is.

import { el, setText } from "./dom.js";

/** Problems of the bundled pair's test split: models of any size can answer them. */
export const EXAMPLES = [
  ["pens", "Sam has 34 pens. Kai has 12 more pens than Sam. How many pens do they have in all?"],
  ["savings", "Kai has $425 and saves $40 a week for 3 weeks. Ida sees 67 chairs. Kai spends $39. How much money has Kai in the end?"],
  ["a fence", "Tom's field is 22 m by 44 m. Tom also has 17 cats. A fence around it costs $6 a meter. How many dollars does Tom pay?"],
  ["muffins", "Jon fills 12 trays with 30 muffins each. 1/2 of them are sold. Then 15 are eaten. How many muffins are left?"],
  ["a list", "The list is 29, 393, 56, 214. Add first and last, and to it add largest minus smallest. What do you get?"],
];

/** Kinds of policies, by what they decide about. */
const GROUPS = { single: "One model alone", token: "Tokens", step: "Steps", answer: "Answers" };

export class PolicyChoice {
  /** `name` says which side it is; an optional side may have no policy. */
  constructor(name, { optional = false } = {}) {
    this.optional = optional;
    this.fields = new Map();
    this.select = el("select", { id: `policy-${name}`, onchange: () => this.#chosen() });
    this.tag = el("span.tag");
    this.summary = el("p.summary.quiet");
    this.parameters = el("div.fields");
    this.fold = el("details.options", {}, el("summary", {}, "Parameters"), this.parameters);
    const label = el("label", { for: `policy-${name}` }, `${name[0].toUpperCase()}${name.slice(1)} policy`);
    const head = el("div.choice-head", {}, label, this.select, this.tag);
    this.root = el("div.choice", {}, head, this.summary, this.fold);
  }

  offer(policies, chosen) {
    this.policies = new Map(policies.map((policy) => [policy.name, policy]));
    this.select.replaceChildren();
    if (this.optional) this.select.append(el("option", { value: "" }, "none"));
    for (const [kind, label] of Object.entries(GROUPS)) {
      const options = policies
        .filter((policy) => policy.kind === kind)
        .map(({ name, allowed }) => el("option", { value: name, disabled: !allowed }, allowed ? name : `${name} (not allowed)`));
      if (options.length) this.select.append(el("optgroup", { label }, ...options));
    }
    const first = this.optional ? "" : policies.find((policy) => policy.allowed)?.name;
    this.select.value = this.policies.get(chosen)?.allowed ? chosen : (first ?? "");
    this.#chosen();
  }

  #chosen() {
    const policy = this.policies.get(this.select.value);
    this.fields.clear();
    this.parameters.replaceChildren();
    setText(this.summary, policy ? policy.summary : "Nothing beside it.");
    setText(this.tag, policy ? (policy.lossless ? "lossless" : "not lossless") : "");
    this.tag.classList.toggle("lossless", Boolean(policy?.lossless));
    for (const parameter of policy?.parameters ?? []) {
      const field = input(parameter);
      this.fields.set(parameter, field);
      this.parameters.append(el("label", { title: parameter.summary }, parameter.name.replaceAll("_", " "), " ", field));
    }
    this.fold.hidden = this.fields.size === 0;
  }

  /** The policy and what was set of it; null where there is none. Throws a sentence. */
  get() {
    const policy = this.policies?.get(this.select.value);
    if (!policy) return null;
    const parameters = {};
    for (const [parameter, field] of this.fields) {
      const text = field.value;
      if (text !== "") parameters[parameter.name] = valueOf(parameter, text);
    }
    return { policy, parameters };
  }
}

function input({ type, default: usual }) {
  if (type.includes("bool")) {
    const options = ["true", "false"].map((name) => el("option", {}, name));
    return el("select", {}, el("option", { value: "" }, `default (${usual})`), ...options);
  }
  const inputmode = /int|float/.test(type) ? "decimal" : null;
  const placeholder = usual === null ? "none" : String(usual).replaceAll("\n", "↵");
  return el("input", { inputmode, placeholder, autocomplete: "off" });
}

function valueOf({ name, type }, text) {
  if (type.includes("bool")) return text === "true";
  return /int|float/.test(type) ? numberOf(name, text) : text;
}

/** A number that was typed, with a point or a comma; throws a sentence. */
export function numberOf(name, text) {
  const value = Number(text.trim().replace(",", "."));
  if (text.trim() === "" || !Number.isFinite(value)) throw new Error(`“${text}” is no number for ${name.replaceAll("_", " ")}.`);
  return value;
}
