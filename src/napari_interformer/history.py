"""What was done since the current object began, so that it can be taken back and made again, exactly and in order.

Each kind of change knows how to make itself and how to take itself back; `History` keeps their order.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from napari_interformer.current import nothing
from napari_interformer.objects import extent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari_interformer.by_hand import Tiles
    from napari_interformer.current import Shown
    from napari_interformer.decoding import Step
    from napari_interformer.objects import Objects
    from napari_interformer.painting import Painting, Stroke
    from napari_interformer.records import Record


class Change(Protocol):
    """Something that was done to objects."""

    def make(self, objects: Objects) -> None:
        """Do it, or do it again."""

    def take_back(self, objects: Objects) -> None:
        """Make everything as it was before."""


@dataclass(frozen=True, eq=False)
class Said:
    """Prompts were added, removed or changed."""

    before: Shown
    after: Shown

    def make(self, objects: Objects) -> None:
        """See `Change`."""
        objects.current.show(self.after)

    def take_back(self, objects: Objects) -> None:
        """See `Change`."""
        objects.current.show(self.before)


@dataclass(eq=False)
class Painted:
    """A stroke was painted into the labels.

    `painting` is what was known of the object then; `late` tells that what comes before the stroke was still being answered,
    and thus came to lie over it; `noted` is what of it `Objects.by_hand` did not know.
    """

    stroke: Stroke
    painting: Painting
    late: bool
    noted: tuple[Tiles, ...]

    def make(self, objects: Objects) -> None:
        """See `Change`."""
        objects.backlog.add(self.stroke.make)
        objects.backlog.add(partial(objects.current.painting.restore, self.painting))
        self.noted = objects.by_hand.add_stroke(self.stroke)

    def take_back(self, objects: Objects) -> None:
        """See `Change`."""
        objects.backlog.work_off()
        self.stroke.take_back()
        objects.by_hand.forget(self.noted)
        # Or what it gave back to the object would count as painted by somebody.
        objects.current.painting.restore(self.painting)
        if self.late and objects.current.live:
            objects.current.repaint()  # the object has the pixels now from which the stroke kept it


@dataclass(frozen=True, eq=False)
class Switched:
    """The current object, which is in the labels, may from now on take pixels from others, or no longer.

    `before` is what held for those after it: another one, where the object is from a file.
    """

    overwrite: bool
    before: bool

    def make(self, objects: Objects) -> None:
        """See `Change`."""
        objects.switch(self.overwrite)

    def take_back(self, objects: Objects) -> None:
        """See `Change`."""
        objects.switch(not self.overwrite)
        objects.overwrite = self.before


@dataclass(eq=False)
class Found:
    """Objects were found and finished together: what each covers, and the numbers before and, if undone, after it.

    The numbers are the highest so far and that of the next object.
    """

    objects: tuple[tuple[Record, Step, Painting], ...]
    before: tuple[int, int]
    after: tuple[int, int] | None = None

    def make(self, objects: Objects) -> None:
        """See `Change`."""
        with objects.backlog.whole(partial(self._put_back, objects)):
            self._paint(objects)
        objects.records = [*objects.records, *(record for record, _, _ in self.objects)]
        objects.extents += [extent([step]) for _, step, _ in self.objects]
        last = self.objects[-1][0].label
        objects.highest, objects.current.label = self.after or (last, last + 1)

    def take_back(self, objects: Objects) -> None:
        """See `Change`."""
        with objects.backlog.whole(partial(self._paint, objects)):
            self._put_back(objects)
        objects.drop(record for record, _, _ in self.objects)
        del objects.extents[-len(self.objects) :]
        # A number that was cleared since is not given again.
        self.after = objects.highest, objects.current.label
        objects.highest, objects.current.label = self.before

    def _paint(self, objects: Objects) -> None:
        for record, step, painting in self.objects:
            paint = partial(
                painting.paint,
                step.prompt.plane,
                step.box,
                step.mask,
                label=record.label,
                overwrite=False,
                prompts=step.prompts,
            )
            objects.backlog.add(paint)

    def _put_back(self, objects: Objects) -> None:
        """Give the labels what they had without them."""
        for record, step, painting in reversed(self.objects):
            objects.backlog.add(partial(painting.put_back, step.prompt.plane, record.label, step.prompts))


@dataclass(eq=False)
class Deleted:
    """An object was removed from the labels: the record of that, and what it covered.

    `instead` is the number that the next object got when this was taken back and it had had the one that was free.
    """

    record: Record
    painting: Painting
    instead: int = 0

    def make(self, objects: Objects) -> None:
        """See `Change`."""
        with objects.backlog.whole(partial(self._put_back, objects)):
            self._remove(objects)
        objects.records = [*objects.records, self.record]
        if objects.current.label == self.instead:
            objects.current.label = self.record.label

    def take_back(self, objects: Objects) -> None:
        """See `Change`."""
        with objects.backlog.whole(partial(self._remove, objects)):
            self._put_back(objects)
        objects.drop([self.record])
        self.instead = 0
        if objects.current.label == self.record.label:  # which was free for a while
            self.instead = objects.current.label = objects.highest + 1

    def _remove(self, objects: Objects) -> None:
        for mask in self.record.begun:
            remove = partial(
                self.painting.paint, mask.plane, *nothing(), label=self.record.label, overwrite=False
            )
            objects.backlog.add(remove)

    def _put_back(self, objects: Objects) -> None:
        for mask in self.record.begun:
            objects.backlog.add(partial(self.painting.put_back, mask.plane, self.record.label, None))


class History:
    """The changes that can be taken back, and those that were and can be made again.

    Parameters
    ----------
    objects : Objects
        What the changes are made to.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._past: list[Change] = []
        self._future: list[Change] = []

    def __len__(self) -> int:
        """How many changes can be taken back."""
        return len(self._past)

    @property
    def can_redo(self) -> bool:
        """Whether there is a change that can be made again."""
        return bool(self._future)

    @property
    def said(self) -> bool:
        """Whether `undo` can come to prompts of the current object."""
        return any(isinstance(change, Said) for change in self._past)

    @property
    def painted(self) -> bool:
        """Whether `undo` can come to a stroke."""
        return any(isinstance(change, Painted) for change in self._past)

    @property
    def without_the_object(self) -> list[Change]:
        """What was found or deleted while there was no object, and painted before the current one began.

        Without the strokes, if a later one may lie over them, or over an object that is put back as it was when it was edited.
        """
        earlier = list(
            itertools.takewhile(lambda change: not isinstance(change, Said | Switched), self._past)
        )
        later = self._past[len(earlier) :]
        if self._objects.current.edited or any(isinstance(late, Painted) for late in later):
            earlier = [change for change in earlier if not isinstance(change, Painted)]
        return [*earlier, *(change for change in later if isinstance(change, Found | Deleted))]

    def make(self, change: Change) -> None:
        """Make a change that is not made yet."""
        change.make(self._objects)
        self.add(change)

    def add(self, change: Change) -> None:
        """Note a change that was just made: what was taken back before cannot be made again."""
        self._past.append(change)
        self._future.clear()

    def undo(self) -> bool:
        """Take back the last change; return whether there was one."""
        if not self._past:
            return False
        last = self._past[-1]
        last.take_back(self._objects)
        self._future.append(self._past.pop())
        if isinstance(last, Said | Switched) or (isinstance(last, Painted) and last.late):
            # What was painted between the two may have gone under the object: it is as it was after those strokes.
            strokes = itertools.takewhile(lambda change: isinstance(change, Painted), reversed(self._past))
            for stroke in reversed(list(strokes)):
                stroke.make(self._objects)
        return True

    def redo(self) -> bool:
        """Make the change again that was taken back last; return whether there was one."""
        if not self._future:
            return False
        self._future[-1].make(self._objects)
        self._past.append(self._future.pop())
        return True

    def forget_undone(self) -> None:
        """Let nothing be made again."""
        self._future = []

    def begin_with(self, changes: Iterable[Change]) -> None:
        """Begin anew: these are all that can be taken back, and nothing can be made again."""
        self._past, self._future = list(changes), []
