"""Record the traces that the browser's tests replay: python tests/browser/record.py."""

from __future__ import annotations

import json
from pathlib import Path

import stet
from stet.core.trace import RequestTrace
from stet.policies.registry import resolve

PROBLEM = (
    "Kai has $425 and saves $40 a week for 3 weeks. Ida sees 67 chairs. Kai spends $39. "
    "How much money has Kai in the end?"
)
STEPS = {"candidates": 3, "temperature": 0.7, "threshold": 0.3, "target_candidates": 2}
POLICIES: dict[str, tuple[str, dict]] = {
    "exact": ("exact", {}),
    "target": ("target", {}),
    "draft": ("draft", {}),
    "top-k": ("top-k", {}),
    "cospec": ("cospec", {}),
    "ensemble": ("ensemble", {}),
    "specguard": ("specguard", STEPS),
    "overrule": ("specguard", STEPS | {"overrule": -3.0, "threshold": 0.9}),
}


def main() -> None:
    with stet.load_pair() as pair:
        prompt = pair.render([{"role": "user", "content": PROBLEM}])
        lines = []
        for name, (policy, options) in POLICIES.items():
            chosen = resolve(policy, options) if options else policy
            result = pair.generate(prompt, policy=chosen, probabilities=True, seed=1)
            trace: RequestTrace = result.trace
            # What the server adds to blocks, and a trace does not hold.
            drafted = {i for block in trace.blocks for i in block.drafted}
            texts = {i: pair.tokenizer.decode([i]) for i in sorted(drafted)}
            record = {"name": name, "texts": texts, "trace": json.loads(trace.to_json())}
            lines.append(json.dumps(record, ensure_ascii=False))
    path = Path(__file__).parent / "recorded.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
