"""Write a trace, read it back, and see recovered tokens, accepted mismatches, and the cost."""

import argparse
from pathlib import Path

import stet
from stet.core import trace

PROBLEM = "Sam has 34 pens. Kai has 12 more pens than Sam. How many pens do they have in all?"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=Path("trace.jsonl"))
    arguments = parser.parse_args()

    pair = stet.load_pair()
    prompt = pair.render([{"role": "user", "content": PROBLEM}])
    # "confident" accepts the draft's token where the draft is the surer model. With logprobs=1 the
    # trace also says what the target would have written.
    for policy in ("exact", "confident"):
        (result,) = pair.generate([prompt], policy, max_new_tokens=128, logprobs=1)
        trace.write([result.trace], arguments.file)  # appends a line

    for record in trace.read(arguments.file):
        print(f"{record.settings.policy['name']}: {record.text.strip()!r}")
        for block in record.blocks:
            # The answer may end inside a block.
            emitted = record.tokens[block.position : block.position + len(block.drafted) + 1]
            for i in block.accepted_mismatches:
                if i < len(emitted):
                    (wanted,) = emitted[i].top_logprobs
                    other = pair.tokenizer.decode([wanted])
                    show("accepted mismatch", emitted[i], other, "the target")
            if block.next_token is not None and block.accepted < min(
                len(block.drafted), len(emitted)
            ):
                refused = pair.tokenizer.decode([block.drafted[block.accepted]])
                show("recovered", emitted[block.accepted], refused, "the draft")
        counters = record.counters
        rest = record.seconds - counters.target_seconds - counters.draft_seconds
        print(
            f"  {record.seconds:.2f} s: {counters.target_seconds:.2f} s in the target, "
            f"{counters.draft_seconds:.2f} s in the draft, {rest:.2f} s in all else\n"
        )


def show(what, token, refused, whose):
    print(f"  {what}: {token.text!r}, where {whose} wanted {refused!r}")


if __name__ == "__main__":
    main()
