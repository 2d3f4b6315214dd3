"""A Labels layer as the label image of a session. No Qt.

Enters: a layer that is made for the image, or that somebody brought, such as a file. Leaves: an array for the session, which
reads boxes and writes only what changed. The functions say which layers will do, and see that they lie over the image.
"""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels

from napari_interformer.files import planes_of, same_file
from napari_interformer.geometry import Box
from napari_interformer.image import plane_at, read_only
from napari_interformer.label_files import write_labels
from napari_interformer.layers import PLACE, Grid, corners, finest, is_unplaced, lengths, place, steps
from napari_interformer.painting import empty_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_interformer.geometry import BoolMask
    from napari_interformer.image import Plane
    from napari_interformer.layers import Source

LABELS = "InterFormer labels"
# In the metadata of a Labels layer: the unique_id of the image, and its own. A layer that somebody duplicated has another one.
_MADE_FOR = "napari-interformer image"
# The same of each image whose objects were written there, though somebody placed the layer.
_USED_FOR = "napari-interformer images"
_TEXTURE = 16384  # pixels; the longest side that graphics cards take
_COPY = 4 * 10**9  # bytes; labels that can be copied into memory
_AT_ONCE = 2**28  # bytes of them that are copied at a time
_MANY = 2**19  # pixels; napari takes 0.1 s and keeps 16 MB to write so many one by one
_ROOM = 1000  # labels; more objects than a person adds to a layer


def new_labels(source: Source, shape: Sequence[int]) -> Labels:
    """Return an empty Labels layer (int32) that covers the image.

    A plane larger than a texture would be shown coarser than it is, and drawn whole at every change. It gets coarser levels
    that are views of the finest, so that napari shows the part on screen; its brush does not paint on such a layer.

    Raises
    ------
    MemoryError
        If there is no room for it.
    """
    layer = _seen(empty_labels(source.whole(shape)), name=LABELS, **source.placement())
    _mark(layer, source.image.unique_id)
    return layer


def _mark(layer: Labels, image: Any) -> None:
    layer.metadata[_MADE_FOR] = image, layer.unique_id


def _seen(data: NDArray[Any], **kwargs: Any) -> Labels:
    """Return a layer of some labels, in levels where a plane is large."""
    if max(data.shape[-2:]) > _TEXTURE:
        levels = [data[..., :: 4**n, :: 4**n] for n in range(5)]
        return Labels(levels, multiscale=True, **kwargs)
    return Labels(data, **kwargs)


def writable(layer: Labels) -> bool:
    """Whether labels can be written to a layer, and are seen then: neither lazy nor read-only, and of one resolution."""
    data = finest(layer)
    # Into 16-bit numbers of the other byte order napari writes those that it draws, which are in this machine's.
    if isinstance(data, np.ndarray) and not data.dtype.isnative:
        return False
    # Coarser levels that are views of the finest (see `new_labels`) change with it; others would not.
    views = not layer.multiscale or all(
        isinstance(level, np.ndarray) and np.may_share_memory(level, data) for level in layer.data
    )
    return views and not hasattr(data, "dask") and not read_only(data)


def copied(layer: Labels) -> Labels:
    """Return an empty layer for the labels of another one, which lies where that does and can be written to.

    `LayerLabels.copy` brings them over.

    Raises
    ------
    ValueError
        If they are too many to be kept in memory.
    """
    data = finest(layer)
    size = math.prod(data.shape) * np.dtype(data.dtype).itemsize
    if size > _COPY:
        raise ValueError(
            f"Labels are written to a layer in memory or in zarr; {layer.name} is neither, or read-only, and at "
            f"{size / 1e9:.1f} GB it is too large to be copied: open it as a writable zarr, or choose a new layer."
        )
    lies = {name: getattr(layer, name) for name in PLACE}
    lies["affine"] = layer.affine.affine_matrix
    dtype = np.dtype(data.dtype).newbyteorder("=")
    copy = _seen(
        np.zeros(data.shape, dtype), name=f"{layer.name} copy", metadata=dict(layer.metadata), **lies
    )
    if _MADE_FOR in layer.metadata:
        _mark(copy, layer.metadata[_MADE_FOR][0])
    return copy


def made_for(layer: Labels, image: Image) -> bool:
    """Whether `new_labels` made a layer for an image, or `lay_over` laid it there."""
    return bool(layer.metadata.get(_MADE_FOR) == (image.unique_id, layer.unique_id))


def use_for(layer: Labels, image: Image) -> None:
    """Note that an image's objects are written to a layer."""
    used = layer.metadata.get(_USED_FOR, {})
    layer.metadata[_USED_FOR] = {**used, image.unique_id: layer.unique_id}


def belongs(layer: Labels, image: Image) -> bool:
    """Whether a layer was made or used for an image, or laid over it."""
    used = layer.metadata.get(_USED_FOR, {}).get(image.unique_id)
    return made_for(layer, image) or bool(used == layer.unique_id)


def labels_of(image: Image, layers: Iterable[Any], shape: Sequence[int] | None = None) -> Labels | None:
    """Return the topmost of some layers that were made or used for an image, or laid over it, of a shape if that is given."""
    made = [
        one
        for one in layers
        if isinstance(one, Labels)
        and belongs(one, image)
        and (shape is None or tuple(finest(one).shape) == tuple(shape))
    ]
    return made[-1] if made else None


def lay_over(layer: Labels, source: Source) -> bool:
    """See that a Labels layer of the image's shape is seen where the image is; tell whether it had to be laid there.

    A label file that is opened knows nothing of where the image lies. Nobody placed it, so it is placed, and follows the
    image from now on.

    Raises
    ------
    ValueError
        If it has other axes than the image to napari, or somebody placed it elsewhere.
    """
    image, shape = source.image, finest(layer).shape
    if made_for(layer, image):
        return False
    if len(shape) != source.ndim:
        raise ValueError(
            f"Labels of {image.name} need an axis of length 1 in place of channel axis {source.axis}, so that napari aligns "
            f"the others; {layer.name} has shape {tuple(shape)}: give it that axis with numpy.expand_dims, or choose a new "
            "layer."
        )
    unplaced = is_unplaced(layer)
    lies = lies_over(layer, source)
    if not lies and not unplaced:
        raise ValueError(
            f"Labels must lie where the image is; {layer.name} lies elsewhere than {image.name}: copy the image's scale and "
            "transforms (right-click on it) and apply them to the labels, or choose a new layer."
        )
    if unplaced:
        _mark(layer, image.unique_id)
    if not lies:
        place(layer, source)
    return not lies


def lies_over(layer: Labels, source: Source) -> bool:
    """Whether a Labels layer, of as many axes as napari gives those that are made for the image, is seen where the image is."""
    shape = finest(layer).shape
    kept = [i for i in range(len(shape)) if i == 0 or i != source.axis]
    pairs = zip(source.placement()["units"], layer.units, strict=True)
    factors = [_factor(unit, other) for unit, other in pairs]
    lies = True
    for corner in corners(layer):
        pixel = np.array(corner)[kept]
        found = layer.world_to_data(np.multiply(source.world(pixel.tolist()), factors))
        # Half a pixel, and more at the far end of a large image, since files round pixel sizes.
        lies &= bool(np.all(np.abs(np.array(found)[kept] - pixel) <= 0.5 + np.array(shape)[kept] / 1000))
    return lies


def _factor(unit: Any, other: Any) -> float:
    """Return how many of another unit one makes; 1 where they measure different things, such as pixels and nanometers."""
    return float((1 * unit).to(other).magnitude) if unit.is_compatible_with(other) else 1.0


class LayerLabels:
    """A Labels layer as the label array of a session: reads boxes, writes only the pixels that change.

    Writing goes through the layer, so that it shows the change at once and its own history knows of it.

    Parameters
    ----------
    layer : Labels
        New or somebody's work of years; nothing is erased.
    axis : int or None
        An axis of length 1 to leave out: where the image has its channels.
    shown : callable, optional
        Tells which plane is on screen; None if that may be all of them.
    """

    def __init__(
        self, layer: Labels, axis: int | None = None, shown: Callable[[], Plane | None] = lambda: None
    ) -> None:
        assert writable(layer), layer.name  # or a copy is made before
        data = finest(layer)
        self.layer, self.array, self._shown = layer, data, shown
        self.axis = axis if axis and len(data.shape) > axis and data.shape[axis] == 1 else None
        self.shape = tuple(int(n) for i, n in enumerate(data.shape) if i != self.axis)
        self.dtype: np.dtype[Any] = np.dtype(data.dtype)
        self.writing = False  # so that listeners can tell our edits from a person's
        self._filled = np.zeros(self.shape[:-2], np.int64)  # pixels of each plane that have a label
        self._written: list[Any] = []  # steps of napari's own undo since `one_step`

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read plane indices and slices, as of an array."""
        # Of the array that it was made for, though somebody may just have given the layer another one.
        return np.asarray(self.array[self._in_layer(key)])

    def __setitem__(self, key: Any, values: Any) -> None:
        """Write a box: indices of planes, or slices of them, then two slices; all with bounds."""
        box = tuple(part if isinstance(part, slice) else slice(part, part + 1) for part in key)
        before = self[box]
        values = np.broadcast_to(values, before.shape)
        different = before != values
        if not different.any():
            return
        change = _filled(values) - _filled(before)  # now: `before` is a view
        shown, leading = self._shown(), box[:-2]
        # What nobody sees need not be drawn: it takes napari longer than writing.
        drawn = shown is None or all(
            part.start <= i < part.stop for part, i in zip(leading, shown, strict=True)
        )
        self.writing = True
        try:
            self._put(box, values, different, drawn=drawn)
        finally:
            self.writing = False
        self._filled[leading] += change

    def _in_layer(self, key: Any) -> tuple[Any, ...]:
        """Return a key into this array as one into the layer's data."""
        parts = list(key) if isinstance(key, tuple) else [key]
        if parts == [...]:
            parts = []
        parts += [slice(None)] * (len(self.shape) - len(parts))
        if self.axis is not None:
            parts.insert(self.axis, 0)
        return tuple(parts)

    def without_channels(self, key: Sequence[Any]) -> tuple[Any, ...]:
        """Return what a key into the layer's data is in this array."""
        return tuple(part for i, part in enumerate(key) if i != self.axis)

    def _put(self, box: Any, values: NDArray[Any], different: BoolMask, *, drawn: bool) -> None:
        """Write to those pixels of a box that are different, or, where that is better, to all of it."""
        layer = self.layer
        # Hidden, it has no slice where the slider is now, and napari would fail half-way.
        if layer.multiscale or not layer.visible or np.count_nonzero(different) > _MANY:
            self._put_past_napari(self._in_layer(box), values)
            if drawn:
                layer.refresh(thumbnail=False, highlight=False, extent=False)
            return
        indices = [i + part.start for i, part in zip(np.nonzero(different), box, strict=True)]
        if self.axis is not None:
            indices.insert(self.axis, np.zeros_like(indices[0]))
        # A stroke that is just being drawn must not take what is written here for its own.
        drawing, layer._block_history = getattr(layer, "_block_history", False), False
        before = self._last_step
        try:
            layer.data_setitem(tuple(indices), values[different], refresh=drawn)
        finally:
            layer._block_history = drawing
        if self._last_step is not before:
            self._written.append(self._last_step)

    def _put_past_napari(self, key: Any, values: NDArray[Any]) -> None:
        """Write to the layer's data, and have napari forget what it could undo: what came before, in the place of this."""
        finest(self.layer)[key] = values
        self._written = []
        if self.layer.editable:  # switched off and on, it forgets
            mode = self.layer.mode
            self.layer.editable = False
            self.layer.editable = True
            self.layer.mode = mode

    # -------------------------------------------------------------------------------- napari's own undo

    @property
    def can_undo(self) -> bool:
        """Whether napari's own undo has anything to take back."""
        return self._last_step is not None

    def undo(self) -> Stroke:
        """Take back napari's last step; return what it had painted."""
        step = self._last_step
        self.layer.undo()
        return Stroke(self, step or ())

    def redo(self) -> Stroke:
        """Make the step again that was taken back last; return what it painted."""
        before = self._last_step
        self.layer.redo()
        return Stroke(self, () if self._last_step is before else self._last_step)

    def one_step(self) -> None:
        """Let napari's own undo take back at once all that was written since the last call: an object, and not its last click.

        Only as far as nobody else wrote in between, but for strokes that were taken back.
        """
        own, self._written = self._written, []
        self._merge(own)

    def repaint(self, pixels: Iterable[tuple[Any, BoolMask, Any]], step: Any) -> Any:
        """Write to the pixels of a stroke, as it is taken back or made again: to those of a mask in a box, these values.

        `step` is what the stroke, or the writing before, is in napari's own undo; it counts as ours from now on. What is
        written becomes one step, since napari keeps a hundred and a stroke may have as many edits. Returns that step.
        """
        known, history = len(self._written), self._history
        earlier = list(history)
        history.clear()  # or a hundred edits would push these out
        try:
            for box, mask, values in pixels:
                painted = self[box].copy()
                painted[mask] = values
                self[box] = painted
        finally:
            new, self._written = self._written[known:], self._written[:known]
            merged = self._merge(new)
            if history is self._history:  # napari has forgotten nothing meanwhile
                latest = list(history)
                history.clear()
                history.extend([*earlier, *latest])
        history = self._history
        self._written += [one for one in (step, merged) if any(one is known for known in history)]
        return merged

    def _merge(self, own: list[Any]) -> list[Any] | None:
        """Make one of those newest steps of napari's own undo that are our `own`; return it if there is one."""
        history = self._history
        newest: list[Any] = []
        while history and any(history[-1] is step for step in own):
            newest.insert(0, history.pop())
        if len(newest) == 1:
            history.append(newest[0])  # itself, by which a stroke knows it
            return newest[0]  # type: ignore[no-any-return]
        # napari keeps a hundred steps: of more, such as many planes, only we know the first ones.
        edits = [edit for step in (newest if history else own) for edit in step]
        if not edits:
            return None
        edit = _together(edits, self.array.shape)
        if edit is None:
            return None
        history.append([edit])
        return history[-1]  # type: ignore[no-any-return]

    @property
    def _last_step(self) -> Any:
        """What napari's own undo would take back now: a list of edits (see `Stroke`); None if there is nothing."""
        return self._history[-1] if self._history else None

    @property
    def _history(self) -> deque[Any]:
        """What napari's own undo has, the newest last. There is no public way to it: empty should napari keep it elsewhere."""
        return getattr(self.layer, "_undo_history", deque())

    # --------------------------------------------------------------------------- which labels there are

    @property
    def annotated(self) -> NDArray[np.bool_]:
        """Which planes hold labels, as far as `survey` and what was written since tell: bool, the leading axes' shape."""
        return self._filled > 0

    def survey(self, planes: Iterable[tuple[int, ...]] | None = None) -> tuple[int, int]:
        """Count which pixels of some planes, or of all, have a label, and return the lowest and highest label there, or 0.

        It reads all of them, so let a worker thread do it.
        """
        lowest = highest = 0
        parts = planes_of(self) if planes is None else ((plane, self[plane]) for plane in planes)
        for plane, labels in parts:
            self._filled[plane] = np.count_nonzero(labels)
            lowest = min(lowest, int(labels.min(initial=0)))
            highest = max(highest, int(labels.max(initial=0)))
        return lowest, highest

    def those_of(self, numbers: set[int]) -> set[int]:
        """Return which of these numbers any pixel has; all of the labels are read."""
        planes = planes_of(self) if numbers else ()
        return {int(n) for _, plane in planes for n in np.unique(plane)} & numbers

    def room(self, highest: int) -> int | None:
        """Return how many more numbers fit than the highest there is, if that is fewer than people add."""
        left = int(np.iinfo(self.dtype).max) - highest
        return left if left < _ROOM else None

    def wider(self, highest: int) -> NDArray[np.int32] | None:
        """Return the labels as int32 if they could not hold many more than the highest there is: a file has the smallest type.

        None if they can, if that would be too much for memory, and on disk, since what is written there has to stay there. A
        worker thread may ask, then `take`.
        """
        small = self.dtype.itemsize < 4 and self.room(highest) is not None
        held = type(self.array) is np.ndarray and not self.layer.multiscale
        fits = 4 * math.prod(self.array.shape) <= _COPY
        return self.array.astype(np.int32) if small and held and fits else None

    def take(self, array: NDArray[np.int32]) -> None:
        """Hold these labels from now on, and show them."""
        layer = self.layer
        self.array, self.dtype = array, array.dtype
        # A hidden layer would go on believing in the type that it last drew, and write other numbers than it is given.
        visible, layer.visible = layer.visible, True
        layer.data = array
        layer.visible = visible

    def copy(self, source: Labels) -> None:
        """Bring over the labels of another layer, where nobody has painted yet; a worker thread may do it, then `refresh`."""
        array, target = finest(source), self.array
        rows = max(1, _AT_ONCE // target[:1].nbytes)  # so that a lazy array's chunks are read about once
        for first in range(0, len(target), rows):
            part = target[first : first + rows]
            np.copyto(part, np.asarray(array[first : first + rows]), where=part == 0)

    # ------------------------------------------------------------------------------------------- a file

    def writer(self, path: Path, source: Source, layers: Iterable[Any]) -> Callable[[], Path]:
        """Return what writes these labels to a file, with the pixel size of the layer, or of the image's file; for a worker.

        Raises
        ------
        FileExistsError
            If that is the file of the image itself, or of another one among `layers`.
        """
        for layer in {*source.layers, *(one for one in layers if isinstance(one, Image))}:
            if layer.source.path and path.exists() and same_file(path, Path(layer.source.path)):
                which = (
                    "the image itself" if layer in source.layers else f"the image of the layer {layer.name}"
                )
                raise FileExistsError(
                    f"{path.name} is {which}, which would be lost: give the labels another name."
                )
        own = self.grid  # now: a layer is the main thread's

        def write() -> Path:
            return write_labels(path, self, **_completed(own, source.told_by_file())._asdict())

        return write

    @property
    def grid(self) -> Grid:
        """What somebody said of the layer's axes."""
        # Whatever is measured in seconds is time. An axis is called -3 where nobody named it.
        names = ["T" if time else name for time, name in zip(self._timed, self._names, strict=True)]
        axes = "".join(name if len(name) == 1 else "?" for name in names[:-2])
        return Grid(f"{axes}YX", *self.pixel_size, self.translation)

    @property
    def pixel_size(self) -> tuple[list[float | None], str | None]:
        """Pixel size per axis, and its unit, which is that of X; None for pixels.

        A file has one unit for all lengths, while napari has one for each axis. Time is in seconds; None where an axis is
        called t, and nobody has said in which unit it is.
        """
        unit = self.layer.units[-1]
        scale: list[float | None] = []
        sizes = self.without_channels(lengths(self.layer).tolist())
        for size, own, timed, name in zip(sizes, self._units, self._timed, self._names, strict=True):
            length = size * _factor(own, "second" if timed else unit)
            scale.append(None if name.lower() == "t" and not timed else length)
        return scale, None if str(unit) == "pixel" else str(unit)

    @property
    def translation(self) -> list[float] | None:
        """Where the first pixel lies per axis, in the units of `pixel_size`; None at the origin, or for a turned layer."""
        unit, (first, beside) = self.layer.units[-1], steps(self.layer)
        own = np.diag(beside)
        if not first.any() or (own <= 0).any() or not np.allclose(beside, np.diag(own)):
            return None
        others = ["second" if timed else unit for timed in self._timed]
        kept = zip(self.without_channels(first.tolist()), self._units, others, strict=True)
        return [place * _factor(own, other) for place, own, other in kept]

    @property
    def _names(self) -> tuple[str, ...]:
        """What napari calls the axes."""
        return tuple(map(str, self.without_channels(self.layer.axis_labels)))

    @property
    def _units(self) -> tuple[Any, ...]:
        """The unit of each axis."""
        return self.without_channels(self.layer.units)

    @property
    def _timed(self) -> list[bool]:
        """Which axes are measured in a unit of time."""
        return [bool(own.is_compatible_with("second")) for own in self._units]


def _completed(own: Grid, told: Grid | None) -> Grid:
    """Return what a file says of labels: what somebody said of their layer comes first, then what the image's file tells."""
    if told is None:
        return own
    nameless = not own.axes[:-2].strip("?")
    axes = told.axes[: len(own.axes) - 2] + "YX" if nameless else own.axes
    if not own.unit and all(size in (1, None) for size in own.scale):
        place = told.translation
        if own.translation is not None:  # nobody gave the layer a unit, so it lies so many pixels away
            place = [n * (size or 1) for n, size in zip(own.translation, told.scale, strict=True)]
        return Grid(axes, told.scale, told.unit, place)
    sizes = zip(axes.upper(), own.scale, strict=True)
    # What nobody called time has a length, which is none.
    return own._replace(axes=axes, scale=[None if nameless and axis == "T" else n for axis, n in sizes])


def _filled(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Return how many pixels of each plane have a label."""
    planes = np.ndindex(labels.shape[:-2])
    return np.reshape([np.count_nonzero(labels[plane]) for plane in planes], labels.shape[:-2])


class Stroke:
    """What was painted on a Labels layer at one go, by brush, bucket or polygon.

    Parameters
    ----------
    labels : LayerLabels
        The layer.
    edits : list
        What napari tells of it (`Labels.events.paint`): pixels, what they were and what they became. The pixels are indices
        into the layer's data or, from napari 0.9 on, slices and a mask of what was painted there, None for all of it.
    """

    def __init__(self, labels: LayerLabels, edits: Sequence[Any]) -> None:
        # Napari's own undo has the very list.
        self._labels, self._edits, self._step = labels, tuple(edits), edits

    @property
    def planes(self) -> set[Plane]:
        """The planes of a stack on which it was painted, which need not be the one on screen: a brush may reach through it."""
        return {plane for plane, _, _ in self.parts() if plane}

    def parts(self) -> Iterator[tuple[Plane, Box, BoolMask]]:
        """Go through the pixels that were painted: a plane, a box, and a mask of that box's size."""
        for (*leading, rows, columns), mask, _, _ in self._boxes(self._edits):
            for index in np.ndindex(mask.shape[:-2]):
                if mask[index].any():
                    plane = tuple(part.start + i for part, i in zip(leading, index, strict=True))
                    yield plane, Box.at(rows, columns), mask[index]

    def _boxes(self, edits: Iterable[Any]) -> Iterator[tuple[Any, BoolMask, Any, Any]]:
        """Go through edits as slices of the labels, masks of that size, and what their pixels were and became, in C order."""
        for edit in edits:
            if _boxed(edit):
                slices, mask, before, after = edit
                mask = np.ones(before.shape, bool) if mask is None else mask
                box = self._labels.without_channels(slices)
                yield box, mask.reshape([part.stop - part.start for part in box]), np.ravel(before), after
            else:
                yield from self._of_pixels(*edit)

    def _of_pixels(
        self, indices: Any, *values: Any
    ) -> Iterator[tuple[Any, BoolMask, NDArray[Any], NDArray[Any]]]:
        shape = self._labels.shape
        places = np.ravel_multi_index(self._labels.without_channels(indices), shape)
        before, after = (np.broadcast_to(np.ravel(one), places.shape) for one in values)
        places, first = np.unique(places, return_index=True)
        numbers = places // math.prod(shape[-2:])
        for number in np.unique(numbers):
            here = numbers == number
            *_, y, x = np.unravel_index(places[here], shape)
            plane = [slice(i, i + 1) for i in plane_at(number, shape[:-2])]
            box = Box(int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1)
            mask = np.zeros((*(1 for _ in plane), *box.shape), bool)
            mask[..., y - box.top, x - box.left] = True
            yield (*plane, *box.slices), mask, before[first[here]], after[first[here]]

    @property
    def highest(self) -> int:
        """The highest label that was painted, 0 if it was erased."""
        return max((int(np.max(edit[-1])) for edit in self._edits), default=0)

    def take_back(self) -> None:
        """Give its pixels what they had before."""
        pixels = ((box, mask, before) for box, mask, before, _ in self._boxes(reversed(self._edits)))
        self._step = self._labels.repaint(pixels, self._step)

    def make(self) -> None:
        """Paint it again."""
        pixels = ((box, mask, after) for box, mask, _, after in self._boxes(self._edits))
        self._step = self._labels.repaint(pixels, self._step)


def _boxed(edit: tuple[Any, ...]) -> bool:
    """Whether an edit tells its pixels by slices and a mask."""
    return len(edit) == 4


def _indices(edit: tuple[Any, ...]) -> tuple[NDArray[np.intp], ...]:
    """Return the indices of an edit's pixels."""
    if not _boxed(edit):
        indices: tuple[NDArray[np.intp], ...] = edit[0]
        return indices
    box, mask, before, _ = edit
    places = zip(np.nonzero(np.ones(before.shape, bool) if mask is None else mask), box, strict=True)
    return tuple(index + part.start for index, part in places)


def _together(edits: Sequence[Any], shape: tuple[int, ...]) -> tuple[Any, ...] | None:
    """Return edits, made one after the other, as one: what pixels were at first, and became in the end; None if they stay."""
    parts = [(np.ravel_multi_index(_indices(edit), shape), edit[-2], edit[-1]) for edit in edits]
    places, before, after = (
        np.concatenate([np.broadcast_to(np.ravel(part[i]), part[0].shape) for part in parts])
        for i in range(3)
    )
    pixels, first = np.unique(places, return_index=True)
    _, last = np.unique(places[::-1], return_index=True)
    before, after = before[first], after[::-1][last]
    changed = before != after
    if not changed.any():
        return None
    return np.unravel_index(pixels[changed], shape), before[changed], after[changed]
