"""Names, things and sentence forms that the problems draw from.

The words are few on purpose: with a vocabulary of a thousand tokens almost each becomes one
token, so the models spend their capacity on the reasoning and not on the spelling.
"""

from __future__ import annotations

NAMES: tuple[str, ...] = (
    "Mia",
    "Tom",
    "Ana",
    "Ben",
    "Lea",
    "Max",
    "Zoe",
    "Sam",
    "Eva",
    "Leo",
    "Ida",
    "Jon",
    "Amy",
    "Kai",
    "Nora",
    "Paul",
    "Rosa",
    "Omar",
    "Lucy",
    "Ivan",
)

THINGS: tuple[str, ...] = (
    "apples",
    "stickers",
    "marbles",
    "books",
    "coins",
    "shells",
    "cards",
    "pens",
    "beads",
    "stamps",
    "buttons",
    "cookies",
    "balloons",
    "pencils",
    "stones",
    "flowers",
)

# What a distractor counts: never one of THINGS, so that no question could mean it.
SIDE_THINGS: tuple[str, ...] = (
    "chairs",
    "lamps",
    "cats",
    "bikes",
    "hats",
    "kites",
    "drums",
    "cups",
)

# Forms of one step line: {l} the label, {L} the label with a capital, {e} the arithmetic. All
# are equally likely, so that two models that both reason well still differ in their wording.
STEP_FORMS: tuple[str, ...] = (
    "{L}: {e}",
    "Now {l}: {e}",
    "Next, {l}: {e}",
    "We get {l}: {e}",
    "{e} gives {l}",
)
