"""Word problems about money, distance, age and work."""

from __future__ import annotations

from stet.bundled.story import Story, Template, Value

GOODS = (
    ("pens", "pen"),
    ("books", "book"),
    ("cups", "cup"),
    ("hats", "hat"),
    ("cakes", "cake"),
    ("toys", "toy"),
)


def shopping(s: Story) -> None:
    """Two kinds of goods, money paid, the change."""
    a, b = s.names(2)
    (many1, one1), (many2, one2) = s.rng.sample(GOODS, 2)
    p, q = s.between(2, 60), s.between(2, 60)
    m, n = s.between(2, 9), s.between(2, 9)
    s.say(f"A {one1} costs ${p} and a {one2} ${q}.", f"One {one1} is ${p} and one {one2} is ${q}.")
    s.distract(b)
    s.say(f"{a} buys {m} {many1} and {n} {many2}.")
    x = s.multiply(m, p, f"{many1}", f"cost of {many1}")
    y = s.multiply(n, q, f"{many2}", f"cost of {many2}")
    total = s.add(x, y, "total cost", "all")
    if s.chance():
        off = s.between(2, 30)
        s.say(f"{a} has a ${off} coupon.", f"The shop takes off ${off}.")
        total = s.subtract(total, off, "cost then", "to pay")
    if s.chance():
        paid = s.given((total.number // 100 + s.rng.randint(1, 2)) * 100)
        s.say(f"{a} pays with ${paid}.", f"{a} gives ${paid}.")
        s.subtract(paid, total, "change", "money back")
        s.ask(f"How many dollars does {a} get back?", "How much is the change?")
    else:
        s.ask(f"How many dollars does {a} pay?", "How much does it cost?")


def spend_fraction(s: Story) -> None:
    """A fraction spent, then amounts."""
    a, b = s.names(2)
    part = s.between(2, 8)
    have = s.given(part.number * s.rng.randint(5, 400))
    s.say(f"{a} has ${have}.", f"{a} saved ${have}.")
    s.distract(b)
    item1, item2 = s.rng.sample(("a coat", "a bag", "food", "a game", "shoes"), 2)
    s.say(f"{a} spends 1/{part} of it on {item1}.", f"1/{part} of it goes for {item1}.")
    spent = s.divide(have, part, f"{item1}", f"cost of {item1}")
    n = s.amount(3)
    s.say(f"Then {a} pays ${n} for {item2}.", f"Then {a} buys {item2} for ${n}.")
    if s.rng.random() < 0.5:
        left = s.subtract(
            s.subtract(have, spent, "money left", "left"), n, "left then", "money left then"
        )
    else:
        left = s.subtract(
            have, s.add(spent, n, "money spent", "spent"), "left then", "money left then"
        )
    if s.chance():
        gift = s.amount(3)
        s.say(f"{b} gives {a} ${gift}.", f"{a} gets ${gift} from {b}.")
        s.add(left, gift, "money now", f"what {a} now has")
    s.ask(f"How many dollars does {a} have now?", f"How much money has {a} in the end?")


def discount(s: Story) -> None:
    """A percentage off, several bought."""
    a, b = s.names(2)
    thing = s.pick("lamp", "chair", "bike", "table", "phone")
    share = s.given(s.rng.choice((5, 10, 15, 20, 25, 30, 40, 50)))
    price = s.given(s.rng.randint(2, 24) * 20)
    s.say(f"A {thing} costs ${price}.", f"The price of a {thing} is ${price}.")
    s.distract(b)
    s.say(f"It is {share}% off.", f"The shop takes {share}% off.")
    off = s.percent(price, share, "discount", "money off")
    new = s.subtract(price, off, "new price", "price now")
    n = s.between(2, 9)
    s.say(f"{a} buys {n}.", f"{a} takes {n} of them.")
    total = s.multiply(new, n, f"cost of {n}", "total cost")
    if s.chance():
        fee = s.amount(2)
        s.say(f"Delivery costs ${fee}.", f"{a} also pays ${fee} for delivery.")
        s.add(total, fee, "with delivery", "all")
    s.ask(f"How many dollars does {a} pay?", f"How much does {a} pay?")


def savings(s: Story) -> None:
    """Weekly saving towards a goal."""
    a, b = s.names(2)
    n, weekly = s.factors()
    start = s.amount(3)
    s.say(f"{a} has ${start} and saves ${weekly} a week for {n} weeks.")
    s.distract(b)
    saved = s.multiply(n, weekly, "money saved", "saved")
    have = s.add(saved, start, f"what {a} then has", "all money")
    if s.chance():
        spent = s.amount(2)
        s.say(f"{a} spends ${spent}.", f"Then {a} loses ${spent}.")
        have = s.subtract(have, spent, "money left", "left")
    if s.rng.random() < 0.5:
        goal = s.given(have.number + s.rng.randint(5, 900))
        s.say(f"A bike costs ${goal}.", f"{a} wants a bike for ${goal}.")
        s.subtract(goal, have, "still needed", "money needed")
        s.ask(f"How many dollars does {a} still need?", "How much money is missing?")
    else:
        s.ask(f"How many dollars does {a} have now?", f"How much money has {a} in the end?")


def ages(s: Story) -> None:
    """Older, younger, times as old; years later."""
    a, b, c = s.names(3)
    x, d, k, later = s.between(4, 30), s.between(2, 15), s.between(2, 4), s.between(2, 20)
    s.say(f"{a} is {x} years old.")
    s.distract(c)
    if s.rng.random() < 0.5:
        s.say(f"{b} is {d} years older.", f"{b} is {d} years older than {a}.")
        y = s.add(x, d, f"{b}'s age", f"years of {b}")
    else:
        s.say(f"{b} is {d} years younger.", f"{b} is {d} years younger than {a}.")
        y = s.subtract(x, d, f"{b}'s age", f"years of {b}")
    s.say(f"{c} is {k} times as old as {b}.")
    z = s.multiply(y, k, f"{c}'s age", f"years of {c}")
    if s.chance():
        people = [(a, x), (b, y), (c, z)] if s.chance() else [(b, y), (c, z)]
        after = [s.add(v, later, f"{n} then", f"{n}'s age then") for n, v in people]
        s.total(after, "ages so far", "all ages", "ages together")
        who = " and ".join(n for n, _ in people)
        s.ask(f"How old will {who} be together in {later} years?")
    else:
        s.add(z, later, f"{c} then", f"{c}'s age then")
        s.ask(f"How old will {c} be in {later} years?")


def journey(s: Story) -> None:
    """Speeds and hours, distance left."""
    a, b = s.names(2)
    legs: list[Value] = []
    for _ in range(s.rng.choice((2, 2, 3, 3, 4))):
        hours, speed = s.between(2, 9), s.between(11, 95)
        s.say(
            f"{a} drives {hours} hours at {speed} km an hour.",
            f"{a} drives at {speed} km an hour for {hours} hours.",
        )
        legs.append(s.multiply(hours, speed, f"{hours} hours at {speed}", f"km in {hours} hours"))
    s.distract(b)
    gone = s.total(legs, "km so far", "all km", "km driven")
    if s.chance():
        trip = s.given(gone.number + s.rng.randint(5, 900))
        s.say(f"The trip is {trip} km.", f"The whole way is {trip} km.")
        s.subtract(trip, gone, "km left", "way left")
        s.ask("How many km are left?", f"How far must {a} still go?")
    else:
        s.ask(f"How many km does {a} drive?", f"How far does {a} go?")


def points(s: Story) -> None:
    """Shots worth different points, two players."""
    a, b = s.names(2)
    w, v = s.rng.sample(range(2, 9), 2)
    red, blue = s.given(w), s.given(v)
    m, n = s.between(3, 40), s.between(3, 40)
    s.say(
        f"A red shot is worth {red} points and a blue shot {blue}.",
        f"Red shots give {red} points, blue shots {blue}.",
    )
    s.say(f"{a} makes {m} red and {n} blue shots.")
    s.distract(a)
    x = s.multiply(m, red, "red points", "red shots")
    y = s.multiply(n, blue, "blue points", "blue shots")
    total = s.add(x, y, f"{a}'s points", f"what {a} has")
    other = s.amount(3)
    if s.chance():
        s.say(f"{b} makes {other} points.", f"{b} has {other} points.")
        s.add(total, other, "both", "points together")
        s.ask("How many points have they together?", f"How many points do {a} and {b} have in all?")
    else:
        s.say(f"{b} makes {other} points fewer than {a}.", f"{b} has {other} fewer than {a}.")
        s.subtract(total, other, f"{b}'s points", f"what {b} has")
        s.ask(f"How many points does {b} have?", f"How many points has {b}?")


def wages(s: Story) -> None:
    """Hours and pay, a bonus, a percentage of tax."""
    a, b = s.names(2)
    hours, rate = s.between(4, 40), s.between(6, 30)
    s.say(
        f"{a} works {hours} hours for ${rate} an hour.",
        f"{a} earns ${rate} an hour and works {hours} hours.",
    )
    s.distract(b)
    pay = s.multiply(hours, rate, "pay", f"{a}'s pay")
    if s.chance():
        bonus = s.amount(3)
        s.say(f"There is a ${bonus} bonus.", f"{a} gets ${bonus} on top.")
        pay = s.add(pay, bonus, "pay with bonus", "with bonus")
    if s.chance():
        part = s.between(2, 10)
        s.say(f"1/{part} goes to tax.", f"{a} pays 1/{part} as tax.")
        tax = s.divide(pay, part, "tax", f"1/{part} of it")
        s.subtract(pay, tax, "left", "money left")
        s.ask(f"How many dollars does {a} keep?", "How much is left?")
    else:
        spent = s.amount(3)
        s.say(f"{a} spends ${spent}.", f"{a} pays ${spent} for rent.")
        s.subtract(pay, spent, "left", "money left")
        s.ask(f"How many dollars does {a} have left?", "How much is left?")


def fence(s: Story) -> None:
    """A rectangle's way round, and what it costs."""
    (a,) = s.names(1)
    length, width, price = s.between(5, 99), s.between(3, 60), s.between(2, 9)
    s.say(
        f"A field is {length} m long and {width} m wide.",
        f"{a}'s field is {length} m by {width} m.",
    )
    s.distract(a)
    if s.rng.random() < 0.5:
        around = s.multiply(
            s.add(length, width, "half way round", "two sides"), Value(2), "way round", "fence"
        )
    else:
        x = s.multiply(length, Value(2), "long sides", "both long sides")
        y = s.multiply(width, Value(2), "short sides", "both short sides")
        around = s.add(x, y, "way round", "fence")
    s.say(
        f"{a} builds a fence around it for ${price} a meter.",
        f"A fence around it costs ${price} a meter.",
    )
    cost = s.multiply(around, price, "cost", "cost of the fence")
    if s.chance():
        gate = s.amount(3)
        s.say(f"A gate costs ${gate}.", f"{a} also pays ${gate} for a gate.")
        s.add(cost, gate, "with the gate", "all")
    s.ask(f"How many dollars does {a} pay?", "How much does it cost?")


def team_order(s: Story) -> None:
    """An order split over a team with a shared fee."""
    a, b = s.names(2)
    n, each = s.between(2, 9), s.between(5, 80)
    fee, people = s.between(5, 99), s.between(2, 9)
    many, _ = s.rng.choice(GOODS)
    s.say(f"{a} orders {n} {many} for ${each} each.", f"{a} buys {n} {many} at ${each} each.")
    s.distract(b)
    s.say(f"There is a fee of ${fee}.", f"The fee is ${fee}.")
    goods = s.multiply(n, each, f"{many}", f"cost of {many}")
    total = s.add(goods, fee, "with the fee", "total cost")
    s.say(
        f"{people} friends share the cost equally.",
        f"The cost is shared equally by {people} friends.",
    )
    share = s.divide(total, people, "one share", "each pays")
    if s.chance():
        had = s.given(share.number + s.rng.randint(2, 300))
        s.say(f"{b}, one of them, had ${had}.", f"{b} is one of them and had ${had}.")
        s.subtract(had, share, f"what {b} then has", f"{b}'s money left")
        s.ask(f"How many dollars does {b} have left?")
    else:
        s.ask("How many dollars does each pay?", "How much is one share?")


def tank(s: Story) -> None:
    """Filling and leaking for some minutes (held out of training)."""
    (a,) = s.names(1)
    start, rate, leak, minutes = s.amount(3), s.between(9, 60), s.between(2, 8), s.between(3, 9)
    s.say(f"A tank holds {start} liters.", f"There are {start} liters in a tank.")
    s.distract(a)
    s.say(f"{a} adds {rate} liters a minute and it loses {leak} a minute, for {minutes} minutes.")
    if s.rng.random() < 0.5:
        gain = s.multiply(
            s.subtract(rate, leak, "gain a minute", "each minute"), minutes, "gain", "all gain"
        )
        s.add(start, gain, "liters now", "in the tank")
    else:
        added = s.multiply(rate, minutes, "liters added", "added")
        lost = s.multiply(leak, minutes, "liters lost", "lost")
        s.subtract(
            s.add(start, added, "with the new liters", "liters then"),
            lost,
            "liters now",
            "in the tank",
        )
    s.ask("How many liters are in the tank now?")


def tickets(s: Story) -> None:
    """Adults and children at a show (held out of training)."""
    (a,) = s.names(1)
    adult, child = s.between(5, 20), s.between(2, 9)
    m, n, cost = s.between(4, 40), s.between(4, 60), s.amount(3)
    s.say(f"A show costs ${adult} for adults and ${child} for children.")
    s.say(f"{m} adults and {n} children come.")
    s.distract(a)
    x = s.multiply(m, adult, "adults", "money from adults")
    y = s.multiply(n, child, "children", "money from children")
    total = s.add(x, y, "all money", "together")
    s.say(f"The hall costs ${cost}.")
    s.subtract(total, cost, "money left", "left")
    s.ask("How many dollars are left?")


TRAINED: tuple[Template, ...] = (
    shopping,
    spend_fraction,
    discount,
    savings,
    ages,
    journey,
    points,
    wages,
    fence,
    team_order,
)
HELD_OUT: tuple[Template, ...] = (tank, tickets)
