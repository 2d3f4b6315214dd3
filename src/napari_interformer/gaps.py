"""What was carried between two clicked planes of a stack, or beyond the outermost, and where and why it ended.

Plain values, which `volume` makes and a session remembers, and sentences about them for people.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from napari_interformer.image import Plane
from napari_interformer.prompts import plane_name, plane_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from napari_interformer.decoding import Step, Steps
    from napari_interformer.prompts import Given, Mask

MOST_TOLD = 4  # ends of an object; in time-lapses there may be two for each time


class Reason(StrEnum):
    """Why an object is not carried further."""

    NOT_ENCODED = "this plane is not encoded yet (propagate again once it is)"
    NO_VALUE = "the image has no value there"
    OCCUPIED = "another object is there"
    UNLIKE = "what is there looks like the surroundings"
    VANISHED = "almost nothing is left of it"
    ELSEWHERE = "what is there hardly overlaps with it"
    ANOTHER = "it has become narrow and widens again, as if another object began there"


@dataclass(frozen=True)
class Ended:
    """Where an object was not carried further: the first plane without it, and why. `str` makes a sentence for people."""

    plane: Plane
    reason: Reason

    def __str__(self) -> str:
        return f"The object ends before plane {plane_name(self.plane)}: {self.reason}."


def where_it_ends(ends: Sequence[Ended]) -> str:
    """Say where an object ends, which matters most, and then why; empty if it does not end."""
    ends = list(dict.fromkeys(ends))  # two clicked planes may lie on either side of one
    told = ends[:MOST_TOLD]
    if not told:
        return ""
    text = f"Ends before {plane_names([end.plane for end in told])}{' and others' * (len(ends) > len(told))}"
    if len({end.reason for end in ends}) == 1:
        return f"{text}: {ends[0].reason}."
    why = (f"Plane {plane_name(end.plane)}: {end.reason}." for end in told)
    return f"{text}. {' '.join(why)}"


@dataclass(frozen=True, eq=False)
class Gap:
    """What was carried between two clicked planes, or beyond the outermost, and the steps that it follows from.

    It need not be carried again if it is `settled` (not stopped early, nor at something that may change), `overwrite` is still
    the same, and other objects still have what they kept it from (`withheld`).
    """

    sources: tuple[Step | None, Step | None]
    masks: tuple[Mask, ...]
    ends: tuple[Ended, ...]
    settled: bool
    overwrite: bool
    withheld: tuple[Mask, ...] = ()


# By the clicked planes around them; None stands for the ends of the stack.
Gaps = dict[tuple[Plane | None, Plane | None], Gap]


def gaps_of(masks: Iterable[Mask], given: Iterable[Given], overwrite: bool, axis: int) -> Gaps:
    """Return between which planes with prompts of its own, along an axis, each mask was carried: it goes with them."""
    planes = sorted({prompt.plane for prompt in given})
    between: dict[tuple[Plane | None, Plane | None], list[Mask]] = {}
    for mask in masks:
        own = [plane for plane in planes if plane[:axis] == mask.plane[:axis]]
        before = max((plane for plane in own if plane < mask.plane), default=None)
        after = min((plane for plane in own if plane > mask.plane), default=None)
        between.setdefault((before, after), []).append(mask)
    return {
        ends: Gap((None, None), tuple(carried), (), settled=False, overwrite=overwrite)
        for ends, carried in between.items()
    }


class Carried(NamedTuple):
    """An object that was carried through a stack: its steps, and the gaps that were filled."""

    steps: Steps
    gaps: Gaps
