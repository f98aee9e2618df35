"""The second family: units, dates, clocks and lists, in several steps."""

from __future__ import annotations

from stet.bundled.story import RejectedDrawError, Story, Template, Value

MIXED = (
    ("m", "cm", 100),
    ("h", "min", 60),
    ("weeks", "days", 7),
    ("feet", "inches", 12),
    ("dollars", "cents", 100),
)


def mixed_units(s: Story) -> None:
    """Two amounts in mixed units, combined in the small one."""
    big, small, factor = s.rng.choice(MIXED)
    totals: list[Value] = []
    for label in ("P", "Q"):
        x, y = s.between(2, 30), s.between(2, max(6, factor - 1))
        s.say(f"{label} is {x} {big} {y} {small}.")
        whole = s.multiply(x, Value(factor), f"{label}'s {big}", f"{x} {big}")
        totals.append(s.add(whole, y, f"{label}", f"{label} in {small}"))
    if s.rng.random() < 0.5:
        s.add(totals[0], totals[1], "P and Q", "sum")
        s.ask(f"How many {small} are P and Q together?", f"What is P plus Q in {small}?")
    else:
        s.subtract(totals[0], totals[1], "P over Q", "difference")
        s.ask(f"By how many {small} is P larger than Q?", f"What is P minus Q in {small}?")


def cut_pieces(s: Story) -> None:
    """A length in large units, pieces cut off in small ones."""
    big, small, factor = s.rng.choice((("m", "cm", 100), ("kg", "g", 1000), ("feet", "inches", 12)))
    x = s.between(2, 9) if factor == 1000 else s.between(2, 60)
    s.say(f"A rope is {x} {big}." if big != "kg" else f"A bag is {x} kg.")
    left = s.multiply(x, Value(factor), f"{small}", f"{x} {big}")
    pieces, size = s.between(2, 9), s.between(5, 99)
    s.say(f"{pieces} parts of {size} {small} are taken.", f"Take {pieces} parts of {size} {small}.")
    taken = s.multiply(pieces, size, "parts", "taken")
    left = s.subtract(left, taken, "left", f"{small} left")
    if s.chance():
        n = s.between(2, 8)
        s.say(f"The rest is cut into {n} equal parts.")
        s.divide(left, n, "one part", "each part")
        s.ask(f"How many {small} is each?")
    else:
        s.ask(f"How many {small} are left?")


def calendar(s: Story) -> None:
    """Days that run over the end of a month."""
    length = s.given(s.rng.choice((28, 30, 31)))
    today = s.between(1, 27)
    s.say(
        f"A month has {length} days. Today is day {today}.",
        f"Today is day {today} of a month of {length} days.",
    )
    day = today
    for event in s.rng.sample(("a trip", "a test", "a party", "a visit"), s.rng.randint(1, 2)):
        if s.rng.random() < 0.5:
            wait = s.between(2, 20)
            s.say(f"{wait} days later is {event}.", f"Then {wait} days pass until {event}.")
        else:
            weeks = s.between(2, 3)
            s.say(f"{weeks} weeks later is {event}.", f"Then {weeks} weeks pass until {event}.")
            wait = s.multiply(weeks, Value(7), f"{weeks} weeks", "days to wait")
        day = s.add(day, wait, "day", f"day of {event}")
    if not length.number < day.number <= 2 * length.number:
        raise RejectedDrawError
    s.subtract(day, length, "day of the next month", "next month's day")
    s.ask(
        "Which day of the next month is it then?",
        "On which day of the next month is the last event?",
    )


def clock(s: Story) -> None:
    """Durations added to a clock time, in minutes after midnight."""
    hour, minute = s.between(5, 15), s.between(1, 59)
    s.say(f"It is {hour}:{minute:02d}.", f"The clock shows {hour}:{minute:02d}.")
    now = s.add(
        s.multiply(hour, Value(60), "full hours", f"{hour} hours"), minute, "minutes now", "now"
    )
    for verb in ("A bus takes", "A walk takes", "A film takes")[: s.rng.randint(1, 2)]:
        n = s.between(5, 150)
        s.say(f"{verb} {n} minutes.", f"Then {verb[0].lower()}{verb[1:]} {n} minutes.")
        now = s.add(now, n, "minutes then", f"after {n} minutes")
    s.ask("How many minutes after midnight is it then?")


def list_ends(s: Story) -> None:
    """First, last, largest and smallest of a list."""
    items = [s.between(2, 400) for _ in range(s.rng.randint(4, 5))]
    if len({v.number for v in items}) < len(items):
        raise RejectedDrawError
    s.say(
        "The list is " + ", ".join(str(v) for v in items) + ".",
        "List: " + ", ".join(str(v) for v in items) + ".",
    )
    ends = s.add(items[0], items[-1], "first and last", "ends")
    high, low = max(items, key=lambda v: v.number), min(items, key=lambda v: v.number)
    span = s.subtract(high, low, "largest minus smallest", "span")
    if s.rng.random() < 0.5:
        s.add(ends, span, "sum", "both")
        s.ask("Add first and last, and to it add largest minus smallest. What do you get?")
    else:
        n = s.between(2, 5)
        s.add(s.multiply(span, n, f"{n} times the span", f"span times {n}"), ends, "sum", "both")
        s.ask(f"Take {n} times largest minus smallest, and add first and last. What do you get?")


def list_total(s: Story) -> None:
    """Sum of a list after one entry is replaced."""
    items = [s.between(2, 99) for _ in range(s.rng.randint(3, 4))]
    new = s.between(2, 99)
    place = s.rng.randrange(3)
    s.say(
        "The list is " + ", ".join(str(v) for v in items) + ".",
        "List: " + ", ".join(str(v) for v in items) + ".",
    )
    s.say(f"The {('first', 'second', 'third')[place]} number becomes {new}.")
    items[place] = new
    total = s.total(items, "sum so far", "sum", "new sum")
    if s.chance():
        n = s.between(2, 9)
        s.multiply(total, n, f"{n} times", f"sum times {n}")
        s.ask(f"What is {n} times the new sum?")
    else:
        s.ask("What is the new sum?")


def dozens(s: Story) -> None:
    """Dozens and pairs to single pieces."""
    x, y, z = s.between(2, 40), s.between(2, 60), s.between(2, 90)
    s.say(f"A crate holds {x} dozen eggs, {y} pairs and {z} single eggs.")
    d = s.multiply(x, Value(12), f"{x} dozen", "eggs in dozens")
    p = s.multiply(y, Value(2), f"{y} pairs", "eggs in pairs")
    total = s.total([d, p, z], "eggs so far", "all eggs", "eggs")
    if s.chance():
        n = s.between(2, 50)
        s.say(f"{n} break.", f"Then {n} are eaten.")
        s.subtract(total, n, "eggs left", "left")
    s.ask("How many eggs are there in the end?", "How many eggs are there now?")


def week_plan(s: Story) -> None:
    """Weeks and days to hours (held out of training)."""
    weeks, days, daily = s.between(2, 12), s.between(1, 6), s.between(2, 9)
    s.say(f"A course lasts {weeks} weeks {days} days, with {daily} hours a day.")
    total = s.add(
        s.multiply(weeks, Value(7), f"{weeks} weeks", "days in weeks"), days, "days", "all days"
    )
    hours = s.multiply(total, daily, "hours", "all hours")
    gone = s.between(2, 99)
    s.say(f"{gone} hours are over.")
    s.subtract(hours, gone, "hours left", "left")
    s.ask("How many hours are left?")


def list_products(s: Story) -> None:
    """Products of neighbours in a list (held out of training)."""
    items = [s.between(2, 40) for _ in range(4)]
    s.say("List: " + ", ".join(str(v) for v in items) + ".")
    x = s.multiply(items[0], items[1], "first product", "first two")
    y = s.multiply(items[2], items[3], "second product", "last two")
    s.add(x, y, "sum", "both")
    s.ask("Multiply the first two, multiply the last two, and add. What do you get?")


TRAINED: tuple[Template, ...] = (
    mixed_units,
    cut_pieces,
    calendar,
    clock,
    list_ends,
    list_total,
    dozens,
)
HELD_OUT: tuple[Template, ...] = (week_plan, list_products)
