"""The feature maps of all planes of an image, in memory or in zarr, and what they were made from.

Half-written is normal: each tile of each plane is marked when it is done, what is done can be used while the rest
goes on, and an encode that was stopped goes on where it was.
"""

from __future__ import annotations

import math
import os
import tempfile
import threading
from collections import OrderedDict
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from napari_interformer.files import brief, unwritable
from napari_interformer.prompts import Box

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_interformer.image import Planes

Plane = tuple[int, ...]
SNAP = 32
FORMAT = 1
_CACHE_BYTES = 256 * 2**20  # tiles of stored features that are kept decompressed


class Encoder(Protocol):
    """What features need to know of a model."""

    @property
    def fingerprint(self) -> str:
        """Changes if the features would."""

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the four maps."""

    @property
    def strides(self) -> tuple[int, int, int, int]:
        """Strides of the four maps in pixels."""


class NotEncodedError(LookupError):
    """A part of the image was asked for whose features are not there yet."""


@dataclass(frozen=True)
class Origin:
    """What features were made from, and how they lie. Features serve only where all of it agrees.

    Attributes
    ----------
    image, model : str
        Fingerprints.
    leading, size : tuple of int
        The image's axes.
    contrast : tuple of (float, float), or "plane"
        What became 0 and 255.
    core, halo : int
        Side of a tile's own pixels, and how much more was encoded around it; core 0 is the whole plane.
    channels, strides : tuple of int
        Of the four maps.
    axes, scale, unit
        Of the image, for whoever saves labels.
    floating : bool
        Whether the image may hold pixels without a value (NaN).
    """

    image: str
    model: str
    leading: tuple[int, ...]
    size: tuple[int, int]
    contrast: tuple[tuple[float, float], ...] | Literal["plane"]
    core: int
    halo: int
    channels: tuple[int, int, int, int]
    strides: tuple[int, int, int, int]
    axes: str
    scale: tuple[float, ...] | None
    unit: str | None
    floating: bool

    @classmethod
    def of(cls, planes: Planes, model: Encoder, *, core: int, halo: int) -> Origin:
        """Describe features that are about to be made."""
        return cls(
            image=planes.fingerprint,
            model=model.fingerprint,
            leading=planes.leading,
            size=planes.size,
            contrast=planes.contrast,
            core=core,
            halo=halo,
            channels=model.channels,
            strides=model.strides,
            axes=planes.axes,
            scale=planes.scale,
            unit=planes.unit,
            floating=planes.dtype.kind == "f",
        )

    def differences(self, other: Origin) -> list[str]:
        """Name what keeps features of `other` from standing for these."""
        told = {
            "image": "image",
            "model": "model",
            "contrast": "contrast",
            "core": "tiling",
            "halo": "tiling",
        }
        mine, theirs = asdict(self), asdict(other)
        return sorted({name for key, name in told.items() if mine[key] != theirs[key]})


class Features:
    """Four float16 maps for each plane. Make them with `encode`, open stored ones with `Features.open`.

    Parameters
    ----------
    origin : Origin
        What they are made from.
    arrays : dict
        `level0` ... `level3` of shape (planes, C_i, Yp / s_i, Xp / s_i), Y and X padded to multiples of 32; `done`
        (planes, tiles) and, for floating images, `missing` (planes, Y, X): NumPy or zarr.
    path : Path, optional
        Where they are stored.
    """

    def __init__(self, origin: Origin, arrays: dict[str, Any], path: Path | None = None) -> None:
        self.origin, self.path = origin, path
        self.source: Planes | None = None  # the image, where it is at hand
        self.tiles = _tiles(self.padded, origin.core)
        self._arrays = arrays
        self._read_only = bool(getattr(arrays["done"], "read_only", False))
        self._done = np.zeros(arrays["done"].shape, bool)
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[int, int], list[NDArray[np.float16]]] = OrderedDict()
        largest = self.tiles[0]
        self._tile_bytes = sum(
            2 * c * (largest.height // s) * (largest.width // s)
            for c, s in zip(origin.channels, origin.strides, strict=True)
        )
        self._refresh()

    # --------------------------------------------------------------------------------- making and opening

    @classmethod
    def create(
        cls, planes: Planes, model: Encoder, *, core: int, halo: int, store: str | Path | None = None
    ) -> Features:
        """Make room for the features of an image, or go on with a store that has some of them.

        Parameters
        ----------
        planes : Planes
            The image.
        model : InterFormer
            The model that will encode it.
        core, halo : int
            Pixels of a tile that are kept, and how much more is encoded on each side; core 0 is the whole plane.
        store : path, optional
            A zarr group to write to; in memory if None.

        Raises
        ------
        ValueError
            If the store holds features of another image, model, contrast or tiling, or something else.
        OSError
            If it cannot be written.
        """
        origin = Origin.of(planes, model, core=core, halo=halo)
        if store is None:
            made = cls(origin, _in_memory(origin))
            made.source = planes
            return made
        path = Path(store)
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            try:
                _make_store(origin, path)
            except OSError as error:
                raise unwritable(path, error) from error
        found = cls.open(path, mode="r+")
        if different := found.origin.differences(origin):
            raise ValueError(
                f"{path.name} holds features of another {' and '.join(different)}; give another store, or delete this one."
            )
        found.source = planes
        return found

    @classmethod
    def open(cls, store: str | Path, *, mode: Literal["r", "r+"] = "r") -> Features:
        """Open stored features; another process may still be writing them.

        Raises
        ------
        FileNotFoundError
            If there is no store.
        ValueError
            If it holds something else, or was written by a newer version.
        """
        path = Path(store)
        if not path.exists():
            raise FileNotFoundError(
                f"Features.open takes a store made by encode; got {str(store)!r}, which is not there: encode first."
            )
        try:
            group = zarr.open_group(path, mode=mode)
            attributes: dict[str, Any] = dict(group.attrs)
            written = int(attributes["interformer"])
            if written <= FORMAT:
                origin = _origin(attributes["origin"])
                return cls(origin, {name: group[name] for name in _layout(origin)}, path)
        except PermissionError as error:
            raise OSError(f"{path.name} may not be read ({error.strerror}); ask for the right to.") from error
        except (
            Exception
        ) as error:  # no group, somebody else's group, or a damaged one: zarr and JSON tell in many ways
            raise ValueError(
                f"{path.name} is not a store of features; give one made by encode(store=...), or another name for a new one."
            ) from error
        raise ValueError(f"{path.name} was written by a newer version of the package; update the package.")

    # ------------------------------------------------------------------------------------------- reading

    @property
    def leading(self) -> tuple[int, ...]:
        """Lengths of the axes before (Y, X)."""
        return self.origin.leading

    @property
    def size(self) -> tuple[int, int]:
        """Y and X of the image in pixels."""
        return self.origin.size

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image without channels, and so of its labels."""
        return self.leading + self.size

    @property
    def padded(self) -> tuple[int, int]:
        """Y and X rounded up to multiples of 32."""
        return -(-self.size[0] // SNAP) * SNAP, -(-self.size[1] // SNAP) * SNAP

    @property
    def image_fingerprint(self) -> str:
        """Of the image that was encoded."""
        return self.origin.image

    @property
    def model_fingerprint(self) -> str:
        """Of the model that encoded it."""
        return self.origin.model

    @property
    def contrast(self) -> tuple[tuple[float, float], ...] | Literal["plane"]:
        """What became 0 and 255 when it was encoded."""
        return self.origin.contrast

    @property
    def nbytes(self) -> int:
        """Bytes of all maps before compression."""
        return sum(2 * math.prod(self._arrays[f"level{i}"].shape) for i in range(4))

    def ready(self, plane: Plane = (), box: Box | None = None) -> bool:
        """Whether a plane, or all tiles that a box of it touches, are encoded."""
        row, wanted = self.flat(plane), self._touched(box)
        if not self._done[row, wanted].all():
            self._refresh(row)
        return bool(self._done[row, wanted].all())

    def ready_planes(self) -> NDArray[np.bool_]:
        """Return which planes are encoded: bool, the shape of the leading axes.

        Features opened for reading look into their store each time; those that write know what they wrote.
        """
        if self._read_only and not self._done.all():
            self._refresh()
        return np.asarray(self._done.all(axis=1).reshape(self.leading))

    def waiting(self, plane: Plane = ()) -> list[int]:
        """Return the numbers of a plane's tiles that are not encoded yet."""
        row = self.flat(plane)
        if not self._done[row].all():
            self._refresh(row)
        return [int(tile) for tile in np.flatnonzero(~self._done[row])]

    def _refresh(self, row: int | slice = slice(None)) -> None:
        """Look at what is stored: another process may have written it."""
        if self.path is not None:
            self._done[row] |= np.asarray(self._arrays["done"][row], bool)

    def window(self, plane: Plane, box: Box) -> list[NDArray[np.float32]]:
        """Read the maps of a window.

        Parameters
        ----------
        plane : tuple of int
            Leading indices.
        box : Box
            Multiples of 32, inside the padded plane.

        Returns
        -------
        list of (C_i, h / s_i, w / s_i) float32
            Finest first.

        Raises
        ------
        NotEncodedError
            If a tile that it needs is not encoded.
        """
        if any(edge % SNAP for edge in box) or not Box.of(self.padded).holds(box) or box.empty:
            raise ValueError(
                f"box takes multiples of {SNAP} inside the padded plane {self.padded}; got {tuple(box)}."
            )
        if not self.ready(plane, box):
            raise NotEncodedError(
                f"{f'Plane {tuple(plane)}' if plane else 'The image'} is not encoded at {tuple(box)} yet; encode it, or wait "
                "until that is done."
            )
        maps = [
            np.empty((c, box.height // s, box.width // s), np.float32)
            for c, s in zip(self.origin.channels, self.origin.strides, strict=True)
        ]
        for tile in self._touched(box):
            core = self.tiles[tile]
            both = core.intersect(box)
            for out, part, stride in zip(
                maps, self._tile(self.flat(plane), tile), self.origin.strides, strict=True
            ):
                inner = _cells(both.shift(-core.top, -core.left), stride)
                out[(slice(None), *_cells(both.shift(-box.top, -box.left), stride))] = part[
                    (slice(None), *inner)
                ]
        return maps

    def valid(self, plane: Plane, y: int, x: int) -> bool:
        """Whether the image has a value at a pixel (is not NaN there); only of encoded tiles it is known."""
        return not self.origin.floating or not bool(self._arrays["missing"][self.flat(plane), y, x])

    def flat(self, plane: Plane) -> int:
        """Return the number of a plane in C order."""
        if len(plane) != len(self.leading) or not all(
            0 <= i < n for i, n in zip(plane, self.leading, strict=True)
        ):
            raise ValueError(f"plane takes an index into {self.leading}; got {plane}.")
        return int(np.ravel_multi_index(plane, self.leading)) if plane else 0

    # ------------------------------------------------------------------------------------------- writing

    def write(
        self,
        plane: Plane,
        tile: int,
        maps: Sequence[NDArray[np.floating]],
        missing: NDArray[np.bool_] | None = None,
    ) -> None:
        """Write one tile's core and mark it done.

        Parameters
        ----------
        plane : tuple of int
            Leading indices.
        tile : int
            Number in `tiles`.
        maps : sequence of (C_i, h / s_i, w / s_i)
            Of the core alone.
        missing : (h, w) bool, optional
            Pixels of the core, within the image, that have no value.

        Raises
        ------
        ValueError
            If the store was opened for reading.
        OSError
            If it cannot be written; what was written before can still be read.
        """
        row, core = self.flat(plane), self.tiles[tile]
        if self._read_only:
            raise ValueError(
                "These features were opened for reading; to go on encoding, give encode their store."
            )
        limit = np.finfo(np.float16).max
        try:
            for i, (level, stride) in enumerate(zip(maps, self.origin.strides, strict=True)):
                half = np.clip(level, -limit, limit).astype(np.float16)
                self._arrays[f"level{i}"][(row, slice(None), *_cells(core, stride))] = half
            if missing is not None and missing.any():
                self._arrays["missing"][(row, *core.intersect(Box.of(self.size)).slices)] = missing
            with self._lock:  # last, so that a tile is never half there; threads share the plane's row
                self._refresh(row)
                marks = self._done[row].copy()
                marks[tile] = True
                self._arrays["done"][row] = marks
                self._done[row] = marks
                self._cache.pop((row, tile), None)
        except OSError as error:
            raise unwritable(self.path or Path("memory"), error) from error

    def _touched(self, box: Box | None) -> list[int]:
        """Return the numbers of the tiles that a box of the padded plane touches."""
        if box is None:
            return list(range(len(self.tiles)))
        height, width = self.tiles[0].height, self.tiles[0].width
        box = box.intersect(Box.of(self.padded))
        if box.empty:
            return []
        across = -(-self.padded[1] // width)
        rows = range(box.top // height, -(-box.bottom // height))
        columns = range(box.left // width, -(-box.right // width))
        return [row * across + column for row in rows for column in columns]

    def _tile(self, row: int, tile: int) -> list[NDArray[np.float16]]:
        key, core = (row, tile), self.tiles[tile]
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        try:
            maps = [
                np.asarray(self._arrays[f"level{i}"][(row, slice(None), *_cells(core, stride))])
                for i, stride in enumerate(self.origin.strides)
            ]
        except Exception as error:  # whatever codecs and file systems raise
            raise OSError(
                f"Stored features could not be read from {self.path} ({brief(error)}); the store is damaged: delete it and "
                "encode again."
            ) from error
        if self.path is not None:
            with self._lock:
                self._cache[key] = maps
                while len(self._cache) > max(1, _CACHE_BYTES // self._tile_bytes):
                    self._cache.popitem(last=False)
        return maps

    def __repr__(self) -> str:
        """Say what is there."""
        ready, total = int(self._done.all(axis=1).sum()), len(self._done)
        return f"Features({self.origin.axes} {self.shape}, {ready} of {total} planes encoded, {self.path or 'in memory'})"


def _in_memory(origin: Origin) -> dict[str, NDArray[Any]]:
    """Return empty arrays, or refuse what no memory of this machine holds."""
    layout = _layout(origin)
    needed = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype, _ in layout.values())
    # The system hands out more than there is, and ends the process when it is used.
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    if needed > there:
        raise ValueError(
            f"Features of this image take {needed / 1e9:.0f} GB, and this machine has {there / 1e9:.0f} GB of memory; keep "
            'them on disk with store="name.zarr".'
        )
    return {name: np.zeros(shape, dtype) for name, (shape, dtype, _) in layout.items()}


def _make_store(origin: Origin, path: Path) -> None:
    """Write a store without features, at once or not at all; harmless if another process is faster."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".making-") as folder:
        made = Path(folder) / "store"
        group = zarr.open_group(made, mode="w", zarr_format=3)
        for name, (shape, dtype, chunks) in _layout(origin).items():
            # Bytes of equal weight side by side: 1.6 instead of 1.3 times smaller, and faster.
            codec = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=np.dtype(dtype).itemsize)
            group.create_array(
                name, shape=shape, dtype=dtype, chunks=chunks, compressors=[codec], fill_value=0
            )
        group.attrs.update({"interformer": FORMAT, "package": _package(), "origin": asdict(origin)})
        try:
            if path.exists():
                path.rmdir()  # it is empty
            os.rename(made, path)
        except OSError:
            if not (path / "zarr.json").exists():
                raise


def _cells(box: Box, stride: int) -> tuple[slice, slice]:
    return slice(box.top // stride, box.bottom // stride), slice(box.left // stride, box.right // stride)


def _tiles(padded: tuple[int, int], core: int) -> list[Box]:
    """Cut a padded plane into cores, in C order."""
    height, width = padded
    step_y, step_x = (core or height), (core or width)
    return [
        Box(left, top, min(left + step_x, width), min(top + step_y, height))
        for top in range(0, height, step_y)
        for left in range(0, width, step_x)
    ]


def _layout(origin: Origin) -> dict[str, tuple[tuple[int, ...], type, tuple[int, ...]]]:
    """Return shape, dtype and chunks of each array; a chunk is a tile."""
    planes = math.prod(origin.leading)
    height, width = (-(-n // SNAP) * SNAP for n in origin.size)
    core_y, core_x = min(origin.core or height, height), min(origin.core or width, width)
    layout: dict[str, tuple[tuple[int, ...], type, tuple[int, ...]]] = {}
    for i, (c, s) in enumerate(zip(origin.channels, origin.strides, strict=True)):
        layout[f"level{i}"] = (
            (planes, c, height // s, width // s),
            np.float16,
            (1, c, core_y // s, core_x // s),
        )
    tiles = len(_tiles((height, width), origin.core))
    layout["done"] = ((planes, tiles), bool, (1, tiles))
    if origin.floating:
        layout["missing"] = (
            (planes, *origin.size),
            bool,
            (1, min(core_y, origin.size[0]), min(core_x, origin.size[1])),
        )
    return layout


def _origin(stored: dict[str, Any]) -> Origin:
    """Turn JSON's lists back into tuples."""

    def tuples(value: Any) -> Any:
        return tuple(tuples(item) for item in value) if isinstance(value, list) else value

    return Origin(**{name: tuples(value) for name, value in stored.items()})


def _package() -> str:
    try:
        return version("napari-interformer")
    except PackageNotFoundError:
        return "unknown"
