"""Times as people write them: days 0, 2.5 and 7, or D0, D7 and D10, or ordered categories, or dates."""

import datetime
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

UNITS = {
    "second": ("s", "sec", "secs", "second", "seconds"),
    "minute": ("min", "mins", "minute", "minutes"),
    "hour": ("h", "hr", "hrs", "hour", "hours", "hpf"),
    "day": ("d", "day", "days", "e", "dpf", "dpc", "dpi"),
    "week": ("w", "wk", "wks", "week", "weeks", "wpf"),
    "month": ("mo", "month", "months"),
    "year": ("y", "yr", "yrs", "year", "years"),
}
UNIT_OF = {word: unit for unit, words in UNITS.items() for word in words}
# Words that measure from an origin of their own: day 8 of an embryo is not day 8 of a dish.
ORIGINS = {"e", "hpf", "dpf", "wpf", "dpc", "dpi"}
NO_UNIT = {"", "t", "time"}

NUMBER = r"(?:\d+\.?\d*|\.\d+)"
PLAIN = re.compile(rf"[+-]?{NUMBER}(?:e[+-]?\d+)?", re.IGNORECASE)
LABEL = re.compile(
    rf"(?P<prefix>[^\W\d_]*)(?P<gap>[\s_=:.]*)(?P<sign>[+-]?)(?P<number>{NUMBER})"
    r"[\s_]*(?P<suffix>[^\W\d_]*)"
)
ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(?:[ T].*)?")
SHOWN = 5
REMEDY = "give a numeric column, or a mapping `times: {label: number}`"


@dataclass(frozen=True, eq=False)
class Times:
    """Times read from labels.

    Attributes:
        values: the time of each label ``(n,)``, in ``unit``.
        unit: such as ``"day"``; None if neither the labels nor the caller say.
        labels: time -> the label it was read from, in order of time.
    """

    values: np.ndarray
    unit: str | None
    labels: dict

    def name(self, time):
        """What to call a time in a message: its label where that is more than a number, else ``7 day``."""
        label = self.labels.get(float(time), time)
        bare = not isinstance(label, str) or PLAIN.fullmatch(label)
        return f"{time:.12g} {self.unit or ''}".strip() if bare else label


def parse_times(labels, *, unit=None, times=None):
    """Read times from numbers, numeric strings, labels such as ``D7`` or ``12h``, categories or dates.

    All labels must carry the same words around their number (``D0, D7, D10``), which then order
    naturally; a word that is a unit names the unit. Dates become days since the first one.

    Args:
        labels: one label for each row ``(n,)``: list, array, Series or Categorical (ordered or not).
        unit: unit of the numbers; may be left out where the labels name it, and may not contradict them.
        times: ``{label: number}`` for labels that do not speak for themselves.
    Returns:
        Times.
    Raises:
        ValueError: labels that are missing, cannot be ordered, or mix units; they are listed.
    """
    column = pd.Series(labels).reset_index(drop=True)
    if missing := int(column.isna().sum()):
        first = int(np.flatnonzero(column.isna())[0])
        raise ValueError(
            f"expected a time for every row, {missing} of {len(column)} have none, the first is row {first}; "
            "fill them in or leave those rows out"
        )
    codes, distinct = _distinct(column)
    said = None
    if times is not None:
        numbers = _mapped(distinct, times)
    elif pd.api.types.is_datetime64_any_dtype(distinct) or _are_dates(distinct):
        numbers, said = _days(distinct), "day"
    elif pd.api.types.is_timedelta64_dtype(distinct):
        numbers, said = (distinct / pd.Timedelta(days=1)).to_numpy(np.float64), "day"
    elif pd.api.types.is_numeric_dtype(distinct) and not pd.api.types.is_bool_dtype(distinct):
        numbers = distinct.to_numpy(np.float64)
    else:
        numbers, said = _read([str(label) for label in distinct])
    if not np.isfinite(numbers).all():
        raise ValueError(f"expected finite times, got {_some(distinct[~np.isfinite(numbers)])}")
    order = np.argsort(numbers, kind="stable")[::-1]  # of two labels for one time the first seen is kept
    names = {float(numbers[i]): _plain(distinct.iloc[i]) for i in order}
    return Times(numbers[codes], _agreed(said, unit), dict(sorted(names.items())))


def _distinct(column):
    """Codes and distinct labels; categories count by what they are, whatever order they declare."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    codes, distinct = pd.factorize(column)
    return codes, pd.Series(distinct)


def _mapped(distinct, times):
    known = {_key(label): number for label, number in times.items()}
    if strange := [label for label in distinct if _key(label) not in known]:
        raise ValueError(f"the mapping `times` has no number for {_some(strange)}; it knows {_some(known)}")
    if wrong := [label for label, n in known.items() if isinstance(n, bool) or not isinstance(n, int | float)]:
        raise ValueError(f"the mapping `times` must give numbers, it does not for {_some(wrong)}")
    return np.array([float(known[_key(label)]) for label in distinct])


def _key(label):
    """One spelling of a label that may be a number: a config's 7 is a column's 7.0."""
    return f"{label:.12g}" if isinstance(label, int | float | np.number) else str(label).strip()


def _are_dates(distinct):
    return len(distinct) > 0 and all(
        isinstance(label, datetime.date) or (isinstance(label, str) and ISO_DATE.fullmatch(label)) for label in distinct
    )


def _days(distinct):
    try:
        dates = pd.to_datetime(distinct)
    except (ValueError, TypeError) as error:
        raise ValueError(f"expected dates, got {_some(distinct)} ({error}); {REMEDY}") from None
    return ((dates - dates.min()) / pd.Timedelta(days=1)).to_numpy(np.float64)


def _read(labels):
    """Numbers and unit of text labels, which must all be numbers or all carry the same words."""
    labels = [label.strip() for label in labels]
    if all(PLAIN.fullmatch(label) for label in labels):
        return np.array([float(label) for label in labels]), None
    found = [LABEL.fullmatch(label) for label in labels]
    if strange := [label for label, match in zip(labels, found, strict=True) if not match]:
        raise ValueError(f"cannot order the time labels {_some(strange)}: no single number in them; {REMEDY}")
    words = [(_word(match["prefix"]), _word(match["suffix"])) for match in found]
    by_words = dict(zip(words, labels, strict=True))
    if len(by_words) > 1:
        kinds = _some(by_words.values())
        raise ValueError(f"the time labels mix units or prefixes, for example {kinds}; {REMEDY}")
    units = [unit for word in words[0] if (unit := UNIT_OF.get(word))]
    if len(units) > 1 or (words[0][1] and not units):
        raise ValueError(f"cannot read the time labels {_some(labels)}: expected one unit; {REMEDY}")
    numbers = np.array([float(match["number"]) for match in found])
    signs = np.array([-1.0 if match["sign"] == "-" else 1.0 for match in found])
    return numbers * _meant(signs, numbers, found, labels), units[0] if units else None


def _word(text):
    """A word in one spelling: plural, case and abbreviation do not matter, a different origin does."""
    word = text.casefold()
    return word if word in ORIGINS else "" if word in NO_UNIT else UNIT_OF.get(word, word)


def _meant(signs, numbers, found, labels):
    """The hyphen in ``D-1, D0`` is a minus sign; that in ``day-0, day-3`` joins word and number."""
    joined = [sign < 0 and bool(match["prefix"]) and not match["gap"] for sign, match in zip(signs, found, strict=True)]
    if not all(joined):
        return signs
    if 0.0 in numbers:
        return np.ones_like(signs)
    raise ValueError(f"cannot tell a hyphen from a minus sign in the time labels {_some(labels)}; {REMEDY}")


def _agreed(said, given):
    known = UNIT_OF.get(given.casefold(), given) if isinstance(given, str) else given
    if said and known and said != known:
        raise ValueError(f"the time labels say {said!r} but the unit given is {given!r}; drop one of them")
    return said or known


def _plain(label):
    """The label as a plain value that JSON can hold."""
    if isinstance(label, np.generic):
        label = label.item()
    return label if isinstance(label, int | float | str) else str(label)


def _some(labels):
    labels = [str(label) for label in labels]
    more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
    return f"{labels[:SHOWN]}{more}"
