"""The object that somebody works on: its answered prompts, and what of it is in the label image.

Enters: the steps to show. Leaves: writes to the label image, which are made at once or wait in a `Backlog`. Each object has
an instance of its own; `objects` begins the next one.
"""

from __future__ import annotations

from functools import partial, reduce
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_interformer.files import labels_at
from napari_interformer.geometry import Box
from napari_interformer.painting import Painting
from napari_interformer.prompts import Mask
from napari_interformer.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from napari_interformer.decoding import Step, Steps
    from napari_interformer.geometry import BoolMask
    from napari_interformer.image import Plane
    from napari_interformer.painting import Backlog, LabelArray
    from napari_interformer.prompts import Given, Prompt

HARDLY = 0.8  # of a mask belongs to others, if it is hardly an object of its own


class Shown(NamedTuple):
    """An object at one time: its steps, and how large it was assumed to be when it began, in pixels."""

    steps: Steps
    size: float | None


class Current:
    """An object that is not finished, perhaps without any prompt yet.

    Parameters
    ----------
    labels : integer array
        Written in place, only where something changes.
    label : int
        Its number.
    backlog : Backlog
        Takes what is to be written.
    overwrite : bool
        Whether it may take pixels from other objects.
    live : bool
        Whether it is painted into `labels` after every change; if not, `repaint` does it.

    Attributes
    ----------
    labels, label, backlog, overwrite, live
        As given.
    shown : Shown
        What it is now.
    edited : bool
        Whether it began with what its label had.
    begun : dict of plane to Mask
        What that was, where it was anything.
    decoders : set of str
        Fingerprints of those that answered some of it before another model took over.
    painting : Painting
        What it covers in `labels`.
    """

    def __init__(
        self, labels: LabelArray, label: int, backlog: Backlog, *, overwrite: bool, live: bool
    ) -> None:
        self.labels, self.label, self.backlog = labels, label, backlog
        self.overwrite, self.live = overwrite, live
        self.shown = Shown((), None)
        self.edited = False
        self.begun: dict[Plane, Mask] = {}
        self.decoders: set[str] = set()
        self.painting = Painting(labels)

    @property
    def steps(self) -> Steps:
        """Its answered prompts."""
        return self.shown.steps

    @property
    def newest(self) -> dict[Plane, Step]:
        """The newest step of each plane."""
        return newest(self.steps)

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """All of its prompts, in order."""
        return tuple(step.prompt for step in self.steps)

    @property
    def given(self) -> tuple[Given, ...]:
        """Those that somebody gave: boxes, clicks and scribbles, in order."""
        return tuple(prompt for prompt in self.prompts if not isinstance(prompt, Mask))

    @property
    def unfinished(self) -> bool:
        """Whether there is anything of it: it has prompts, or is one of the label image that is being edited."""
        return bool(self.steps) or self.edited

    @property
    def empty(self) -> bool:
        """Whether it has no pixel."""
        return not any(step.mask.any() for step in self.newest.values())

    @property
    def covered(self) -> bool:
        """Whether all of its pixels belong to others that are protected."""
        return not self.empty and not any(
            (step.mask & self.free(plane, step.box)).any() for plane, step in self.newest.items()
        )

    @property
    def rival(self) -> int | None:
        """The protected object that was meant, it seems: all positive prompts and nearly all of the mask lie on it.

        None for an object that is continued: that is one of its own.
        """
        if self.overwrite or self.edited:
            return None
        for click in (one.middle for one in reversed(self.given)):
            if click.positive and self.free(click.plane, Box.pixel(click.y, click.x)).all():
                return None
        pixels, others = 0, []
        for plane, step in self.newest.items():
            there = labels_at(self.labels, (*plane, *step.box.slices))[step.mask]
            pixels += there.size
            others.append(there[(there > 0) & (there != self.label)])  # below 0 is no object
        taken = np.concatenate([*others, np.zeros(0, self.labels.dtype)])
        if not taken.size or taken.size < HARDLY * pixels:
            return None
        numbers, counts = np.unique(taken, return_counts=True)
        return int(numbers[counts.argmax()])

    @property
    def erased(self) -> bool:
        """Whether somebody erased all of its pixels (`live`), and painted none."""
        if not self.live:
            return False
        boxes = [(*plane, *step.box.slices) for plane, step in self.newest.items()]
        # Where the brush added something, if anywhere, is on the whole planes.
        parts = (*boxes, *self.newest)
        return not any((labels_at(self.labels, part) == self.label).any() for part in parts)

    def free(self, plane: Plane, box: Box) -> BoolMask:
        """Return which pixels of a box it may cover: those of no object, its own, and if it may `overwrite`, all."""
        if self.overwrite:
            return np.ones(box.shape, bool)
        there = labels_at(self.labels, (*plane, *box.slices))
        return np.asarray((there == 0) | (there == self.label))

    def record(self, decoder: str) -> Record:
        """Return how it was made; `decoder` is the fingerprint of what answers now."""
        # Of several none gives all answers again: together they are no decoder's fingerprint, so loading warns.
        answered = sorted({*self.decoders, decoder})
        return Record(
            self.label,
            self.prompts,
            size=self.shown.size,
            overwrite=self.overwrite,
            edited=self.edited,
            begun=tuple(self.begun.values()),
            decoder="+".join(answered) if self.steps else "",
        )

    def take(
        self, masks: Iterable[Prompt], *, new: bool = False, seen: Mapping[Plane, Box] | None = None
    ) -> None:
        """Begin with what the label has on these planes: whatever comes of the object replaces that.

        If it is `new`, it was left there unfinished, and there was nothing of it before. What the label has by then in boxes
        that were `seen` is taken, too.
        """
        self.edited = not new
        for mask in masks:
            if isinstance(mask, Mask):
                if not new:
                    self.begun[mask.plane] = mask
                box = mask.box.union((seen or {}).get(mask.plane, mask.box))
                self.backlog.add(partial(self.painting.begin_with, mask, self.label, box, new=new))

    def show(self, shown: Shown) -> list[tuple[Plane, Box]]:
        """Become this; return where masks may have changed."""
        was, now = self.newest, newest(shown.steps)
        changed: dict[Plane, Box] = {}
        for plane in (*was, *(plane for plane in now if plane not in was)):
            before, after = was.get(plane), now.get(plane)
            if before is not after:
                changed[plane] = reduce(Box.union, (step.box for step in (before, after) if step is not None))
        if self.live:
            with self.backlog.whole(partial(self._paint, now, was, changed)):
                self._paint(was, now, changed)
        self.shown = shown
        return list(changed.items())

    def switch(self, overwrite: bool) -> None:
        """Take pixels from others from now on, or no longer."""
        before, self.overwrite = self.overwrite, overwrite

        def back() -> None:
            self.overwrite = before  # or to say it again would be no change
            self.repaint()

        if self.live:
            with self.backlog.whole(back):
                self.repaint()

    def repaint(self) -> None:
        """Paint it as it is now, on all planes where it is, or was when it began."""
        now = self.newest
        # Not the planes that `painting` knows: what it began with may still wait to be written.
        self._paint(now, now, {*self.begun, *now})

    def put_back(self) -> dict[Plane, Box]:
        """Give the labels what they had without it; return where it was painted."""
        now, painted = self.newest, self.painting.boxes
        waits = () if self.backlog.empty else (*now, *self.begun)  # it is not painted yet, but will be
        for plane in dict.fromkeys((*painted, *waits)):
            before = now[plane].prompts if plane in now else None
            self.backlog.add(partial(self.painting.put_back, plane, self.label, before))
        return painted

    def _paint(self, was: Mapping[Plane, Step], now: Mapping[Plane, Step], planes: Iterable[Plane]) -> None:
        """Write it into the labels on these planes: as it is `now`, in place of what it `was`."""
        for plane in planes:
            step = now.get(plane)
            # A plane of which it has no prompt any more is as it was before its first one.
            box, mask, prompts = (*nothing(), ()) if step is None else (step.box, step.mask, step.prompts)
            paint = partial(
                self.painting.paint,
                plane,
                box,
                mask,
                label=self.label,
                overwrite=self.overwrite,
                prompts=prompts,
                before=was[plane].prompts if plane in was else None,
            )
            self.backlog.add(paint)


def newest(steps: Iterable[Step]) -> dict[Plane, Step]:
    """Return the newest step of each plane."""
    return {step.prompt.plane: step for step in steps}


def nothing() -> tuple[Box, BoolMask]:
    """Return where an object is on a plane on which it is not: an empty box, and a mask of its size."""
    return Box(0, 0, 0, 0), np.zeros((0, 0), bool)
