"""Units of length and time by the names that files have for them, and times in words."""

from __future__ import annotations

import math
from typing import NamedTuple


class Length(NamedTuple):
    """A unit of length: its name in OME-Zarr and in napari, how OME-TIFF writes it, and what others call it."""

    name: str
    mark: str
    micrometers: float
    aliases: tuple[str, ...] = ()


LENGTHS = {
    name: unit
    for unit in (
        Length("picometer", "pm", 1e-6),
        Length("angstrom", "Å", 1e-4, ("\N{ANGSTROM SIGN}", "Angstrom")),
        Length("nanometer", "nm", 1e-3),
        Length("micrometer", "µm", 1.0, ("um", "micron", "microns", "\\u00B5m", "μm")),
        Length("millimeter", "mm", 1e3),
        Length("centimeter", "cm", 1e4),
        Length("decimeter", "dm", 1e5),
        Length("meter", "m", 1e6),
        Length("kilometer", "km", 1e9),
        Length("inch", "in", 2.54e4, ("inches",)),
        Length("foot", "ft", 3.048e5, ("feet",)),
    )
    for name in (unit.name, unit.mark, *unit.aliases)
}
SECONDS = {
    **dict.fromkeys(("ns", "nanosecond"), 1e-9),
    **dict.fromkeys(("us", "µs", "microsecond"), 1e-6),
    **dict.fromkeys(("ms", "msec", "millisecond"), 1e-3),
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "minute"), 60.0),
    **dict.fromkeys(("h", "hour"), 3600.0),
    **dict.fromkeys(("d", "day"), 86400.0),
}


def named(unit: str | None) -> str | None:
    """Return the name of a unit of length that goes by several; any other as it is."""
    length = LENGTHS.get(str(unit))  # metadata may hold anything
    return length.name if length else unit


def ratio(unit: str | None, other: str | None) -> float | None:
    """Return how many of another unit one makes, by whatever names; None if they differ and are not both known lengths."""
    one, another = LENGTHS.get(str(unit)), LENGTHS.get(str(other))
    if one and another:
        return one.micrometers / another.micrometers
    return 1.0 if unit == other else None


def is_length(number: float) -> bool:
    """Whether this can be the size of a pixel: above 0, and finite."""
    return 0 < number < math.inf


def duration(seconds: float) -> str:
    """Return a waiting time in words."""
    if not seconds < 1e7:
        return "unknown time"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
