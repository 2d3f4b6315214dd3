"""What a script or the window does with the objects of an image; its parts hold all state of annotation.

`objects` has the finished ones and the current one, `history` what was done to them. The points are the truth: a mask is a
pure function of the features and the ordered prompts. `compute` evaluates that function (no state changes; a worker thread
may call it), `adopt` takes over its result. Undo is a pop.
"""

from __future__ import annotations

import itertools
import math
import operator
import warnings
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_interformer.by_hand import paint_again
from napari_interformer.current import Shown, nothing
from napari_interformer.decoding import Decoding, image_of
from napari_interformer.files import at_home, planes_of
from napari_interformer.gaps import gaps_of
from napari_interformer.geometry import Box, empty_mask
from napari_interformer.history import Deleted, Found, History, Painted, Said, Switched
from napari_interformer.image import along, plane_of, read_only
from napari_interformer.objects import Finished, Objects
from napari_interformer.painting import Painting, check_labels, check_number, empty_labels, masks_of
from napari_interformer.prompts import BoxPrompt, Click, Mask, Scribble
from napari_interformer.records import Record, Saved
from napari_interformer.replay import encoded, replay
from napari_interformer.volume import carry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from napari_interformer.by_hand import ByHand
    from napari_interformer.current import Current
    from napari_interformer.decoding import Decoder, Step, Steps
    from napari_interformer.features import Features
    from napari_interformer.gaps import Carried, Ended, Gaps
    from napari_interformer.geometry import BoolMask
    from napari_interformer.history import Change
    from napari_interformer.image import ImageLike, Plane, Planes
    from napari_interformer.painting import Backlog, LabelArray, Stroke
    from napari_interformer.prompts import Given, Prompt
    from napari_interformer.replay import Replay
    from napari_interformer.similar import Similar


class Taken(NamedTuple):
    """An object of the label image to continue, and what it has on each plane."""

    label: int
    steps: Steps


class Session:
    """Annotate one image or stack, object by object.

    Only one thread may change a session; `compute` and the `compute_...` methods may run in another one meanwhile.

    Parameters
    ----------
    features : Features
        From `encode` or `Features.open`; planes may still be missing.
    model : InterFormer
        The model that made the features.
    labels : integer array, optional
        A label image of the features' shape to continue, written in place; new and empty (int32) if None.
    overwrite : bool
        Whether the object may take pixels from other objects; by default, these are protected.
    live : bool
        Paint the current object into `labels` after every change (what the window does) instead of on `commit`.
    image : array, path or Planes, optional
        The image, as `Planes.of` takes it, so that small objects can be magnified and large ones be seen whole; features
        that were just encoded bring theirs. Without it, every object is seen at the image's own magnification.
    object_size : float, optional
        How large objects are across, in pixels. If None, they are assumed to be as large as those finished last; the size
        of the first one follows from its first answer. This needs the image.
    highest : int, optional
        The highest label in `labels`, where that is known; all of them are read if None.

    Attributes
    ----------
    features : Features
        As given.
    label : int
        The number of the current object. While it has no prompts, it can be set to any number that no object has.
    overwrite, live, object_size
        As given; they can be set at any time: `overwrite` applies to the whole current object, and is a step for `undo` if
        that is painted already (`live`); `object_size` applies to the next one.
    decoding : Decoding
        Turns prompts into masks.
    gaps : dict of (plane, plane) to Gap
        What `propagate` found between two neighbouring planes with clicks; None stands for the ends of the stack.

    Raises
    ------
    TypeError
        If `features` are not features, or `labels` is not an array.
    ValueError
        If the model is not the one that made the features, if `labels` has another shape or does not hold integers, or if a
        size is given without the image.
    OSError
        If `labels` cannot be read.
    MemoryError
        If there is no room for new labels.
    """

    def __init__(
        self,
        features: Features,
        model: Decoder,
        labels: LabelArray | None = None,
        *,
        overwrite: bool = False,
        live: bool = False,
        image: ImageLike | None = None,
        object_size: float | None = None,
        highest: int | None = None,
    ) -> None:
        if not hasattr(features, "model_fingerprint") or not hasattr(model, "fingerprint"):
            raise TypeError(
                "Session takes features, from encode or Features.open, and the model that made them; got "
                f"{type(features).__name__} and {type(model).__name__}."
            )
        if features.model_fingerprint != model.fingerprint:
            raise ValueError(
                "Session needs the model that made the features; got another one: load that model, or encode the "
                "image again with this one."
            )
        shape = tuple(features.shape)
        target: Any = empty_labels(shape) if labels is None else labels
        check_labels(target, features)
        if read_only(target):
            raise ValueError(
                "labels must be a writable array; got a read-only one: copy it, or open it for writing."
            )
        image = image_of(features, image)
        self.features, self.decoding = features, Decoding(features, model, image)
        self.object_size = object_size
        self._objects = Objects(target, overwrite=bool(overwrite), live=bool(live), highest=highest)
        self._history = History(self._objects)
        # What `volume.carry` found between two planes with clicks, or beyond the outermost.
        self.gaps: Gaps = {}
        # Between which planes each mask was carried, also those before: undo may bring them back.
        self._carried: dict[Mask, tuple[Plane | None, Plane | None]] = {}

    # ------------------------------------------------------------------------------------ reading

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """All prompts of the current object, in order."""
        return self._current.prompts

    @property
    def given(self) -> tuple[Given, ...]:
        """What was given for the current object: its boxes, clicks and scribbles, in order."""
        return self._current.given

    @property
    def boxes(self) -> tuple[BoxPrompt, ...]:
        """The current object's boxes, one per plane."""
        return tuple(prompt for prompt in self.prompts if isinstance(prompt, BoxPrompt))

    @property
    def clicks(self) -> tuple[Click, ...]:
        """The current object's clicks, in order."""
        return tuple(prompt for prompt in self.prompts if isinstance(prompt, Click))

    @property
    def scribbles(self) -> tuple[Scribble, ...]:
        """The current object's scribbles, in order."""
        return tuple(prompt for prompt in self.prompts if isinstance(prompt, Scribble))

    @property
    def masks(self) -> tuple[Mask, ...]:
        """The masks the current object started from (`edit`) or was given (`propagate`)."""
        return tuple(prompt for prompt in self.prompts if isinstance(prompt, Mask))

    @property
    def objects(self) -> dict[int, tuple[Prompt, ...]]:
        """The committed objects' prompts by label; for an edited object, those of each plane since its last edit."""
        return self._objects.prompts

    @property
    def rejected(self) -> tuple[Mask, ...]:
        """What was deleted so far, which `find_similar` does not find again."""
        return self._objects.rejected

    @property
    def clicked_before(self) -> set[Plane]:
        """The planes of an object that is being edited on which it was clicked on before it was finished."""
        records = [record for record in self.records if self._current.edited and record.label == self.label]
        return {
            prompt.plane for record in records for prompt in record.prompts if not isinstance(prompt, Mask)
        }

    @property
    def planes(self) -> tuple[Plane, ...]:
        """The planes on which the current object has prompts, in C order."""
        return tuple(sorted(self._current.newest))

    def __repr__(self) -> str:
        features = self.features
        given = {"boxes": self.boxes, "clicks": self.clicks, "scribbles": self.scribbles}
        current = f"object {self.label} with " + ", ".join(
            f"{len(some)} {name}" for name, some in given.items()
        )
        return f"Session({features.origin.axes} {features.shape}, {len(self.objects)} objects committed, {current})"

    @property
    def mask(self) -> BoolMask:
        """The current object: bool, the shape of the image or stack (made again at every read)."""
        whole = empty_mask(self.features.shape)
        for plane, step in self._current.newest.items():
            whole[plane][step.box.slices] = step.mask
        return whole

    def plane_mask(self, plane: Plane = ()) -> tuple[Box, BoolMask]:
        """Return the current object on one plane: a box, and a bool mask of that box's size.

        The box is empty where the object has no prompt on the plane. ValueError if there is no such plane.
        """
        step = self.latest(plane)
        return nothing() if step is None else (step.box, step.mask)

    def latest(self, plane: Plane = ()) -> Step | None:
        """Return the current object's newest step on a plane, or None if it has none there; ValueError for a wrong plane."""
        return self._current.newest.get(plane_of(plane, self.features.leading))

    @property
    def label(self) -> int:
        """The number of the current object, or of the next one."""
        return self._current.label

    @label.setter
    def label(self, value: int) -> None:
        self._check_no_current("label")
        check_number(self.labels, value)
        # Above the highest, nothing has to be read.
        if value <= self.highest and any((plane == value).any() for _, plane in planes_of(self.labels)):
            raise ValueError(
                f"label takes a number that no object has; got {value}, which is taken: to continue that object, call "
                f"session.edit({value})."
            )
        self._current.label = int(value)

    def number_from(self, label: int) -> None:
        """Give the next object this number, or a higher one; prompts are refused if the label image cannot hold it.

        Nothing changes where there is an object, or one that `undo` or `redo` can bring back: it keeps its own.
        """
        comes_back = self.can_redo or self._history.said
        if not self.unfinished and not comes_back:
            self._current.label = max(self.label, label)

    @property
    def overwrite(self) -> bool:
        """Whether the current object, and those after it, may take pixels from others."""
        return self._current.overwrite

    @overwrite.setter
    def overwrite(self, value: bool) -> None:
        value = bool(value)
        # A step of its own, or what was painted since could not be told from what the object took.
        if value != self.overwrite and self.live and self._current.steps:
            self._history.make(Switched(value, self._objects.overwrite))
        else:
            self._objects.switch(value)

    @property
    def live(self) -> bool:
        """Whether the current object is painted into `labels` after every change, not on `commit`."""
        return self._current.live

    @live.setter
    def live(self, value: bool) -> None:
        if bool(value) == self.live:
            return

        def turn() -> None:
            self._current.live = not self.live
            # Until it is committed, the labels are as they were without it.
            (self._current.repaint if self.live else self._current.put_back)()

        with self.backlog.whole(turn):  # or to say it again would be no change
            turn()

    @property
    def object_size(self) -> float | None:
        """How large the next objects are across, in pixels; None if that is not known."""
        return self._object_size

    @object_size.setter
    def object_size(self, value: float | None) -> None:
        known: Any = value
        if known is not None and not (isinstance(known, Real) and 0 < float(known) < math.inf):
            raise ValueError(f"object_size takes a number of pixels above 0; got {value!r}.")
        if known is not None and self.image is None and self.model.config.diameters:
            raise ValueError(
                "object_size needs the image, in which it lets objects be seen larger or smaller; these features do not have "
                "theirs: give image=."
            )
        self._object_size = value

    @property
    def expected_size(self) -> float | None:
        """How large the next object is assumed to be, in pixels: as set, or else like those finished last; None if unknown.

        After a single small object, the next one is not magnified yet: part of a larger one might be taken for it.
        """
        diameters = self.model.config.diameters
        if self.object_size is not None or self.image is None or not diameters:
            return self.object_size
        return self._objects.usual_extent(diameters[1])

    @property
    def unfinished(self) -> bool:
        """Whether there is a current object: it has prompts, or is one of the label image that is being edited."""
        return self._current.unfinished

    @property
    def edited(self) -> bool:
        """Whether the current object is one of the label image that is continued."""
        return self._current.edited

    @property
    def empty(self) -> bool:
        """Whether the current object has no pixel."""
        return self._current.empty

    @property
    def covered(self) -> bool:
        """Whether all pixels of the current object belong to others that are protected."""
        return self._current.covered

    def free(self, plane: Plane, box: Box) -> BoolMask:
        """Return which pixels (h, w) of a box the current object may cover."""
        return self._current.free(plane, box)

    @property
    def rival(self) -> int | None:
        """The protected object that was meant, it seems: all positive prompts and nearly all of the current mask lie on it.

        None for an object that is continued, or that somebody painted: that is one of its own.
        """
        return None if self._history.painted else self._current.rival

    @property
    def erased(self) -> bool:
        """Whether somebody erased all pixels of the current object (`live`), and painted none."""
        return self._current.erased

    @property
    def finished(self) -> Finished:
        """The label image without the current object."""
        return Finished(self._objects)

    @property
    def highest(self) -> int:
        """The highest label of an object that is or was finished; 0 if there is none."""
        return self._objects.highest

    @property
    def saved(self) -> Saved:
        """What `save_prompts` writes: the prompts of all objects, the current one too, and what was painted, as it is now."""
        return replace(self._clicked, by_hand=self.by_hand.read(self.labels))

    @property
    def noted(self) -> Saved:
        """The same for a journal, but what was painted only if labels are in memory: a disk has it, and takes long to read."""
        behind = getattr(self.labels, "array", self.labels)  # of a layer, what it shows
        return self.saved if isinstance(behind, np.ndarray) else self._clicked

    @property
    def _clicked(self) -> Saved:
        """The same without what was painted."""
        features = self.features
        return Saved(
            features.image_fingerprint,
            features.model_fingerprint,
            tuple(self.records),
            self._current.record(self.model.decoder_fingerprint),
            self.image is not None,
            encoded(features),
        )

    @property
    def by_hand(self) -> ByHand:
        """What somebody painted into the labels."""
        return self._objects.by_hand

    @property
    def model(self) -> Decoder:
        """The model that answers; see `change_model`."""
        return self.decoding.model

    @property
    def image(self) -> Planes | None:
        """The image, if objects are seen at other magnifications, too; else None."""
        return self.decoding.image

    @property
    def labels(self) -> LabelArray:
        """The label image."""
        return self._objects.labels

    @property
    def records(self) -> list[Record]:
        """The records of the objects committed so far, in order (see `objects`)."""
        return self._objects.records

    @property
    def backlog(self) -> Backlog:
        """What is still to be written to `labels`: nothing, except within its `waiting`."""
        return self._objects.backlog

    @property
    def can_undo(self) -> bool:
        """Whether `undo` would change anything."""
        return len(self._history) > 0

    @property
    def changes(self) -> int:
        """How many changes `undo` can take back."""
        return len(self._history)

    @property
    def can_redo(self) -> bool:
        """Whether `redo` would change anything."""
        return self._history.can_redo

    @property
    def level(self) -> int:
        """The magnification at which the last click was answered is 2 to the power of this; 0 before the first."""
        steps = self._current.steps
        return steps[-1].view.level if steps else 0

    @property
    def _current(self) -> Current:
        return self._objects.current

    @property
    def _size_now(self) -> float | None:
        """How large the current object was assumed to be when it began, or is, if it has not begun."""
        return self._current.shown.size if self._current.steps else self.expected_size

    # ------------------------------------------------------------------------------------ prompts

    def click(self, position: Sequence[int], positive: bool = True) -> BoolMask:
        """Click at (y, x), or (z, y, x) in a stack.

        Parameters
        ----------
        position : sequence of int
            Data pixels, one number per axis of the image.
        positive : bool
            Whether the pixel belongs to the object.

        Returns
        -------
        (Y, X) bool
            The object on that plane.

        Raises
        ------
        ValueError
            If the click lies outside the image or on a pixel without a value; nothing changes.
        NotEncodedError
            If that part of the image is not encoded yet; nothing changes.
        """
        return self._say(Click.at(position, positive))

    def scribble(self, positions: Iterable[Sequence[int]], positive: bool = True) -> BoolMask:
        """Draw a line through what belongs to the object, or through what does not; it says more than a click.

        Parameters
        ----------
        positions : iterable of sequence of int
            Data pixels along the line, as of `click`; it is straight between them.
        positive : bool
            Whether its pixels belong to the object.

        Returns
        -------
        (Y, X) bool
            The object on that plane.

        Raises
        ------
        ValueError
            If all of the line lies outside the image, it lies on several planes, or bends at a pixel without a value; nothing
            changes. Of a line that goes beyond the edge, the longest piece within counts.
        NotEncodedError
            If that part of the image is not encoded yet; nothing changes.
        """
        return self._say(Scribble.along(positions, positive))

    def box(self, corner: Sequence[int], opposite: Sequence[int]) -> BoolMask:
        """Draw a box tightly around the object: often a better start than a click, and clicks correct it.

        It counts before the clicks on its plane, and replaces another box, or a mask that is being edited, there.

        Parameters
        ----------
        corner, opposite : sequence of int
            Pixels at opposite corners, both within the box: (y, x), or (z, y, x) in a stack.

        Returns
        -------
        (Y, X) bool
            The object on that plane.

        Raises
        ------
        ValueError
            If all of the box lies outside the image, its corners lie on two planes, or the pixel in its middle has no value;
            nothing changes. What of it is beyond the edge does not count.
        NotEncodedError
            If that part of the image is not encoded yet; nothing changes.
        """
        return self._say(BoxPrompt.between(corner, opposite))

    def _say(self, prompt: Given) -> BoolMask:
        self.set_prompts((*self.prompts, prompt))
        mask = empty_mask(self.features.size)
        box, part = self.plane_mask(prompt.plane)
        mask[box.slices] = part
        return mask

    def remove(self, index: int) -> None:
        """Remove click number `index` (of `clicks`, from 0); the others are replayed. TypeError, IndexError if it is none."""
        self._change(index, lambda _: ())

    def move(self, index: int, position: Sequence[int]) -> None:
        """Move click number `index`; the others are replayed. Errors as for `remove` and `click`."""
        self._change(index, lambda click: (Click.at(position, click.positive),))

    def flip(self, index: int) -> None:
        """Turn click number `index` from positive to negative or back; the others are replayed. Errors as for `remove`."""
        self._change(index, lambda click: (replace(click, positive=not click.positive),))

    def _change(self, index: int, change: Callable[[Click], tuple[Click, ...]]) -> None:
        """Replace a click among all that was given."""
        clicks = [(place, prompt) for place, prompt in enumerate(self.given) if isinstance(prompt, Click)]
        if isinstance(index, bool) or not isinstance(index, int | np.integer):
            raise TypeError(f"A click's number is a whole one, from 0; got {index!r}.")
        if not -len(clicks) <= index < len(clicks):
            raise IndexError(f"Clicks are numbered from 0, and there are {len(clicks)}; got {index}.")
        place, click = clicks[index]
        given = (*self.given[:place], *change(click), *self.given[place + 1 :])
        self.set_prompts((*self.masks_beside(given), *given))

    def masks_beside(self, given: Iterable[Given]) -> tuple[Mask, ...]:
        """Return the object's masks that stay if it gets other boxes and clicks.

        What was carried (`propagate`) from a plane is dropped if no box or click is left there as it was.
        """
        kept = {prompt.plane for prompt in {*given} & {*self.given}}
        gone = {prompt.plane for prompt in self.given} - kept
        return tuple(mask for mask in self.masks if not gone.intersection(self._carried.get(mask, ())))

    def was_carried(self, mask: Mask) -> bool:
        """Whether one of the object's masks was carried there (`propagate`), and is not what the object began with."""
        return mask in self._carried

    def set_prompts(self, prompts: Iterable[Prompt]) -> list[tuple[Plane, Box]]:
        """Make these the object's prompts; return what changed (see `adopt`). Errors as of `compute`."""
        if not isinstance(prompts, Iterable):
            raise TypeError(f"set_prompts takes prompts in a list; got {prompts!r}: put it into one.")
        return self.adopt(self.compute(tuple(prompts)))

    def compute(self, prompts: Sequence[Prompt], before: Steps = ()) -> Steps:
        """Answer a list of prompts without changing anything; safe to call from a worker thread.

        On each plane, the steps of the prompts that are the same as now are reused, the rest is decoded.

        Parameters
        ----------
        prompts : sequence of Click, Scribble, BoxPrompt or Mask
            In order; boxes and masks count before clicks and scribbles, and only the newest box on each plane counts.
        before : tuple of Step, optional
            What was computed for this object a moment ago and not adopted; reused as well.

        Returns
        -------
        tuple of Step
            For `adopt`.

        Raises
        ------
        TypeError, ValueError, NotEncodedError
            As for `click`.
        """
        return self.decoding.steps(prompts, self._size_now, (*before, *self._current.steps))

    def adopt(self, steps: Steps) -> list[tuple[Plane, Box]]:
        """Take over what `compute` returned, as one step that `undo` takes back.

        Returns
        -------
        list of (plane, Box)
            Where the object changed, for whoever shows it.
        """
        self._settle()
        before = self._current.shown
        if len(steps) == len(before.steps) and all(a is b for a, b in zip(steps, before.steps, strict=True)):
            return []
        if steps:
            check_number(self.labels, self.label)
        after = Shown(steps, self._size_now)
        changed = self._current.show(after)
        self._history.add(Said(before, after))
        return changed

    def painted(self, stroke: Stroke, *, late: bool = False) -> None:
        """Note a stroke that was just painted into `labels`, so that `undo` takes it back in turn.

        `late` says that what came before it was not in the labels yet.
        """
        self.backlog.work_off()
        noted = self.by_hand.add_stroke(stroke)
        self._history.add(Painted(stroke, self._current.painting.copy(), late, noted))

    def undo(self) -> bool:
        """Take back the last change exactly: of prompts or `overwrite`, a stroke, `delete` or `find_similar`; False if none."""
        return self._history.undo()

    def redo(self) -> bool:
        """Make the change again that was undone last; return whether there was one."""
        return self._history.redo()

    def propagate(
        self,
        *,
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        ended: Callable[[Ended], None] | None = None,
    ) -> list[tuple[Plane, Box]]:
        """Carry the object from the planes with clicks through their neighbours, along Z or time; one step for `undo`.

        Parameters
        ----------
        progress : callable, optional
            Called with (planes done, planes at most).
        cancelled : callable, optional
            Called before each plane, to ask whether to stop; what is done by then is kept.
        ended : callable, optional
            Called with every plane before which the object ends although the stack continues, and why.

        Returns
        -------
        list of (plane, Box)
            Where the object changed, as of `adopt`.

        Raises
        ------
        ValueError
            If the image is a single plane, T comes after Z in its axes, or the object has no prompts; nothing changes.
        NotEncodedError
            If a plane with clicks was answered from the image, and is not encoded itself; nothing changes.
        """
        return self.adopt_propagate(
            self.compute_propagate(progress=progress, cancelled=cancelled, ended=ended)
        )

    def compute_propagate(
        self,
        *,
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        ended: Callable[[Ended], None] | None = None,
    ) -> Carried:
        """Carry the object as `propagate` does without changing it; safe to call from a worker, for `adopt_propagate`."""
        return carry(self, progress=progress, cancelled=cancelled, ended=ended)

    def adopt_propagate(self, carried: Carried) -> list[tuple[Plane, Box]]:
        """Take over what `compute_propagate` returned; returns what `propagate` does."""
        before = {mask.plane: mask for mask in self.masks}
        changed = self.adopt(carried.steps)
        clicked = {prompt.plane for prompt in self.given}
        for mask in self.masks:
            start = before.get(mask.plane)
            if start in self._carried and mask.plane in clicked:
                self._carried[mask] = self._carried[start]  # perhaps another mask now, but of the same clicks
        self._fill(carried.gaps)
        return changed

    def _fill(self, gaps: Gaps) -> None:
        """Note what was carried where."""
        self.gaps.update(gaps)
        self._carried |= {mask: planes for planes, gap in gaps.items() for mask in gap.masks}

    # ------------------------------------------------------------------------------------ objects

    def find_similar(
        self,
        plane: Plane = (),
        box: Box | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> list[int]:
        """Find what looks like the finished objects of a plane, and finish it: each as a separate object with one click.

        This is one step for `undo`, until the next commit or edit. Other objects are always protected, and what was deleted
        is not found again.

        Parameters
        ----------
        plane : tuple of int
            Leading indices.
        box : Box or (left, top, right, bottom), optional
            The part to search, in pixels of the image, at most 16.8 megapixels; the whole plane if None.
        progress, cancelled : callable, optional
            Called with (places tried, places), and before each place, to ask whether to stop; what was found by then is kept.

        Returns
        -------
        list of int
            The new labels.

        Raises
        ------
        ValueError
            If there is a current object, or no finished one in the box; if nothing tells the finished ones from their
            surroundings; if there is no such plane; if `box` is not a box, lies outside of the image or is larger than 16.8
            megapixels. Nothing changes.
        NotEncodedError
            If the finished objects lie where nothing is encoded yet.
        """
        return self.adopt_similar(self.compute_similar(plane, box, progress=progress, cancelled=cancelled))

    def compute_similar(
        self,
        plane: Plane = (),
        box: Box | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Similar:
        """Find what looks like the finished objects without changing anything; for `adopt_similar`."""
        from napari_interformer.similar import search  # loads scikit-image

        self._check_no_current("find_similar")
        check_number(self.labels, self._first_free)  # or all of it would be in vain
        whole = Box.of(self.features.size)
        try:
            box = whole if box is None else Box(*map(operator.index, box)).intersect(whole)
        except TypeError:
            raise ValueError(
                f"find_similar takes a box of whole numbers (left, top, right, bottom); got {box!r}."
            ) from None
        return search(
            self, plane_of(plane, self.features.leading), box, progress=progress, cancelled=cancelled
        )

    @property
    def _first_free(self) -> int:
        """The first of many numbers: what follows one that somebody chose may not be free."""
        return max(self.label, self.highest + 1)

    def adopt_similar(self, similar: Similar) -> list[int]:
        """Finish what `compute_similar` returned; errors as for `find_similar`."""
        self._check_no_current("find_similar")
        self._settle()
        if not similar.steps:
            return []
        first = self._first_free
        check_number(self.labels, first)
        room = int(np.iinfo(self.labels.dtype).max) - first + 1  # the best come first
        if room < len(similar.steps):
            warnings.warn(
                f"{len(similar.steps)} objects were found, but labels of dtype {self.labels.dtype} have room for {room} "
                "more: the others were left out.",
                stacklevel=2,
            )
        decoder = self.model.decoder_fingerprint
        objects = tuple(
            (
                Record(
                    label, step.prompts, size=similar.size, overwrite=False, edited=False, decoder=decoder
                ),
                step,
                Painting(self.labels),
            )
            for label, step in enumerate(similar.steps[:room], first)
        )
        self._history.make(Found(objects, (self.highest, self.label)))
        return [record.label for record, _, _ in objects]

    def commit(self) -> int:
        """Write the object into `labels` and start the next one.

        Returns
        -------
        int
            The object's label.

        Raises
        ------
        ValueError
            If the mask is empty, all of its pixels belong to other objects, which are protected, or all were erased; nothing
            changes.
        OSError
            If `labels` are on disk and cannot be written.
        """
        self.backlog.work_off()
        if self.empty:
            raise ValueError(
                "commit needs an object with at least one pixel; got an empty mask: click on the object first."
            )
        if self.covered:
            raise ValueError(
                "commit needs an object with at least one pixel; all of its pixels belong to other objects, which are "
                "protected: clear it, or allow it to overwrite them."
            )
        if self.erased:
            raise ValueError(
                "commit needs an object with at least one pixel; all of its pixels were erased: clear it, or undo that."
            )
        label = self.label
        self._finish()
        return label

    def _finish(self) -> None:
        self._objects.finish(self.model.decoder_fingerprint)
        self._begun_anew()

    def _begun_anew(self, keep: Iterable[Change] = ()) -> None:
        """Forget what belongs to the object before; these changes can still be taken back."""
        self._history.begin_with(keep)
        self.gaps.clear()
        self._carried.clear()

    def _settle(self) -> None:
        """Let the next object overwrite others, or not, as was said of this session and not of one that was undone."""
        if not self.unfinished:
            self._current.overwrite = self._objects.overwrite

    def clear(self) -> list[tuple[Plane, Box]]:
        """Drop the current object's prompts and start again; an object that was being edited is put back as it was.

        Returns
        -------
        list of (plane, Box)
            Where the object was, as of `adopt`.
        """
        if not (self.unfinished or self._history.said):
            self.backlog.work_off()
            self._history.forget_undone()
            return []  # nothing has this number yet: the next object gets it
        # What is none of the object's can still be taken back.
        earlier = self._history.without_the_object

        def again() -> None:
            if self.live:
                self._current.repaint()

        with self.backlog.whole(again):
            changed = self._current.put_back()
        for plane, step in self._current.newest.items():
            changed[plane] = changed.get(plane, Box(0, 0, 0, 0)).union(step.box)
        self._objects.begin()
        self._begun_anew(earlier)
        return list(changed.items())

    def edit(self, label: int, plane: Plane | None = None) -> None:
        """Continue an object of `labels` from its mask, on all planes or on one.

        Parameters
        ----------
        label : int
            The object; commit writes it back under the same label.
        plane : tuple of int, optional
            Take only this plane's part. What the object has on other planes stays, whatever is clicked away there.

        Raises
        ------
        ValueError
            If there is no such object, or the current one is neither committed nor cleared.
        """
        self.backlog.work_off()
        self.adopt_edit(self.compute_edit(label, plane))

    def compute_edit(self, label: int, plane: Plane | None = None) -> Taken:
        """Look for an object in `labels` without changing anything; safe to call from a worker thread, for `adopt_edit`.

        It reads all of them, or one plane.
        """
        self._check_no_current("edit")
        wanted = None if plane is None else plane_of(plane, self.features.leading)
        masks = masks_of(self.labels, label, wanted, "edit")
        return Taken(int(label), self.compute(masks))

    def adopt_edit(self, taken: Taken, *, new: bool = False) -> None:
        """Continue with what `compute_edit` returned; errors as for `edit`. If it is `new`, clearing it leaves nothing."""
        self._check_no_current("edit")
        self._settle()
        self._current.label = taken.label
        self._current.take((step.prompt for step in taken.steps), new=new)
        # The start, not a change: undo does not go behind it.
        self._history.begin_with(())
        self._current.show(Shown(taken.steps, self._size_now))

    def delete(self, label: int) -> None:
        """Remove an object from `labels`, on all planes; this is one step for `undo`, until the next commit or edit.

        Raises
        ------
        ValueError
            If there is no such object, or the current one is neither committed nor cleared.
        """
        self.backlog.work_off()
        self.adopt_delete(self.compute_delete(label))

    def compute_delete(self, label: int) -> Record:
        """Look for an object in all of `labels` without changing anything; for `adopt_delete`."""
        self._check_no_current("delete")
        masks = masks_of(self.labels, label, None, "delete")
        # Its record goes on: where it lay, others found no room.
        return Record(int(label), (), size=None, overwrite=False, edited=True, begun=masks)

    def adopt_delete(self, record: Record) -> None:
        """Remove what `compute_delete` returned; errors as for `delete`."""
        self._check_no_current("delete")
        painting = Painting(self.labels)
        for mask in record.begun:
            self.backlog.add(partial(painting.begin_with, mask, record.label, mask.box))
        self._history.make(Deleted(record, painting))

    def _check_no_current(self, name: str) -> None:
        if self.unfinished:
            raise ValueError(
                f"{name} needs every object to be finished; object {self.label} is not: commit or clear it first."
            )

    def change_model(self, model: Decoder) -> None:
        """Let another model, such as an adapted one, answer from now on; the object stays as it is.

        Raises
        ------
        ValueError
            If it needs other features; nothing changes.
        """
        if getattr(model, "fingerprint", None) != self.features.model_fingerprint:
            raise ValueError(
                "change_model takes a model for the same features; got one with another encoder: encode the image with it."
            )
        if self._current.steps or self.can_undo:
            self._current.decoders.add(self.model.decoder_fingerprint)
        # What another thread computes now is answered by the old one to its end.
        self.decoding = Decoding(self.features, model, self.image)
        # What was carried goes on with its clicks, but the other model carries anew.
        self.gaps = {planes: replace(gap, settled=False) for planes, gap in self.gaps.items()}

    # ------------------------------------------------------------------------------------ on disk

    def save_prompts(self, path: str | Path) -> Path:
        """Write every object's prompts as JSON, committed ones and the current one, in order: whole or not at all.

        Parameters
        ----------
        path : str or Path
            Saved clicks that are there already are replaced.

        Returns
        -------
        Path
            The path.

        Raises
        ------
        FileExistsError
            If there is a file of something else.
        OSError
            If it cannot be written; a file that was there before is untouched.
        """
        path = at_home(path)
        if path.exists() and not Saved.is_in(path):
            raise FileExistsError(
                f"{path.name} is there already, and holds no saved clicks: choose another name, or remove it."
            )
        return self.saved.write(path)

    def load_prompts(self, path: str | Path) -> None:
        """Replay a file of `save_prompts`: commit its objects, and continue its current one.

        Raises
        ------
        ValueError
            If the file is something else or belongs to another image, there is a current object, or the label image has
            other objects with the numbers of those in the file, or cannot hold these; nothing changes.
        FileNotFoundError, OSError
            If there is no such file, or it cannot be read; nothing changes. If `labels` cannot be written: then all is
            loaded, and what is missing in them is written with the next change or `commit`.
        NotEncodedError
            As for `click`.

        Warns
        -----
        UserWarning
            If prompts may be answered differently here: on other features, by another model, or without the image.
        """
        self.backlog.work_off()
        saved = self.compute_saved(path)
        with self.backlog.waiting():  # a disk that fills up midway would leave half of it loaded
            self.adopt_saved(saved)
        self.backlog.work_off()

    def compute_saved(self, path: str | Path) -> Replay:
        """Answer all prompts of a file without changing anything; safe to call from a worker thread, for `adopt_saved`.

        It reads all of `labels`.
        """
        self._check_no_current("load_prompts")
        return replay(self, at_home(path))

    def adopt_saved(self, replay: Replay) -> None:
        """Take over what `compute_saved` returned; errors as for `load_prompts`."""
        self._check_no_current("load_prompts")
        current, latest = replay.current
        seen: dict[int, dict[Plane, Box]] = {}  # where earlier answers of each object lie
        for record, steps in replay.finished:
            boxes = seen.setdefault(record.label, {})
            self._begin(record, steps, boxes)
            for step in steps:
                boxes[step.prompt.plane] = step.box.union(boxes.get(step.prompt.plane, step.box))
            self._finish()  # even if others have all of its pixels, as they had then
        if latest or current.edited:
            self._begin(current, latest, seen.get(current.label, {}))
            # What was carried came after the first click, and goes with it.
            start = len(self.masks) if current.edited else 0
            answered = range(len(self.masks) + 1, len(latest) + 1)
            counts = (start, *answered) if self.given else sorted({start, len(latest)})
            parts = [Shown(latest[:count], current.size) for count in counts]
            self._history.begin_with(Said(*two) for two in itertools.pairwise(parts))
            if not current.edited:
                self._fill(gaps_of(self.masks, self.given, self.overwrite, along(self.features.leading)))
        self.by_hand.include(replay.by_hand)
        self.backlog.add(partial(paint_again, self.labels, replay.by_hand, replay.numbers))
        self._objects.know(max(replay.numbers - {self.label if self.unfinished else 0}, default=0))

    def go_on_from(self, saved: Saved) -> None:
        """Know of the objects that another session finished in the same labels, and of what was painted there."""
        self.records.extend(saved.finished)
        # Those that are no longer in the labels come back from saved clicks under their numbers.
        self._objects.know(max((record.label for record in saved.finished), default=0))
        self.by_hand.include(saved.by_hand)

    def _begin(self, record: Record, steps: Steps, seen: Mapping[Plane, Box]) -> None:
        """Restore an object from its record and its steps; `seen` is where earlier answers of it lie."""
        self._current.label, self._current.overwrite = record.label, record.overwrite
        if record.edited:
            # Another answer than the one that was saved may have left other pixels.
            self._current.take(record.begun or record.prompts, seen=seen)
        self._current.show(Shown(steps, record.size))
        if record.edited and self.live:
            self._current.repaint()  # planes that it has no more were never shown
