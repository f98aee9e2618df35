"""Word problems put together from parts: an opening, some events, an ending.

The other templates have one plot each, which a model can learn by heart. Here any event may follow
any opening, so a model has to learn what each sentence does to a quantity. Each opening is trained
with all endings but one; that one pair makes a template of its own, held out of training, whose
sentences are all known and whose plot is new.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stet.bundled.family_money import GOODS
from stet.bundled.story import Story, Template, Value

ITEMS = ("a coat", "a bag", "food", "a game", "shoes")


@dataclass
class Holding:
    """What the chain is about.

    Attributes:
        owner: Who has it.
        friend: Somebody else.
        unit: What is counted, in the plural; "dollars" for money.
        value: How many there are now.
    """

    owner: str
    friend: str
    unit: str
    value: Value

    @property
    def now(self) -> tuple[str, str]:
        """Labels of a step that leaves the owner with more."""
        return f"what {self.owner} now has", f"{self.unit} now"

    @property
    def left(self) -> tuple[str, str]:
        """Labels of a step that leaves the owner with fewer."""
        return f"what {self.owner} then has", f"{self.unit} left"


Opening = Callable[[Story], Holding]
Part = Callable[[Story, Holding], None]


# --- things: openings --------------------------------------------------------------------------


def _has(s: Story) -> Holding:
    a, b = s.names(2)
    t = s.thing()
    n = s.amount()
    s.say(f"{a} has {n} {t}.", f"At first {a} has {n} {t}.")
    return Holding(a, b, t, n)


def _packs(s: Story) -> Holding:
    a, b = s.names(2)
    t = s.thing()
    n, size = s.factors()
    s.say(f"{a} has {n} boxes of {size} {t}.", f"{a} packs {n} boxes with {size} {t} each.")
    return Holding(a, b, t, s.multiply(n, size, f"{t} in boxes", f"all {t}"))


def _machine(s: Story) -> Holding:
    a, b = s.names(2)
    t = s.thing()
    rate, hours = s.between(12, 99), s.between(2, 9)
    s.say(f"{a}'s machine makes {rate} {t} an hour.", f"Each hour {a} makes {rate} {t}.")
    s.say(f"It runs {hours} hours.", f"This takes {hours} hours.")
    return Holding(a, b, t, s.multiply(rate, hours, f"{t} made", f"all {t}"))


def _pool(s: Story) -> Holding:
    a, b, c = s.names(3)
    t = s.thing()
    x, y = s.amount(3), s.amount(3)
    s.say(f"{a} has {x} {t} and {c} has {y}.", f"{a} brings {x} {t} and {c} {y}.")
    s.say(f"{c} gives all to {a}.", f"{a} gets them all.")
    return Holding(a, b, t, s.add(x, y, f"all {t}", "together"))


def _more_than(s: Story) -> Holding:
    a, b, c = s.names(3)
    t = s.thing()
    x = s.amount(3)
    s.say(f"{c} has {x} {t}.")
    kind = s.rng.randrange(3)
    labels = (f"{a}'s {t}", f"what {a} has")
    if kind == 0:
        n = s.amount(3)
        s.say(f"{a} has {n} more {t} than {c}.", f"{a} has {n} more than {c}.")
        return Holding(a, b, t, s.add(x, n, *labels))
    if kind == 1:
        n = s.amount(3)
        s.say(f"{a} has {n} fewer {t} than {c}.", f"{a} has {n} fewer than {c}.")
        return Holding(a, b, t, s.subtract(x, n, *labels))
    n = s.between(2, 6)
    s.say(f"{a} has {n} times as many {t} as {c}.", f"{a} has {n} times as many as {c}.")
    return Holding(a, b, t, s.multiply(x, n, *labels))


# --- things: events ----------------------------------------------------------------------------


def _gain(s: Story, h: Holding) -> None:
    n = s.amount(3)
    a, b = h.owner, h.friend
    s.say(f"{a} buys {n} more.", f"{a} finds {n} more.", f"{b} gives {a} {n} more.")
    h.value = s.add(h.value, n, *h.now)


def _loss(s: Story, h: Holding) -> None:
    n = s.amount(3)
    a = h.owner
    s.say(
        f"{a} gives {h.friend} {n}.",
        f"{a} loses {n}.",
        f"{a} sells {n}.",
        f"{a} throws away {n} of them.",
    )
    h.value = s.subtract(h.value, n, *h.left)


def _part_goes(s: Story, h: Holding) -> None:
    part = s.between(2, 6)
    s.say(f"{h.owner} gives 1/{part} of them to {h.friend}.", f"1/{part} of them are sold.")
    gone = s.divide(h.value, part, f"1/{part} of them", "one part")
    h.value = s.subtract(h.value, gone, *h.left)


def _grow(s: Story, h: Holding) -> None:
    n = s.between(2, 5)
    s.say(f"Then the {h.unit} grow {n} times as many.", f"{h.owner} makes it {n} times as many.")
    h.value = s.multiply(h.value, n, *h.now)


def _broken(s: Story, h: Holding) -> None:
    n = s.between(2, 60)
    s.say(f"{n} of them are broken.", f"{h.owner} finds that {n} are broken.")
    h.value = s.subtract(h.value, n, f"good {h.unit}", f"{h.unit} not broken")


THING_EVENTS: tuple[Part, ...] = (_gain, _loss, _part_goes, _grow, _broken)


# --- things: endings ---------------------------------------------------------------------------


def _count(s: Story, h: Holding) -> None:
    a, t = h.owner, h.unit
    s.ask(f"How many {t} does {a} have now?", f"How many {t} has {a} in the end?")


def _bags(s: Story, h: Holding) -> None:
    bag = s.between(2, 9)
    s.say(f"The rest go into bags of {bag}.", f"The rest are put in bags of {bag}.")
    s.divide(h.value, bag, "bags", "number of bags")
    s.ask("How many bags are there?", f"How many bags does {h.owner} fill?")


def _shared(s: Story, h: Holding) -> None:
    n = s.between(2, 9)
    s.say(f"All are shared equally by {n} children.", f"{n} children share them equally.")
    s.divide(h.value, n, "each gets", "one share")
    s.ask(f"How many {h.unit} does each child get?", f"How many {h.unit} are in one share?")


def _together(s: Story, h: Holding) -> None:
    a, b, t = h.owner, h.friend, h.unit
    n = s.amount(3)
    s.say(f"Now {b} has {n} more {t} than {a}.", f"Now {b} has {n} more than {a}.")
    other = s.add(h.value, n, f"{b}'s {t}", f"what {b} has")
    s.add(h.value, other, "all together", f"all {t}")
    s.ask(f"How many {t} do they have together?", f"How many {t} do they have in all?")


def _priced(s: Story, h: Holding) -> None:
    price = s.between(2, 9)
    s.say(f"{h.owner} sells all for ${price} each.", f"All are sold, each for ${price}.")
    s.multiply(h.value, price, "money earned", "earned")
    s.ask(f"How many dollars does {h.owner} earn?", f"How much money does {h.owner} get?")


# --- money: openings ---------------------------------------------------------------------------


def _purse(s: Story) -> Holding:
    a, b = s.names(2)
    n = s.amount()
    s.say(f"{a} has ${n}.", f"{a} saved ${n}.")
    return Holding(a, b, "dollars", n)


def _earns(s: Story) -> Holding:
    a, b = s.names(2)
    hours, rate = s.between(4, 40), s.between(6, 30)
    s.say(
        f"{a} works {hours} hours for ${rate} an hour.",
        f"{a} earns ${rate} an hour and works {hours} hours.",
    )
    return Holding(a, b, "dollars", s.multiply(hours, rate, "pay", f"{a}'s pay"))


def _saves(s: Story) -> Holding:
    a, b = s.names(2)
    n, weekly = s.factors()
    s.say(f"{a} saves ${weekly} a week for {n} weeks.", f"For {n} weeks {a} saves ${weekly} each.")
    return Holding(a, b, "dollars", s.multiply(n, weekly, "money saved", "saved"))


def _sells(s: Story) -> Holding:
    a, b = s.names(2)
    many, _ = s.rng.choice(GOODS)
    n, price = s.between(3, 60), s.between(2, 9)
    s.say(f"{a} sells {n} {many} for ${price} each.", f"{a} sells {n} {many} at ${price} each.")
    return Holding(a, b, "dollars", s.multiply(n, price, "money earned", "earned"))


# --- money: events -----------------------------------------------------------------------------


def _gift(s: Story, h: Holding) -> None:
    n = s.amount(3)
    a, b = h.owner, h.friend
    s.say(f"{b} gives {a} ${n}.", f"{a} gets ${n} from {b}.", f"{a} gets ${n} on top.")
    h.value = s.add(h.value, n, "money now", f"what {a} now has")


def _spend(s: Story, h: Holding) -> None:
    n = s.amount(3)
    item = s.rng.choice(ITEMS)
    s.say(f"Then {h.owner} pays ${n} for {item}.", f"{h.owner} buys {item} for ${n}.")
    h.value = s.subtract(h.value, n, "money left", "left")


def _spend_part(s: Story, h: Holding) -> None:
    part = s.between(2, 8)
    item = s.rng.choice(ITEMS)
    s.say(f"{h.owner} spends 1/{part} of it on {item}.", f"1/{part} of it goes for {item}.")
    spent = s.divide(h.value, part, item, f"1/{part} of it")
    h.value = s.subtract(h.value, spent, "money left", "left")


def _buy(s: Story, h: Holding) -> None:
    n, each = s.between(2, 9), s.between(2, 60)
    many, _ = s.rng.choice(GOODS)
    s.say(f"{h.owner} buys {n} {many} for ${each} each.", f"{h.owner} takes {n} {many} at ${each}.")
    cost = s.multiply(n, each, many, f"cost of {many}")
    h.value = s.subtract(h.value, cost, "money left", "left")


MONEY_EVENTS: tuple[Part, ...] = (_gift, _spend, _spend_part, _buy)


# --- money: endings ----------------------------------------------------------------------------


def _money_left(s: Story, h: Holding) -> None:
    a = h.owner
    s.ask(f"How many dollars does {a} have now?", f"How much money has {a} in the end?")


def _goal(s: Story, h: Holding) -> None:
    goal = s.given(h.value.number + s.rng.randint(5, 900))
    s.say(f"A bike costs ${goal}.", f"{h.owner} wants a bike for ${goal}.")
    s.subtract(goal, h.value, "still needed", "money needed")
    s.ask(f"How many dollars does {h.owner} still need?", "How much money is missing?")


def _split_money(s: Story, h: Holding) -> None:
    n = s.between(2, 9)
    s.say(f"It is shared equally by {n} friends.", f"{n} friends share it equally.")
    s.divide(h.value, n, "one share", "each gets")
    s.ask("How many dollars does each get?", "How much is one share?")


# --- putting them together ---------------------------------------------------------------------

THINGS: tuple[tuple[Opening, Part], ...] = (
    (_has, _priced),
    (_packs, _together),
    (_machine, _shared),
    (_pool, _bags),
    (_more_than, _count),
)
"""Openings, and the ending each is never trained with; the endings are those of all five."""

MONEY: tuple[tuple[Opening, Part], ...] = (
    (_purse, _split_money),
    (_earns, _goal),
    (_saves, _money_left),
)

MOST_EVENTS = 4


def _chain(
    name: str, doc: str, opening: Opening, events: tuple[Part, ...], endings: tuple[Part, ...]
) -> Template:
    def template(s: Story) -> None:
        holding = opening(s)
        s.distract(holding.friend)
        for _ in range(s.rng.randint(1, MOST_EVENTS)):
            s.rng.choice(events)(s, holding)
        s.rng.choice(endings)(s, holding)

    template.__name__, template.__doc__ = name, doc
    return template


def _templates(
    kind: tuple[tuple[Opening, Part], ...], events: tuple[Part, ...], *, held_out: bool
) -> tuple[Template, ...]:
    every = tuple(ending for _, ending in kind)
    made: list[Template] = []
    for opening, kept in kind:
        endings = (kept,) if held_out else tuple(e for e in every if e is not kept)
        name = f"chain{opening.__name__}" + (kept.__name__ if held_out else "")
        made.append(_chain(name, f"A chain that opens as {name}.", opening, events, endings))
    return tuple(made)


TRAINED: tuple[Template, ...] = (
    *_templates(THINGS, THING_EVENTS, held_out=False),
    *_templates(MONEY, MONEY_EVENTS, held_out=False),
    # Trained with every ending, so that each of these occurs often enough.
    _chain(
        "chain_sells", "Goods sold, then money.", _sells, MONEY_EVENTS, tuple(e for _, e in MONEY)
    ),
)
HELD_OUT: tuple[Template, ...] = (
    *_templates(THINGS, THING_EVENTS, held_out=True),
    *_templates(MONEY, MONEY_EVENTS, held_out=True),
)
