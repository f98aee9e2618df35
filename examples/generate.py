"""Load a pair, answer a few prompts together, and look at what speculation did."""

import stet

PROBLEMS = [
    "Sam has 34 pens. Kai has 12 more pens than Sam. How many pens do they have in all?",
    "Ann has 3 boxes of 12 pens and gives 9 away. How many pens are left?",
]


def main():
    # The bundled pair; for models of your own: stet.load_pair("target", "draft").
    pair = stet.load_pair()
    prompts = [pair.render([{"role": "user", "content": problem}]) for problem in PROBLEMS]

    # Prompts of one call are decoded in shared batches. "exact" is lossless: this is the target's
    # own text, only faster.
    results = pair.generate(prompts, policy="exact", max_new_tokens=128)

    for problem, result in zip(PROBLEMS, results, strict=True):
        counters = result.counters
        print(problem)
        print(result.text.strip())
        print(
            f"  {counters.emitted_tokens} tokens in {counters.target_passes} target passes: "
            f"{counters.accepted_tokens} of {counters.drafted_tokens} drafted tokens were accepted"
        )
        # Every token knows who wrote it and why.
        last = result.tokens[-1]
        print(f"  the last token, {last.text!r}: by the {last.origin}, {last.reason}\n")


if __name__ == "__main__":
    main()
