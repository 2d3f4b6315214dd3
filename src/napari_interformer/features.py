"""The feature maps of all planes of an image, in memory or in zarr, and what they were made from.

Half-written is normal: each tile of each plane is marked when it is done, what is done can be used while the rest is being
encoded, and an encode that was stopped continues where it was.
"""

from __future__ import annotations

import logging
import math
import tempfile
import threading
import uuid
import weakref
from collections import OrderedDict
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from napari_interformer import __version__
from napari_interformer.files import ELSEWHERE, brief, temporary_folder, unwritable
from napari_interformer.geometry import DIVISOR, Box, rounded_up
from napari_interformer.image import Planes, plane_at, plane_of
from napari_interformer.prompts import NotEncodedError
from napari_interformer.store import (
    Shape,
    Store,
    is_there,
    located,
    make_store,
    name_of,
    open_group,
    out_of_reach,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_interformer.image import ImageLike, Plane

log = logging.getLogger(__name__)

FORMAT = 2
_CACHE_BYTES = 256 * 2**20  # tiles of stored features that are kept decompressed
_MEMORY_BYTES = 10**9  # larger features without a store go to a temporary one


class MapMaker(Protocol):
    """What features need to know of a model, which makes the maps."""

    @property
    def fingerprint(self) -> str:
        """A hash that changes if the features would."""

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the four maps."""

    @property
    def strides(self) -> tuple[int, int, int, int]:
        """Strides of the four maps in pixels."""


@dataclass(frozen=True)
class Origin:
    """What features were made from, and how they are arranged. Features can be used only where all of it agrees.

    Attributes
    ----------
    image, model : str
        Fingerprints.
    leading, size : tuple of int
        The image's axes.
    contrast : tuple of (float, float), or "plane"
        What became 0 and 255.
    core, halo : int
        Side of a tile without its margin, and the width of the margin encoded around it; core 0 is the whole plane.
    channels, strides : tuple of int
        Of the four maps.
    axes : str
        The image's axes.
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
    floating: bool

    @classmethod
    def of(cls, planes: Planes, model: MapMaker, *, core: int, halo: int) -> Origin:
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
            floating=planes.dtype.kind == "f",
        )

    @property
    def side(self) -> int:
        """Side of a tile with its margin; 0 for the whole plane."""
        return self.core + 2 * self.halo

    def differences(self, other: Origin) -> list[str]:
        """Name what differs, so that features of `other` cannot be used for these."""
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
    kept : Store, optional
        Where they are stored; in memory if None.

    Attributes
    ----------
    origin : Origin
        As given.
    path : Path, str or None
        Where the store is, a string if that is a URL; None in memory, and for a temporary one.
    source : Planes or None
        The image, where it is at hand.
    tiles : list of Box
        The cores of a plane's tiles, in pixels, by rows; the last ones may reach beyond the image (see `padded`).
    """

    def __init__(self, origin: Origin, kept: Store | None = None) -> None:
        self.origin = origin
        self.path = None if kept is None else kept.location
        self.source: Planes | None = None
        self.tiles = _tiles(self.padded, origin.core)
        self._store = kept
        self._read_only = kept is not None and kept.read_only
        self._done = np.zeros((math.prod(origin.leading), len(self.tiles)), bool)
        self._lock = threading.Lock()
        # All tiles of features in memory; of stored ones those that were read last.
        self._cache: OrderedDict[tuple[int, int], list[NDArray[np.float16]]] = OrderedDict()
        self._gone: dict[tuple[int, int], NDArray[np.bool_]] = {}  # in memory: pixels without a value
        if kept is not None and kept.read_only and kept.group.attrs.get("complete"):
            self._done[:] = True  # whoever writes looks: a file may have been lost on the way here
        self._looked = False  # through the whole store

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy, or another process, needs: of a store, where it is."""
        state = self.__dict__.copy()
        del state["_lock"]
        if self._store is not None:
            mode = "r" if self._read_only else "r+"
            state = {"store": self._store.location, "mode": mode, "path": self.path, "source": self.source}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become what `__getstate__` described."""
        if mode := state.pop("mode", None):
            self.__dict__.update(Features.open(state["store"], mode=mode).__dict__)
            self.path, self.source = state["path"], state["source"]
        else:
            self.__dict__.update(state, _lock=threading.Lock())
        if self.source is not None and self.source.absent:
            log.warning(
                "The image of these features is not here; every object is seen at its own magnification."
            )
            self.source = None

    # --------------------------------------------------------------------------------- making and opening

    @classmethod
    def create(
        cls,
        planes: Planes,
        model: MapMaker,
        *,
        core: int,
        halo: int,
        store: str | Path | None = None,
        any_tiling: bool = False,
    ) -> Features:
        """Make room for the features of an image, or continue a store that has some of them.

        Parameters
        ----------
        planes : Planes
            The image.
        model : InterFormer
            The model that will encode it.
        core, halo : int
            Pixels of a tile that are kept, and how much more is encoded on each side; core 0 is the whole plane.
        store : path, optional
            A zarr group to write to, or its URL. If None, they stay in memory or, if they would take more than a gigabyte,
            in a temporary folder that is deleted with them.
        any_tiling : bool
            Whether a store that exists may have other tiles.

        Raises
        ------
        ValueError
            If the store holds features of another image, model, contrast or tiling, or something else.
        OSError
            If it cannot be written.
        """
        origin = Origin.of(planes, model, core=core, halo=halo)
        if store is None:
            made = cls(origin)
            if made.nbytes > _MEMORY_BYTES:
                with ExitStack() as stack:
                    folder = temporary_folder(Path(tempfile.gettempdir()), "interformer-")
                    kept = stack.enter_context(folder) / "features.zarr"
                    made = cls.create(planes, model, core=core, halo=halo, store=kept)
                    made.path = None
                    weakref.finalize(made, stack.pop_all().close)
            made.source = planes
            return made
        location = located(store)
        with _writing(location):
            if not is_there(location):
                make_store(location, _shape(origin), _attributes(origin))
        found = cls.open(store, mode="r+")
        if any_tiling:
            origin = replace(origin, core=found.origin.core, halo=found.origin.halo)
        found._check(origin)
        found.source = planes
        return found

    @classmethod
    def open(
        cls,
        store: str | Path,
        *,
        mode: Literal["r", "r+"] = "r",
        image: ImageLike | None = None,
        model: MapMaker | None = None,
    ) -> Features:
        """Open stored features; another process may still be writing them.

        Parameters
        ----------
        store : path or URL
            A zarr group made by `encode`; also on a network drive, or behind a URL that fsspec reads, such as
            ``https://``, ``s3://`` or ``memory://`` (some need another package, ``https://`` the extra ``web``).
            Chained URLs of fsspec, such as ``simplecache::https://``, are not read.
        mode : "r" or "r+"
            For reading, or to continue encoding.
        image, model : Planes, InterFormer, optional
            What the features must be made from; the image can be anything that `Planes.of` takes.

        Raises
        ------
        FileNotFoundError
            If there is no store.
        ValueError
            If it holds something else, features of another image or model, or was written by another version.
        TypeError, OSError
            If `model` is not a model, or for the image, as for `Planes.of`.
        """
        if model is not None and not hasattr(model, "fingerprint"):
            raise TypeError(
                f"model takes what load_model returns; got {type(model).__name__}: load it first."
            )
        if mode not in ("r", "r+"):
            raise ValueError(f"mode takes r or r+; got {mode!r}: to make a new store, use encode.")
        location = located(store)
        name = name_of(location)
        absent = f"Features.open takes a store made by encode; got {str(store)!r}, which does not exist: encode first."
        if isinstance(location, Path) and not location.exists():
            raise FileNotFoundError(absent)
        try:
            group = open_group(location, mode)
            attributes: dict[str, Any] = dict(group.attrs)
            written = int(attributes["interformer"])
            if written == FORMAT:
                origin = _origin(attributes["origin"])
                found = cls(origin, Store(group, _shape(origin), location))
        except ImportError:
            raise
        except PermissionError as error:
            raise OSError(f"{name} cannot be read ({error.strerror}): check your permissions.") from error
        except Exception as error:
            # No group, somebody else's, or a damaged one: zarr and JSON tell in many ways.
            if isinstance(location, str) and isinstance(error, FileNotFoundError):
                raise FileNotFoundError(absent) from error
            if unreachable := out_of_reach(location, error):
                raise unreachable from error
            raise ValueError(
                f"{name} is not a store of features: give one made by encode(store=...), or another name for a new one."
            ) from error
        if written > FORMAT:
            raise ValueError(f"{name} was written by a newer version of the package: update the package.")
        if written < FORMAT:
            raise ValueError(
                f"{name} was written by an older version of the package, which stored features differently: "
                "encode again, into another store."
            )
        found.check(image=image, model=model)
        return found

    def check(self, *, image: ImageLike | None = None, model: MapMaker | None = None) -> None:
        """Raise a ValueError unless these are features of an image and of a model, where they are given."""
        self._check(
            replace(
                self.origin,
                image=self.origin.image if image is None else Planes.of(image).fingerprint,
                model=self.origin.model if model is None else model.fingerprint,
            )
        )

    def _check(self, origin: Origin) -> None:
        if different := self.origin.differences(origin):
            others = " (or of other channels of it)" if "image" in different else ""
            remedy = "another store, or delete this one"
            if different == ["contrast"]:
                remedy = "the contrast they were encoded with, or another store"
            elif others:
                remedy = "the matching image and channels, or another store"
            raise ValueError(
                f"{name_of(self.path or Path('memory'))} holds features of another {' and '.join(different)}{others}: give "
                f"{remedy}."
            )

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
        """Y and X with the padding."""
        return padded(self.size)

    @property
    def image_fingerprint(self) -> str:
        """Fingerprint of the image that was encoded."""
        return self.origin.image

    @property
    def model_fingerprint(self) -> str:
        """Fingerprint of the model that encoded it."""
        return self.origin.model

    @property
    def contrast(self) -> tuple[tuple[float, float], ...] | Literal["plane"]:
        """What became 0 and 255 when it was encoded."""
        return self.origin.contrast

    @property
    def nbytes(self) -> int:
        """Bytes of all maps before compression; 7.5 per pixel with the model in the package."""
        return math.prod(self.leading) * sum(2 * _cells_of(tile, self.origin) for tile in self.tiles)

    @property
    def bytes_in_memory(self) -> int:
        """Bytes that they take in memory when complete; for stored ones, those of the tiles that were read last."""
        return self.nbytes if self._store is None else min(self.nbytes, _CACHE_BYTES)

    def ready(self, plane: Plane = (), box: Box | None = None) -> bool:
        """Whether a plane, or all tiles that a box of it touches, are encoded."""
        return not self.waiting(plane, box)

    def ready_planes(self) -> NDArray[np.bool_]:
        """Return which planes are encoded: bool, the shape of the leading axes.

        Features opened for reading look into their store each time; those that write look once, and then know what they wrote.
        """
        if self._read_only or not self._looked:
            self._refresh_all()
        return np.asarray(self._done.all(axis=1).reshape(self.leading))

    def waiting(self, plane: Plane = (), box: Box | None = None) -> list[int]:
        """Return the numbers of a plane's tiles that are not encoded yet; only those that `box` touches, if given."""
        return self.unfinished(plane, self.touched(box))

    def unfinished(self, plane: Plane, tiles: list[int]) -> list[int]:
        """Return which of some tiles of a plane are not encoded yet, in the given order."""
        row = self.flat(plane)
        self._refresh(row, tiles)
        return [tiles[i] for i in np.flatnonzero(~self._done[row, tiles])]

    def _refresh(self, row: int, tiles: Sequence[int]) -> None:
        """Look at what is stored of a plane, because another process may have written it."""
        if self._store is None:
            return
        unknown = [tile for tile, done in zip(tiles, self._done[row, list(tiles)], strict=True) if not done]
        if unknown:
            # Marks are only ever set: another thread may write one of these tiles while this one looks.
            found = self._store.done(row, unknown)
            self._done[row, np.array(unknown)[found]] = True

    def _refresh_all(self) -> None:
        for row in np.flatnonzero(~self._done.all(axis=1)):
            self._refresh(int(row), range(len(self.tiles)))
        self._looked = True

    def finish(self) -> bool:
        """Note in the store that all planes are done, if they are, so that whoever opens it need not check each one.

        What a killed process has left unpacked is packed. If nothing can be written, the features can be used all the same.

        Returns
        -------
        bool
            Whether all planes are done.

        Raises
        ------
        OSError
            If the store was deleted or replaced since it was opened.
        """
        if self._store is None:
            return bool(self._done.all())
        self._store.check(now=True)
        self._refresh_all()
        if self._done.all() and not self._store.group.attrs.get("complete"):
            try:
                with _writing(self._store.location, "it can be used all the same"):
                    self._store.pack_all()
                    # What is noted is believed for good, so what was seen some time ago is not enough.
                    # Behind a URL, that would be two requests for each plane.
                    if isinstance(self._store.location, Path):
                        for row, done in enumerate(self._done):
                            done[:] = self._store.done(row, range(len(self.tiles)))
                    if self._done.all():
                        self._store.group.attrs["complete"] = True
            except OSError as error:
                log.warning("Everything is encoded, but that could not be noted in the store: %s", error)
        return bool(self._done.all())

    @property
    def replaced(self) -> bool:
        """Whether the store that these were opened from is gone, or was replaced by another one; OSError if nobody can tell."""
        return self._store is not None and self._store.replaced

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
        ValueError
            If there is no such plane, or the box is not as described.
        NotEncodedError
            If a tile that it needs is not encoded.
        OSError
            If a stored tile is damaged, or cannot be read.
        """
        box = Box(*box)
        if any(edge % DIVISOR for edge in box) or not Box.of(self.padded).holds(box) or box.empty:
            raise ValueError(
                f"box must be multiples of {DIVISOR} inside the padded plane {self.padded}; got {tuple(box)}."
            )
        if not self.ready(plane, box):
            if self._store is not None:
                self._store.check()
            raise NotEncodedError(plane_of(plane, self.leading), box)
        maps = [np.empty(shape, np.float32) for shape in _shapes(box, self.origin)]
        for tile in self.touched(box):
            core = self.tiles[tile]
            both = core.intersect(box)
            parts = cut_maps(self._tile(self.flat(plane), tile), self.origin.strides, both, core)
            for out, part in zip(cut_maps(maps, self.origin.strides, both, box), parts, strict=True):
                out[...] = part
        return maps

    def valid(self, plane: Plane, y: int, x: int) -> bool:
        """Whether the image has a value at a pixel (is not NaN there); this is known only for encoded tiles."""
        row = self.flat(plane)
        if not self.origin.floating:
            return True
        if self._store is not None:
            return not self._store.missing(row, y, x)
        tile = self.touched(Box.pixel(y, x))[0]
        missing, core = self._gone.get((row, tile)), self.tiles[tile]
        return missing is None or not missing[y - core.top, x - core.left]

    def flat(self, plane: Plane) -> int:
        """Return the number of a plane in C order."""
        plane = plane_of(plane, self.leading)
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
            If the store was opened for reading, or there is no such tile, or the maps have other shapes.
        OSError
            If it cannot be written; what was written before can still be read.
        """
        row = self.flat(plane)
        if self._read_only:
            raise ValueError(
                "These features were opened for reading only: to continue encoding, give their store to encode."
            )
        if not 0 <= tile < len(self.tiles):
            raise ValueError(f"tile takes a number below {len(self.tiles)}; got {tile}.")
        core = self.tiles[tile]
        shapes, given = _shapes(core, self.origin), [np.shape(level) for level in maps]
        if given != shapes:
            raise ValueError(f"maps takes arrays of shapes {shapes} for tile {tile}; got {given}.")
        limit = np.finfo(np.float16).max
        # A tile that begins with NaN would count as missing.
        halves = [np.nan_to_num(np.clip(level, -limit, limit)).astype(np.float16) for level in maps]
        if self._store is None:
            if missing is not None and missing.any():
                self._gone[row, tile] = missing
            self._cache[row, tile] = halves
        else:
            self._store.check()
            with _writing(
                self._store.location, "what it holds can be used; encode the rest where you can write"
            ):
                if missing is not None and missing.any():
                    self._store.write_missing(row, core.intersect(Box.of(self.size)).slices, missing)
                self._store.write(row, tile, np.concatenate([half.ravel() for half in halves]))
        self._done[row, tile] = True  # last, so that a tile is never half there

    @contextmanager
    def claim(self, plane: Plane, tiles: Sequence[int], most: int) -> Iterator[list[int]]:
        """Take up to `most` of a plane's tiles that nobody else on this file system works on, while in the context."""
        if self._store is None:
            yield list(tiles[:most])
            return
        with self._store.claim(self.flat(plane), tiles, most) as taken:
            yield self.unfinished(plane, taken)  # one that has just been given back may be done

    def touched(self, box: Box | None) -> list[int]:
        """Return the numbers of the tiles that a box of the padded plane touches; of all if None."""
        if box is None:
            return list(range(len(self.tiles)))
        height, width = self.tiles[0].height, self.tiles[0].width
        box = Box(*box).intersect(Box.of(self.padded))
        if box.empty:
            return []
        across = -(-self.padded[1] // width)
        rows = range(box.top // height, -(-box.bottom // height))
        columns = range(box.left // width, -(-box.right // width))
        return [row * across + column for row in rows for column in columns]

    def _tile(self, row: int, tile: int) -> list[NDArray[np.float16]]:
        key = (row, tile)
        if self._store is None:
            return self._cache[key]
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        self._store.check()
        numbers = self._store.read(row, tile)
        self._store.check()  # again: what is kept now would be served for good
        if numbers is None:  # it was there, or was noted as if it were
            self._done[row, tile] = False
            raise NotEncodedError(plane_at(row, self.leading), self.tiles[tile])
        maps, start = [], 0
        for shape in _shapes(self.tiles[tile], self.origin):
            maps.append(numbers[start : start + math.prod(shape)].reshape(shape))
            start += math.prod(shape)
        with self._lock:
            self._cache[key] = maps
            while len(self._cache) > max(1, _CACHE_BYTES // (2 * self._store.shape.cells)):
                self._cache.popitem(last=False)
        return maps

    def __repr__(self) -> str:
        """Describe what is there."""
        ready, total = int(self.ready_planes().sum()), len(self._done)
        where = self.path or ("in memory" if self._store is None else "in a temporary folder")
        return f"Features({self.origin.axes} {self.shape}, {ready} of {total} planes encoded, {where})"


def fitting(kept: dict[Any, Features]) -> dict[Any, Features]:
    """Return as many of some features as fit into memory together; the last ones come first, and one always stays.

    Features in a store are left out, because they can be opened again.
    """
    found: dict[Any, Features] = {}
    room = _MEMORY_BYTES
    for key, features in reversed(kept.items()):
        if features.path is None:
            shared = any(features is other for other in found.values())  # by images of the same pixels
            room -= 0 if shared else features.bytes_in_memory
            if found and room < 0:
                break
            found[key] = features
    return dict(reversed(found.items()))


@contextmanager
def _writing(location: Path | str, denied: str = ELSEWHERE) -> Iterator[None]:
    """Turn an error while a store is written to into one sentence; `denied` is what to do without permission."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        if isinstance(location, str):  # those of S3 and web servers are no OSErrors
            raise OSError(
                f"{location} could not be written to ({brief(error)}): a web server can only be read from; elsewhere, check "
                "your permissions and the network."
            ) from error
        if isinstance(error, OSError):
            raise unwritable(location, error, denied) from error
        raise


def _attributes(origin: Origin) -> dict[str, Any]:
    return {
        "interformer": FORMAT,
        "package": __version__,
        "id": uuid.uuid4().hex,  # of this store: another one may take its place
        "origin": asdict(origin),
        "complete": False,
    }


def _shape(origin: Origin) -> Shape:
    """Return what a store for these features has room for."""
    tiles = _tiles(padded(origin.size), origin.core)
    return Shape(
        leading=origin.leading,
        tiles=len(tiles),
        cells=_cells_of(tiles[0], origin),
        size=origin.size if origin.floating else None,
        core=(tiles[0].height, tiles[0].width),
    )


def padded(size: tuple[int, int]) -> tuple[int, int]:
    """Return Y and X rounded up to multiples of `DIVISOR`."""
    return rounded_up(size[0]), rounded_up(size[1])


def _cells_of(tile: Box, origin: Origin) -> int:
    """Return how many numbers the maps of a tile have."""
    return sum(map(math.prod, _shapes(tile, origin)))


def _shapes(box: Box, origin: Origin) -> list[tuple[int, int, int]]:
    """Return the shapes of the maps of a box: (C_i, h / s_i, w / s_i)."""
    return [
        (c, box.height // s, box.width // s) for c, s in zip(origin.channels, origin.strides, strict=True)
    ]


def cut_maps(
    maps: Sequence[NDArray[Any]], strides: Sequence[int], box: Box, whole: Box
) -> list[NDArray[Any]]:
    """Return a box's part of the maps (C_i, h / s_i, w / s_i) of a larger one; both in multiples of the strides."""
    inner = box.shift(-whole.top, -whole.left)
    return [
        level[:, inner.top // s : inner.bottom // s, inner.left // s : inner.right // s]
        for level, s in zip(maps, strides, strict=True)
    ]


def _tiles(size: tuple[int, int], core: int) -> list[Box]:
    """Cut a padded plane into cores, in C order."""
    height, width = size
    step_y, step_x = (core or height), (core or width)
    return [
        Box(left, top, min(left + step_x, width), min(top + step_y, height))
        for top in range(0, height, step_y)
        for left in range(0, width, step_x)
    ]


def _origin(stored: dict[str, Any]) -> Origin:
    """Turn JSON's lists back into tuples; what other versions noted in addition, such as pixel sizes, is left out."""

    def tuples(value: Any) -> Any:
        return tuple(tuples(item) for item in value) if isinstance(value, list) else value

    known = {field.name for field in fields(Origin)}
    return Origin(**{name: tuples(value) for name, value in stored.items() if name in known})
