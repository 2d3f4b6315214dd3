"""The image that is annotated, and where it lies: napari's world on one side, data pixels on the other. No Qt.

Enters: Image layers with any scale, translation, rotation. Leaves: `Planes`, `Click` in data pixels, and where the layers of
clicks, boxes and labels lie. `Source` alone converts coordinates: a click goes from its own layer through the world into the
image.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from napari_interformer.image import Planes
from napari_interformer.image_files import read_image
from napari_interformer.prompts import Click

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari.layers import Image, Labels, Points, Shapes
    from numpy.typing import NDArray

    from napari_interformer.image import Contrast

GREEN, RED = "#00c853", "#ff1744"

# Of a layer, and its events.
PLACE = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")

ContrastChoice = Literal["auto", "layer", "volume", "plane"]


class Grid(NamedTuple):
    """What a file says of its axes: letters, pixel sizes, None where unknown, their unit, and where the first pixel lies."""

    axes: str
    scale: list[float | None]
    unit: str | None
    translation: list[float] | None


@dataclass(frozen=True)
class Source:
    """The image that is annotated: one layer, or up to three shown as red, green and blue.

    Attributes
    ----------
    layers : tuple of Image
        The first one gives the place in the world (by the attributes that `PLACE` names).
    channel_axis : int or None
        Axis of the layer's data that holds channels.
    channels : tuple of int or None
        Which of them to use.
    contrast : "auto", "layer", "volume" or "plane"
        The layers' own limits, or percentiles of the volume or of each plane; "auto" takes the layers' limits where they
        cut something off, and otherwise percentiles of the volume (see `Planes.shown_between`). RGB is taken as it is.
    """

    layers: tuple[Image, ...]
    channel_axis: int | None = None
    channels: tuple[int, ...] | None = None
    contrast: ContrastChoice = "auto"

    @property
    def image(self) -> Image:
        """The layer that clicks refer to."""
        return self.layers[0]

    @property
    def axis(self) -> int | None:
        """The channel axis; None for RGB, whose colours are no axis to napari."""
        return None if self.image.rgb else self.channel_axis

    @property
    def upright(self) -> tuple[int, int]:
        """Which of the layer's axes are Y and X, counted from the last, which is -1."""
        count = int(self.image.ndim)  # without colours
        y, x = [i - count for i in range(count) if i != self.axis][-2:]
        return y, x

    def planes(self) -> Planes:
        """Look at the layers as planes; a worker thread may do this, since percentiles read a sample.

        Raises
        ------
        ValueError
            If the layers do not fit together, or their axes make no sense.
        """
        arrays = [finest(layer) for layer in self.layers]
        if len(arrays) > 1:
            shapes = {tuple(array.shape) for array in arrays}
            if len(shapes) > 1 or any(layer.rgb for layer in self.layers) or self.channel_axis is not None:
                raise ValueError(
                    "Several image layers can be channels if they are grey and have the same shape; got "
                    f"{', '.join(f'{layer.name} {tuple(layer.data.shape)}' for layer in self.layers)}: choose others."
                )
            for layer in self.layers[1:]:
                if not _lie_alike(layer, self.image) and not is_unplaced(layer):
                    raise ValueError(
                        f"Several image layers can be channels if they lie over each other; {layer.name} lies elsewhere than "
                        f"{self.image.name}, and its pixels would be taken without that: resample it first, or choose another."
                    )
        data: Any = _Stack(arrays) if len(arrays) > 1 else arrays[0]
        rgb = bool(self.image.rgb)
        limits = [] if rgb else [_limits(layer) for layer in self.layers]
        percentiles: Contrast = self.contrast if self.contrast in ("volume", "plane") else "auto"
        planes = Planes.of(
            data,
            channel_axis=0 if len(arrays) > 1 else self.axis,
            channels=None if self.axis is None else self.channels,
            contrast=limits if limits and self.contrast == "layer" else percentiles,
            rgb=rgb,
        )
        return planes.shown_between(limits) if limits and self.contrast == "auto" else planes

    def told_by_file(self) -> Grid | None:
        """Return what the image's file says of its axes without channels; None if there is no file of that shape.

        napari's own reader does not pass it on. A worker thread may do this.
        """
        path, shape = self.image.source.path, tuple(finest(self.image).shape)
        try:
            file = read_image(path) if path else None
        except (OSError, ValueError):
            return None
        if file is None or tuple(file.data.shape) != shape:
            return None
        scale = file.scale or (None,) * len(shape)
        left_out = len(shape) - 1 if self.image.rgb else self.axis
        kept = [i for i in range(len(shape)) if i != left_out]
        letters = file.axes or "?" * len(shape)
        place = [file.translation[i] for i in kept] if file.translation else None
        return Grid("".join(letters[i] for i in kept), [scale[i] for i in kept], file.unit, place)

    def placement(self) -> dict[str, Any]:
        """Return where a layer without channels must lie to cover the image: scale, translate, rotate and so on.

        A channel axis in front is left out. One further inside stays, since napari aligns axes from the last, as a
        single element as long as all channels, so that what lies there is seen on each of them.
        """
        image = self.image
        scale, translate = np.array(image.scale), np.array(image.translate)
        rotate, shear = np.array(image.rotate), np.array(image.shear)
        affine = np.array(image.affine.affine_matrix)
        first = 0
        if self.axis == 0:
            first = 1
            # napari keeps shear as a matrix, or as the upper triangle of one, row by row
            shear = shear[1:, 1:] if shear.ndim == 2 else shear[len(scale) - 1 :]
        elif self.axis is not None:
            count = finest(image).shape[self.axis]
            translate[self.axis] += (count - 1) / 2 * scale[self.axis]
            scale[self.axis] *= count
        return {
            "scale": scale[first:],
            "translate": translate[first:],
            "rotate": rotate[first:, first:],
            "shear": shear,
            "affine": affine[first:, first:],
            "units": image.units[first:],
            "axis_labels": image.axis_labels[first:],
        }

    @property
    def ndim(self) -> int:
        """How many axes napari gives the layers that are made for the image."""
        return int(self.image.ndim) - (self.axis == 0)

    def whole(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of such a layer's data: `shape` (leading, Y, X), with 1 for a channel axis inside."""
        axis = self.axis
        return (*shape[:axis], 1, *shape[axis:]) if axis else tuple(shape)

    def position(self, world: Sequence[float]) -> list[float]:
        """Return the position in the image of a place in the world, in pixels, without the channel axis."""
        position = list(self.image.world_to_data(world))
        if self.axis is not None:
            del position[self.axis]
        return position

    def click(self, world: Sequence[float], positive: bool = True) -> Click:
        """Return the click at a place in the world: the pixel of the image that is shown there."""
        return Click.at(self.position(world), positive)

    def world(self, position: Sequence[float]) -> tuple[float, ...]:
        """Return the place in the world of a position in the image, in the axes that `placement` keeps."""
        position = list(position)
        if self.axis is not None:
            position.insert(self.axis, 0)
        return tuple(self.image.data_to_world(position))[1 if self.axis == 0 else 0 :]

    def places(self, plane: Sequence[int]) -> dict[int, float]:
        """Return where a plane lies in the world: {axis, counted from the last: place}, for the axes that lead to it."""
        position = [*plane, 0, 0]
        if self.axis is not None:
            position.insert(self.axis, 0)
        world = self.image.data_to_world(position)
        axes = [axis for axis in range(len(position)) if axis != self.axis][:-2]
        return {axis - len(position): float(world[axis]) for axis in axes}


class _Stack:
    """Arrays of the same shape as channels of one lazy array, (C, ...): only what is asked for is read."""

    def __init__(self, arrays: Sequence[Any]) -> None:
        self.arrays = arrays
        self.shape = (len(arrays), *arrays[0].shape)
        self.dtype = np.result_type(*(array.dtype for array in arrays))

    @property
    def chunks(self) -> tuple[Any, ...] | None:
        """Lengths of the first array's chunks per axis, so that large ones are read once; None where it has none."""
        chunks = getattr(self.arrays[0], "chunks", None)
        return None if chunks is None else (1, *chunks)

    def __getitem__(self, key: tuple[Any, ...]) -> NDArray[Any]:
        channel, *rest = key
        return np.asarray(self.arrays[channel][tuple(rest)])


def place(layer: Labels | Points | Shapes, source: Source) -> None:
    """Move a layer that was made for an image to where the image lies now."""
    for name, value in source.placement().items():
        now = getattr(layer, name)
        now = now.affine_matrix if name == "affine" else now
        if not np.array_equal(now, value):  # napari sets everything anew, whatever it is given
            setattr(layer, name, value)


def steps(layer: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where a layer's first pixel lies in the world, and for each axis how far away, and where, the next one does."""
    count = layer.ndim
    first, *beside = (np.array(layer.data_to_world(pixel)) for pixel in (np.zeros(count), *np.eye(count)))
    return first, np.array(beside) - first


def lengths(layer: Any) -> NDArray[np.float64]:
    """Return how long a pixel of a layer is in the world along each of its axes; its `scale` says nothing of its `affine`."""
    return np.asarray(np.linalg.norm(steps(layer)[1], axis=1))


def is_unplaced(layer: Any) -> bool:
    """Whether nobody has given a layer a place of its own: its pixels are its places in the world."""
    return all(np.allclose(layer.data_to_world(corner), corner) for corner in corners(layer))


def _lie_alike(one: Image, other: Image) -> bool:
    """Whether layers of the same shape lie at the same place, but for rounding."""
    return tuple(one.units) == tuple(other.units) and all(
        np.allclose(one.data_to_world(corner), other.data_to_world(corner)) for corner in corners(one)
    )


def corners(layer: Any) -> Iterator[tuple[int, ...]]:
    """Yield the outermost pixels of a layer's data, without colours."""
    return product(*((0, n - 1) for n in finest(layer).shape[: layer.ndim]))


def finest(layer: Image | Labels) -> Any:
    """Return the array of a layer, level 0 of a multiscale one."""
    return layer.data[0] if layer.multiscale else layer.data


def _limits(layer: Image) -> tuple[float, float]:
    low, high = layer.contrast_limits
    return float(low), float(high)
