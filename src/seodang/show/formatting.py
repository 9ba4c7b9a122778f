"""Numbers and foreign text as people read them, in the report and the terminal alike."""

import math
from collections.abc import Iterable

from seodang.errors import plural as plural
from seodang.errors import visible as visible
from seodang.errors import visible_line as visible_line

MISSING = "—"
DURATIONS = ("{:.1f} s", "{} min {} s", "{} h {} min")
LINE_BREAK_CHARACTERS = 30  # what a line break counts as
DIGITS, MOST_DIGITS = 3, 6  # decimals of a loss; where these would show a change as none


def number(value: float | None, digits: int = DIGITS) -> str:
    """`1,234.500`, with a true minus sign; a dash where there is none. What rounds to zero has no sign."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "not finite"
    return f"{value:z,.{digits}f}".replace("-", "−")


def whole(value: float | None) -> str:
    """`1,234`."""
    return number(value, 0)


def digits_of(
    values: Iterable[float | None],
    limits: Iterable[float | None] = (0.0,),
    *,
    least: int = DIGITS,
    most: int = MOST_DIGITS,
) -> int:
    """The fewest decimals at which each value stays on its side of each limit; `least` where no number of them does.

    With three decimals, a rise of 0.0504 is written as a tolerance of 0.05 is, and a change of −0.0004 as none.
    """
    known, bounds = ([one for one in some if one is not None] for some in (values, limits))
    sides = [(value, bound) for value in known for bound in bounds]

    def is_faithful(digits: int) -> bool:
        return all(
            (value > bound, value < bound) == (round(value, digits) > bound, round(value, digits) < bound)
            for value, bound in sides
        )

    return next((digits for digits in range(least, most + 1) if is_faithful(digits)), least)


def nonzero(value: float | None) -> str:
    """As `number`, with the decimals that it takes not to look like 0."""
    return number(value, digits_of([value]))


def probabilities(*shares: float) -> tuple[str, ...]:
    """Shares in percent, with as few decimals as tell them from each other and from none: `0.014%`, `4.5%`."""
    wanted = ({*shares, 0.0}, {min(shares), 0.0})  # where all of them are too much alike, from none

    def are_told_apart(some: set[float], digits: int) -> bool:
        return len({percent(share, digits) for share in some}) == len(some)

    told_apart = (digits for some in wanted for digits in range(1, MOST_DIGITS) if are_told_apart(some, digits))
    digits = next(told_apart, 1)
    return tuple(percent(share, digits) for share in shares)


def percent(share: float | None, digits: int = 0) -> str:
    """`0.36` as `36%`."""
    finite = share is not None and math.isfinite(share)
    return number(100 * share if share is not None else None, digits) + ("%" if finite else "")


def level(share: float) -> str:
    """The level of an interval: `98.3%`, `95%`."""
    return percent(share, 1).replace(".0%", "%")


def signed(value: float | None, digits: int = DIGITS) -> str:
    """`0.0123` as `+0.012`; what rounds to zero has no sign."""
    text = number(value, digits)
    return f"+{text}" if value is not None and math.isfinite(value) and round(value, digits) > 0 else text


def duration(seconds: float | None, forms: tuple[str, str, str] = DURATIONS) -> str:
    """`4.2 s`, `21 min 3 s`, `2 h 5 min`.

    Args:
        forms: of seconds; of minutes and seconds; of hours and minutes.
    """
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    short, minutes_form, hours_form = forms
    if round(seconds, 1) < 60:
        return short.format(seconds)
    minutes, rest = divmod(round(seconds), 60)
    return minutes_form.format(minutes, rest) if minutes < 60 else hours_form.format(minutes // 60, minutes % 60)


def size(num_bytes: float | None) -> str:
    """`2.1 MB`, in powers of 1000."""
    if num_bytes is None:
        return MISSING
    power = min(4, sum(num_bytes >= 999.95 * 1000**above for above in range(4)))
    return f"{num_bytes / 1000**power:.{1 if power else 0}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def fold(text: str, limit: int) -> tuple[str, str]:
    """(what is shown, what is folded away): about `limit` characters, cut at white space where there is some.

    A line break counts as 30 characters; a quarter more than `limit` is still shown whole.
    """
    length, end = 0, None
    for position, char in enumerate(text):
        length += LINE_BREAK_CHARACTERS if char == "\n" else 1
        if length > limit and end is None:
            end = position
        if length > 1.25 * limit:
            break
    else:
        return text, ""
    end = end or 0
    space = max(text.rfind(" ", 0, end), text.rfind("\n", 0, end))
    end = space if space > end // 2 else end
    return text[:end], text[end:].lstrip()
