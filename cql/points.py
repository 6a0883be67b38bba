"""A point of a sweep, as its run's folder names it: ``alpha_cql-5__tau_cql--2__seed-0``.

Parts are joined by ``__``; each is a key and its value, split at the first ``-``; the seed comes last. In print the
same point reads ``alpha_cql=5 tau_cql=-2 seed=0``.
"""

import math
import re

SEED = "seed"

_KEY = re.compile(r"[A-Za-z_][\w.]*")
_LAST_SEED = re.compile(r"(?:^|__| )seed[-=]\d+$")


def parse_point(name: str) -> dict[str, str]:
    """The values of a point by their keys, in the order of the name; empty if the name has another form."""
    point: dict[str, str] = {}
    for part in name.split("__"):
        key, dash, value = part.partition("-")
        if not (dash and value and _KEY.fullmatch(key)) or key in point:
            return {}
        point[key] = value
    return point


def human_point(name: str) -> str:
    """A folder's name for people: ``alpha_cql=5 seed=0``; unchanged if it is not the name of a point."""
    return " ".join(f"{key}={value}" for key, value in parse_point(name).items()) or name


def without_seed(point: str) -> str:
    """A point, as a folder's name or in print, without the seed at its end. Runs that are averaged share it."""
    return _LAST_SEED.sub("", point)


def number(value: str) -> float | None:
    """A value of a point as a number, None if it is not a finite number."""
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def order(value: str) -> tuple[bool, float, str]:
    """Sorting key of a point's values: numbers by their size, before texts."""
    found = number(value)
    return (True, 0.0, value) if found is None else (False, found, value)
