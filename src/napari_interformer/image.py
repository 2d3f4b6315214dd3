"""Any image as a sequence of normalised planes.

Enters: NumPy, dask, zarr or xarray arrays, multiscale lists, TIFF, PNG and zarr paths. Leaves: one plane at a time, (Y, X, 3)
float32 in 0..255, read lazily. Everything before (Y, X) is a *leading* axis: none for an image, (Z,) for a
stack, (T, Z) for a series of stacks.
"""

from __future__ import annotations

import hashlib
import logging
import math
import operator
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from napari_interformer.files import at_home, brief, gone
from napari_interformer.geometry import Box
from napari_interformer.image_files import ImageFile, axes_of, read_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

log = logging.getLogger(__name__)

Plane = tuple[int, ...]
ImageLike: TypeAlias = "ArrayLike | str | os.PathLike[str] | Planes | Sequence[Any]"  # what `Planes.of` takes
Limits = tuple[tuple[float, float], ...]
ContrastRule = Literal["auto", "volume", "plane"]
Contrast = ContrastRule | tuple[float, float] | Sequence[tuple[float, float]]

LOW, HIGH = 0.5, 99.8  # percentiles that become 0 and 255
# What is looked at for contrast and fingerprint, whatever the image's size.
_SAMPLED_PLANES = 16
_SAMPLED_PIXELS = 4_000_000  # kept of all planes
_READ_PIXELS = 16_000_000  # read of one plane; of larger ones, bands of rows
_BANDS = 8
# A chunk that is at least so many times as large as the box asked for is read whole, and kept for the next boxes. Up to so
# many bytes of chunks are kept if they span several planes, a quarter of that if not.
_COARSE, _KEPT_BYTES = 4, 2**30
_MANY = "PRHTZYX"  # what more than four axes are called that have no names
_UNNAMED = "?QI"  # Q and I are tifffile's; a stack of those is a Z stack to everybody


class _Chunks:
    """The chunks that were read last, of two planes (or of all planes that share chunks with these), for all threads.

    Of two, since a person may click on one plane while another is encoded.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reading: dict[Any, threading.Lock] = {}
        self._planes: deque[tuple[int, ...]] = deque(maxlen=2)
        self._kept: OrderedDict[tuple[tuple[int, ...], Box], NDArray[Any]] = OrderedDict()

    def of(
        self, planes: tuple[slice, ...], box: Box, room: int, read: Callable[[], NDArray[Any]]
    ) -> NDArray[Any]:
        """Return a chunk's pixels, read if they are not kept; the ones used last are, up to `room` bytes beside this one.

        Whoever needs one that is kept does not wait for another one that is read, nor are two read by turns.
        """
        plane = tuple(part.start for part in planes)
        key = plane, box
        with self._lock:
            if plane not in self._planes:
                self._planes.append(plane)
                for other in [other for other in self._kept if other[0] not in self._planes]:
                    del self._kept[other]  # before the next ones need room
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            mine = self._reading.setdefault(key, threading.Lock())
        with mine:
            with self._lock:
                if key in self._kept:  # somebody else has read it meanwhile
                    return self._kept[key]
                while sum(pixels.nbytes for pixels in self._kept.values()) > room:
                    self._kept.popitem(last=False)
            try:
                pixels = read()
                with self._lock:
                    self._kept[key] = pixels
            finally:
                with self._lock:
                    self._reading.pop(key, None)
            return pixels

    def clear(self) -> None:
        """Keep none any more."""
        with self._lock:
            self._planes.clear()
            self._kept.clear()

    def __reduce__(self) -> tuple[type[_Chunks], tuple[()]]:
        return _Chunks, ()  # in another process, or a copy, nothing was read yet


@dataclass(frozen=True, eq=False, kw_only=True)
class Planes:
    """An image or stack, plane by plane. Make one with `Planes.of`.

    Attributes
    ----------
    data : array
        As given, the finest level; only ever indexed, never read as a whole.
    leading : tuple of int
        Lengths of the axes before (Y, X), without the channel axis.
    size : (int, int)
        Y and X in pixels.
    channel_axis : int or None
        Of `data`, not negative.
    channels : tuple of int
        Which channels become red, green and blue; one channel becomes grey.
    contrast : tuple of (float, float), or "plane"
        What becomes 0 and 255, for each of `channels`; "plane" takes percentiles of each plane.
    axes : str
        One letter per axis of `shape`.
    scale : tuple of float or None, or None
        Pixel size per axis of `shape`, in `unit`, and in seconds for T; None for axes whose size the image does not give.
    unit : str or None
        Such as "micrometer".
    translation : tuple of float, or None
        Where the first pixel lies, per axis of `shape`, in `unit`.
    colour : bool
        Whether the channels are those of a colour image.
    path : Path or None
        The file that the pixels are read from, absolute; None for an array.
    """

    data: Any
    leading: tuple[int, ...]
    size: tuple[int, int]
    channel_axis: int | None
    channels: tuple[int, ...]
    contrast: Limits | Literal["plane"]
    axes: str
    scale: tuple[float | None, ...] | None = None
    unit: str | None = None
    colour: bool = False
    path: Path | None = None
    translation: tuple[float, ...] | None = None
    # What was learnt by reading; the same for all contrasts of an image.
    _known: dict[Any, Any] = field(default_factory=dict, repr=False)
    _chunks: _Chunks = field(default_factory=_Chunks, repr=False)

    @classmethod
    def of(
        cls,
        image: ImageLike,
        *,
        channel_axis: int | None = None,
        channels: int | Sequence[int] | None = None,
        contrast: Contrast = "auto",
        rgb: bool | None = None,
        axes: Sequence[str] | None = None,
    ) -> Planes:
        """Look at an image as planes; only a sample for the contrast is read.

        Parameters
        ----------
        image : array, path, list of arrays or Planes
            (Y, X), (Z, Y, X), (T, Z, Y, X) and so on, with channels last (RGB) or along `channel_axis`; integers, floats
            or bool. A list of shrinking arrays is a multiscale image, of which the first is used. Planes keep their
            axes and channels, and their contrast if `contrast` is "auto".
        channel_axis : int, optional
            Axis of the channels, for images that are not RGB.
        channels : int or sequence of int, optional
            Up to three channels, used as red, green and blue; all if None.
        contrast : "auto", "volume", "plane", (low, high) or one pair per channel
            What becomes 0 and 255. "volume" and "plane" take percentiles 0.5 and 99.8; "auto" takes RGB of uint8 or
            of floats in 0..1 as it is, and anything else as "volume".
        rgb : bool, optional
            Whether the last axis is colour. If None, this follows from the names of the axes; without those, the last axis is
            colour if it has 3 or 4 entries, and channels if it has 1 or 2, where the two before it have more than
            4 and no `channel_axis` is given.
        axes : str or sequence of str, optional
            One letter per axis of the array, ending with YX, YXC or YXS, where C stands for channels and S for colours;
            if None, read from the file, or the names of an xarray's or a Zarr array's axes where these are single letters.

        Raises
        ------
        ValueError
            If the array is empty, has fewer than two axes, does not hold real numbers, or `axes` or channels do not fit it,
            or Planes are given together with axes or channels.
        TypeError
            If `image` is neither an array nor a path.
        FileNotFoundError, OSError
            If a file is missing or cannot be read.
        """
        if isinstance(image, Planes):
            options = {"channel_axis": channel_axis, "channels": channels, "rgb": rgb, "axes": axes}
            if given := [name for name, value in options.items() if value is not None]:
                raise ValueError(
                    f"Planes have their axes and channels already; got {' and '.join(given)}: give that to Planes.of, where "
                    "they are made."
                )
            return (
                image if isinstance(contrast, str) and contrast == "auto" else image.with_contrast(contrast)
            )
        axes = None if axes is None else "".join(axes)  # xarray has a tuple
        asked = (axes or "").upper()
        if isinstance(image, str | os.PathLike):
            found = read_image(image)
        else:
            found = ImageFile(_finest(image))
            # A viewer, which tells `rgb`, has a slider for every other axis, whatever its name.
            axes = axes_of(found.data) if axes is None and rgb is None else axes
        shape = _checked_shape(found.data)
        letters = _letters(axes, found.axes, shape)
        axis, colour = _channel_axis(shape, letters, channel_axis, rgb)
        if axis is not None and {*"CS"} & {*asked} and asked[axis] not in "CS":
            raise ValueError(
                f"axes and channel_axis must name the same channels; got {axes!r} and {channel_axis}: leave one of them out."
            )
        kept = [i for i in range(len(shape)) if i != axis]
        if len(kept) < 2:
            raise ValueError(
                f"An image needs at least the axes (Y, X) in addition to channels; got shape {shape} with channel axis {axis}: "
                "leave channel_axis out, or name another one."
            )
        chosen = _chosen(channels, None if axis is None else shape[axis], colour)
        names = _names("".join(letters[i] for i in kept), axes, shape)
        scale, translation = found.scale, found.translation
        # What a file has for seconds are no lengths, and the other way round.
        told = _letters(None, found.axes, shape)
        same = {i for i, letter in zip(kept, names, strict=True) if (letter == "T") == (told[i] == "T")}
        if scale is not None:
            scale = tuple(scale[i] if i in same else None for i in kept)
        if translation is not None:
            translation = tuple(translation[i] if i in same else 0.0 for i in kept)
        planes = cls(
            data=found.data,
            leading=tuple(shape[i] for i in kept[:-2]),
            size=(shape[kept[-2]], shape[kept[-1]]),
            channel_axis=axis,
            channels=chosen,
            contrast="plane",
            axes=names,
            scale=scale,
            unit=found.unit,
            translation=translation,
            colour=colour,
            path=at_home(image) if isinstance(image, str | os.PathLike) else None,
        )
        return planes.with_contrast(contrast)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy, or another process, needs: of a file, where it is."""
        state = self.__dict__.copy()
        if self.path is not None:
            state["data"] = _Absent(self.path, tuple(self.data.shape), self.dtype)
            state["_known"] = {}  # of the pixels that were there
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become what `__getstate__` described."""
        self.__dict__.update(state)
        if self.path is not None:
            self.__dict__["data"] = state["data"].found()

    @property
    def absent(self) -> bool:
        """Whether the file of planes that came from elsewhere is not here, so that none of their pixels can be read."""
        return isinstance(self.data, _Absent)

    def with_contrast(self, contrast: Contrast) -> Planes:
        """Return the same planes with another contrast; see `of`."""
        if isinstance(contrast, str):
            if contrast not in (rules := get_args(ContrastRule)):
                raise ValueError(
                    f"contrast takes {', '.join(rules)}, (low, high) or one pair per channel; got {contrast!r}."
                )
            if contrast == "plane":
                return replace(self, contrast="plane")
            if contrast == "auto" and self.colour:
                if limits := full_range(self.dtype, lambda: self._survey()[2]):
                    return replace(self, contrast=(limits,) * len(self.channels))
            return replace(self, contrast=self._survey()[1])
        try:
            pairs = np.asarray(contrast, float)
            pairs = np.broadcast_to(pairs if pairs.shape[-1:] == (2,) else np.nan, (len(self.channels), 2))
        except (ValueError, TypeError):
            pairs = np.full((1, 2), np.nan)
        if not np.isfinite(pairs).all() or (pairs[:, 0] > pairs[:, 1]).any():
            raise ValueError(
                "contrast takes (low, high) with low not above high, or one such pair for each of the "
                f"{len(self.channels)} channels; got {contrast!r}."
            )
        return replace(self, contrast=tuple((float(low), float(high)) for low, high in pairs))

    def shown_between(self, limits: Sequence[tuple[float, float]]) -> Planes:
        """Return the same planes with the contrast in which a viewer shows them, where that was chosen.

        Limits that cut nothing off, such as those that napari takes from the darkest and the brightest pixel, were not
        chosen by a person, and one hot pixel makes all others dim: then the percentiles are used, as without a viewer.

        Parameters
        ----------
        limits : sequence of (float, float)
            The viewer's black and white, one pair for all channels or one for each.
        """
        percentiles = self._survey()[1]
        shown = tuple(limits) * len(percentiles) if len(limits) == 1 else tuple(limits)
        return self.with_contrast(
            [
                (black, white) if black > low or white < high else (low, high)
                for (black, white), (low, high) in zip(shown, percentiles, strict=True)
            ]
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Leading axes, Y and X."""
        return self.leading + self.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels, in this machine's byte order."""
        dtype: np.dtype[Any] = np.dtype(self.data.dtype).newbyteorder("=")
        return dtype

    @property
    def refilled(self) -> bool:
        """Whether somebody has written other pixels into an array in memory since its fingerprint was taken."""
        return (
            isinstance(self.data, np.ndarray)
            and not isinstance(self.data, np.memmap)
            and self.data.flags.writeable
            and replace(self, _known={}).fingerprint != self.fingerprint
        )

    def __len__(self) -> int:
        """Return the number of planes."""
        return int(np.prod(self.leading))

    def plane_indices(self) -> Iterator[Plane]:
        """Yield the indices of the planes, in C order."""
        return iter(np.ndindex(*self.leading))

    def raw(self, plane: Plane = (), box: Box | None = None) -> NDArray[Any]:
        """Read the chosen channels of one plane, or of a box of it, as stored: (Y, X, channels).

        Raises
        ------
        ValueError
            If there is no such plane, or the box extends beyond its border.
        OSError
            If the pixels cannot be read.
        """
        plane = plane_of(plane, self.leading)
        box = Box.of(self.size) if box is None else box
        if not Box.of(self.size).holds(box):
            raise ValueError(f"box must lie inside the plane {self.size}; got {tuple(box)}.")
        try:
            return self._by_chunks(plane, box) if self._is_coarse(box) else self._pixels(plane, box)
        except MemoryError:
            raise
        except Exception as error:  # whatever codecs, file systems and lazy arrays raise
            where = f"Plane {plane} of the image" if plane else "The image"
            remedy = "check what computes or stores its pixels"
            if isinstance(error, FileNotFoundError):
                remedy = "check that its disk or network drive is there"
            elif self.path is not None:
                remedy = "the file may be damaged: copy it again"
            raise OSError(f"{where} could not be read ({brief(error)}); {remedy}.") from error

    def release(self) -> None:
        """Give back the memory of what was read ahead; what is read next is read anew."""
        self._chunks.clear()

    def _pixels(self, planes: Sequence[int | slice], box: Box) -> NDArray[Any]:
        """Read a box of a plane, or of several, as (..., Y, X, channels)."""
        index: list[Any] = [*planes, *box.slices]
        if self.channel_axis is None:
            parts = [self.data[tuple(index)]]
        elif self.channel_axis == len(index) and self._lengths[-1] > 1:
            # The channels lie together in the file, and come at once.
            first = min(self.channels)
            together = _plain(self.data[(*index, slice(first, max(self.channels) + 1))], self.dtype)
            parts = [together[..., channel - first] for channel in self.channels]
        else:
            at = self.channel_axis
            parts = [self.data[(*index[:at], channel, *index[at:])] for channel in self.channels]
        pixels = np.stack([_plain(part, self.dtype) for part in parts], axis=-1)
        if folder := gone(self.data):  # now: had it gone before, these are no pixels
            raise FileNotFoundError(f"{folder} is not there any more")
        return pixels

    @property
    def _lengths(self) -> tuple[int, ...]:
        """Lengths of the array's largest chunk per axis; 1 where it has none."""
        chunks = getattr(self.data, "chunks", None) or (1,) * len(self.data.shape)
        return tuple(int(np.max(length)) for length in chunks)  # Dask tells all lengths of an axis

    @cached_property
    def _starts(self) -> list[NDArray[np.int_]]:
        """Where the array's chunks begin on each axis but that of the channels, and where the last one ends."""
        found = []
        for axis, (length, chunk) in enumerate(zip(self.data.shape, self.data.chunks, strict=True)):
            if axis != self.channel_axis:
                sizes = chunk if np.iterable(chunk) else [chunk] * -(-length // chunk)
                found.append(np.minimum(np.cumsum([0, *sizes]), length))
        return found

    def _is_coarse(self, box: Box) -> bool:
        """Whether a chunk, as the only strip of a compressed TIFF's page or many planes of light-sheet data, dwarfs a box."""
        pixels = math.prod(n for i, n in enumerate(self._lengths) if i != self.channel_axis)
        return (
            _COARSE * box.height * box.width <= pixels
            and pixels * len(self.channels) * self.dtype.itemsize <= _KEPT_BYTES
        )

    def _by_chunks(self, plane: Plane, box: Box) -> NDArray[Any]:
        """Read a box from whole chunks, which are kept for what is read next."""
        *leading, rows, columns = self._starts
        planes = tuple(_spans(edges, at, at + 1)[0] for edges, at in zip(leading, plane, strict=True))
        spans = product(_spans(rows, box.top, box.bottom), _spans(columns, box.left, box.right))
        within = tuple(at - part.start for at, part in zip(plane, planes, strict=True))
        deep = any(part.stop - part.start > 1 for part in planes)
        most = _KEPT_BYTES if deep else _KEPT_BYTES // 4
        bytes_of_pixel = (
            len(self.channels) * self.dtype.itemsize * math.prod(p.stop - p.start for p in planes)
        )
        out = np.empty((box.height, box.width, len(self.channels)), self.dtype)
        for row, column in spans:
            chunk = Box.at(row, column)
            this = chunk.height * chunk.width * bytes_of_pixel
            # At least one other: whoever needs two by turns would read both each time.
            room = max(most - this, this) if this <= most else 0
            pixels = self._chunks.of(planes, chunk, room, partial(self._pixels, planes, chunk))[within]
            both = chunk.intersect(box)
            there, here = (both.shift(-one.top, -one.left).slices for one in (chunk, box))
            out[here] = pixels[there]
        return out

    def read(self, plane: Plane = (), box: Box | None = None) -> NDArray[np.float32]:
        """Read one plane, or a box of it, normalised.

        Returns
        -------
        (Y, X, 3) float32
            RGB in 0..255; one channel is repeated, two leave blue empty; NaN is 0.
        """
        return self.normalised(self.raw(plane, box), plane)

    def normalised(self, pixels: NDArray[Any], plane: Plane = ()) -> NDArray[np.float32]:
        """Return pixels of a plane as `read` does, from those of `raw`."""
        limits = self.contrast if self.contrast != "plane" else self._limits(plane)
        out = np.zeros((*pixels.shape[:2], 3), np.float32)
        for i, (low, high) in enumerate(limits):
            out[..., i] = stretch(pixels[..., i], low, high)
        if len(limits) == 1:
            out[..., 1:] = out[..., :1]
        return out

    @property
    def fingerprint(self) -> str:
        """Hash of shape, type and a sample of the chosen channels' pixels.

        It is the same for an array, the file it was read from, and a layer that shows one channel of it.
        """
        return self._survey()[0]

    def _survey(self) -> tuple[str, Limits, bool]:
        """Read a sample: fingerprint, percentiles of each channel, and whether all of it lies in 0..1."""
        if "survey" not in self._known:
            # As many planes as a bounded amount of reading allows.
            pixels = self.size[0] * self.size[1]
            count = int(np.clip(4 * _READ_PIXELS // pixels, 3, _SAMPLED_PLANES))
            numbers = np.unique(np.linspace(0, len(self) - 1, count).round().astype(int))
            sample = [
                self._sample(plane_at(n, self.leading), _SAMPLED_PIXELS // len(numbers)) for n in numbers
            ]
            digest = hashlib.sha256(repr((self.shape, str(self.dtype), len(self.channels))).encode())
            for part in sample:
                digest.update(part.tobytes())
            whole = np.concatenate(sample)
            limits = tuple(percentiles(whole[:, i]) for i in range(whole.shape[1]))
            inside = bool(((whole >= 0) & (whole <= 1) | np.isnan(whole)).all())
            self._known["survey"] = digest.hexdigest(), limits, inside
        found: tuple[str, Limits, bool] = self._known["survey"]
        return found

    def _limits(self, plane: Plane) -> Limits:
        """Return the percentiles of one plane, for the contrast "plane"."""
        if plane not in self._known:
            sample = self._sample(plane, _SAMPLED_PIXELS)
            self._known[plane] = tuple(percentiles(sample[:, i]) for i in range(sample.shape[1]))
        found: Limits = self._known[plane]
        return found

    def _sample(self, plane: Plane, most: int) -> NDArray[Any]:
        """Return about `most` pixels (N, channels) from all over a plane; the same ones however it is stored."""
        height, width = self.size
        if height * width <= _READ_PIXELS:
            bands = [Box.of(self.size)]
        else:
            rows = max(1, _READ_PIXELS // _BANDS // width)
            tops = np.linspace(0, height - rows, _BANDS).round().astype(int)
            bands = [Box(0, int(top), width, int(top) + rows) for top in tops]
        step = max(1, round((sum(b.height * b.width for b in bands) / most) ** 0.5))
        return np.concatenate(
            [self.raw(plane, band)[::step, ::step].reshape(-1, len(self.channels)) for band in bands]
        )


class _Absent:
    """What is known of an array in a file, and stands for it where that file is not, or holds something else."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype

    def found(self) -> Any:
        """Return the array, if its file is here."""
        try:
            data = read_image(self.path).data
        except (OSError, ValueError):
            return self
        return data if (tuple(data.shape), np.dtype(data.dtype)) == (self.shape, self.dtype) else self

    def __getitem__(self, _: Any) -> Any:
        raise FileNotFoundError(f"{self.path} is not there, or is another image")


def _plain(pixels: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return pixels that were read as an array of NumPy, with NaN for what is masked; whole numbers have none, ValueError."""
    lazy = getattr(pixels, "compute", None)
    found = np.asanyarray(pixels if lazy is None else lazy(), dtype)  # Dask alone would drop the mask
    if not np.ma.is_masked(found):
        return np.asarray(found)
    if dtype.kind != "f":
        raise ValueError(f"some pixels are masked, for which {dtype} has no value: fill them first")
    return np.asarray(np.ma.filled(found, np.nan))


def _spans(starts: NDArray[np.int_], low: int, high: int) -> list[slice]:
    """Return the chunks that touch low..high, of those that begin at `starts` and end at the next one."""
    first = np.searchsorted(starts, low, "right") - 1
    last = np.searchsorted(starts, high, "left")
    return [slice(int(a), int(b)) for a, b in pairwise(starts[first : last + 1])]


def stretch(pixels: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """Map `low` to 0 and `high` to 255, cutting off what lies beyond; NaN and constant images become 0.

    `pixels` are real numbers of any shape and type; the result has the same shape.
    """
    values = np.asarray(pixels)
    # float32 holds 16-bit integers exactly; wider types lose their differences before low is subtracted.
    working = np.float32 if values.dtype.itemsize <= 2 or values.dtype == np.float32 else np.float64
    if not high > low:
        return np.zeros(values.shape, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # a range near the type's own limits; clipped below
        out = np.subtract(values, working(low), dtype=working)
        out *= working(255 / (high - low))
        np.clip(out, 0, 255, out=out)
    out[np.isnan(out)] = 0
    return np.asarray(out, np.float32)


def full_range(dtype: np.dtype[Any], inside: Callable[[], bool]) -> tuple[float, float] | None:
    """Return black and white of colours that are used as they are: of uint8, and of floats `inside` 0..1; otherwise None."""
    if dtype == np.uint8:
        return 0.0, 255.0
    return (0.0, 1.0) if dtype.kind == "f" and inside() else None


def percentiles(pixels: NDArray[Any]) -> tuple[float, float]:
    """Return the percentiles `LOW` and `HIGH` of the finite pixels; (0, 0) if there are none.

    If both are the same (a few bright specks on black), the smallest and the largest value are returned.
    """
    values = np.asarray(pixels).ravel()
    if values.dtype.kind in "biu":  # NumPy takes differences in their own type, which may not hold them
        values = values.astype(np.float64)
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 0.0
    first, last = np.percentile(values, [LOW, HIGH])
    if first == last:
        first, last = values.min(), values.max()
    return float(first), float(last)


# ------------------------------------------------------------------------------------------------ checks


def _finest(image: Any) -> Any:
    """Return level 0 of a multiscale image, or an array."""
    # A napari MultiScaleData is a Sequence with a shape; arrays are no Sequences.
    if isinstance(image, Sequence) and len(image) and all(hasattr(level, "shape") for level in image):
        sizes = [int(np.prod(level.shape)) for level in image]
        if any(coarse >= fine for fine, coarse in pairwise(sizes)):
            raise ValueError(
                "A list of arrays is a multiscale image, finest level first; got shapes "
                f"{[tuple(level.shape) for level in image]}: stack planes with numpy.stack or dask.array.stack."
            )
        return _finest(image[0])
    if isinstance(getattr(image, "_meta", None), np.ma.MaskedArray):  # Dask's
        numbers = image.astype(np.result_type(image.dtype, np.float32))
        return numbers.map_blocks(np.ma.filled, np.nan, meta=np.empty((0,) * image.ndim, numbers.dtype))
    if isinstance(image, np.ma.MaskedArray):  # what is masked has no value
        if not np.ma.is_masked(image):
            return image.data
        return np.where(
            np.ma.getmaskarray(image), np.nan, image.data.astype(np.result_type(image.dtype, np.float32))
        )
    if hasattr(image, "shape") and hasattr(image, "dtype"):
        try:
            np.dtype(image.dtype)
        except TypeError:  # a tensor's, say; it becomes an array below
            pass
        else:
            return image
    if (
        isinstance(image, Sequence)
        and len(image)
        and all(isinstance(one, str | os.PathLike) for one in image)
    ):
        raise TypeError(
            f"An image must be an array or one path; got {len(image)} paths: read them into one array first, for example by "
            "giving the list to tifffile.imread, or encode one after the other."
        )
    try:
        array = np.asarray(image)
    # Lists of unequal length; tensors on a GPU, or with a gradient.
    except (ValueError, TypeError, RuntimeError):
        array = np.asarray(None)
    if array.dtype.kind in "OUS":
        # What has several arrays by name is none: a zarr group, a data set of xarray.
        do = "take one of the arrays in it" if hasattr(image, "keys") else "convert it with numpy.asarray"
        if hasattr(image, "detach"):  # a tensor that learns, or is on a GPU
            do = "convert it with .detach().cpu().numpy()"
        raise TypeError(f"An image must be an array or a path; got {type(image).__name__}: {do}.")
    return array


def _checked_shape(data: Any) -> tuple[int, ...]:
    shape = tuple(data.shape)
    if len(shape) < 2:
        raise ValueError(
            f"An image needs at least the axes (Y, X); got shape {shape}: add an axis, as in image[None]."
        )
    if any(n != n for n in shape):  # dask does not know the length of some results
        raise ValueError(
            f"An image needs known lengths; got shape {shape}: call compute_chunk_sizes() first."
        )
    if 0 in shape:
        raise ValueError(
            f"An image needs at least one pixel; got an empty array of shape {shape}: choose another one."
        )
    if np.dtype(data.dtype).kind not in "buif":
        raise ValueError(
            f"An image must hold real numbers; got {data.dtype}: convert it, for example with numpy.abs."
        )
    return tuple(int(n) for n in shape)


def read_only(array: Any) -> bool:
    """Whether an array is read-only, by NumPy's flags or zarr's attribute."""
    flags = getattr(array, "flags", None)
    return bool(getattr(array, "read_only", False)) or (flags is not None and not flags.writeable)


def plane_of(index: Any, leading: tuple[int, ...]) -> Plane:
    """Return a plane's indices into the leading axes; if there is only one axis, a number will do.

    Raises
    ------
    ValueError
        If there is no such plane.
    """
    plane = _whole(index)
    if (
        plane is None
        or len(plane) != len(leading)
        or not all(0 <= i < n for i, n in zip(plane, leading, strict=True))
    ):
        taken = f"an index into {leading}" if leading else "() in an image of one plane"
        raise ValueError(f"plane takes {taken}; got {index!r}.")
    return plane


def plane_at(number: int, leading: tuple[int, ...]) -> Plane:
    """Return the indices of the plane with that number in C order."""
    return tuple(map(int, np.unravel_index(number, leading)))


def along(leading: Sequence[int]) -> int:
    """Return along which of the leading axes planes follow each other: the last one that has several."""
    return max((axis for axis, length in enumerate(leading) if length > 1), default=0)


def shifted(plane: Plane, axis: int, by: int) -> Plane:
    """Return the plane so many farther along an axis, whether it is there or not."""
    return (*plane[:axis], plane[axis] + by, *plane[axis + 1 :])


def _whole(numbers: Any) -> tuple[int, ...] | None:
    """Return one or several whole numbers, from Python or NumPy, as Python's; None if they are something else."""
    several = list(numbers) if np.iterable(numbers) else [numbers]
    try:
        return None if bool in map(type, several) else tuple(map(operator.index, several))
    except TypeError:
        return None


def _letters(given: str | None, found: str | None, shape: tuple[int, ...]) -> str:
    """Return one letter per axis; question marks if they are not named."""
    if given is not None and (len(given) != len(shape) or len(set(given.upper())) != len(given)):
        raise ValueError(f"axes takes one letter per axis of shape {shape}, all different; got {given!r}.")
    letters = (given or found or "").upper()
    return letters if len(letters) == len(shape) else "?" * len(shape)


def _channel_axis(
    shape: tuple[int, ...], letters: str, channel_axis: int | None, rgb: bool | None
) -> tuple[int | None, bool]:
    """Return the axis of the channels, if there is one, and whether they are colours."""
    if channel_axis is not None:
        numbers = _whole(channel_axis)
        if numbers is None or len(numbers) != 1 or not -len(shape) <= numbers[0] < len(shape):
            raise ValueError(
                f"channel_axis takes one of the image's {len(shape)} axes; got {channel_axis!r}."
            )
        axis = numbers[0] % len(shape)
    elif "S" in letters or "C" in letters:
        axis = letters.index("S" if "S" in letters else "C")
        if rgb is None:
            rgb = letters[axis] == "S" and shape[axis] <= 4
    elif rgb or (rgb is None and set(letters) == {"?"} and _ends_with_channels(shape)):
        rgb, axis = rgb or shape[-1] > 2, len(shape) - 1
    else:
        return None, False
    if rgb and shape[axis] > 4:
        raise ValueError(
            f"rgb takes 3 or 4 colours; got {shape[axis]} on axis {axis} of shape {shape}: set rgb=False."
        )
    return axis, bool(rgb)


def _chosen(channels: int | Sequence[int] | None, count: int | None, colour: bool) -> tuple[int, ...]:
    """Return which of an image's channels are used; `count` is None where there is no axis of them."""
    many = 1 if count is None else count
    if channels is None:  # the fourth of RGBA, and the second of grey with alpha, are no pixels
        chosen = tuple(range(min(3, many) if many > 2 else 1)) if colour else tuple(range(many))
    else:
        chosen = _whole(channels) or ()
        if count is None and set(chosen) == {0}:
            chosen = (0,)  # grey, however often it is named
    if not 1 <= len(chosen) <= 3 or not all(0 <= c < many for c in chosen):
        raise ValueError(
            f"channels takes one to three of the image's {many} channels (counted from 0); got "
            f"{list(chosen) if channels is None else channels!r}: choose with channels (in the shell, --channels), or, if "
            "these are no channels, say what the axes are with axes (--axes), such as ZYX."
        )
    return chosen


def _names(letters: str, given: str | None, shape: tuple[int, ...]) -> str:
    """Return the names of all axes but that of the channels: their letters, or, if these are no good, the usual ones."""
    if given is not None and not letters.endswith("YX"):
        raise ValueError(
            f"axes must end with Y and X, except for channels; got {given!r}: move the axes with numpy.moveaxis."
        )
    if {*"YX"} <= {*letters} and not letters.endswith("YX"):
        log.warning(
            "The axes are %s; the last two are used as rows and columns: save it with Y and X last.",
            letters,
        )
    if letters.endswith("YX") and len(set(letters)) == len(letters) and not set(letters) & set(_UNNAMED):
        return letters
    if len(letters) > len(_MANY):
        raise ValueError(
            f"An image takes up to {len(_MANY)} axes in addition to channels; got shape {shape}: give a part of it, or "
            "merge axes with numpy.reshape."
        )
    return (_MANY if len(letters) > 4 else "TZYX")[-len(letters) :]


def _ends_with_channels(shape: tuple[int, ...]) -> bool:
    """Whether the last axis holds channels: nobody's planes are so narrow."""
    return len(shape) > 2 and shape[-1] < 5 and min(shape[-3:-1]) > 4
