"""What a configuration's settings may be, checked when it is made: before anything is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class Allowed:
    """What a setting takes, in words, and whether a value is that."""

    words: str
    holds: Callable[[Any], bool]


def at_least(number: float) -> Allowed:
    """Allow a number and what is greater."""
    return Allowed(f"{number} or more", lambda value: value >= number)


SHARE = Allowed("a number from 0 to 1", lambda value: 0 <= value <= 1)
RANGE = Allowed(
    "two numbers above 0, the smaller one first", lambda value: 0 < value[0] <= value[1] < math.inf
)


def check_settings(config: object, allowed: Mapping[str, Allowed]) -> None:
    """Refuse the first setting of a configuration that is not what is allowed under its name, if any is.

    Raises
    ------
    ValueError
        It says what the setting takes.
    """
    for name, value in vars(config).items():
        if name in allowed and not allowed[name].holds(value):
            raise ValueError(f"{name} takes {allowed[name].words}; got {value}.")
