"""Print an answer while it is written, each token in the colour of the model that wrote it."""

import argparse

from rich.console import Console
from rich.text import Text

import stet

COLOURS = {"draft": "#56b4e9", "target": "bold underline #e69f00"}
PROBLEM = "Sam has 34 pens. Kai has 12 more pens than Sam. How many pens do they have in all?"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("problem", nargs="?", default=PROBLEM)
    parser.add_argument("--policy", default="exact")
    arguments = parser.parse_args()

    pair = stet.load_pair()
    prompt = pair.render([{"role": "user", "content": arguments.problem}])
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text("by the draft", COLOURS["draft"]), Text("by the target", COLOURS["target"]))

    # A chunk holds what one round of the engine emitted: up to a whole block of drafted tokens and
    # the target's token after it.
    for chunk in pair.stream(prompt, arguments.policy, max_new_tokens=128):
        for token in chunk.tokens:
            if token.id not in pair.tokenizer.all_special_ids:
                console.print(Text(token.text, COLOURS[token.origin]), end="")
        if chunk.result is not None:
            counters = chunk.result.counters
            console.print(f"\n{counters.tokens_per_pass:.1f} tokens per pass of the target")


if __name__ == "__main__":
    main()
