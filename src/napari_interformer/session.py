"""The one place with annotation state: the current object's boxes and clicks, its mask, and the label image.

The points are the truth. A mask is a pure function of the features and the ordered prompts: `compute` does that
function (no state changes; a worker thread may call it), `adopt` takes its result over. Undo is a pop.
"""

from __future__ import annotations

import itertools
import math
import threading
import warnings
from collections import Counter, OrderedDict
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.ndimage import binary_dilation, binary_erosion
from scipy.ndimage import label as number_parts

from napari_interformer.features import padded
from napari_interformer.image import Planes, plane_of, read_only
from napari_interformer.prompts import (
    DIVISOR,
    Box,
    BoxPrompt,
    Click,
    Mask,
    State,
    blank,
    cut,
    draw_click,
    fitting_cut,
    fold,
    in_order,
    obey,
    paste,
    region,
    sure,
    within,
)
from napari_interformer.scales import FINEST, level_for, maps_at, size_at, to_image, to_working, working
from napari_interformer.stories import Saved, Story

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from napari_interformer.features import Features
    from napari_interformer.model import InterFormerConfig
    from napari_interformer.prompts import BoolMask, Given, Prompt, Reference
    from napari_interformer.volume import Ended, Gap

Plane = tuple[int, ...]
# A window grows with its object up to this many training windows a side; beyond, only the part around the newest
# click is decoded again.
LARGEST_WINDOW = 4
CUT = 2.0  # logit; what lies between it and its negative is in doubt
# Shares of a mask beyond doubt: below the first, magnifications are tried until one reaches the second. Chosen on drawn
# objects and on training images of dsb2018.
DOUBTFUL, STEADY = 0.12, 0.35
LEAST_PLANE = 64  # pixels; a plane is not shrunk to less


class Decoder(Protocol):
    """What a session needs of a model."""

    @property
    def config(self) -> InterFormerConfig:
        """Click radius, window and region sizes."""

    @property
    def fingerprint(self) -> str:
        """Which features it can decode."""

    @property
    def strides(self) -> tuple[int, int, int, int]:
        """Strides of its feature maps in pixels."""

    def encode_pixels(self, pixels: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
        """Encode (B, Y, X, 3), for objects that are seen at another magnification."""

    def prepare_maps(self, maps: Sequence[NDArray[np.float32]]) -> Any:
        """Compute what no click changes in a window."""

    def decode_logits(self, maps: Any, reference: Reference, roi: Box | None = None) -> NDArray[np.float32]:
        """Return foreground minus background logits of a window."""


class LabelImage(Protocol):
    """A label image to read from."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, key: Any, /) -> Any:
        """Read a box."""


class LabelArray(LabelImage, Protocol):
    """A label image: NumPy, memory-mapped, zarr or a napari layer behind `layers.LayerLabels`."""

    def __setitem__(self, key: Any, value: Any, /) -> None:
        """Write a box."""


@dataclass(frozen=True, eq=False)
class View:
    """What the network works on: a window of a plane at a magnification (see `scales`), in working pixels.

    `reference` (uint8 states) and `mask` (bool) cover `box`; outside it nothing is known and nothing is masked. `steadiness`
    tells how little the mask depends on where the logits are cut: the share of it that a higher cut leaves, from 0 to 1.
    """

    level: int
    box: Box
    reference: Reference
    mask: BoolMask
    steadiness: float = 1.0


@dataclass(frozen=True, eq=False)
class Step:
    """What is known of the object on one plane after one prompt.

    `mask` (bool) covers `box`, in pixels of the image; outside it nothing is masked. `prompts` are all of this plane so
    far, this one included.
    """

    prompts: tuple[Prompt, ...]
    box: Box
    mask: BoolMask
    view: View

    @property
    def prompt(self) -> Prompt:
        """The newest."""
        return self.prompts[-1]


class Stroke(Protocol):
    """What somebody painted into the label image, not through the session."""

    def take_back(self) -> None:
        """Give its pixels what they had before."""

    def make(self) -> None:
        """Paint it again."""


Steps = tuple[Step, ...]
Replay = tuple[tuple[Story, Steps], ...]


@dataclass(frozen=True, eq=False)
class _Erased:
    """What somebody erased of the object (napari's brush), a mask of its patch, and the plane's prompts until then."""

    mask: BoolMask
    prompts: tuple[Prompt, ...]

    def still(self, prompts: Iterable[Prompt], box: Box) -> BoolMask:
        """Return what stays erased: a positive click since then brings back what hangs together with its pixel."""
        mask, before = self.mask, Counter(p for p in self.prompts if isinstance(p, Click))
        for prompt in prompts:
            if isinstance(prompt, Click) and prompt.positive:
                if before[prompt] > 0:
                    before[prompt] -= 1
                    continue
                y, x = prompt.y - box.top, prompt.x - box.left
                if 0 <= y < box.height and 0 <= x < box.width and mask[y, x]:
                    parts, _ = number_parts(mask)
                    mask = mask & (parts != parts[y, x])
        return mask


@dataclass(eq=False)
class _Patch:
    """What an object covers in the label image: the labels at its start, those without it, and what was written over them."""

    box: Box
    start: NDArray[Any]
    under: NDArray[Any]
    written: NDArray[Any]
    erased: tuple[_Erased, ...] = ()


@dataclass(frozen=True, eq=False)
class _Painted:
    """A stroke in the order of changes, and what was known of the label image when it was made."""

    stroke: Stroke
    patches: dict[Plane, _Patch]


class Finished:
    """The label image of a session without the object that is being worked on, to read from; always as it is now."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.shape, self.dtype = session.labels.shape, session.labels.dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read a box."""
        labels = np.array(self._session.labels[key])
        if self._session.prompts:
            labels[labels == self._session.label] = 0
        return labels


def check_labels(labels: Any, features: Features) -> None:
    """Refuse what is no label image of the features' shape.

    Raises
    ------
    TypeError, ValueError
        If it is no array, or of another shape, or has no integer dtype.
    """
    if not hasattr(labels, "shape") or not hasattr(labels, "dtype"):
        raise TypeError(
            f"labels takes an integer array; got {type(labels).__name__}: convert it with numpy.asarray."
        )
    shape = tuple(features.shape)
    if tuple(labels.shape) != shape:
        raise ValueError(
            f"labels takes an array of the image's shape {shape}; got {tuple(labels.shape)}: choose the label image that "
            "belongs to this image."
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels takes an integer array; got {labels.dtype}: convert it with astype('int32')."
        )


def image_of(features: Features, image: Any) -> Planes | None:
    """Return the image of features as it was encoded; if None is given, the one that they know of, if they do.

    Raises
    ------
    ValueError
        If it is another image.
    """
    planes = features.source if image is None else Planes.of(image)
    if planes is None:
        return None
    if planes.fingerprint != features.image_fingerprint:
        raise ValueError(
            "image takes the image that was encoded, with its channels; got another one: leave it out, or encode it first."
        )
    return planes.with_contrast(features.contrast)  # as everything else was encoded


class Session:
    """Annotate one image or stack, object by object.

    Parameters
    ----------
    features : Features
        From `encode` or `Features.open`; planes may still be missing.
    model : InterFormer
        The model that made the features.
    labels : integer array, optional
        A label image of the features' shape to go on with, written in place; new and empty (int32) if None.
    overwrite : bool
        Whether the object may take pixels of other objects; by default they are protected.
    live : bool
        Paint the current object into `labels` after every change (what the window does) instead of on `commit`.
    image : Planes, optional
        The image, or what `Planes.of` takes, so that small objects can be magnified and large ones be seen whole;
        that of `features` if they were just encoded. Without it every object is seen at the image's own magnification.
    object_size : float, optional
        How large objects are across, in pixels; found out from the first answer if None. It takes the image.
    highest : int, optional
        The highest label in `labels`, where that is known; all of them are read if None.

    Raises
    ------
    ValueError
        If the model is not the one that made the features, `labels` has another shape or no integer dtype, or a size is
        given without the image.
    """

    def __init__(
        self,
        features: Features,
        model: Decoder,
        labels: LabelArray | None = None,
        *,
        overwrite: bool = False,
        live: bool = False,
        image: Planes | None = None,
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
                "Session takes the model that made the features; got another one: load that model, or encode the "
                "image again with this one."
            )
        shape = tuple(features.shape)
        target: Any = np.zeros(shape, np.int32) if labels is None else labels
        check_labels(target, features)
        if read_only(target):
            raise ValueError(
                "labels takes an array that can be written to; got a read-only one: copy it, or open it for writing."
            )
        image = image_of(features, image)
        known: Any = object_size
        if known is not None and not (isinstance(known, Real) and 0 < float(known) < math.inf):
            raise ValueError(f"object_size takes pixels, more than 0; got {object_size!r}.")
        if known is not None and image is None and model.config.diameters:
            raise ValueError(
                "object_size takes the image, too, of which it lets objects be seen larger or smaller: give image=, as these "
                "features do not know theirs."
            )
        self.features, self.model = features, model
        self._image = None if image is None or not model.config.diameters else image
        self.object_size: float | None = object_size
        self._size = object_size  # of the current object: a new size is for the next one
        self._edited = False  # whether the current object began with what its label had
        self.stories: list[Story] = []  # of the committed objects, in order
        self.labels: LabelArray = target
        self.overwrite, self.live = overwrite, live
        self._steps: Steps = ()
        self._past: list[Steps | _Painted] = []
        self._future: list[Steps | _Painted] = []
        self._patches: dict[Plane, _Patch] = {}
        self._prepared: OrderedDict[tuple[Plane, int, Box], Any] = OrderedDict()
        # What `volume.carry` found between two planes with clicks, or beyond the outermost.
        self.gaps: dict[tuple[Plane | None, Plane | None], Gap] = {}
        self._lock = threading.Lock()
        self._highest = self._highest_label() if highest is None else highest
        self.label = self._highest + 1

    # ------------------------------------------------------------------------------------ reading

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """All prompts of the current object, in order."""
        return tuple(step.prompt for step in self._steps)

    @property
    def given(self) -> tuple[Given, ...]:
        """What a person said of the current object: its boxes and clicks, in order."""
        return tuple(prompt for prompt in self.prompts if not isinstance(prompt, Mask))

    @property
    def boxes(self) -> tuple[BoxPrompt, ...]:
        """The current object's boxes, one on a plane."""
        return tuple(prompt for prompt in self.prompts if isinstance(prompt, BoxPrompt))

    @property
    def clicks(self) -> tuple[Click, ...]:
        """The current object's clicks, in order."""
        return tuple(prompt for prompt in self.prompts if isinstance(prompt, Click))

    @property
    def masks(self) -> tuple[Mask, ...]:
        """The masks the current object started from (`edit`) or was given (`propagate`)."""
        return tuple(prompt for prompt in self.prompts if isinstance(prompt, Mask))

    @property
    def objects(self) -> dict[int, tuple[Prompt, ...]]:
        """The committed objects' prompts by label; of one that was edited, those of each plane since its last edit."""
        found: dict[int, tuple[Prompt, ...]] = {}
        for story in self.stories:
            again = {prompt.plane for prompt in story.prompts}
            kept = (prompt for prompt in found.get(story.label, ()) if prompt.plane not in again)
            found[story.label] = (*kept, *story.prompts)
        return found

    @property
    def planes(self) -> tuple[Plane, ...]:
        """The planes on which the current object has prompts, in C order."""
        return tuple(sorted({step.prompt.plane for step in self._steps}))

    def __repr__(self) -> str:
        features = self.features
        current = f"object {self.label} with {len(self.boxes)} boxes and {len(self.clicks)} clicks"
        return f"Session({features.origin.axes} {features.shape}, {len(self.objects)} objects committed, {current})"

    @property
    def mask(self) -> BoolMask:
        """The current object: bool, the shape of the image or stack (made anew at every read)."""
        whole = np.zeros(self.features.shape, bool)
        for plane in self.planes:
            box, mask = self.plane_mask(plane)
            whole[plane][box.slices] = mask
        return whole

    def plane_mask(self, plane: Plane = ()) -> tuple[Box, BoolMask]:
        """Return the current object on one plane: a box, and a bool mask of that box's size.

        The box is empty where the object has no prompt on the plane.
        """
        step = self.latest(plane)
        return (Box(0, 0, 0, 0), np.zeros((0, 0), bool)) if step is None else self._clip(step)

    def latest(self, plane: Plane = ()) -> Step | None:
        """Return the current object's newest step on a plane, None where it has no prompt."""
        return _last(self._steps, plane_of(plane, self.features.leading))

    @property
    def empty(self) -> bool:
        """Whether the current object has no pixel."""
        return not any(self.plane_mask(plane)[1].any() for plane in self.planes)

    @property
    def covered(self) -> bool:
        """Whether all pixels of the current object belong to others, which are protected."""
        if self.overwrite:
            return False
        masked = False
        for plane in self.planes:
            box, mask = self.plane_mask(plane)
            there = np.asarray(self.labels[(*plane, *box.slices)])
            if (mask & ((there == 0) | (there == self.label))).any():
                return False
            masked |= bool(mask.any())
        return masked

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
            features.image_fingerprint, features.model_fingerprint, tuple(self.stories), self._story()
        )

    @property
    def image(self) -> Planes | None:
        """The image, if objects are seen at other magnifications too."""
        return self._image

    @property
    def can_undo(self) -> bool:
        """Whether `undo` would change anything."""
        return bool(self._past)

    @property
    def can_redo(self) -> bool:
        """Whether `redo` would change anything."""
        return bool(self._future)

    @property
    def level(self) -> int:
        """At which magnification the last click was answered: 2 to the power of this; 0 before the first."""
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

    def box(self, corner: Sequence[int], opposite: Sequence[int]) -> BoolMask:
        """Say that the object just fits into a box: mostly a better start than a click, and clicks correct it.

        It counts before the clicks of its plane, and in the place of another box, or of a mask that is being edited, there.

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
            If the box lies outside the image, or on two planes; nothing changes.
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
        """Take back click number `index` (of `clicks`); the others are replayed."""
        clicks, place = list(self.clicks), self._place(index)
        self.set_clicks(clicks[:place] + clicks[place + 1 :])

    def move(self, index: int, position: Sequence[int]) -> None:
        """Put click number `index` elsewhere; the others are replayed."""
        clicks, place = list(self.clicks), self._place(index)
        clicks[place] = Click.at(position, clicks[place].positive)
        self.set_clicks(clicks)

    def flip(self, index: int) -> None:
        """Turn click number `index` from positive to negative or back; the others are replayed."""
        clicks, place = list(self.clicks), self._place(index)
        clicks[place] = replace(clicks[place], positive=not clicks[place].positive)
        self.set_clicks(clicks)

    def _place(self, index: int) -> int:
        count = len(self.clicks)
        if not -count <= index < count:
            raise IndexError(f"Clicks are numbered from 0 on, and there are {count}; got {index}.")
        return index % count

    def set_clicks(self, clicks: Iterable[Click]) -> list[tuple[Plane, Box]]:
        """Make these the object's clicks, after its boxes and the masks that stay; return what changed (see `adopt`)."""
        given: tuple[Given, ...] = (*self.boxes, *clicks)
        return self.set_prompts((*self.masks_beside(given), *given))

    def masks_beside(self, given: Iterable[Given]) -> tuple[Mask, ...]:
        """Return the object's masks that stay if it gets other boxes and clicks.

        What was carried (`propagate`) from a plane of which no box or click is left as it was goes: nothing stands for it any
        more.
        """
        kept = {prompt.plane for prompt in {*given} & {*self.given}}
        gone = {prompt.plane for prompt in self.given} - kept
        carried = {
            id(mask) for planes, gap in self.gaps.items() if gone.intersection(planes) for mask in gap.masks
        }
        return tuple(mask for mask in self.masks if id(mask) not in carried)

    def set_prompts(self, prompts: Iterable[Prompt]) -> list[tuple[Plane, Box]]:
        """Make these the object's prompts; return what changed (see `adopt`)."""
        return self.adopt(self.compute(tuple(prompts)))

    def compute(self, prompts: Sequence[Prompt]) -> Steps:
        """Answer a list of prompts without changing anything; safe to call from a worker thread.

        On each plane, the steps of the prompts that are the same as now are reused, the rest is decoded.

        Parameters
        ----------
        prompts : sequence of Click, BoxPrompt or Mask
            In order; boxes and masks count before clicks, and of each plane's boxes the newest.

        Returns
        -------
        tuple of Step
            For `adopt`.

        Raises
        ------
        ValueError, NotEncodedError
            As for `click`.
        """
        size = self._size if self._steps else self.object_size
        return self._compute(prompts, size, self._steps)

    def _compute(self, prompts: Iterable[Prompt], size: float | None, before: Steps = ()) -> Steps:
        known: dict[Plane, list[Step]] = {}
        for step in before:
            known.setdefault(step.prompt.plane, []).append(step)
        steps: list[Step] = []
        latest: dict[Plane, Step] = {}
        for prompt in in_order(map(self._checked, prompts)):
            rest = known.get(prompt.plane, [])
            if rest and rest[0].prompt == prompt:
                step = rest.pop(0)
            else:
                rest.clear()  # everything after the first difference on this plane is another story
                step = self._answer(latest.get(prompt.plane), prompt, size)
            latest[prompt.plane] = step
            steps.append(step)
        return tuple(steps)

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
        self._past.append(self._steps)
        self._future.clear()
        return self._show(steps)

    def painted(self, stroke: Stroke) -> None:
        """Hear of a stroke that was just painted into `labels`: `undo` takes it back in its turn."""
        self._past.append(_Painted(stroke, _copied(self._patches)))
        self._future.clear()

    def undo(self) -> bool:
        """Take back the last change of prompts, or the last stroke, exactly; return whether there was one."""
        if not self._past:
            return False
        last = self._past.pop()
        if isinstance(last, _Painted):
            self._future.append(last)
            last.stroke.take_back()
            # Or what it gave back to the object would count as painted by somebody.
            self._patches = _copied(last.patches)
            return True
        self._future.append(self._steps)
        self._show(last)
        # What was painted between the two may have gone under the object: it is as it was after those strokes.
        strokes = itertools.takewhile(lambda change: isinstance(change, _Painted), reversed(self._past))
        for change in reversed(list(strokes)):
            assert isinstance(change, _Painted)
            change.stroke.make()
        return True

    def redo(self) -> bool:
        """Make the last change that was taken back again; return whether there was one."""
        if not self._future:
            return False
        following = self._future.pop()
        if isinstance(following, _Painted):
            self._past.append(following)
            following.stroke.make()
            return True
        self._past.append(self._steps)
        self._show(following)
        return True

    def propagate(
        self,
        *,
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        ended: Callable[[Ended], None] | None = None,
    ) -> list[tuple[Plane, Box]]:
        """Carry the object from the planes with clicks through their neighbours (see `volume.carry`).

        One step for `undo`. `ended` is told each plane before which the object ends, and why. Returns what changed.
        """
        from napari_interformer.volume import carry  # volume builds on sessions

        return self.adopt(carry(self, progress=progress, cancelled=cancelled, ended=ended))

    # ------------------------------------------------------------------------------------ objects

    def commit(self) -> int:
        """Write the object into `labels` and start the next one.

        Returns
        -------
        int
            The object's label.

        Raises
        ------
        ValueError
            If no pixel is masked, or all that are belong to other objects, which are protected; nothing changes.
        """
        if self.empty:
            raise ValueError(
                "commit takes an object with at least one pixel; got an empty mask: click on the object first."
            )
        if self.covered:
            raise ValueError(
                "commit takes an object with a pixel of its own; all of its pixels belong to other objects, which are "
                "protected: clear it, or allow it to overwrite them."
            )
        return self._finish()

    def _finish(self) -> int:
        """Paint the object if that is not done yet, keep its story, and start the next one."""
        if not self.live:
            self._paint(self._steps)
        story = self._story()
        if not story.edited:  # the number was free: what had it before is gone
            self.stories = [other for other in self.stories if other.label != story.label]
        self.stories.append(story)
        self._forget()
        return story.label

    def _story(self) -> Story:
        return Story(self.label, self.prompts, self._size, bool(self.overwrite), self._edited)

    def clear(self) -> list[tuple[Plane, Box]]:
        """Drop the current object's prompts and start anew; an object being edited is put back as it was."""
        if not (self._steps or self._edited or any(not isinstance(c, _Painted) for c in self._past)):
            self._future = []
            return []  # nothing has this number yet: the next object gets it
        changed = [(plane, patch.box) for plane, patch in self._patches.items()]
        for plane, box in changed:
            patch = self._patch(plane, box)
            self._write(plane, patch, patch.start)
        self._forget()
        return changed

    def edit(self, label: int, plane: Plane | None = None) -> None:
        """Go on with an object of `labels` from its mask, on all planes or on one.

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
        self.adopt_edit(label, self.compute_edit(label, plane))

    def compute_edit(self, label: int, plane: Plane | None = None) -> Steps:
        """Look for an object in `labels` without changing anything; safe to call from a worker thread, for `adopt_edit`.

        It reads all of them, or one plane.
        """
        self._check_no_current("edit")
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
        if not masks:
            raise ValueError(
                f"edit takes a label that is in the label image; got {label!r}, which has no pixel there."
            )
        return self.compute(masks)

    def adopt_edit(self, label: int, steps: Steps) -> None:
        """Go on with what `compute_edit` returned; errors as for `edit`."""
        self._check_no_current("edit")
        self.label = int(label)
        self._take(step.prompt for step in steps)
        # The start, not a change: undo does not go behind it.
        self._past, self._future = [], []
        self._show(steps)

    def _check_no_current(self, name: str) -> None:
        if self._steps or self._edited:
            raise ValueError(
                f"{name} takes a session without a current object; object {self.label} is not finished: commit or clear it "
                "first."
            )

    def _take(self, masks: Iterable[Prompt]) -> None:
        """Begin with what the label has on these planes: whatever comes of the object replaces that."""
        self._edited = True
        for mask in masks:
            if isinstance(mask, Mask):
                patch = self._patch(mask.plane, mask.box)
                patch.under = np.where(patch.under == self.label, 0, patch.under).astype(patch.under.dtype)

    def _forget(self) -> None:
        self._steps, self._past, self._future, self._edited = (), [], [], False
        self._patches.clear()
        self.gaps.clear()
        self._highest = max(self._highest, self.label)
        self.label = self._highest + 1

    def change_model(self, model: Decoder) -> None:
        """Let another model answer what is asked from now on, such as an adapted one; the object stays as it is.

        Raises
        ------
        ValueError
            If it takes other features; nothing changes.
        """
        if getattr(model, "fingerprint", None) != self.features.model_fingerprint:
            raise ValueError(
                "change_model takes a model for the same features; got one with another encoder: encode the image with it."
            )
        with self._lock:
            self.model = model
            self._prepared.clear()
        self.gaps.clear()

    # ------------------------------------------------------------------------------------ on disk

    def save_prompts(self, path: str | Path) -> Path:
        """Write every object's prompts as JSON, committed ones and the current one, in order: whole or not at all."""
        return self.saved.write(Path(path))

    def load_prompts(self, path: str | Path) -> None:
        """Replay a file of `save_prompts`: commit its objects, and go on with its current one.

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
        saved = Saved.read(Path(path))
        if saved.image != self.features.image_fingerprint:
            raise ValueError(
                f"{Path(path).name} belongs to another image; open the image its prompts were given on."
            )
        if saved.model != self.features.model_fingerprint:
            warnings.warn(
                f"{Path(path).name} was made with another model; this one answers its clicks in its own way.",
                stacklevel=2,
            )
        told = (*saved.finished, saved.current)
        self._check_free([story for story in told if story.prompts])
        return tuple((story, self._compute(story.prompts, story.size)) for story in told)

    def adopt_saved(self, replay: Replay) -> None:
        """Take over what `compute_saved` returned; errors as for `load_prompts`."""
        self._check_no_current("load_prompts")
        usual = self.object_size, self.overwrite
        *finished, (current, latest) = replay
        try:
            for story, steps in finished:
                self._begin(story)
                self.adopt(steps)
                self._finish()  # even if others have all of its pixels, as they had then
            if latest:
                self._begin(current)
                self.adopt(latest)
                self._past = [latest[:n] for n in range(len(self.masks), len(latest))]
        finally:
            self.object_size, self.overwrite = usual

    def _begin(self, story: Story) -> None:
        self.label, self.object_size, self.overwrite = story.label, story.size, story.overwrite
        if story.edited:
            self._take(story.prompts)

    def _check_free(self, stories: Sequence[Story]) -> None:
        """Refuse objects whose numbers others have, or that the labels cannot hold."""
        for story in stories:
            self._check_label(story.label)
        new = np.unique([story.label for story in stories if not story.edited])
        for plane in np.ndindex(*self.features.leading):
            there = np.intersect1d(np.asarray(self.labels[plane or ...]), new)
            if there.size:
                raise ValueError(
                    f"Saved clicks take labels without their objects; object {there[0]} is there already: load them into new, "
                    "empty labels."
                )

    # ------------------------------------------------------------------------------------ decoding

    def _check_label(self, label: Any) -> None:
        dtype = self.labels.dtype
        if not isinstance(label, int | np.integer) or label < 1:
            raise ValueError(f"label takes a whole number from 1, which the next object gets; got {label!r}.")
        if label > np.iinfo(dtype).max:
            wider = "use a wider dtype, such as int32"
            remedy = wider if dtype.itemsize < 4 else "give the object with the highest number a lower one"
            raise ValueError(f"labels of dtype {dtype} hold no label {label}; {remedy}.")

    def _checked(self, prompt: Prompt) -> Prompt:
        """Refuse what is no prompt for this image; return a box without what lies outside."""
        if not isinstance(prompt, Click | BoxPrompt | Mask):
            raise TypeError(
                f"A session takes clicks, boxes and masks; got {prompt!r}: make a click of a position with Click.at."
            )
        if isinstance(prompt, Click) and not all(isinstance(n, int | np.integer) for n in prompt.position):
            raise ValueError(f"A click takes whole numbers; got {prompt.position}: Click.at rounds them.")
        leading, size = tuple(self.features.leading), self.features.size
        inside = len(prompt.plane) == len(leading) and all(
            0 <= i < n for i, n in zip(prompt.plane, leading, strict=True)
        )
        if isinstance(prompt, Mask):
            if not inside or not Box.of(size).holds(prompt.box):
                raise ValueError(
                    f"A mask takes a plane and box inside the image {self.features.shape}; got {prompt.box}."
                )
            return prompt
        if isinstance(prompt, BoxPrompt):
            if not all(isinstance(n, int | np.integer) for n in (*prompt.plane, *prompt.box)):
                raise ValueError(f"A box takes whole numbers; got {prompt}: BoxPrompt.between rounds them.")
            seen = prompt.box.intersect(Box.of(size))
            if not inside or seen.empty:
                raise ValueError(
                    f"A box takes pixels inside the image of shape {tuple(self.features.shape)}; got {prompt.box} on plane "
                    f"{prompt.plane}: draw it on the image."
                )
            prompt = replace(prompt, box=seen)
            if not self.features.valid(prompt.plane, prompt.middle.y, prompt.middle.x):
                raise ValueError(
                    f"A box takes pixels with a value; the image is NaN in the middle of {seen}: draw it elsewhere."
                )
            return prompt
        if not inside or not (0 <= prompt.y < size[0] and 0 <= prompt.x < size[1]):
            raise ValueError(
                f"A click takes a position inside the image of shape {tuple(self.features.shape)}; got "
                f"{prompt.position}: click on the image."
            )
        if not self.features.valid(prompt.plane, prompt.y, prompt.x):
            raise ValueError(
                f"A click takes a pixel with a value; the image is NaN at {prompt.position}: click elsewhere."
            )
        return prompt

    def _answer(self, previous: Step | None, prompt: Prompt, size: float | None) -> Step:
        """Return the step after `previous` (None at the start of a plane), at the magnification that suits the object."""
        if previous is not None and isinstance(prompt, Click):
            level = previous.view.level
        else:
            level = self._first_level(prompt, size)
        step = self._answer_at(level, previous, prompt)
        if previous is None and step is not None and self._size_is_open(prompt, size):
            step = self._steadier(step) if step.view.steadiness < DOUBTFUL else step
            level = step.view.level
        prompts = (*(previous.prompts if previous is not None else ()), prompt)
        turned = 0
        while (turn := -1 if step is None else self._turn(step)) and turn != -turned:
            level, turned = level + turn, turn
            seen = self._replay(level, prompts)
            if step is not None and turn > 0:
                if seen is None or seen.view.steadiness < step.view.steadiness / 2:
                    break  # its clicks lie too far apart for that, or it falls apart
            step = seen
        assert step is not None  # in a plane shrunk to one window everything fits
        return step

    def _steadier(self, step: Step) -> Step:
        """Return a first click's answer at the nearest level where it is steady; `step` if there is none.

        At a wrong magnification the network sees a speck or a texture, and hesitates where it ends.
        """
        coarser = itertools.takewhile(
            lambda level: min(self._padded(level)) >= LEAST_PLANE, itertools.count(-1, -1)
        )
        for level in (*itertools.islice(coarser, 1), FINEST, *coarser):
            other = self._answer_at(level, None, step.prompt)
            if other is not None and other.view.steadiness >= STEADY:
                return other
        return step

    def _size_is_open(self, prompt: Prompt, size: float | None) -> bool:
        return self._image is not None and size is None and isinstance(prompt, Click) and prompt.positive

    def _replay(self, level: int, prompts: Iterable[Prompt]) -> Step | None:
        """Answer all prompts of a plane at a level; None if the object is too large for that."""
        step: Step | None = None
        for prompt in prompts:
            step = self._answer_at(level, step, prompt)
            if step is None:
                return None
        return step

    def _first_level(self, prompt: Prompt, size: float | None) -> int:
        if not isinstance(prompt, Click):
            size = max(prompt.box.width, prompt.box.height)
        if self._image is None or size is None:
            return 0
        return level_for(min(size, max(self.features.size)), self.model.config.diameters)

    def _turn(self, step: Step) -> int:
        """Return 1 if the object is so small that it should be magnified, -1 if it is too large, else 0."""
        if self._image is None or not isinstance(step.prompt, Click):
            return 0
        view, found = step.view, Box.around(step.view.mask)
        least, most = self.model.config.diameters
        extent = max(found.width, found.height)
        if extent > most or self._wider(view.box, view.mask, view.level, math.inf) != view.box:
            return -1
        return int(0 < extent < least and view.level < FINEST)

    def _answer_at(self, level: int, previous: Step | None, prompt: Prompt) -> Step | None:
        """Return the step after `previous`, at a level; None where the object is too large for that."""
        if not isinstance(prompt, Click):
            filled = np.ones((prompt.box.height, prompt.box.width), bool)
            box, mask = to_working(prompt.mask if isinstance(prompt, Mask) else filled, prompt.box, level)
            window = self._window(box, None, level)
            if not window.holds(box) and self._image is not None:
                return None
            window = window.union(box).snapped.intersect(Box.of(self._padded(level)))
            if isinstance(prompt, BoxPrompt):
                return self._fill(previous, prompt, box, window, level)
            mask = cut(mask, box, window, False)
            view = View(level, window, fold(blank(mask.shape), mask), mask)
            shown = (window, mask) if level == 0 else (prompt.box, prompt.mask)
            return Step((prompt,), *shown, view)
        before = None if previous is None else previous.view
        y, x = working(prompt.y, level), working(prompt.x, level)
        radius = self.model.config.inner_radius
        known = Box(x - radius, y - radius, x + radius + 1, y + radius + 1).intersect(
            Box.of(self._padded(level))
        )
        if before is not None:
            seen = Box.around(before.mask | sure(before.reference))
            known = known.union(seen.shift(before.box.top, before.box.left) if not seen.empty else seen)
        window = self._window(known, None if before is None else before.box, level)
        if not window.holds(known):
            if self._image is not None:
                return None
            # Too large to decode at once, and no image to see it from farther away: renew what lies around the click.
            window = self._window(Box(x, y, x + 1, y + 1), None, level, LARGEST_WINDOW)
        while True:
            step = self._decode(previous, prompt, window, level)
            inside = step.view.box == window
            wider = self._wider(window, step.view.mask, level, self._limit) if inside else window
            if wider == window:
                return step
            window = wider

    def _fill(self, previous: Step | None, prompt: BoxPrompt, box: Box, window: Box, level: int) -> Step:
        """Return the step of a box, `box` in working pixels: what a click in its middle says, as far out as fills it.

        What follows starts from that mask as from any other: the middle is no more certain than the rest.
        """
        config, middle = self.model.config, prompt.middle
        y, x = working(middle.y, level) - window.top, working(middle.x, level) - window.left
        reference = blank((window.height, window.width))
        reference = draw_click(reference, y, x, True, config.inner_radius, config.outer_radius)
        logits = self.model.decode_logits(self._prepare(prompt.plane, level, window), reference)
        inside = box.shift(-window.top, -window.left)
        lowest = fitting_cut(logits, inside)
        if not (logits[inside.slices] > lowest).any():
            logits, lowest = obey(logits, [(y, x, True)]), 0.0
        mask = _largest_part(within(logits, inside, lowest))
        view = View(level, window, fold(blank((window.height, window.width)), mask), mask)
        prompts = (*(previous.prompts if previous is not None else ()), prompt)
        if level == 0:
            return Step(prompts, window, mask, view)
        cut_at = np.float32(lowest)
        around, fine = to_image(
            logits - cut_at, window, level
        )  # where it is positive: all that counts is there
        placed = prompt.box.shift(-around.top, -around.left)
        return Step(prompts, around, _largest_part(within(fine + cut_at, placed, lowest)), view)

    def _decode(self, previous: Step | None, click: Click, window: Box, level: int) -> Step:
        config = self.model.config
        reference = blank((window.height, window.width))
        known = np.zeros((window.height, window.width), bool)
        before = None if previous is None else previous.view
        if before is not None:
            reference = cut(before.reference, before.box, window, reference[0, 0])
            known = cut(before.mask, before.box, window, False)
        prompts = (*(previous.prompts if previous is not None else ()), click)
        clicks = [
            (working(c.y, level) - window.top, working(c.x, level) - window.left, c.positive)
            for c in prompts
            if isinstance(c, Click)
        ]
        reference = draw_click(reference, *clicks[-1], config.inner_radius, config.outer_radius)
        roi = None
        if before is not None:
            roi = region(
                known | sure(reference), expansion=config.zoom_expansion, min_size=config.zoom_min_size
            )
        logits = self.model.decode_logits(self._prepare(click.plane, level, window), reference, roi)
        steadiness = int(np.count_nonzero(logits > CUT)) / max(1, int(np.count_nonzero(logits > -CUT)))
        logits = obey(logits, clicks)
        mask = logits > 0
        view = View(level, window, fold(reference, mask), mask, steadiness)
        if level != 0:
            return Step(prompts, *_in_image(logits, window, level, prompts), view)
        if before is not None and not window.holds(before.box) and _outside(before, window):
            # What lies beyond the window stays as it was.
            whole = window.union(before.box)
            reference = cut(before.reference, before.box, whole, blank((1, 1))[0, 0])
            reference = paste(view.reference, window, reference, whole)
            view = View(
                level,
                whole,
                reference,
                paste(mask, window, cut(before.mask, before.box, whole, False), whole),
            )
        return Step(prompts, view.box, view.mask, view)

    def guess(self, start: Mask, click: Click, level: int, band: int) -> tuple[Box, NDArray[np.float32]]:
        """Decode an object that is possibly `start`, unknown near its outline and sure at `click`; no state changes.

        Parameters
        ----------
        start : Mask
            What is possible.
        click : Click
            On the same plane.
        level : int
            The magnification (see `scales`).
        band : int
            Working pixels on either side of the outline that are unknown.

        Returns
        -------
        box : Box
            In pixels of the image.
        logits : (Y, X) float32
            Of that box.
        """
        config = self.model.config
        box, mask = to_working(start.mask, start.box, level)
        window = self._window(box, None, level)
        mask = cut(mask, box, window, False)
        reference = blank(mask.shape)
        reference[binary_erosion(mask, iterations=band, border_value=1)] = State.POSSIBLE_FOREGROUND
        reference[~binary_dilation(mask, iterations=band)] = State.POSSIBLE_BACKGROUND
        y, x = working(click.y, level) - window.top, working(click.x, level) - window.left
        reference = draw_click(reference, y, x, click.positive, config.inner_radius, config.outer_radius)
        roi = region(mask | sure(reference), expansion=config.zoom_expansion, min_size=config.zoom_min_size)
        logits = self.model.decode_logits(self._prepare(click.plane, level, window), reference, roi)
        box, fine = to_image(obey(logits, [(y, x, click.positive)]), window, level)
        inside = box.intersect(Box.of(self.features.size))
        return inside, fine[: inside.height, : inside.width]

    def _padded(self, level: int) -> tuple[int, int]:
        return padded(size_at(self.features.size, level))

    @property
    def _limit(self) -> int:
        """The largest side of a window in working pixels."""
        return self.model.config.window * (LARGEST_WINDOW if self._image is None else 1)

    def _window(self, known: Box, previous: Box | None, level: int, least: int = 1) -> Box:
        """Return the window in which to decode an object of which `known` is known.

        The previous one serves as long as it leaves room around the object, so that nothing is prepared twice.
        """
        config = self.model.config
        padded = self._padded(level)
        room = (config.zoom_expansion - 1) / 4
        roomy = known.grown(round(known.height * room), round(known.width * room))
        fits = previous is not None and max(previous.width, previous.height) <= self._limit
        if previous is not None and fits and previous.holds(roomy.intersect(Box.of(padded))):
            return previous
        spans = []
        for start, stop, length in (
            (known.left, known.right, padded[1]),
            (known.top, known.bottom, padded[0]),
        ):
            side = max(config.click_window * least, (stop - start) * config.zoom_expansion)
            side = min(-(-int(side) // DIVISOR) * DIVISOR, self._limit, length)
            first = round(((start + stop) / 2 - side / 2) / DIVISOR) * DIVISOR
            first = min(max(first, 0), length - side)
            spans.append((first, first + side))
        (left, right), (top, bottom) = spans
        return Box(left, top, right, bottom)

    def _wider(self, window: Box, mask: BoolMask, level: int, limit: float) -> Box:
        """Return a window that goes on where the mask runs into this one's edge; the same if it does not."""
        across = int(min(window.width, max(0, limit - window.width) // 2)) // DIVISOR * DIVISOR
        along = int(min(window.height, max(0, limit - window.height) // 2)) // DIVISOR * DIVISOR
        height, width = self._padded(level)
        return Box(
            max(0, window.left - across) if mask[:, 0].any() else window.left,
            max(0, window.top - along) if mask[0].any() else window.top,
            min(width, window.right + across) if mask[:, -1].any() else window.right,
            min(height, window.bottom + along) if mask[-1].any() else window.bottom,
        )

    def _prepare(self, plane: Plane, level: int, window: Box) -> Any:
        key, model = (plane, level, window), self.model
        with self._lock:
            if key in self._prepared:
                self._prepared.move_to_end(key)
                return self._prepared[key]
        if level == 0 or self._image is None:
            maps = self.features.window(plane, window)
        else:
            maps = maps_at(self._image, model, plane, level, window)
        prepared = model.prepare_maps(maps)
        with self._lock:
            if model is self.model:  # it may have been changed meanwhile
                self._prepared[key] = prepared
            while len(self._prepared) > 4:
                self._prepared.popitem(last=False)
        return prepared

    def _clip(self, step: Step) -> tuple[Box, BoolMask]:
        """Return a step's mask without the padding."""
        box = step.box.intersect(Box.of(self.features.size))
        return box, step.mask[: box.height, : box.width]

    # ------------------------------------------------------------------------------------ painting

    def _show(self, steps: Steps) -> list[tuple[Plane, Box]]:
        """Make `steps` current; return where masks may have changed."""
        if not self._steps:
            self._size = self.object_size
        changed: dict[Plane, Box] = {}
        for side in (self._steps, steps):
            other = steps if side is self._steps else self._steps
            for plane in {step.prompt.plane for step in side}:
                step = _last(side, plane)
                if step is not None and step is not _last(other, plane):
                    changed[plane] = changed.get(plane, Box(0, 0, 0, 0)).union(self._clip(step)[0])
        if self.live:
            self._paint(steps, changed.keys())
        self._steps = steps
        return list(changed.items())

    def _paint(self, steps: Steps, planes: Iterable[Plane] | None = None) -> None:
        """Write the object as `steps` have it into the labels, touching only its own boxes."""
        for plane in (
            planes if planes is not None else {*self._patches, *(step.prompt.plane for step in steps)}
        ):
            step = _last(steps, plane)
            box, mask = (Box(0, 0, 0, 0), np.zeros((0, 0), bool)) if step is None else self._clip(step)
            patch = self._patch(plane, box)
            base = patch.under
            free = np.ones_like(base, bool) if self.overwrite else base == 0
            for erased in patch.erased:
                free &= ~erased.still(step.prompts if step is not None else (), patch.box)
            painted = np.where(cut(mask, box, patch.box, False) & free, self.label, base).astype(base.dtype)
            # A plane of which it has no prompt any more is as it was before its first one.
            self._write(plane, patch, patch.under if step is None else painted)

    def _patch(self, plane: Plane, box: Box) -> _Patch:
        """Return what lies under the object on this plane, at least where `box` is."""
        patch = self._patches.get(plane)
        if patch is None:
            under = np.array(self.labels[(*plane, *box.slices)])
            patch = _Patch(box, under, under, under.copy())
        else:
            # What somebody else painted since (napari's brush) is theirs.
            now = np.asarray(self.labels[(*plane, *patch.box.slices)])
            same = now == patch.written
            patch.start, patch.under = (np.where(same, before, now) for before in (patch.start, patch.under))
            patch.erased = tuple(replace(part, mask=part.mask & (same | (now == 0))) for part in patch.erased)
            erased = (patch.written == self.label) & (now == 0)
            step = _last(self._steps, plane)
            if step is not None and erased.any():
                patch.erased = (*patch.erased, _Erased(erased, step.prompts))
            patch.written = np.array(now)
            if not patch.box.holds(box):
                whole = patch.box.union(box)
                now = np.array(self.labels[(*plane, *whole.slices)])
                start, under = (
                    paste(before, patch.box, now.copy(), whole) for before in (patch.start, patch.under)
                )
                known = (replace(part, mask=cut(part.mask, patch.box, whole, False)) for part in patch.erased)
                patch = _Patch(whole, start, under, now, tuple(known))
        self._patches[plane] = patch
        return patch

    def _write(self, plane: Plane, patch: _Patch, values: NDArray[Any]) -> None:
        different = Box.around(values != patch.written)
        if different.empty:
            return
        target = different.shift(patch.box.top, patch.box.left)
        self.labels[(*plane, *target.slices)] = values[different.slices]
        patch.written = values.copy()

    def _highest_label(self) -> int:
        highest = 0
        for plane in np.ndindex(
            *self.features.leading
        ):  # plane by plane: the array may be larger than memory
            highest = max(highest, int(np.asarray(self.labels[plane or ...]).max(initial=0)))
        return highest


def _copied(patches: dict[Plane, _Patch]) -> dict[Plane, _Patch]:
    """Return patches that stay as they are: their arrays are replaced, never written to."""
    return {plane: replace(patch) for plane, patch in patches.items()}


def _last(steps: Steps, plane: Plane) -> Step | None:
    return next((step for step in reversed(steps) if step.prompt.plane == plane), None)


def _largest_part(mask: BoolMask) -> BoolMask:
    """Return the largest of the parts that a mask falls into."""
    parts, count = number_parts(mask)
    return mask if count < 2 else parts == 1 + np.bincount(parts[mask] - 1).argmax()


def _outside(view: View, window: Box) -> bool:
    """Whether anything of a view's mask lies outside `window`."""
    kept = view.mask.copy()
    inner = window.intersect(view.box)
    if not inner.empty:
        kept[inner.shift(-view.box.top, -view.box.left).slices] = False
    return bool(kept.any())


def _in_image(
    logits: NDArray[np.float32], window: Box, level: int, prompts: Sequence[Prompt]
) -> tuple[Box, BoolMask]:
    """Return a mask in pixels of the image from logits in working pixels; clicked pixels keep their sign."""
    box, fine = to_image(logits, window, level)
    mask = fine > 0
    for click in prompts:
        if isinstance(click, Click) and box.top <= click.y < box.bottom and box.left <= click.x < box.right:
            mask[click.y - box.top, click.x - box.left] = click.positive
    return box, mask
