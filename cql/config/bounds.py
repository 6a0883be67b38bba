"""Fields of the schema: bounds and hints of their values, as metadata."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Bounds:
    """An interval of numbers; None leaves a side open."""

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )

    def __str__(self) -> str:
        sides = {
            "greater than": self.above,
            "at least": self.at_least,
            "less than": self.below,
            "at most": self.at_most,
        }
        return " and ".join(f"{words} {side}" for words, side in sides.items() if side is not None) or "finite"


def number(bounds: Bounds | None = None, *, hint: str = "") -> Any:
    """A number without a default (the YAML files hold the values), its bounds, and what to do when it is outside."""
    return field(metadata={"bounds": bounds or Bounds(), "hint": hint})


def later(default: Any, bounds: Bounds | None = None, *, hint: str = "") -> Any:
    """A number or null that the files of earlier versions lack, so that it has a default; bounds as in `number`."""
    return field(default=default, metadata={"bounds": bounds or Bounds(), "hint": hint})


def text(*, ask: str = "", one_of: Sequence[str] = ()) -> Any:
    """A text without a default; `ask` says what to give if it is missing."""
    return field(metadata={"ask": ask, "one_of": tuple(one_of)})


POSITIVE = Bounds(above=0)
AT_LEAST_0 = Bounds(at_least=0)
AT_LEAST_1 = Bounds(at_least=1)
RATE = Bounds(above=0, at_most=1)
SEED = Bounds(at_least=0, at_most=2**32 - 1)
ALPHA_CQL_MAX = 1e6  # equal to cql.algorithm.losses.ALPHA_CQL_MAX, whose module imports torch
