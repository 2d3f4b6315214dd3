"""Tiles of features on disk: a zarr group that many processes may write to and read from at the same time.

Each tile is one row of float16 numbers, all four maps one after the other. It is written twice: at once as a separate chunk
in ``tiles``, which can be read as soon as it is there; and, when a group of neighbouring tiles is complete, together with
them as one shard in ``maps``, after which the single chunks are removed. So a plane of up to 64 tiles ends up as a single
file. A shard alone would not do: zarr writes a shard as a whole, so that a tile would have to wait for its neighbours, a kill
would lose them all, and two processes would overwrite each other's halves.

There is no list of what is done: a file that is there is done, because files appear whole or not at all. Only a power cut may
leave an empty one, which counts as none. No tile, and no mark of one, is ever read, changed and written back, so that none
can be lost between processes. Only that all tiles are there is noted, at the end, in the group's attributes (perhaps twice),
so that readers need not look; writers look. The fill value is NaN, which no tile holds. Each tile has a checksum, so that a
damaged one is refused and not taken for features.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import stat
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
import zarr
from fsspec import get_filesystem_class
from fsspec.core import url_to_fs
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.errors import ContainsArrayError
from zarr.storage import FsspecStore

from napari_interformer import GET_EXTRA, locks
from napari_interformer.files import at_home, brief, is_url, temporary_folder
from napari_interformer.image import plane_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

_WEB = ("http", "https")
_CHECKSUM = (Crc32cCodec(),)  # four bytes a tile, and next to no time
_ARRAYS = {"tiles", "maps", "missing"}
_LOOK = 1.0  # seconds for which a store that was seen is taken to be there
SHARD_TILES = 64  # at most, in one file; with the default model 18 MB before compression


@dataclass(frozen=True)
class Shape:
    """What a store has room for.

    Attributes
    ----------
    leading : tuple of int
        Lengths of the axes before (Y, X).
    tiles : int
        Number of tiles per plane.
    cells : int
        Numbers in the largest tile.
    size : (int, int), optional
        Y and X of the planes, where pixels may have no value.
    core : (int, int)
        Y and X of a tile.
    """

    leading: tuple[int, ...]
    tiles: int
    cells: int
    size: tuple[int, int] | None
    core: tuple[int, int]

    @property
    def planes(self) -> int:
        """Number of planes."""
        return math.prod(self.leading)

    @property
    def together(self) -> int:
        """Number of tiles that end up in one file."""
        return min(self.tiles, SHARD_TILES)

    @property
    def groups(self) -> int:
        """Number of files that a plane ends up in."""
        return -(-self.tiles // self.together)


class Store:
    """The tiles in a zarr group, opened by `Features.open`."""

    def __init__(self, group: zarr.Group, shape: Shape, location: Path | str) -> None:
        self.group, self.shape, self.location = group, shape, location
        self._loose: Any = group["tiles"]
        self._packed: Any = group["maps"]
        self._missing: Any = group["missing"] if shape.size else None
        # zarr lists and deletes files in its event loop alone: behind a URL, a file system of fsspec's does it.
        self._files: Any
        self._root: str
        self._files, self._root = url_to_fs(location) if isinstance(location, str) else (None, "")
        # Web servers show no folders, and others not to everybody.
        self._lists = not (isinstance(location, str) and urlparse(location).scheme.rpartition(":")[2] in _WEB)
        self._seen = self._look()
        self._found = time.monotonic()  # when it was last seen to be the one that was opened

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written."""
        return bool(self.group.read_only)

    # ------------------------------------------------------------------------------------- what is there

    @property
    def replaced(self) -> bool:
        """Whether it is gone, or another one lies in its place; OSError if nobody can tell."""
        try:
            now = open_group(self.location, "r").attrs.get("id")
        except FileNotFoundError:
            return True
        except Exception as error:
            if unreachable := out_of_reach(self.location, error):
                raise unreachable from error
            return True  # whatever zarr finds in its place
        return bool(now != self.group.attrs.get("id"))

    def check(self, *, now: bool = False) -> None:
        """Raise an OSError if it is not the one that was opened; unless `now`, a look a moment ago is enough."""
        seen = self._look()
        if seen == self._seen and not now and time.monotonic() - self._found < _LOOK:
            return
        if seen is None or self.replaced:
            raise OSError(
                f"{name_of(self.location)} was deleted, or replaced by another store, while it was in use: open it again, or "
                "encode again into another store."
            )
        self._seen, self._found = seen, time.monotonic()

    def _look(self) -> tuple[int, ...] | None:
        """Return what the system tells of a store on disk, which is cheap and another one's differs; None if it is gone."""
        if isinstance(self.location, str):
            return ()
        try:
            found = os.stat(self.location / "zarr.json")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_ino, found.st_mtime_ns

    def done(self, row: int, tiles: Sequence[int]) -> NDArray[np.bool_]:
        """Return which tiles of a plane are there: bool, one for each of `tiles`."""
        if self._lists:
            try:
                # Packed last: a tile goes from loose to packed, and would be missed the other way round.
                loose = self._numbers(f"tiles/c/{row}")
                packed = self._numbers(f"maps/c/{row}")
                return np.array([t in loose or t // self.shape.together in packed for t in tiles], bool)
            except PermissionError:
                if isinstance(self.location, Path):
                    raise
                self._lists = False
        groups = {t // self.shape.together for t in tiles}
        packed = {group for group in groups if self._exists(f"maps/c/{row}/{group}")}
        return np.array(
            [t // self.shape.together in packed or self._exists(f"tiles/c/{row}/{t}") for t in tiles], bool
        )

    def _numbers(self, folder: str) -> set[int]:
        """Return the names in a folder that are numbers, but for those of empty files; none if it is not there."""
        try:
            if isinstance(self.location, Path):
                with os.scandir(self.location / folder) as entries:
                    return {int(one.name) for one in entries if one.name.isdigit() and not _is_empty(one)}
            self._files.invalidate_cache()  # it remembers folders, and others write
            names = self._files.ls(f"{self._root}/{folder}", detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return set()
        return {int(name) for path in names if (name := path.rstrip("/").rpartition("/")[2]).isdigit()}

    def _exists(self, key: str) -> bool:
        if isinstance(self.location, Path):
            return (self.location / key).exists() and not _is_empty(self.location / key)
        self._files.invalidate_cache()
        try:
            return bool(self._files.exists(f"{self._root}/{key}"))
        except PermissionError:  # see `open_group`
            return False

    def _delete(self, key: str) -> None:
        with suppress(FileNotFoundError):  # somebody else did
            if isinstance(self.location, Path):
                os.unlink(self.location / key)
            else:
                self._files.rm(f"{self._root}/{key}")

    # ------------------------------------------------------------------------------------------- tiles

    def read(self, row: int, tile: int) -> NDArray[np.float16] | None:
        """Return a tile's numbers, or None if it is not there.

        Raises
        ------
        OSError
            If it is damaged, or cannot be read.
        """
        part = slice(tile * self.shape.cells, (tile + 1) * self.shape.cells)
        packed = self._packed, f"maps/c/{row}/{tile // self.shape.together}"
        loose = self._loose, f"tiles/c/{row}/{tile}"
        for array, file in (packed, loose, packed):  # it may be packed at this moment
            try:
                numbers: NDArray[np.float16] = np.asarray(array[row, part])
            except Exception as error:  # whatever codecs and file systems raise
                if isinstance(self.location, Path) and _is_empty(self.location / file):
                    continue
                raise self.unreadable(row, f"tile {tile}", error, file) from error
            if not np.isnan(numbers[0]):
                return numbers
        return None

    def write(self, row: int, tile: int, numbers: NDArray[np.float16]) -> None:
        """Write a tile's numbers, at once and whole; and together with its neighbours, if these are complete now."""
        whole = np.zeros(self.shape.cells, np.float16)
        whole[: numbers.size] = numbers
        part = slice(tile * self.shape.cells, (tile + 1) * self.shape.cells)
        try:
            self._loose[row, part] = whole
        except FileNotFoundError:
            # Somebody who had the same tile has just packed the plane and removed the folder.
            self._loose[row, part] = whole
        self.pack(row, tile // self.shape.together)

    def pack(self, row: int, group: int) -> None:
        """Write the tiles of a complete group into one file, and remove their single files."""
        together, cells, file = self.shape.together, self.shape.cells, f"maps/c/{row}/{group}"
        tiles = range(group * together, min((group + 1) * together, self.shape.tiles))
        if not self.done(row, tiles).all():
            return
        if not self._exists(file):
            shard = np.full(together * cells, np.nan, np.float16)
            for i, tile in enumerate(tiles):
                try:
                    numbers = self.read(row, tile)
                except OSError as error:  # the others can be read where they lie
                    log.warning("Not packed: %s", error)
                    return
                if numbers is None:  # removed meanwhile: somebody else has packed it
                    return
                shard[i * cells : (i + 1) * cells] = numbers
            self._packed[row, group * together * cells : (group + 1) * together * cells] = shard
            if isinstance(self.location, Path):
                # Now: after a power cut, it might be empty, and the single files gone.
                with (self.location / file).open("r+b") as written:
                    os.fsync(written.fileno())
        for tile in self._numbers(f"tiles/c/{row}").intersection(tiles):
            self._delete(f"tiles/c/{row}/{tile}")
        # Not as soon as all tiles are done: those of another group may not be packed yet.
        if isinstance(self.location, Path) and len(self._numbers(f"maps/c/{row}")) == self.shape.groups:
            # With what killed processes left half written.
            shutil.rmtree(self.location / "tiles" / "c" / str(row), ignore_errors=True)

    def pack_all(self) -> None:
        """Pack the complete groups whose last writer was killed before it could."""
        for row in self._numbers("tiles/c"):
            for group in {tile // self.shape.together for tile in self._numbers(f"tiles/c/{row}")}:
                self.pack(row, group)

    # ---------------------------------------------------------------------------- pixels without a value

    def write_missing(self, row: int, part: tuple[slice, slice], missing: NDArray[np.bool_]) -> None:
        """Write which pixels of a tile have no value; to be called before the tile itself is written."""
        self._missing[(row, *part)] = missing
        if isinstance(self.location, Path):  # after a power cut this might be empty, and the tile there
            place = (
                axis.start // length for axis, length in zip(part, self._missing.chunks[1:], strict=True)
            )
            with self.location.joinpath("missing", "c", str(row), *map(str, place)).open("r+b") as written:
                os.fsync(written.fileno())

    def missing(self, row: int, y: int, x: int) -> bool:
        """Whether a pixel has no value; errors as for `read`."""
        try:
            return bool(self._missing[row, y, x])
        except Exception as error:
            raise self.unreadable(row, f"pixel {(y, x)}", error) from error

    def unreadable(self, row: int, part: str, error: Exception, file: str = "") -> OSError:
        """Return an error that says what part of a plane cannot be read, and why; `file` can be deleted to make it again."""
        if self.shape.leading:
            part += f" of plane {plane_at(row, self.shape.leading)}"
        remedy = f"the store is damaged: copy it again, or delete {file and f'{file} in '}it and encode again"
        if isinstance(self.location, str):
            remedy = "check that the server serves parts of files (range requests); if it does, the store is damaged"
        elif isinstance(error, OSError):
            remedy = "check that the disk or network drive is there and can be read"
        return OSError(
            f"Stored features could not be read from {self.location} at {part} ({brief(error)}): {remedy}."
        )

    # ------------------------------------------------------------------------------------------- claims

    @contextmanager
    def claim(self, row: int, tiles: Sequence[int], most: int) -> Iterator[list[int]]:
        """Take up to `most` of a plane's tiles that no other process on this file system is working on.

        The claims end with the process that made them, however it ends. Where there are no locks, as in object stores,
        all are granted: making the same tile twice does no harm.
        """
        taken: list[int] = []
        try:
            for tile in tiles:
                if len(taken) == most:
                    break
                taken.append(tile)  # first, or an interrupt could leave it taken for good
                if not (
                    self.read_only
                    or isinstance(self.location, str)
                    or locks.take(_claims(self.location), row * self.shape.tiles + tile)
                ):
                    taken.pop()
            yield taken
        finally:
            if isinstance(self.location, Path):
                for tile in taken:
                    locks.give_back(_claims(self.location), row * self.shape.tiles + tile)


# ------------------------------------------------------------------------------------------ making and opening


def located(store: str | os.PathLike[str]) -> Path | str:
    """Return a path, or the URL of something that is not a file on this machine.

    A path is made absolute, see `at_home`.

    Raises
    ------
    ValueError
        If it is empty, a file's URL that names no absolute path, or a URL that was made into a `Path`.
    """
    text = os.fspath(store)
    if not text:
        raise ValueError("A store of features needs a path or a URL; got an empty one: name it.")
    scheme, separator, rest = text.partition("://")
    if not separator and is_url(text):
        raise ValueError(
            f"The URL of a store must have two slashes; got {text!r}: give it as text, not as a Path."
        )
    if not separator:
        return at_home(text)
    if scheme not in ("file", "local"):
        try:
            get_filesystem_class(scheme)
        except ImportError:
            pass  # what is missing is told by what opens it
        except ValueError as error:
            raise ValueError(f"{text} cannot be opened ({brief(error)}): check how it begins.") from error
        return text.rstrip("/")
    path = rest.removeprefix("localhost")
    if not path.startswith("/"):
        raise ValueError(
            f"The URL of a file has three slashes and an absolute path; got {text}: give just the path."
        )
    return Path(url2pathname(path))


def name_of(location: Path | str) -> str:
    """Return the name of a store for use in errors."""
    return location.name or str(location) if isinstance(location, Path) else location  # "." has no name


def is_there(location: Path | str) -> bool:
    """Whether something is there already; an empty folder, or a store whose making was interrupted, counts as nothing."""
    if isinstance(location, Path):
        return location.exists() and not (location.is_dir() and not any(location.iterdir()))
    try:
        group = open_group(location, "r")
    except FileNotFoundError:
        return False
    return bool(group.attrs) or not set(group.keys()) <= _ARRAYS


def open_group(location: Path | str, mode: Literal["r", "r+"]) -> zarr.Group:
    """Open a zarr group on a path or behind a URL."""
    try:
        return zarr.open_group(location, mode=mode, use_consolidated=False)
    except PermissionError as error:
        if isinstance(location, Path):
            raise
        # S3 says so, too, of any file that is not there, to whoever may not list the folder.
        store = FsspecStore.from_url(location, read_only=mode == "r")
        store.allowed_exceptions += (PermissionError,)
        try:
            return zarr.open_group(store, mode=mode, use_consolidated=False)
        except FileNotFoundError:
            raise error from None
    except ImportError as error:
        scheme = urlparse(str(location)).scheme
        remedy = GET_EXTRA.format("web") if scheme in _WEB else "install it with pip"
        raise ImportError(
            f"Features behind {scheme}:// need another package ({brief(error)}): {remedy}.",
            name=error.name,
        ) from error


def out_of_reach(location: Path | str, error: Exception) -> OSError | None:
    """Return what to raise if an error tells nothing of a store but that the network, or a server, did not answer."""
    damaged = ValueError, TypeError, LookupError, AttributeError
    if isinstance(location, Path) or isinstance(error, damaged):  # S3's errors are no OSErrors
        return None
    return OSError(
        f"{name_of(location)} could not be reached ({brief(error)}): check the address and the network."
    )


def make_store(location: Path | str, shape: Shape, attributes: dict[str, Any]) -> None:
    """Write a store without tiles; if another process is faster, its store and its tiles stay.

    On a path, it is there as a whole or not at all. Behind a URL, it comes piece by piece, its origin last.
    """
    if isinstance(location, str):
        _make_arrays(zarr.open_group(location, mode="a", zarr_format=3), shape)
        group = zarr.open_group(location, mode="r+")
        if not set(attributes) <= set(group.attrs):
            group.attrs.update(attributes)
        return
    location = location.resolve()  # a link to an empty folder, or to one that is to be made
    if location.exists() and location.samefile(os.curdir):  # to take its place, it would be deleted
        raise ValueError(
            f"A store needs a folder of its own; got the one you are in, {location.name}: give the name of a new folder in it, "
            "such as features.zarr."
        )
    with temporary_folder(location.parent, ".making-") as folder:
        made = folder / "store"
        group = zarr.open_group(made, mode="w", zarr_format=3)
        _make_arrays(group, shape)
        group.attrs.update(attributes)
        try:
            if location.exists():
                location.rmdir()  # it is empty
            os.rename(made, location)
        except OSError:
            if not (location / "zarr.json").exists():
                raise


def _make_arrays(group: zarr.Group, shape: Shape) -> None:
    """Make the arrays that are not there yet; those of a faster process stay, with what is in them."""
    for name, columns, shard in (
        ("tiles", shape.tiles, None),
        ("maps", shape.groups * shape.together, shape.together),
    ):
        with suppress(ContainsArrayError):
            group.create_array(
                name,
                shape=(shape.planes, columns * shape.cells),
                dtype=np.float16,
                chunks=(1, shape.cells),
                shards=None if shard is None else (1, shard * shape.cells),
                # Bytes of equal weight side by side: 1.6 instead of 1.3 times smaller, and faster.
                compressors=[BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=2), *_CHECKSUM],
                fill_value=np.nan,
            )
    if shape.size is not None:
        with suppress(ContainsArrayError):
            group.create_array(
                "missing",
                shape=(shape.planes, *shape.size),
                dtype=bool,
                chunks=(1, *(min(c, n) for c, n in zip(shape.core, shape.size, strict=True))),
                compressors=[BloscCodec(cname="zstd", clevel=1, typesize=1), *_CHECKSUM],
                fill_value=False,
            )


def _is_empty(file: Path | os.DirEntry[str]) -> bool:
    """Whether a file is there that a power cut has left empty."""
    try:
        found = file.stat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == 0  # folders may be told to be of no size


def _claims(store: Path) -> Path:
    """Return the file of which each byte is a tile that somebody works at."""
    return store / "tiles" / "claims"
