"""The one place with annotation state: the current object's boxes and clicks, its mask, and the label image.

The points are the truth. A mask is a pure function of the features and the ordered prompts: `compute` evaluates that
function (no state changes; a worker thread may call it), `adopt` takes over its result. Undo is a pop.
"""

from __future__ import annotations

import itertools
import math
import operator
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial, reduce
from numbers import Real
from pathlib import Path
from statistics import median_high
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_interformer.decoding import Decoding, Steps, image_of
from napari_interformer.files import at_home
from napari_interformer.gaps import Gap
from napari_interformer.geometry import Box
from napari_interformer.image import plane_of, read_only
from napari_interformer.painting import (
    Backlog,
    Painting,
    check_labels,
    check_there,
    empty_labels,
    highest_label,
)
from napari_interformer.prompts import BoxPrompt, Click, Mask, Scribble
from napari_interformer.records import Record, Saved

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from napari_interformer.decoding import Decoder, Step
    from napari_interformer.features import Features
    from napari_interformer.gaps import Carried, Ended, Gaps
    from napari_interformer.geometry import BoolMask
    from napari_interformer.image import ImageLike, Plane, Planes
    from napari_interformer.painting import LabelArray, Stroke
    from napari_interformer.prompts import Given, Prompt
    from napari_interformer.similar import Similar


HARDLY = 0.8  # of a mask belongs to others, if it is hardly an object of its own
FINISHED = 5  # objects, the newest, that tell how large the next one is: few, since images and tasks change

Replay = tuple[tuple[Record, Steps], ...]


class Taken(NamedTuple):
    """An object of the label image to continue, and what it has on each plane."""

    label: int
    steps: Steps


class _Shown(NamedTuple):
    """The current object at one time: its steps, and how large it was assumed to be when it began."""

    steps: Steps
    size: float | None


@dataclass(frozen=True, eq=False)
class _Said:
    """Prompts were added, removed or changed."""

    before: _Shown
    after: _Shown

    def make(self, session: Session) -> None:
        session._show(self.after)

    def take_back(self, session: Session) -> None:
        session._show(self.before)


@dataclass(frozen=True, eq=False)
class _Painted:
    """A stroke was painted into the labels, whose state before it is `painting`."""

    stroke: Stroke
    painting: Painting
    late: bool = False  # painted while what comes before it was still being answered, and thus under it

    def make(self, session: Session) -> None:
        session.backlog.add(self.stroke.make)
        session.backlog.add(partial(session._painting.restore, self.painting))

    def take_back(self, session: Session) -> None:
        session.backlog.work_off()
        self.stroke.take_back()
        # Or what it gave back to the object would count as painted by somebody.
        session._painting.restore(self.painting)
        if self.late and session.live:
            session._repaint()  # the object has the pixels now from which the stroke kept it


@dataclass(frozen=True, eq=False)
class _Switched:
    """The current object, which is in the labels, may from now on take pixels from others, or no longer."""

    overwrite: bool

    def make(self, session: Session) -> None:
        session._switch(self.overwrite)

    def take_back(self, session: Session) -> None:
        session._switch(not self.overwrite)


@dataclass(eq=False)
class _Found:
    """Objects were found and finished together: what each covers, and the next number before and, if undone, after it."""

    objects: tuple[tuple[Record, Step, Painting], ...]
    before: tuple[int, int]
    after: tuple[int, int] | None = None

    def make(self, session: Session) -> None:
        for record, step, painting in self.objects:
            session.backlog.add(
                partial(
                    painting.paint,
                    step.prompt.plane,
                    step.box,
                    step.mask,
                    label=record.label,
                    overwrite=False,
                    prompts=step.prompts,
                )
            )
        session.records = [*session.records, *(record for record, _, _ in self.objects)]
        session._extents += [_extent([step]) for _, step, _ in self.objects]
        last = self.objects[-1][0].label
        session._highest, session._label = self.after or (last, last + 1)

    def take_back(self, session: Session) -> None:
        for record, step, painting in reversed(self.objects):
            session.backlog.add(partial(painting.put_back, step.prompt.plane, record.label, step.prompts))
        gone = {id(record) for record, _, _ in self.objects}
        session.records = [record for record in session.records if id(record) not in gone]
        del session._extents[-len(self.objects) :]
        self.after = session._highest, session._label  # a number that was cleared since is not given again
        session._highest, session._label = self.before


@dataclass(frozen=True, eq=False)
class _Deleted:
    """An object was removed from the labels: the record of that, and what it covered."""

    record: Record
    painting: Painting

    def make(self, session: Session) -> None:
        nothing = Box(0, 0, 0, 0), np.zeros((0, 0), bool)
        for mask in self.record.begun:
            session.backlog.add(
                partial(self.painting.paint, mask.plane, *nothing, label=self.record.label, overwrite=False)
            )
        session.records = [*session.records, self.record]

    def take_back(self, session: Session) -> None:
        for mask in self.record.begun:
            session.backlog.add(partial(self.painting.put_back, mask.plane, self.record.label, None))
        session.records = [record for record in session.records if record is not self.record]


_Change = _Said | _Painted | _Switched | _Found | _Deleted


class Finished:
    """A view for reading of a session's label image, without the current object; always up to date."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.shape, self.dtype = session.labels.shape, session.labels.dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read a box."""
        labels = np.array(self._session.labels[key])
        if self._session.prompts:
            labels[labels == self._session.label] = 0
        return labels


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
    records : list of Record
        The records of the objects committed so far, in order (see `objects`).
    decoding : Decoding
        Turns prompts into masks.
    backlog : Backlog
        What is still to be written to `labels`: nothing, except within its `waiting`.
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
        self._size = self.object_size  # of the current object: a new size is for the next one
        self._extents: list[int] = []  # of the objects committed so far, in pixels
        self._edited = False  # whether the current object began with what its label had
        self._begun: dict[Plane, Mask] = {}  # what that was, where it was anything
        self._earlier: set[str] = set()  # decoders that answered some of it before `change_model`
        self.records: list[Record] = []  # of the committed objects, in order
        self._painting = Painting(target)
        self.backlog = Backlog()  # what is still to be written to `labels`
        self._overwrite, self._live = bool(overwrite), bool(live)
        self._steps: Steps = ()
        self._past: list[_Change] = []
        self._future: list[_Change] = []
        # What `volume.carry` found between two planes with clicks, or beyond the outermost.
        self.gaps: Gaps = {}
        self._highest = highest_label(target) if highest is None else highest
        self._label = self._highest + 1

    # ------------------------------------------------------------------------------------ reading

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """All prompts of the current object, in order."""
        return tuple(step.prompt for step in self._steps)

    @property
    def given(self) -> tuple[Given, ...]:
        """What was given for the current object: its boxes, clicks and scribbles, in order."""
        return tuple(prompt for prompt in self.prompts if not isinstance(prompt, Mask))

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
        found: dict[int, tuple[Prompt, ...]] = {}
        for record in self.records:
            again = {prompt.plane for prompt in (*record.prompts, *record.begun)}
            before = found.get(record.label, ()) if record.edited else ()
            found[record.label] = (
                *(prompt for prompt in before if prompt.plane not in again),
                *record.prompts,
            )
        return {label: prompts for label, prompts in found.items() if prompts}  # the others were deleted

    @property
    def rejected(self) -> tuple[Mask, ...]:
        """What was deleted so far, which `find_similar` does not find again."""
        return tuple(mask for record in self.records if not record.prompts for mask in record.begun)

    @property
    def clicked_before(self) -> set[Plane]:
        """The planes of an object that is being edited on which it was clicked on before it was finished."""
        records = [record for record in self.records if self._edited and record.label == self.label]
        return {
            prompt.plane for record in records for prompt in record.prompts if not isinstance(prompt, Mask)
        }

    @property
    def planes(self) -> tuple[Plane, ...]:
        """The planes on which the current object has prompts, in C order."""
        return tuple(sorted({step.prompt.plane for step in self._steps}))

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
        whole = np.zeros(self.features.shape, bool)
        for plane, step in _newest(self._steps).items():
            whole[plane][step.box.slices] = step.mask
        return whole

    def plane_mask(self, plane: Plane = ()) -> tuple[Box, BoolMask]:
        """Return the current object on one plane: a box, and a bool mask of that box's size.

        The box is empty where the object has no prompt on the plane.
        """
        step = self.latest(plane)
        return (Box(0, 0, 0, 0), np.zeros((0, 0), bool)) if step is None else (step.box, step.mask)

    def latest(self, plane: Plane = ()) -> Step | None:
        """Return the current object's newest step on a plane, or None if it has no prompt there."""
        wanted = plane_of(plane, self.features.leading)
        return next((step for step in reversed(self._steps) if step.prompt.plane == wanted), None)

    @property
    def label(self) -> int:
        """The number of the current object, or of the next one."""
        return self._label

    @label.setter
    def label(self, value: int) -> None:
        self._check_no_current("label")
        self._check_label(value)
        # Above the highest, nothing has to be read.
        if value <= self._highest and any(
            (np.asarray(self.labels[plane or ...]) == value).any()
            for plane in np.ndindex(*self.features.leading)
        ):
            raise ValueError(
                f"label takes a number that no object has; got {value}, which is taken: to continue that object, call "
                f"session.edit({value})."
            )
        self._label = int(value)

    def number_from(self, label: int) -> None:
        """Give the next object this number, or a higher one; prompts are refused if the label image cannot hold it.

        Nothing changes where there is an object, or one that `undo` or `redo` can bring back: it keeps its own.
        """
        comes_back = self.can_redo or any(isinstance(change, _Said) for change in self._past)
        if not self.unfinished and not comes_back:
            self._label = max(self._label, label)

    @property
    def overwrite(self) -> bool:
        """Whether the current object, and those after it, may take pixels from others."""
        return self._overwrite

    @overwrite.setter
    def overwrite(self, value: bool) -> None:
        if bool(value) == self._overwrite:
            return
        if self.live and self._steps:  # or what was painted since could not be told from what the object took
            self._make(_Switched(bool(value)))
        else:
            self._switch(bool(value))

    @property
    def live(self) -> bool:
        """Whether the current object is painted into `labels` after every change, not on `commit`."""
        return self._live

    @live.setter
    def live(self, value: bool) -> None:
        if bool(value) == self._live:
            return
        self._live = bool(value)
        if self._live:
            self._repaint()
        else:  # until it is committed, the labels are as they were without it
            self._put_back()

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

    def _switch(self, overwrite: bool) -> None:
        self._overwrite = overwrite
        if self.live:
            self._repaint()

    @property
    def expected_size(self) -> float | None:
        """How large the next object is assumed to be, in pixels: as set, or else like those finished last; None if unknown.

        After a single small object, the next one is not magnified yet: part of a larger one might be taken for it.
        """
        diameters = self.model.config.diameters
        if self.object_size is not None or self.image is None or not diameters or not self._extents:
            return self.object_size
        return float(median_high([diameters[1], *self._extents[-FINISHED:]]))

    @property
    def unfinished(self) -> bool:
        """Whether there is a current object: it has prompts, or is one of the label image that is being edited."""
        return bool(self._steps) or self._edited

    @property
    def empty(self) -> bool:
        """Whether the current object has no pixel."""
        return not any(step.mask.any() for step in _newest(self._steps).values())

    @property
    def covered(self) -> bool:
        """Whether all pixels of the current object belong to others that are protected."""
        if self.overwrite:
            return False
        masked = False
        for plane, step in _newest(self._steps).items():
            there = np.asarray(self.labels[(*plane, *step.box.slices)])
            if (step.mask & ~self._of_others(there)).any():
                return False
            masked |= bool(step.mask.any())
        return masked

    @property
    def rival(self) -> int | None:
        """The protected object that was meant, it seems: all of the current one's prompts and nearly all of its mask lie on it.

        None for an object that is continued, or that somebody painted: that is one of its own.
        """
        painted = any(isinstance(change, _Painted) for change in self._past)
        if self.overwrite or self._edited or painted:
            return None
        meant = [one if isinstance(one, Click) else one.middle for one in self.given]
        for click in reversed(meant):
            if click.positive and not self._of_others(self._labels_at(click)).any():
                return None
        pixels, others = 0, []
        for plane, step in _newest(self._steps).items():
            there = np.asarray(self.labels[(*plane, *step.box.slices)])[step.mask]
            pixels += there.size
            others.append(there[self._of_others(there)])
        taken = np.concatenate([*others, np.zeros(0, int)])
        if not taken.size or taken.size < HARDLY * pixels:
            return None
        numbers, counts = np.unique(taken, return_counts=True)
        return int(numbers[counts.argmax()])

    def _labels_at(self, click: Click) -> NDArray[Any]:
        return np.asarray(
            self.labels[(*click.plane, slice(click.y, click.y + 1), slice(click.x, click.x + 1))]
        )

    def _of_others(self, labels: NDArray[Any]) -> BoolMask:
        return np.asarray((labels != 0) & (labels != self.label))

    @property
    def erased(self) -> bool:
        """Whether somebody erased all pixels of the current object (`live`), and painted none."""
        if not self.live:
            return False
        newest = _newest(self._steps)
        boxes = [(*plane, *step.box.slices) for plane, step in newest.items()]
        wholes = [plane or ... for plane in newest]  # where the brush added something, if anywhere
        return not any((np.asarray(self.labels[part]) == self.label).any() for part in (*boxes, *wholes))

    @property
    def finished(self) -> Finished:
        """The label image without the current object."""
        return Finished(self)

    @property
    def highest(self) -> int:
        """The highest label of an object that is or was finished; 0 if there is none."""
        return self._highest

    @property
    def saved(self) -> Saved:
        """What `save_prompts` writes: every object's prompts, committed ones and the current one, as they are now."""
        features = self.features
        return Saved(
            features.image_fingerprint,
            features.model_fingerprint,
            tuple(self.records),
            self._record(),
            self.image is not None,
            _encoded(features),
        )

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
        return self._painting.labels

    @property
    def can_undo(self) -> bool:
        """Whether `undo` would change anything."""
        return bool(self._past)

    @property
    def changes(self) -> int:
        """How many changes `undo` can take back."""
        return len(self._past)

    @property
    def can_redo(self) -> bool:
        """Whether `redo` would change anything."""
        return bool(self._future)

    @property
    def level(self) -> int:
        """The magnification at which the last click was answered is 2 to the power of this; 0 before the first."""
        return self._steps[-1].view.level if self._steps else 0

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
        mask = np.zeros(self.features.size, bool)
        box, part = self.plane_mask(prompt.plane)
        mask[box.slices] = part
        return mask

    def remove(self, index: int) -> None:
        """Remove click number `index` (of `clicks`, from 0); the others are replayed. TypeError, IndexError if it is none."""
        given, place = list(self.given), self._place(index)
        self._set_given(given[:place] + given[place + 1 :])

    def move(self, index: int, position: Sequence[int]) -> None:
        """Move click number `index`; the others are replayed. Errors as for `remove` and `click`."""
        self._change(index, lambda click: Click.at(position, click.positive))

    def flip(self, index: int) -> None:
        """Turn click number `index` from positive to negative or back; the others are replayed. Errors as for `remove`."""
        self._change(index, lambda click: replace(click, positive=not click.positive))

    def _change(self, index: int, change: Callable[[Click], Click]) -> None:
        given, place = list(self.given), self._place(index)
        click = given[place]
        assert isinstance(click, Click)
        given[place] = change(click)
        self._set_given(given)

    def _place(self, index: int) -> int:
        """Return where among all that was given a click is."""
        places = [place for place, prompt in enumerate(self.given) if isinstance(prompt, Click)]
        if isinstance(index, bool) or not isinstance(index, int | np.integer):
            raise TypeError(f"A click's number is a whole one, from 0; got {index!r}.")
        if not -len(places) <= index < len(places):
            raise IndexError(f"Clicks are numbered from 0, and there are {len(places)}; got {index}.")
        return places[index]

    def _set_given(self, given: Sequence[Given]) -> list[tuple[Plane, Box]]:
        return self.set_prompts((*self.masks_beside(given), *given))

    def masks_beside(self, given: Iterable[Given]) -> tuple[Mask, ...]:
        """Return the object's masks that stay if it gets other boxes and clicks.

        What was carried (`propagate`) from a plane is dropped if no box or click is left there as it was.
        """
        kept = {prompt.plane for prompt in {*given} & {*self.given}}
        gone = {prompt.plane for prompt in self.given} - kept
        carried = {
            id(mask) for planes, gap in self.gaps.items() if gone.intersection(planes) for mask in gap.masks
        }
        return tuple(mask for mask in self.masks if id(mask) not in carried)

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
        ValueError, NotEncodedError
            As for `click`.
        """
        return self.decoding.steps(prompts, self._size_now, (*before, *self._steps))

    def adopt(self, steps: Steps) -> list[tuple[Plane, Box]]:
        """Take over what `compute` returned, as one step that `undo` takes back.

        Returns
        -------
        list of (plane, Box)
            Where the object changed, for whoever shows it.
        """
        if len(steps) == len(self._steps) and all(a is b for a, b in zip(steps, self._steps, strict=True)):
            return []
        if steps:
            self._check_label(self.label)
        before, after = self._shown, _Shown(steps, self._size_now)
        changed = self._show(after)
        self._past.append(_Said(before, after))
        self._future.clear()
        return changed

    def painted(self, stroke: Stroke, *, late: bool = False) -> None:
        """Note a stroke that was just painted into `labels`, so that `undo` takes it back in turn.

        `late` says that what came before it was not in the labels yet.
        """
        self.backlog.work_off()
        self._past.append(_Painted(stroke, self._painting.copy(), late))
        self._future.clear()

    def undo(self) -> bool:
        """Take back the last change of prompts, or the last stroke, exactly; return whether there was one."""
        if not self._past:
            return False
        last = self._past[-1]
        last.take_back(self)
        self._future.append(self._past.pop())
        if isinstance(last, _Said | _Switched) or (isinstance(last, _Painted) and last.late):
            # What was painted between the two may have gone under the object: it is as it was after those strokes.
            strokes = itertools.takewhile(lambda change: isinstance(change, _Painted), reversed(self._past))
            for stroke in reversed(list(strokes)):
                stroke.make(self)
        return True

    def redo(self) -> bool:
        """Make the change again that was undone last; return whether there was one."""
        if not self._future:
            return False
        self._future[-1].make(self)
        self._past.append(self._future.pop())
        return True

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
        from napari_interformer.volume import carry  # it builds on sessions, and loads SciPy

        return carry(self, progress=progress, cancelled=cancelled, ended=ended)

    def adopt_propagate(self, carried: Carried) -> list[tuple[Plane, Box]]:
        """Take over what `compute_propagate` returned; returns what `propagate` does."""
        changed = self.adopt(carried.steps)
        self.gaps.update(carried.gaps)
        return changed

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

        This is one step for `undo`, until the next commit. Other objects are always protected, and what was deleted is not
        found again.

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
        from napari_interformer.similar import search  # it builds on sessions

        self._check_no_current("find_similar")
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

    def adopt_similar(self, similar: Similar) -> list[int]:
        """Finish what `compute_similar` returned; errors as for `find_similar`."""
        self._check_no_current("find_similar")
        if not similar.steps:
            return []
        # What follows a number that somebody chose may not be free.
        first = max(self.label, self._highest + 1)
        self._check_label(first + len(similar.steps) - 1)
        decoder = self.model.decoder_fingerprint
        objects = tuple(
            (
                Record(
                    label, step.prompts, size=similar.size, overwrite=False, edited=False, decoder=decoder
                ),
                step,
                Painting(self.labels),
            )
            for label, step in enumerate(similar.steps, first)
        )
        self._make(_Found(objects, (self._highest, self.label)))
        return [record.label for record, _, _ in objects]

    def _make(self, change: _Switched | _Found | _Deleted) -> None:
        change.make(self)
        self._past.append(change)
        self._future.clear()

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
        return self._finish()

    def _finish(self) -> int:
        """Paint the object if that is not done yet, keep its record, and start the next one."""
        if not self.live:
            self._repaint()
        record = self._record()
        self.records.append(record)
        if self._steps:  # a saved deletion has none
            self._extents.append(_extent(_newest(self._steps).values()))
        self._forget()
        return record.label

    def _record(self) -> Record:
        # Of several none gives all answers again: together they are no decoder's fingerprint, so loading warns.
        answered = sorted({*self._earlier, self.model.decoder_fingerprint})
        decoder = "+".join(answered) if self.prompts else ""
        begun = tuple(self._begun.values())
        return Record(
            self.label,
            self.prompts,
            size=self._size,
            overwrite=self.overwrite,
            edited=self._edited,
            begun=begun,
            decoder=decoder,
        )

    def clear(self) -> list[tuple[Plane, Box]]:
        """Drop the current object's prompts and start again; an object that was being edited is put back as it was.

        Returns
        -------
        list of (plane, Box)
            Where the object was, as of `adopt`.
        """
        if not (self.unfinished or any(isinstance(change, _Said) for change in self._past)):
            self._future = []
            return []  # nothing has this number yet: the next object gets it
        # What was found or deleted before the object began can still be taken back.
        earlier = list(itertools.takewhile(lambda change: isinstance(change, _Found | _Deleted), self._past))
        changed = dict(self._put_back())
        for plane, step in _newest(self._steps).items():
            changed[plane] = changed.get(plane, Box(0, 0, 0, 0)).union(step.box)
        self._forget()
        self._past = earlier
        return list(changed.items())

    def edit(self, label: int, plane: Plane | None = None) -> None:
        """Continue an object of `labels` from its mask, on all planes or on one.

        Parameters
        ----------
        label : int
            The object; commit writes it back under the same label.
        plane : tuple of int, optional
            Take only this plane's part.

        Raises
        ------
        ValueError
            If there is no such object, or the current one is neither committed nor cleared.
        """
        self.adopt_edit(self.compute_edit(label, plane))

    def compute_edit(self, label: int, plane: Plane | None = None) -> Taken:
        """Look for an object in `labels` without changing anything; safe to call from a worker thread, for `adopt_edit`.

        It reads all of them, or one plane.
        """
        self._check_no_current("edit")
        masks = self._masks_of(label, "edit", plane)
        return Taken(int(label), self.compute(masks))

    def _masks_of(self, label: int, name: str, plane: Plane | None = None) -> tuple[Mask, ...]:
        """Return what an object has on each plane, or on one; ValueError, beginning with `name`, if it has nothing."""
        leading = self.features.leading
        planes = list(np.ndindex(*leading)) if plane is None else [plane_of(plane, leading)]
        try:
            # A number read from a narrow label image would overflow when the next one is counted.
            number = int(label)
        except (TypeError, ValueError, OverflowError):
            number = 0
        masks = []
        for index in planes if number == label and number > 0 else []:
            here = np.asarray(self.labels[index or ...]) == number
            box = Box.around(here)
            if not box.empty:
                masks.append(Mask(index, box, here[box.slices]))
        check_there(self.labels)
        if not masks:
            why = (
                "which has no pixel there"
                if number == label and number > 0
                else "and objects have numbers above 0"
            )
            raise ValueError(f"{name} needs a label that is in the label image; got {label!r}, {why}.")
        return tuple(masks)

    def adopt_edit(self, taken: Taken) -> None:
        """Continue with what `compute_edit` returned; errors as for `edit`."""
        self._check_no_current("edit")
        self._label = taken.label
        self._take(step.prompt for step in taken.steps)
        # The start, not a change: undo does not go behind it.
        self._past, self._future = [], []
        self._show(_Shown(taken.steps, self._size_now))

    def delete(self, label: int) -> None:
        """Remove an object from `labels`, on all planes; this is one step for `undo`, until the next commit or edit.

        Raises
        ------
        ValueError
            If there is no such object, or the current one is neither committed nor cleared.
        """
        self.adopt_delete(self.compute_delete(label))

    def compute_delete(self, label: int) -> Record:
        """Look for an object in all of `labels` without changing anything; for `adopt_delete`."""
        self._check_no_current("delete")
        masks = self._masks_of(label, "delete")
        # Its record goes on: where it lay, others found no room.
        return Record(int(label), (), size=None, overwrite=False, edited=True, begun=masks)

    def adopt_delete(self, record: Record) -> None:
        """Remove what `compute_delete` returned; errors as for `delete`."""
        self._check_no_current("delete")
        painting = Painting(self.labels)
        for mask in record.begun:
            self.backlog.add(partial(painting.begin_with, mask, record.label))
        self._make(_Deleted(record, painting))

    def _check_no_current(self, name: str) -> None:
        if self.unfinished:
            raise ValueError(
                f"{name} needs every object to be finished; object {self.label} is not: commit or clear it first."
            )

    def _take(self, masks: Iterable[Prompt]) -> None:
        """Begin with what the label has on these planes: whatever comes of the object replaces that."""
        self._edited = True
        for mask in masks:
            if isinstance(mask, Mask):
                self._begun[mask.plane] = mask
                self.backlog.add(partial(self._painting.begin_with, mask, self.label))

    def _forget(self) -> None:
        self._steps, self._past, self._future, self._edited, self._begun = (), [], [], False, {}
        self._earlier = set()
        self._painting = Painting(self.labels)
        self.gaps.clear()
        self._highest = max(self._highest, self.label)
        self._label = self._highest + 1

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
        if self._steps or self._past:
            self._earlier.add(self.model.decoder_fingerprint)
        self.decoding.change_model(model)
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
            objects with the numbers of those in the file; nothing changes.
        NotEncodedError
            As for `click`.
        """
        self.adopt_saved(self.compute_saved(path))

    def compute_saved(self, path: str | Path) -> Replay:
        """Answer all prompts of a file without changing anything; safe to call from a worker thread, for `adopt_saved`.

        It reads all of `labels`.
        """
        self._check_no_current("load_prompts")
        saved = Saved.read(at_home(path))
        if saved.image != self.features.image_fingerprint:
            raise ValueError(
                f"{Path(path).name} belongs to another image: open the image that was clicked on."
            )
        told = (*saved.finished, saved.current)
        others = {record.decoder for record in told} - {"", self.model.decoder_fingerprint}
        name, same = Path(path).name, "may answer its clicks differently"
        if saved.model != self.features.model_fingerprint or others:
            warnings.warn(f"{name} was made with another model; this one {same}.", stacklevel=2)
        if saved.encoded is not None and saved.encoded != _encoded(self.features):
            warnings.warn(
                f"{name} was made with another contrast or tiling; on these features the model {same}.",
                stacklevel=2,
            )
        if saved.magnified and self.image is None:
            warnings.warn(
                f"{name} was made with the image, so that small and large objects were seen at other magnifications; this "
                f"session has no image and {same}: make it with Session(features, model, image=image).",
                stacklevel=2,
            )
        elif saved.magnified is False and self.image is not None:
            warnings.warn(
                f"{name} was made without the image, from its features alone; this session sees small and large objects at "
                f"other magnifications and {same}.",
                stacklevel=2,
            )
        self._check_free([record for record in told if record.prompts])
        return tuple((record, self.decoding.steps(record.prompts, record.size)) for record in told)

    def adopt_saved(self, replay: Replay) -> None:
        """Take over what `compute_saved` returned; errors as for `load_prompts`."""
        self._check_no_current("load_prompts")
        usual = self._object_size, self.overwrite
        *finished, (current, latest) = replay
        try:
            for record, steps in finished:
                self._begin(record, steps)
                self._finish()  # even if others have all of its pixels, as they had then
            if latest or current.edited:
                self._begin(current, latest)
                usual = usual[0], self.overwrite  # which holds for the object
                parts = [_Shown(latest[:n], current.size) for n in range(len(self.masks), len(latest) + 1)]
                self._past = [_Said(*two) for two in itertools.pairwise(parts)]
                if not current.edited:
                    self._know_gaps()
        finally:
            self._object_size, self.overwrite = usual

    def _begin(self, record: Record, steps: Steps) -> None:
        """Restore an object from its record and its steps."""
        # Of a size without the image nothing follows, but the file may have one.
        self._label, self._object_size, self.overwrite = record.label, record.size, record.overwrite
        if record.edited:
            self._take(record.begun or record.prompts)
        self._show(_Shown(steps, record.size))
        if record.edited and self.live:
            self._repaint()  # planes that it has no more were never shown

    def _know_gaps(self) -> None:
        """Find out between which clicked planes each carried mask lies: it is dropped with their clicks."""
        planes = sorted({prompt.plane for prompt in self.given})
        between: dict[tuple[Plane | None, Plane | None], list[Mask]] = {}
        for mask in self.masks:
            own = [plane for plane in planes if plane[:-1] == mask.plane[:-1]]
            before = max((plane for plane in own if plane < mask.plane), default=None)
            after = min((plane for plane in own if plane > mask.plane), default=None)
            between.setdefault((before, after), []).append(mask)
        for ends, masks in between.items():
            self.gaps[ends] = Gap((None, None), tuple(masks), (), settled=False, overwrite=self.overwrite)

    def _check_free(self, records: Sequence[Record]) -> None:
        """Refuse objects whose numbers are taken, or that the labels cannot hold."""
        for record in records:
            self._check_label(record.label)
        new = np.unique([record.label for record in records if not record.edited])
        for plane in np.ndindex(*self.features.leading):
            there = np.intersect1d(np.asarray(self.labels[plane or ...]), new)
            if there.size:
                raise ValueError(
                    f"Saved clicks need labels without their objects; object {there[0]} is there already: load them into new, "
                    "empty labels."
                )

    def _check_label(self, label: Any) -> None:
        dtype = self.labels.dtype
        if not isinstance(label, int | np.integer) or label < 1:
            raise ValueError(f"label takes a whole number from 1; got {label!r}.")
        if label > np.iinfo(dtype).max:
            remedy = "use a wider dtype, such as int32, or another label image"
            if dtype.itemsize >= 4:
                remedy = "give the object with the highest number a lower one, or begin with new labels"
            raise ValueError(f"labels of dtype {dtype} cannot hold label {label}: {remedy}.")

    # ------------------------------------------------------------------------------------ painting

    @property
    def _size_now(self) -> float | None:
        """How large the current object was assumed to be when it began, or is, if it has not begun."""
        return self._size if self._steps else self.expected_size

    @property
    def _shown(self) -> _Shown:
        return _Shown(self._steps, self._size)

    def _show(self, shown: _Shown) -> list[tuple[Plane, Box]]:
        """Make these steps current; return where masks may have changed."""
        was, now = _newest(self._steps), _newest(shown.steps)
        changed: dict[Plane, Box] = {}
        for plane in (*was, *(plane for plane in now if plane not in was)):
            before, after = was.get(plane), now.get(plane)
            if before is not after:
                changed[plane] = reduce(Box.union, (step.box for step in (before, after) if step is not None))
        if self.live:
            self._paint(was, now, changed)
        self._steps, self._size = shown
        return list(changed.items())

    def _put_back(self) -> dict[Plane, Box]:
        """Give the labels what they had without the current object; return where it was painted."""
        newest, painted = _newest(self._steps), self._painting.boxes
        for plane in painted:
            before = newest[plane].prompts if plane in newest else None
            self.backlog.add(partial(self._painting.put_back, plane, self.label, before))
        return painted

    def _repaint(self) -> None:
        """Paint the object as it is now, on all planes where it is, or was when it began."""
        now = _newest(self._steps)
        # Not the planes that `_painting` knows: what it began with may still wait to be written.
        self._paint(now, now, {*self._begun, *now})

    def _paint(
        self,
        was: Mapping[Plane, Step],
        now: Mapping[Plane, Step],
        planes: Iterable[Plane],
    ) -> None:
        """Write the object into the labels on these planes: as it is `now`, in place of what it `was`."""
        for plane in planes:
            step = now.get(plane)
            # A plane of which it has no prompt any more is as it was before its first one.
            box, mask, prompts = (
                (Box(0, 0, 0, 0), np.zeros((0, 0), bool), ())
                if step is None
                else (step.box, step.mask, step.prompts)
            )
            paint = partial(
                self._painting.paint,
                plane,
                box,
                mask,
                label=self.label,
                overwrite=self.overwrite,
                prompts=prompts,
                before=was[plane].prompts if plane in was else None,
            )
            self.backlog.add(paint)


def _extent(steps: Iterable[Step]) -> int:
    """Return how large an object is across on the plane where it is largest."""
    return max(Box.around(step.mask).extent for step in steps)


def _newest(steps: Steps) -> dict[Plane, Step]:
    """Return the newest step of each plane."""
    return {step.prompt.plane: step for step in steps}


def _encoded(features: Features) -> dict[str, Any]:
    """Return how features were made, beyond the image and the model, as JSON has it."""
    contrast = features.contrast
    limits = contrast if isinstance(contrast, str) else [[float(low), float(high)] for low, high in contrast]
    return {"contrast": limits, "core": features.origin.core, "halo": features.origin.halo}
