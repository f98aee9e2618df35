"""Word problems about things that people own, make, pack and share."""

from __future__ import annotations

from stet.bundled.story import Story, Template, Value


def change_chain(s: Story) -> None:
    """Gains and losses one after another."""
    a, b = s.names(2)
    t = s.thing()
    have = s.amount()
    s.say(f"{a} has {have} {t}.", f"At first {a} has {have} {t}.")
    s.distract(b)
    for _ in range(s.rng.choice((2, 3, 3, 4, 4, 5, 6, 8))):
        n = s.amount(3)
        if s.rng.random() < 0.5:
            s.say(f"{a} buys {n} more.", f"{a} finds {n} more.", f"{b} gives {a} {n} more.")
            have = s.add(have, n, f"what {a} now has", f"{t} now")
        else:
            s.say(f"{a} gives {b} {n}.", f"{a} loses {n}.", f"{a} sells {n}.")
            have = s.subtract(have, n, f"what {a} then has", f"{t} left")
    s.ask(f"How many {t} does {a} have now?", f"How many {t} has {a} in the end?")


def compare_total(s: Story) -> None:
    """More than, fewer than, times as many; then everything together."""
    a, b, c = s.names(3)
    t = s.thing()
    first = s.amount(3)
    s.say(f"{a} has {first} {t}.")
    s.distract(a)
    known = [(a, first)]
    for name in (b, c) if s.chance() else (b,):
        other, base = s.rng.choice(known)
        kind = s.rng.randrange(3)
        if kind == 0:
            n = s.amount(3)
            s.say(f"{name} has {n} more {t} than {other}.", f"{name} has {n} more than {other}.")
            value = s.add(base, n, f"{name}'s {t}", f"what {name} has")
        elif kind == 1:
            n = s.amount(3)
            s.say(f"{name} has {n} fewer {t} than {other}.", f"{name} has {n} fewer than {other}.")
            value = s.subtract(base, n, f"{name}'s {t}", f"what {name} has")
        else:
            n = s.between(2, 6)
            s.say(
                f"{name} has {n} times as many {t} as {other}.",
                f"{name} has {n} times as many as {other}.",
            )
            value = s.multiply(base, n, f"{name}'s {t}", f"what {name} has")
        known.append((name, value))
    total = s.total([v for _, v in known], "together so far", "all together", f"all {t}")
    if s.chance():
        n = s.amount(3)
        s.say(f"They lose {n} of them.", f"They give away {n} of them.")
        total = s.subtract(total, n, f"{t} left", "what is left")
        s.ask(f"How many {t} do they still have together?", f"How many {t} are left?")
    else:
        s.ask(f"How many {t} do they have together?", f"How many {t} do they have in all?")


def boxes(s: Story) -> None:
    """Packed in boxes, some lost, the rest packed again."""
    (a,) = s.names(1)
    t = s.thing()
    n, size = s.factors()
    s.say(f"{a} has {n} boxes of {size} {t}.", f"{a} packs {n} boxes with {size} {t} each.")
    s.distract(a)
    total = s.multiply(n, size, f"{t} in boxes", f"all {t}")
    if s.chance():
        loose = s.amount(3)
        s.say(f"There are {loose} more on a table.", f"{a} finds {loose} more.")
        total = s.add(total, loose, f"{t} with those", f"what {a} now has")
    gone = s.amount(3)
    s.say(f"{a} throws away {gone} of them.", f"Then {gone} of them are sold.")
    left = s.subtract(total, gone, f"{t} left", "what is left")
    if s.chance():
        bag = s.between(2, 9)
        s.say(f"The rest go into bags of {bag}.", f"The rest are put in bags of {bag}.")
        s.divide(left, bag, "bags", "number of bags")
        s.ask("How many bags are there?", f"How many bags does {a} fill?")
    else:
        s.ask(f"How many {t} are left?", f"How many {t} does {a} have left?")


def machine(s: Story) -> None:
    """A rate over two stretches of hours, some output faulty."""
    t = s.thing()
    (a,) = s.names(1)
    rate = s.between(12, 99)
    first, second = s.between(2, 9), s.between(2, 9)
    s.say(f"A machine makes {rate} {t} an hour.", f"Each hour a machine makes {rate} {t}.")
    s.say(f"It runs {first} hours on Monday and {second} hours on Tuesday.")
    s.distract(a)
    if s.rng.random() < 0.5:
        hours = s.add(first, second, "hours", "all hours")
        made = s.multiply(rate, hours, f"{t} made", f"all {t}")
    else:
        monday = s.multiply(rate, first, f"{t} on Monday", "Monday")
        tuesday = s.multiply(rate, second, f"{t} on Tuesday", "Tuesday")
        made = s.add(monday, tuesday, f"{t} made", f"all {t}")
    if s.chance():
        bad = s.between(3, 60)
        s.say(f"{bad} of them are broken.", f"{a} finds that {bad} are broken.")
        s.subtract(made, bad, f"good {t}", f"{t} not broken")
        s.ask(f"How many good {t} are there?", f"How many {t} are not broken?")
    else:
        s.ask(f"How many {t} does it make?", f"How many {t} are made in all?")


def farm(s: Story) -> None:
    """Rows of plants, fruit on each, part of it sold."""
    (a,) = s.names(1)
    rows, plants, fruit = s.between(2, 9), s.between(3, 20), s.between(2, 9)
    s.say(
        f"{a}'s garden has {rows} rows of {plants} plants.",
        f"{a} has {rows} rows with {plants} plants each.",
    )
    s.say(f"Each plant gives {fruit} apples.", f"A plant gives {fruit} apples.")
    s.distract(a)
    total = s.multiply(
        s.multiply(rows, plants, "plants", "all plants"), fruit, "apples", "all apples"
    )
    for _ in range(s.rng.randint(1, 3)):
        n = s.amount(3)
        if s.rng.random() < 0.65:
            s.say(f"{a} sells {n} apples.", f"{a} eats {n} apples.")
            total = s.subtract(total, n, "apples left", f"what {a} then has")
        else:
            s.say(f"{a} buys {n} apples.", f"{a} finds {n} apples.")
            total = s.add(total, n, "apples now", f"what {a} now has")
    s.ask(f"How many apples does {a} have now?", f"How many apples has {a} in the end?")


def buses(s: Story) -> None:
    """Seats and people on a trip."""
    count, seats = s.factors()
    s.say(
        f"A school has {count} buses with {seats} seats each.",
        f"There are {count} buses of {seats} seats.",
    )
    (a,) = s.names(1)
    s.distract(a)
    all_seats = s.multiply(count, seats, "seats", "all seats")
    groups = [s.amount(3) for _ in range(s.rng.randint(2, 3))]
    told = " and ".join(
        [f"{n} {who}" for n, who in zip(groups, ("girls", "boys", "teachers"), strict=False)]
    )
    s.say(f"{told} go on a trip.", f"{told} want to ride.")
    people = s.total(groups, "people so far", "people", "all people")
    empty = s.subtract(all_seats, people, "empty seats", "free seats")
    if s.chance():
        n = s.between(2, 9)
        s.say(f"{n} of them stay home.", f"But {n} stay at home.")
        s.add(empty, n, "empty seats now", "free seats now")
    s.ask("How many seats are empty?", "How many seats stay free?")


def library(s: Story) -> None:
    """Books on shelves, borrowed and returned."""
    n, size = s.factors()
    (a,) = s.names(1)
    s.say(
        f"A library has {n} shelves of {size} books.",
        f"There are {n} shelves with {size} books each.",
    )
    books = s.multiply(n, size, "books", "all books")
    s.distract(a)
    for day in ("On Monday", "On Tuesday", "On Friday")[: s.rng.randint(1, 3)]:
        out = s.amount(3)
        s.say(f"{day} {out} books are lent.", f"{day} people take {out} books.")
        books = s.subtract(books, out, "books left", "books then")
        if s.chance():
            back = s.amount(2)
            s.say(f"{back} books come back.", f"{back} are returned.")
            books = s.add(books, back, "books now", "with those back")
    s.ask("How many books are there now?", "How many books has the library in the end?")


def muffins(s: Story) -> None:
    """Trays, a fraction sold, the rest shared or priced."""
    (a,) = s.names(1)
    trays, size = s.between(2, 12), s.between(4, 36)
    part = s.between(2, 6)
    s.say(
        f"{a} bakes {trays} trays of {size} muffins.",
        f"{a} fills {trays} trays with {size} muffins each.",
    )
    s.distract(a)
    total = s.multiply(trays, size, "muffins", "all muffins")
    s.say(f"1/{part} of them are sold.", f"{a} sells 1/{part} of them.")
    sold = s.divide(total, part, "sold", "muffins sold")
    if s.chance():
        price = s.between(2, 9)
        s.say(f"Each costs ${price}.", f"A muffin costs ${price}.")
        money = s.multiply(sold, price, "money earned", "earned")
        if s.chance():
            cost = s.amount(3)
            s.say(f"{a} pays ${cost} for flour.", f"The flour costs ${cost}.")
            s.subtract(money, cost, "money left", "what is left")
            s.ask("How many dollars are left?", f"How much money does {a} keep?")
        else:
            s.ask(f"How many dollars does {a} earn?", f"How much money does {a} get?")
    else:
        left = s.subtract(total, sold, "muffins left", "what is left")
        eaten = s.between(2, 30)
        s.say(f"Then {eaten} are eaten.", f"{a} eats {eaten}.")
        s.subtract(left, eaten, "muffins in the end", "after eating")
        s.ask("How many muffins are left?", f"How many muffins does {a} have left?")


def share(s: Story) -> None:
    """Put together, then shared equally."""
    a, b, c = s.names(3)
    t = s.thing()
    parts = [(name, s.amount(3)) for name in (a, b, c)[: s.rng.randint(2, 3)]]
    for name, n in parts:
        s.say(f"{name} has {n} {t}.", f"{name} brings {n} {t}.")
    s.distract(a)
    total = s.total([v for _, v in parts], "together so far", "all together", f"all {t}")
    friends = s.between(2, 9)
    s.say(
        f"They share all equally among {friends} children.",
        f"All are shared equally by {friends} children.",
    )
    each = s.divide(total, friends, "each gets", "one share")
    if s.chance():
        n = s.amount(2)
        s.say(f"One child, {s.pick('Kim', 'Lou')}, already had {n} {t}.")
        s.add(each, n, "that child has", "with the old ones")
        s.ask(f"How many {t} does that child have now?")
    else:
        s.ask(f"How many {t} does each child get?", f"How many {t} are in one share?")


def school_class(s: Story) -> None:
    """Fractions of a group."""
    below = s.between(2, 8)
    above = s.given(s.rng.randint(1, below.number - 1))
    total = s.given(below.number * s.rng.randint(6, 120))
    (a,) = s.names(1)
    s.say(f"A school has {total} children.", f"There are {total} children at a school.")
    s.distract(a)
    s.say(f"{above}/{below} of them are girls.", f"{above}/{below} of the children are girls.")
    girls = s.divide(total, below, f"1/{below} of them", "one part")
    if above.number > 1:
        girls = s.multiply(girls, above, "girls", "all girls")
    boys = s.subtract(total, girls, "boys", "all boys")
    n = s.amount(2)
    if s.chance():
        s.say(f"{n} new boys come.", f"Then {n} more boys come.")
        boys = s.add(boys, n, "boys now", "boys then")
    else:
        s.say(f"{n} boys are ill.", f"{n} of the boys leave.")
        boys = s.subtract(boys, n, "boys there", "other boys")
    if s.chance():
        s.subtract(girls, boys, "more girls than boys", "difference")
        s.ask("How many more girls than boys are there now?")
    else:
        s.ask("How many boys are there now?")


def warehouse(s: Story) -> None:
    """Stocks in several places, moved between them."""
    t = s.thing()
    (a,) = s.names(1)
    x, y = s.amount(), s.amount()
    moved = s.amount(3)
    s.say(
        f"Store A has {x} {t} and store B has {y}.",
        f"There are {x} {t} in store A and {y} in store B.",
    )
    s.distract(a)
    s.say(f"{moved} are moved from A to B.", f"{a} moves {moved} from A to B.")
    at_a = s.subtract(x, moved, "store A", f"{t} in A")
    at_b = s.add(y, moved, "store B", f"{t} in B")
    n = s.between(2, 5)
    if s.chance():
        s.say(f"Then A gets {n} times what it has.", f"Then the {t} in A grow {n} times as many.")
        at_a = s.multiply(at_a, n, "store A then", f"{t} in A then")
    else:
        sold = s.amount(3)
        s.say(f"Then B sells {sold}.", f"Store B then sells {sold}.")
        at_b = s.subtract(at_b, sold, "store B then", f"{t} in B then")
    if s.chance():
        s.add(at_a, at_b, "both stores", f"all {t}")
        s.ask(f"How many {t} are in both stores?", f"How many {t} are there in all?")
    elif at_a.number > at_b.number:
        s.subtract(at_a, at_b, "difference", "more in A")
        s.ask(f"How many more {t} are in A than in B?")
    else:
        s.subtract(at_b, at_a, "difference", "more in B")
        s.ask(f"How many more {t} are in B than in A?")


def votes(s: Story) -> None:
    """A percentage for one, the rest for another."""
    a, b, c = s.names(3)
    share = s.given(s.rng.choice((5, 10, 15, 20, 25, 30, 40)))
    total = s.given(s.rng.randint(2, 48) * 20)
    s.say(f"{total} people vote.", f"There are {total} votes.")
    s.say(f"{share}% vote for {a}.", f"{a} gets {share}% of them.")
    s.distract(c)
    for_a = s.percent(total, share, f"{a}'s votes", f"votes for {a}")
    rest = s.subtract(total, for_a, "other votes", "the rest")
    n = s.amount(2)
    s.say(
        f"{n} of the rest vote for {b}, the others for {c}.",
        f"Of the rest {n} are for {b}, the others for {c}.",
    )
    for_c = s.subtract(rest, n, f"{c}'s votes", f"votes for {c}")
    if s.chance():
        s.subtract(for_c, for_a, "difference", f"{c} over {a}")
        s.ask(f"How many more votes has {c} than {a}?")
    else:
        s.ask(f"How many votes does {c} get?", f"How many votes has {c}?")


def trade(s: Story) -> None:
    """Exchange at a fixed rate (held out of training)."""
    a, b = s.names(2)
    cards, rate, kept = s.between(4, 60), s.between(2, 9), s.between(2, 30)
    extra = s.amount(3)
    s.say(f"{a} has {cards} cards and {extra} stickers.")
    s.say(f"{b} gives {rate} stickers for each card.", f"For each card {b} pays {rate} stickers.")
    s.distract(b)
    s.say(f"{a} keeps {kept} cards and trades the rest.")
    traded = s.subtract(cards, kept, "cards traded", "traded")
    gained = s.multiply(traded, rate, "new stickers", "stickers for them")
    s.add(gained, extra, "all stickers", f"what {a} now has")
    s.ask(f"How many stickers does {a} have now?")


def reading(s: Story) -> None:
    """Pages of a book over days (held out of training)."""
    (a,) = s.names(1)
    pages, daily, days = s.amount(), s.between(8, 45), s.between(2, 9)
    s.say(f"A book has {pages} pages.", f"{a}'s book has {pages} pages.")
    s.say(f"{a} reads {daily} pages a day for {days} days.")
    s.distract(a)
    left = s.subtract(
        pages, s.multiply(daily, days, "pages read", "read"), "pages left", "what is left"
    )
    more = s.between(2, 60)
    s.say(f"On Sunday {a} reads {more} more.", f"Then {a} reads {more} more.")
    left = s.subtract(left, more, "pages left then", "left in the end")
    if s.chance():
        over = s.between(2, 9)
        s.say(f"The rest is read in {over} equal days.")
        s.divide(left, over, "pages each day", "each day")
        s.ask("How many pages are read on each of these days?")
    else:
        s.ask("How many pages are left?", f"How many pages must {a} still read?")


def double_share(s: Story) -> None:
    """One gives the other a fraction (held out of training)."""
    a, b = s.names(2)
    t = s.thing()
    part = s.between(2, 6)
    x: Value = s.given(part.number * s.rng.randint(4, 120))
    y = s.amount(3)
    s.say(f"{a} has {x} {t} and {b} has {y}.")
    s.distract(b)
    s.say(f"{a} gives 1/{part} of them to {b}.")
    gift = s.divide(x, part, f"1/{part} of them", "the gift")
    left = s.subtract(x, gift, f"what {a} then has", f"{a}'s {t}")
    got = s.add(y, gift, f"what {b} now has", f"{b}'s {t}")
    if left.number > got.number:
        s.subtract(left, got, "difference")
        s.ask(f"How many more {t} has {a} than {b} now?")
    else:
        s.subtract(got, left, "difference")
        s.ask(f"How many more {t} has {b} than {a} now?")


TRAINED: tuple[Template, ...] = (
    change_chain,
    compare_total,
    boxes,
    machine,
    farm,
    buses,
    library,
    muffins,
    share,
    school_class,
    warehouse,
    votes,
)
HELD_OUT: tuple[Template, ...] = (trade, reading, double_share)
