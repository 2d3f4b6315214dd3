"""The label image, and what the current object covers of it.

Enters: an object's mask on a plane. Leaves: changed pixels in the label image, and no others. What lay under the object is
remembered, so that it comes back when the object shrinks; what others paint meanwhile is theirs.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.ndimage import find_objects
from scipy.ndimage import label as number_parts

from napari_interformer.files import gone, labels_at, planes_of
from napari_interformer.geometry import Box, cut, line, paste
from napari_interformer.prompts import Mark, Mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_interformer.features import Features
    from napari_interformer.geometry import BoolMask
    from napari_interformer.image import Plane
    from napari_interformer.prompts import Prompt


class LabelImage(Protocol):
    """A label image to read from."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., Y, X)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """An integer's."""

    def __getitem__(self, key: Any, /) -> Any:
        """Read a box."""


class LabelArray(LabelImage, Protocol):
    """A label image: NumPy, memory-mapped, zarr or a napari layer behind `labels.LayerLabels`."""

    def __setitem__(self, key: Any, value: Any, /) -> None:
        """Write a box."""


class Stroke(Protocol):
    """What somebody painted into the label image, not through the session."""

    def parts(self) -> Iterable[tuple[Plane, Box, BoolMask]]:
        """Return which pixels, plane by plane: a box, and a mask of that box's size."""

    def take_back(self) -> None:
        """Give its pixels what they had before."""

    def make(self) -> None:
        """Paint it again."""


def check_labels(labels: Any, features: Features) -> None:
    """Refuse what is no label image of the features' shape.

    Raises
    ------
    TypeError, ValueError
        If it is no array, or of another shape, or has no integer dtype.
    """
    if not hasattr(labels, "shape") or not hasattr(labels, "dtype"):
        raise TypeError(
            f"labels must be an integer array; got {type(labels).__name__}: convert it with numpy.asarray."
        )
    shape = tuple(features.shape)
    if tuple(labels.shape) != shape:
        raise ValueError(
            f"labels must have the image's shape {shape}; got {tuple(labels.shape)}: choose the label image that "
            "belongs to this image."
        )
    try:
        whole = np.issubdtype(labels.dtype, np.integer)
    except TypeError:  # a dtype of another library
        raise TypeError(
            f"labels must be an integer array of NumPy's types; got {type(labels).__name__} of {labels.dtype}: convert it with "
            "numpy.asarray."
        ) from None
    if not whole:
        raise ValueError(
            f"labels must be an integer array; got {labels.dtype}: convert it with astype('int32')."
        )


def check_number(labels: LabelImage, label: Any) -> None:
    """Refuse what is no number of an object, or one that a label image cannot hold.

    Raises
    ------
    ValueError
        If it is no whole number from 1 to the largest of the labels' dtype.
    """
    dtype = labels.dtype
    if not isinstance(label, int | np.integer) or label < 1:
        raise ValueError(f"label takes a whole number from 1; got {label!r}.")
    if label > np.iinfo(dtype).max:
        remedy = "use a wider dtype, such as int32, or another label image"
        if dtype.itemsize >= 4:
            remedy = "give the object with the highest number a lower one, or begin with new labels"
        raise ValueError(f"labels of dtype {dtype} cannot hold label {label}: {remedy}.")


def check_there(labels: LabelImage) -> None:
    """Refuse labels in a Zarr that is gone, which would be read as empty, and written where nobody finds them.

    Raises
    ------
    FileNotFoundError
        If their folder is not there any more.
    """
    if folder := gone(getattr(labels, "array", labels)):  # of a layer, it is what lies behind
        raise FileNotFoundError(
            f"The labels are not in {folder} any more: check that its disk or network drive is there, and open them again."
        )


@dataclass(frozen=True, eq=False)
class _Erased:
    """What somebody erased of the object (napari's brush), a mask of its patch, and the plane's prompts until then."""

    mask: BoolMask
    prompts: tuple[Prompt, ...]

    def still(self, prompts: Iterable[Prompt], box: Box) -> BoolMask:
        """Return what stays erased: a positive click since then brings back what hangs together with its pixel."""
        mask, before = self.mask, Counter(p for p in self.prompts if isinstance(p, Mark))
        for prompt in prompts:
            if isinstance(prompt, Mark) and prompt.positive:
                if before[prompt] > 0:
                    before[prompt] -= 1
                    continue
                for y, x in line(prompt.path):
                    if box.has(y, x) and mask[y - box.top, x - box.left]:
                        parts, _ = number_parts(mask)
                        mask = mask & (parts != parts[y - box.top, x - box.left])
        return mask


@dataclass(eq=False)
class _Patch:
    """What an object covers in the label image: the labels at its start, those without it, and what was written over them.

    `tried` is what was being written when that failed or was interrupted: of a Zarr, some chunks may have it.
    """

    box: Box
    start: NDArray[Any]
    under: NDArray[Any]
    written: NDArray[Any]
    tried: NDArray[Any] | None = None
    erased: tuple[_Erased, ...] = ()


class Backlog:
    """What is still to be written to a label image, in order.

    It is written at once, but where somebody has more to do meanwhile: a window cannot wait for an object on a thousand planes.
    """

    def __init__(self) -> None:
        self._writes: deque[Callable[[], None]] = deque()
        self._patient = False

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._writes

    def add(self, write: Callable[[], None]) -> None:
        """Put something at the end; unless within `waiting`, do it now with all before it, or give it up if that fails."""
        self._writes.append(write)
        if not self._patient:
            try:
                self.work_off()
            except BaseException:
                if self._writes and self._writes[-1] is write:
                    self._writes.pop()
                raise

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within it nothing is written; whoever uses it calls `work_off` in the end."""
        before, self._patient = self._patient, True
        try:
            yield
        finally:
            self._patient = before

    @contextmanager
    def whole(self, put_back: Callable[[], object]) -> Iterator[None]:
        """Within it something is written as a whole: if a full disk or Ctrl+C interrupts that, `put_back` adds what undoes it.

        That is written now, as far as it succeeds, or else before the next write.
        """
        try:
            yield
        except BaseException:
            with self.waiting():
                put_back()
            with suppress(Exception):  # the one that interrupted it is told
                self.work_off()
            raise

    def work_off(self, seconds: float = math.inf) -> bool:
        """Write for some seconds, or to the end; return whether that is reached. What fails is tried again next time."""
        end = time.monotonic() + seconds
        while self._writes and time.monotonic() < end:
            self._writes[0]()
            self._writes.popleft()
        return not self._writes


class Painting:
    """What one object covers of a label image, plane by plane.

    Parameters
    ----------
    labels : integer array
        Written in place, only where something changes.
    """

    def __init__(self, labels: LabelArray) -> None:
        self.labels = labels
        self._patches: dict[Plane, _Patch] = {}

    @property
    def boxes(self) -> dict[Plane, Box]:
        """Where it has been painted so far."""
        return {plane: patch.box for plane, patch in self._patches.items()}

    def copy(self) -> Painting:
        """Return what is known now, for `restore`: the arrays are replaced later on, never written to."""
        same = Painting(self.labels)
        same.restore(self)
        return same

    def restore(self, then: Painting) -> None:
        """Know again what a copy knows; whoever calls sees to it that the labels are as they were then."""
        self._patches = {plane: replace(patch) for plane, patch in then._patches.items()}

    def begin_with(self, mask: Mask, label: int, box: Box, *, new: bool = False) -> None:
        """Begin with what the label has in a box on the plane of a mask: whatever comes of the object replaces that.

        At the start, it was the mask, which labels may not be yet that are loaded; if it is `new`, nothing of it was there.
        """
        patch = self._patch(mask.plane, box, label, None)
        was = cut(mask.mask, mask.box, patch.box, False)
        own = (patch.start == label) | ((patch.start == 0) & was)
        patch.start = np.where(own, np.where(was, label, 0), patch.start).astype(patch.start.dtype)
        patch.under = np.where(patch.under == label, 0, patch.under).astype(patch.under.dtype)
        if new:
            patch.start = patch.under

    def paint(
        self,
        plane: Plane,
        box: Box,
        mask: BoolMask,
        *,
        label: int,
        overwrite: bool,
        prompts: Sequence[Prompt] = (),
        before: Sequence[Prompt] | None = None,
    ) -> None:
        """Paint the object on a plane, in the place of what it covered there.

        Parameters
        ----------
        plane : tuple of int
            Leading indices.
        box : Box
            Pixels of the image.
        mask : (h, w) bool
            The object in `box`; it covers nothing else.
        label : int
            Its number.
        overwrite : bool
            Whether it may take pixels of others.
        prompts : sequence of Prompt
            Those that the mask answers, of this plane: clicks bring back what was erased.
        before : sequence of Prompt, optional
            Those that were answered by what is painted there now; None if it is not there.
        """
        patch = self._patch(plane, box, label, before)
        base = patch.under
        free = np.ones_like(base, bool) if overwrite else base == 0
        for erased in patch.erased:
            free &= ~erased.still(prompts, patch.box)
        painted = np.where(cut(mask, box, patch.box, False) & free, label, base)
        self._write(plane, patch, painted.astype(base.dtype))

    def put_back(self, plane: Plane, label: int, before: Sequence[Prompt] | None) -> None:
        """Give a plane what it had at the start; `before` as for `paint`."""
        patch = self._patch(plane, Box(0, 0, 0, 0), label, before)
        self._write(plane, patch, patch.start)

    def _patch(self, plane: Plane, box: Box, label: int, before: Sequence[Prompt] | None) -> _Patch:
        """Return what lies under the object on this plane, at least where `box` is."""
        patch = self._patches.get(plane)
        if patch is None:
            under = self._read(plane, box)
            patch = _Patch(box, under, under, under)
        else:
            # What somebody else painted since (napari's brush) is theirs.
            now = self._read(plane, patch.box)
            same = now == patch.written
            if patch.tried is not None:
                same |= now == patch.tried
            patch.start, patch.under = (np.where(same, old, now) for old in (patch.start, patch.under))
            patch.erased = tuple(replace(part, mask=part.mask & (same | (now == 0))) for part in patch.erased)
            erased = (patch.written == label) & (now == 0) & ~same
            if before is not None and erased.any():
                patch.erased = (*patch.erased, _Erased(erased, tuple(before)))
            patch.written, patch.tried = now, None
            if not patch.box.holds(box):
                whole = patch.box.union(box)
                now = self._read(plane, whole)
                start, under = (paste(old, patch.box, now, whole) for old in (patch.start, patch.under))
                known = (replace(part, mask=cut(part.mask, patch.box, whole, False)) for part in patch.erased)
                patch = _Patch(whole, start, under, now, erased=tuple(known))
        self._patches[plane] = patch
        return patch

    def _read(self, plane: Plane, box: Box) -> NDArray[Any]:
        pixels = np.array(labels_at(self.labels, (*plane, *box.slices)))
        check_there(self.labels)  # now: had they gone before, these are no labels
        return pixels

    def _write(self, plane: Plane, patch: _Patch, values: NDArray[Any]) -> None:
        different = Box.around(values != patch.written)
        if different.empty:
            return
        target = different.shift(patch.box.top, patch.box.left)
        check_there(self.labels)
        patch.tried = values
        self.labels[(*plane, *target.slices)] = values[different.slices]
        patch.written, patch.tried = values, None


def empty_labels(shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Return a label image in memory without an object.

    Raises
    ------
    MemoryError
        If there is no room for it.
    """
    try:
        return np.zeros(shape, np.int32)
    except MemoryError as error:
        room = math.prod(shape) * np.dtype(np.int32).itemsize / 2**30
        raise MemoryError(
            f"Labels of shape {shape} need {room:.1f} GiB of memory, which is not free: keep them on disk, in a writable Zarr "
            "array of integers of that shape."
        ) from error


def highest_label(labels: LabelImage) -> int:
    """Return the highest number in a label image, 0 if there is none; read plane by plane, as it may be larger than memory."""
    highest = max((int(plane.max(initial=0)) for _, plane in planes_of(labels)), default=0)
    check_there(labels)
    return highest


def masks_of(labels: LabelImage, label: Any, plane: Plane | None, asked: str) -> tuple[Mask, ...]:
    """Return what an object has on a plane, or, if that is None, on all planes where it has anything.

    Raises
    ------
    ValueError
        If it has nothing there; the sentence begins with what was `asked`.
    """
    try:
        # A number read from a narrow label image would overflow when the next one is counted.
        number = int(label)
    except (TypeError, ValueError, OverflowError):
        number = 0
    possible, masks = number == label and number > 0, []
    planes: Iterable[tuple[Plane, NDArray[Any]]] = ()
    if possible:
        planes = planes_of(labels) if plane is None else [(plane, labels_at(labels, plane))]
    for index, pixels in planes:
        here = pixels == number
        box = Box.around(here)
        if not box.empty:
            masks.append(Mask(index, box, here[box.slices]))
    check_there(labels)
    if not masks:
        why = "which has no pixel there" if possible else "and objects have numbers above 0"
        raise ValueError(f"{asked} needs a label that is in the label image; got {label!r}, {why}.")
    return tuple(masks)


def objects_on(labels: NDArray[Any]) -> Iterator[tuple[int, Box]]:
    """Go through the objects of a plane of labels (Y, X): their numbers and boxes."""
    most = int(labels.max())
    numbers: Sequence[int] | NDArray[Any] = range(1, most + 1)
    if most > labels.size:  # find_objects takes time and memory for every number up to the largest
        numbers, places = np.unique(labels, return_inverse=True)
        labels = places.reshape(labels.shape) + 1
    for number, slices in zip(numbers, find_objects(labels), strict=True):
        if slices is not None and number > 0:
            yield int(number), Box.at(*slices)
