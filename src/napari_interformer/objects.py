"""The objects of a label image: those that are finished, and the one that somebody works on.

Nothing in here decodes, or can be undone: a session does the one, its `history` the other.
"""

from __future__ import annotations

from statistics import median_high
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_interformer.by_hand import ByHand
from napari_interformer.current import Current
from napari_interformer.files import labels_at
from napari_interformer.geometry import Box
from napari_interformer.painting import Backlog, highest_label

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from napari_interformer.decoding import Step
    from napari_interformer.painting import LabelArray
    from napari_interformer.prompts import Mask, Prompt
    from napari_interformer.records import Record

NEWEST = 5  # finished objects that tell how large the next one is: few, since images and tasks change


class Objects:
    """What is known of the objects of a label image.

    Parameters
    ----------
    labels : integer array
        Written in place, only where something changes.
    overwrite, live : bool
        See `Current`; each object begins with them.
    highest : int, optional
        The highest label in `labels`, where that is known; all of them are read if None.

    Attributes
    ----------
    labels : integer array
        As given.
    backlog : Backlog
        What is still to be written to it.
    records : list of Record
        Of the finished objects, in order.
    extents : list of int
        How large those were across that have pixels, in pixels.
    highest : int
        The highest number that an object has or had.
    current : Current
        The one that somebody works on.
    by_hand : ByHand
        What somebody painted.
    overwrite : bool
        Whether objects to come may take pixels from others; of the current one, a file may say something else.
    """

    def __init__(self, labels: LabelArray, *, overwrite: bool, live: bool, highest: int | None) -> None:
        self.labels, self.backlog, self.overwrite = labels, Backlog(), overwrite
        self.by_hand = ByHand()
        self.records: list[Record] = []
        self.extents: list[int] = []
        self.highest = highest_label(labels) if highest is None else highest
        self.current = Current(labels, self.highest + 1, self.backlog, overwrite=overwrite, live=live)

    def begin(self) -> None:
        """Leave the current object as it is, and begin the next one."""
        before = self.current
        self.highest = max(self.highest, before.label)
        self.current = Current(
            self.labels, self.highest + 1, self.backlog, overwrite=self.overwrite, live=before.live
        )

    def switch(self, overwrite: bool) -> None:
        """Let the current object, and those to come, take pixels from others, or no longer."""
        if overwrite != self.current.overwrite:
            self.current.switch(overwrite)
        self.overwrite = overwrite

    def finish(self, decoder: str) -> None:
        """Paint the current object if that is not done yet, keep its record, and begin the next one."""
        current = self.current
        if not current.live:
            with self.backlog.whole(current.put_back):  # or the next object would have what is there
                current.repaint()
        self.records.append(current.record(decoder))
        if current.steps:  # a saved deletion has none
            self.extents.append(extent(current.newest.values()))
        self.begin()

    def know(self, number: int) -> None:
        """Give no later object this number, nor a lower one."""
        self.highest = max(self.highest, number)
        if not self.current.unfinished:
            self.current.label = max(self.current.label, self.highest + 1)

    def drop(self, records: Iterable[Record]) -> None:
        """Forget that these were finished."""
        gone = {id(record) for record in records}
        self.records = [record for record in self.records if id(record) not in gone]

    @property
    def prompts(self) -> dict[int, tuple[Prompt, ...]]:
        """The finished objects' prompts by label; for an edited object, those of each plane since its last edit."""
        found: dict[int, tuple[Prompt, ...]] = {}
        for record in self.records:
            again = {prompt.plane for prompt in (*record.prompts, *record.begun)}
            before = found.get(record.label, ()) if record.edited and not record.is_deletion else ()
            found[record.label] = (
                *(prompt for prompt in before if prompt.plane not in again),
                *record.prompts,
            )
        return {label: prompts for label, prompts in found.items() if prompts}  # the others were deleted

    @property
    def rejected(self) -> tuple[Mask, ...]:
        """What was deleted so far."""
        return tuple(mask for record in self.records if record.is_deletion for mask in record.begun)

    def usual_extent(self, least: float) -> float | None:
        """Return how large the newest finished ones are across, and, if they are few, rather at least so many pixels."""
        return float(median_high([least, *self.extents[-NEWEST:]])) if self.extents else None


class Finished:
    """A view for reading of a label image, without the current object; always up to date."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self.shape, self.dtype = objects.labels.shape, objects.labels.dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read a box."""
        labels, current = np.array(labels_at(self._objects.labels, key)), self._objects.current
        if current.steps:
            labels[labels == current.label] = 0
        return labels


def extent(steps: Iterable[Step]) -> int:
    """Return how large an object is across on the plane where it is largest."""
    return max(Box.around(step.mask).extent for step in steps)
