r"""Numbers in text, and their values, in every notation that people and models use.

One number is: `1,234.50`, `1 234`, `.5`, `3/4`, `1 3/4`, `\frac{3}{4}`, `1½`, `1.2e5`,
`1.2 × 10^5`, `2^10`, `10^{-3}`, `2 million`, `20k`, `$1.5M`, `-$5`, `$-5`, `50%`. Units, currencies
and percent signs do not change a value. Times, ratios and dates (`3:45`, `3/4/2020`) are no
numbers, nor are exponents and digits inside words (`m^2`, `H2O`). A comma that is not followed by
three digits separates numbers. `continues` and `led` find a number that is a part of something
else: `2\sqrt{3}`, `3x`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

MAX_DIGITS = 1000
"""Longer digit strings, and larger exponents of ten, are not read."""

BOX_OPEN, BOX_CLOSE = "\x02", "\x03"
r"""The characters that `plain` writes for the braces of `\boxed{...}`."""

_MAGNITUDES = {
    **{"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9},
    **{"trillion": 10**12, "lakh": 10**5, "crore": 10**7},
}
_SUFFIXES = {"k": 10**3, "m": 10**6, "mn": 10**6, "b": 10**9, "bn": 10**9, "tn": 10**12}
# All but k are of amounts of money; elsewhere they are units.
_OF_MONEY = "(?:" + "|".join(_SUFFIXES) + ")"

_CURRENCY = r"(?:(?:US|AU|CA|NZ|HK|A|C)?[$€£¥₹₩]|(?:Rs\.?|USD|EUR|GBP|INR|CAD|AUD)(?=[\s\d.]))"
_DIGITS = r"(?:\d{1,3}+ (?:,\d{3})++ (?!\d) | \d++)"

_NUMBER = re.compile(
    rf"""
    (?: (?<![\w)\]}}%^]) (?P<sign>[-+]) (?:(?P<debt>{_CURRENCY})[ ]?)?
      | (?<!\w) (?P<money>{_CURRENCY})[ ]? (?P<inner>[-+])?
      | (?<!\w) (?<!\^) (?<!\^[-+]) (?<!\d[.:/]) )
    (?: (?P<whole> \d{{1,3}}+ (?:,\d{{3}})++ (?!\d)
                 | \d{{1,2}}+ (?:,\d{{2}}(?!\d))++ ,\d{{3}} (?!\d)
                 | \d++ )
        (?P<decimals> \.\d++ )?+
      | (?<![\w.]) (?P<bare> \.\d++ ) )
    (?: [ ]?/[ ]?(?P<under>[-+]?+ {_DIGITS} (?:\.\d++)?+)
      | [ ]++(?:and[ ]++)?(?P<over>\d++)[ ]?/[ ]?(?P<part>\d++)
      | [eE](?P<exponent>[-+]?\d++)(?!\w)
      | [ ]*+[×x*][ ]*+10[ ]*+\^[ ]*+\(?(?P<tens>[-+]?\d++)\)?
      | \^\(?(?P<power>[-+]?\d++)\)? )?+
    (?! [/:]\d | \.\d | \d )
    (?: [ ]*+%
      | [ ]*+(?P<magnitude>{"|".join(_MAGNITUDES)})\b
      | (?P<suffix>k|(?(money){_OF_MONEY}|(?(debt){_OF_MONEY}|(?!))))(?![\w^²³])
      | (?P<ordinal>st|nd|rd|th)\b )?+
    """,
    re.VERBOSE | re.IGNORECASE,
)

_UNIT = re.compile(r"[ ]*(?:[^\W\d][\w^/. -]*)?[.]?")
# A letter alone is a variable unless it is a usual unit: "3x", "5n + 1", but "5 m", "3 a day".
_CONTINUED = re.compile(
    r"""[ ]*+ (?: \\[a-zA-Z] | [√π∞!^] (?=[ ]*[\w({\\.,;$\x03)]|[ ]*$) )
      | [ ]*+ (?![acdghlmpstACFGJKLMNVW]\b) [a-zA-Z] (?![a-zA-Z'’])
      | [xyzn]{2,3} (?![a-zA-Z])
      | [(] (?=[^()]*[)]) | [ ]*+ [(] [ ]*+ [\\√π]
      | [ ]*+ [-+*×÷/] [ ]*+ (?: [(\\√π\d] | (?![acdghlmpstACFGJKLMNVW]\b) [a-zA-Z] \b )""",
    re.VERBOSE,
)
_LED = re.compile(
    r"""(?: \\(?:sqrt|log|ln|sin|cos|tan|exp|binom|pm|leq?|geq?|neq?)(?![a-zA-Z])
          | [√±≤≥≠<^|] | \\?(?:\\pi|π)[ ]*[)]?[ ]*/ )
        [ ({\[$]*$""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Found:
    """A number in a text: its value, its position, and whether it is a rank ("2nd")."""

    value: Fraction
    start: int
    end: int
    ordinal: bool


def numbers(text: str) -> Iterator[Found]:
    """The numbers in a text that `plain` has rewritten, from left to right."""
    for match in _NUMBER.finditer(text):
        value = _value(match)
        if value is not None:
            yield Found(value, match.start(), match.end(), match["ordinal"] is not None)


def value_of(text: str) -> Fraction | None:
    """The value of a text that is one number, perhaps with a unit after it; else None."""
    text = plain(text).strip(" $*\n")
    found = list(numbers(text))
    if len(found) != 1 or found[0].start or not _UNIT.fullmatch(text, found[0].end):
        return None
    if continues(text, found[0]):
        return None
    return found[0].value


def continues(text: str, number: Found) -> bool:
    r"""Whether a number of a plain text goes on as something else: "2" in `2\sqrt{3}`, `2x`."""
    return _CONTINUED.match(text, number.end) is not None


def led(text: str, number: Found) -> bool:
    r"""Whether the text before a number makes it a part of something else: "3" in `\sqrt{3}`."""
    return _LED.search(text, max(0, number.start - 20), number.start) is not None


def canonical(value: Fraction) -> str:
    """The canonical form of a value: "18", "-0.5", and "1/3" where decimals never end."""
    rest, places = value.denominator, 0
    for prime in (2, 5):
        power = 0
        while rest % prime == 0:
            rest //= prime
            power += 1
        places = max(places, power)
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    if not places:
        return str(value.numerator)
    digits = str(abs(value.numerator) * 10**places // value.denominator).zfill(places + 1)
    sign = "-" if value < 0 else ""
    return f"{sign}{digits[:-places]}.{digits[-places:]}"


def _value(match: re.Match[str]) -> Fraction | None:
    if any(len(group) > MAX_DIGITS for group in match.groups("")):
        return None
    whole = (match["whole"] or "0").replace(",", "")
    digits = whole + (match["decimals"] or match["bare"] or "")
    value = Fraction(digits)
    if match["under"]:
        under = Fraction(match["under"].replace(",", ""))
        if not under:
            return None
        value /= under
    elif match["part"]:
        if not int(match["part"]):
            return None
        value += Fraction(int(match["over"]), int(match["part"]))
    elif exponent := match["exponent"] or match["tens"]:
        if abs(int(exponent)) > MAX_DIGITS:
            return None
        value *= Fraction(10) ** int(exponent)
    elif match["power"]:
        power = int(match["power"])
        if abs(power) * len(digits) > MAX_DIGITS or (power < 0 and not value):
            return None
        value **= power
    if match["magnitude"]:
        value *= _MAGNITUDES[match["magnitude"].lower()]
    elif match["suffix"]:
        value *= _SUFFIXES[match["suffix"].lower()]
    return -value if "-" in (match["sign"], match["inner"]) else value


# Rewriting typography and LaTeX

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u2212\u2012\u2013\ufe63\uff0d\u2010\u2011", "-"),
        **dict.fromkeys("\u2044\u2215", "/"),
        **dict.fromkeys("\u2219\u22c5\u00b7", "*"),
        **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
        "，": ",",
        "．": ".",
        "％": "%",
        "＄": "$",
        "：": ":",
        "＝": "=",
        BOX_OPEN: " ",
        BOX_CLOSE: " ",
        "\x04": " ",
    }
)
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+", strict=True))
_VULGAR = {
    chr(code): unicodedata.normalize("NFKC", chr(code)).replace("\u2044", "/")
    for code in (*range(0xBC, 0xBF), *range(0x2150, 0x215F))
}

_WORD_SIGN = r"(?i)(^|[:=(#]|\bis|\bof)([ ]*)(?:negative|minus)[ ]+(?=[\d.$])"
_NUMERAL = re.compile(r"\s*[-+]?\s*(?:\\?\$)?\s*\.?\d[\d.,]*\s*")
_ARROWS = (
    r"\\(?:implies|(?:Long|long)?[Rr]ightarrow|to|therefore|newline|boldsymbol|bm|underline"
    r"|[lL]arge|LARGE|[hH]uge|small|bf|rm|it)(?![a-zA-Z])"
)


def _fraction(match: re.Match[str]) -> str:
    over, under = match[1], match[2]
    if _NUMERAL.fullmatch(over) and _NUMERAL.fullmatch(under):
        return f"\x04{over}/{under}"
    return f"\x04({over})/({under})"


# Each rewrite has a text without which it does nothing: most texts need few of them.
_REWRITES: tuple[tuple[str, re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = tuple(
    (trigger, re.compile(pattern), new)
    for trigger, pattern, new in (
        ("<<", r"<<[^<>\n]*>>", ""),  # the calculator marks of GSM8K
        ("frac", r"\\[dtc]?frac\s*+\{\s*+([^{}]*+)\}\s*+\{\s*+([^{}]*+)\}", _fraction),
        ("frac", r"\\[dtc]?frac\s*(\d)\s*(\d)", "\x04\\1/\\2"),
        ("\x04", r"(?<=\d)\s*\x04", " "),  # a mixed number
        ("\x04", r"\x04", ""),
        ("\\", r"\\(?:text(?:bf|it|rm|sf|tt)?|math(?:rm|bf|it|sf)|operatorname|mbox)\b\s*", " "),
        ("\\", r"(?<=\d),?\\[,!;: ](?=\d{3}(?!\d))", ","),
        ("{,}", r"(?<=\d)\{,\}(?=\d{3}(?!\d))", ","),
        ("\\", r"\\(?:left|right|displaystyle|quad|qquad)(?![a-zA-Z])", " "),
        ("\\", r"\^\s*(?:\{\s*)?\\circ\s*\}?", " degrees"),
        ("\\", r"\\(?:times|cdot)(?![a-zA-Z])", "×"),
        ("\\", r"\\div(?![a-zA-Z])", "÷"),
        ("\\", _ARROWS, " "),
        ("\\", r"\\approx(?![a-zA-Z])", "≈"),
        ("\\", r"\\([$%#&_])", r"\1"),
        ("\\", r"\\[\[\]()!,;: ]", " "),
        ("$$", r"(?<!\d)\$\$|\$\$(?!\d)", " "),
        ("^", r"\^\s*\{\s*([-+]?\d+)\s*\}", r"^\1"),
        ("{", r"\{", " "),
        ("}", r"\}", " "),
        ("~", r"~", " "),
        ("**", r"(?<![\d)])\*\*|\*\*(?![\d(])", ""),  # bold, but not a power
        ("**", r"(?<=\d)\*\*(?=\d)", "^"),
        ("_", r"(?<!\w)_+|_+(?!\w)", ""),
        ("`", r"`", ""),
        ("egative ", _WORD_SIGN, r"\1\2-"),
        ("inus ", _WORD_SIGN, r"\1\2-"),
        ("- ", r"([=:≈][ ]*)-[ ]+(?=[\d.$])", r"\1-"),
    )
)
_SPACES = re.compile(r"[\u00a0\u2009\u202f\u2007\t]")
_GROUPS = re.compile(r"(?<=\d)[\u00a0\u2009\u202f\u2007’'](?=\d{3}(?!\d))")
_BRACE = re.compile(r"\\(?:f?box|boxed)\s*+\{|\\.|[{}]", re.DOTALL)
# Groups of three after a space: "12 000". Not "3 500-piece puzzles", not a fraction.
_SPACED = re.compile(r"(?<![\w.,/:^])(?<!\d[ ])(\d{1,3}(?:[ ]\d{3})+)(?![\w/-]|[ ]\d|,\d)")


def plain(text: str) -> str:
    r"""A text with its numbers in plain ASCII: no LaTeX, no typographic signs, no bold.

    The braces of `\boxed{...}` become `BOX_OPEN` and `BOX_CLOSE`; a box that never closes is only
    text.
    """
    text = text.translate(_CHARACTERS)
    text = re.sub(r"(\d?)([¼-¾⅐-⅞])", _vulgar, text)
    text = re.sub(r"[⁻⁺]?[⁰¹²³⁴-⁹]+", _superscript, text)
    text = mark_boxes(text)
    for trigger, pattern, new in _REWRITES:
        if trigger in text:
            text = pattern.sub(new, text)
    text = _SPACES.sub(" ", _GROUPS.sub(",", text))
    return _SPACED.sub(lambda match: match[1].replace(" ", ","), text)


def _vulgar(match: re.Match[str]) -> str:
    return f"{match[1]} {_VULGAR[match[2]]}" if match[1] else _VULGAR[match[2]]


def _superscript(match: re.Match[str]) -> str:
    return "^" + "".join(_SUPERSCRIPTS[character] for character in match[0])


def mark_boxes(text: str) -> str:
    r"""A text with the braces of every `\boxed{...}` that closes as `BOX_OPEN` and `BOX_CLOSE`."""
    pieces: list[str] = []
    opened: list[int | None] = []  # of every open brace, the piece that would begin its box
    end = 0
    for match in _BRACE.finditer(text):
        pieces += (text[end : match.start()], match[0])
        end = match.end()
        if match[0] == "}":
            box = opened.pop() if opened else None
            if box is not None:
                pieces[box], pieces[-1] = BOX_OPEN, BOX_CLOSE
        elif match[0].endswith("{") and match[0] != r"\{":
            opened.append(len(pieces) - 1 if "box" in match[0] else None)
    return "".join([*pieces, text[end:]])
