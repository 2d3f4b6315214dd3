"""What a configuration's settings may be, checked when it is made: before anything is read."""

from __future__ import annotations

import math
import numbers
import os
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping


@dataclass(frozen=True)
class Allowed:
    """What a setting takes, in words, and whether a value is that."""

    words: str
    holds: Callable[[Any], bool]


def at_least(number: float) -> Allowed:
    """Allow a number and what is greater."""
    return Allowed(f"{number} or more", lambda value: value >= number)


def one_of(names: Collection[str]) -> Allowed:
    """Allow some names."""
    return Allowed(f"one of {', '.join(names)}", names.__contains__)


FINITE = Allowed("0 or more, and finite", lambda value: 0 <= value < math.inf)
SHARE = Allowed("a number from 0 to 1", lambda value: 0 <= value <= 1)
RANGE = Allowed(
    "two numbers above 0, the smaller one first",
    lambda value: len(value) == 2 and 0 < value[0] <= value[1] < math.inf,
)


def check_settings(config: Any, allowed: Mapping[str, Allowed]) -> None:
    """Refuse a configuration, a dataclass, at its first setting that is not what is allowed under its name.

    Fields declared as `int` take whole numbers only, those declared as `int` or `float` never True or False, and those declared
    as `str` text.

    Raises
    ------
    ValueError
        It says what the setting takes.
    """
    for field in fields(config):
        name, value = field.name, getattr(config, field.name)
        # Types are texts where annotations are postponed, as in all modules here.
        if field.type == "str" and not isinstance(value, str):
            raise ValueError(f"{name} takes text; got {_told(value)}.")
        if field.type == "int" and (isinstance(value, bool) or not isinstance(value, numbers.Integral)):
            raise ValueError(f"{name} takes a whole number; got {_told(value)}.")
        if name in allowed and not _holds(allowed[name], value):
            raise ValueError(f"{name} takes {allowed[name].words}; got {_told(value)}.")
        if field.type == "float" and (isinstance(value, bool) or not isinstance(value, numbers.Real)):
            raise ValueError(f"{name} takes a number; got {_told(value)}.")


def _holds(rule: Allowed, value: Any) -> bool:
    try:
        return bool(rule.holds(value))
    except (TypeError, ValueError):  # a text where a number is expected, or one number where several are
        return False


def _told(value: Any) -> str:
    return (", ".join(map(repr, value)) or "none") if isinstance(value, tuple) else repr(value)


def of_process() -> tuple[int, int]:
    """Return the number of this process and how many there are, as torchrun tells each in its environment."""
    told = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE")]
    # A cluster may set one of them for reasons of its own.
    return (0, 1) if None in told else (int(told[0] or 0), int(told[1] or 1))
