"""Write the bundled pair's fingerprint into what was fitted to it.

    python recipes/fingerprints.py

Needed where the way fingerprints are computed has changed and the pair has not: nothing is fitted
again. It is computed with the dtype that the pair is loaded in by default, float32.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from stet import bundled, load_pair

FOLDER = Path(bundled.__file__).parent
FITTED = (
    "specguard.json",
    "cospec/arbiter.json",
    "autojudge/arbiter.json",
    "reward/config.json",
    "reward_head/head.json",
)


def main() -> None:
    found = load_pair(compile=False).fingerprint
    for name in FITTED:
        path = FOLDER / name
        text = path.read_text(encoding="utf-8")
        changed, count = re.subn(r'("pair": )"[0-9a-f]{16}"', rf'\1"{found}"', text)
        if count != 1:
            sys.exit(f"{path} names {count} pairs, not one.")
        path.write_text(changed, encoding="utf-8")
        print(f"{path}: {found}")


if __name__ == "__main__":
    main()
