"""Files and folders of any kind: what a path means, whether it is still there, writing whole or not at all, and errors.

The errors are sentences that say what was to be done with which file, and what to do.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import math
import os
import re
import shutil
import stat
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_interformer import locks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_ZARR_MARKS = {2: ".zarray", 3: "zarr.json"}  # what a folder with an array holds, by Zarr's versions
_SLAB = 2**28  # bytes of a label image that are read together, at most
_LOOKED_AT = 4  # arrays of Zarr behind one of Dask, at each reading
_IN_USE, _DAY = "in use", 86400  # the lock in a temporary folder, and seconds


def at_home(path: str | os.PathLike[str]) -> Path:
    """Return an absolute path, since the working directory may change; only shells know ~, so it is the home folder here."""
    return Path(os.path.expanduser(path)).absolute()


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL, of whose two slashes a `Path` keeps one; a drive of Windows has a single letter."""
    return re.match(r"[A-Za-z][\w+.-]+:[/\\]", os.fspath(path)) is not None


def gone(array: Any) -> Path | None:
    """Return the folder of an array of Zarr, or of one that Dask reads from, if that is not there any more; None for others.

    Zarr takes pixels that it does not find for empty ones, so it reads nothing else from such a folder, and makes it
    anew to write to. To know that costs a look at one file; the folder itself may be there, as where a drive was mounted.
    """
    sources = _sources(array) if hasattr(array, "dask") else (array,)
    return next((folder for folder in map(_gone, sources) if folder is not None), None)


def labels_at(labels: Any, key: Any) -> NDArray[Any]:
    """Read a part of a label image, which is no copy where it lies in memory; OSError if it cannot be read."""
    try:
        return np.asarray(labels[key])
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever codecs, file systems and lazy arrays raise
        raise OSError(
            f"The labels could not be read ({brief(error)}): check what stores them, or open them again."
        ) from error


def planes_of(labels: Any) -> Iterator[tuple[tuple[int, ...], NDArray[Any]]]:
    """Go through a label image (..., Y, X) plane by plane; of chunks that reach through several, each is read once."""
    *leading, last = labels.shape[:-2] or (None,)
    if last is None:
        yield (), labels_at(labels, ())
        return
    together = _together(labels)
    for outer in np.ndindex(*leading):
        for start in range(0, last, together):
            slab = labels_at(labels, (*outer, slice(start, start + together)))
            for number, plane in enumerate(slab, start):
                yield (*outer, number), plane


def _together(labels: Any) -> int:
    """Return how many planes lie in one chunk, as far as these fit into memory."""
    array = getattr(labels, "array", labels)  # of a layer, it is what lies behind
    chunks = getattr(array, "chunks", None)
    if not chunks or len(array.shape) != len(labels.shape):
        return 1
    depth: Any = chunks[-3]
    length: int = depth if isinstance(depth, int) else max(depth)  # Dask has one for each chunk
    room: int = _SLAB // (math.prod(labels.shape[-2:]) * labels.dtype.itemsize)
    return max(1, min(length, room))


def _sources(lazy: Any) -> Iterator[Any]:
    """Go through what an array of Dask reads from, as far as its graph tells; of many, the first ones: they lie together."""
    layers = getattr(lazy.dask, "layers", {})
    kept = (layer[name] for name, layer in layers.items() if layer.is_materialized() and name in layer)
    return itertools.islice((source for source in kept if hasattr(source, "store")), _LOOKED_AT)


def _gone(array: Any) -> Path | None:
    root = _root(getattr(array, "store", None))
    if root is None:  # no array of Zarr, or in no folder
        return None
    folder = root / array.path
    if (folder / _ZARR_MARKS[array.metadata.zarr_format]).exists():
        return None
    return None if folder.is_dir() and _is_consolidated(root) else folder


def _root(store: Any) -> Path | None:
    """Return the folder of a store of Zarr's, if it is in one, however it was opened."""
    root, files = getattr(store, "root", None), getattr(store, "fs", None)
    protocols = getattr(getattr(files, "sync_fs", files), "protocol", ())
    if "file" in ([protocols] if isinstance(protocols, str) else protocols):  # fsspec's, as Dask opens a path
        root = Path(store.path)
    return root if isinstance(root, Path) else None


def _is_consolidated(root: Path) -> bool:
    """Whether a group tells of its arrays itself, which then need no file for that."""
    about = root / _ZARR_MARKS[3]
    return (root / ".zmetadata").exists() or (about.exists() and "consolidated_metadata" in about.read_text())


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths name one file, which need not be there."""
    try:
        return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))
    except RuntimeError as error:  # as Python tells of links that lead to each other
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(one)) from error


@contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new folder, and remove it; those of that prefix that killed processes have left are removed after a day."""
    for left in parent.glob(f"{prefix}*"):
        with suppress(OSError):
            if (left / _IN_USE).stat().st_mtime < time.time() - _DAY and locks.take(left / _IN_USE, 0):
                _remove(left)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        locks.take(folder / _IN_USE, 0)
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    locks.give_back(folder / _IN_USE, 0)
    shutil.rmtree(folder, ignore_errors=True)  # some systems do not delete what somebody reads


@contextmanager
def replacing(path: Path, name: str | None = None) -> Iterator[Path]:
    """Yield where to write, in a new folder beside `path`; what lies there in the end replaces `path`.

    Its name is `name`, for writers that look at it, or else that of `path`. A folder replaces a file or a folder, a file
    only a file. If anything fails, `path` is as it was.
    """
    if path.is_symlink():
        path = path.resolve()  # the link stays, what it points to is replaced
    refuse_protected(path)
    # Where a folder waits; the next one knows it by its name.
    before = path.with_name(_waiting_name(path.name))
    if before.exists() and not path.exists():  # the last one was killed meanwhile
        os.rename(before, path)
    with temporary_folder(path.parent, ".saving-") as folder:
        whole = folder / (name or path.name)
        yield whole
        if path.is_file() and whole.is_file():
            with suppress(OSError):  # not every drive has permissions
                shutil.copymode(path, whole)
        if not (whole.is_dir() and path.exists()):
            os.replace(whole, path)
            return
        # No system replaces a folder that is not empty, or a file by a folder. What was there waits outside, or it would be
        # deleted with `folder`.
        if before.exists():  # the last one was killed after it was done
            os.rename(before, folder / before.name)
        try:
            os.rename(path, before)
            os.replace(whole, path)
        except BaseException:
            if before.exists() and not path.exists():
                os.rename(before, path)
            raise
        with suppress(OSError):  # what was to be saved is; at worst the old folder stays beside it
            os.rename(before, whole)


def _waiting_name(name: str) -> str:
    """Return by what name a folder waits while another takes its place; no longer than systems allow."""
    kept = f".saving-{name}-before"
    return (
        kept
        if len(os.fsencode(kept)) < 256
        else f".saving-{hashlib.sha256(os.fsencode(name)).hexdigest()}-before"
    )


def refuse_protected(path: Path) -> None:
    """Raise a PermissionError for a file that its owner may not write: whoever replaces it is not asked for that."""
    if path.is_file() and not path.stat().st_mode & stat.S_IWUSR:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def write_whole(path: Path, content: bytes) -> Path:
    """Write a small file whole or not at all.

    Raises
    ------
    OSError
        If it cannot be written; the file that was there before is untouched.
    """
    path = at_home(path)
    try:
        with replacing(path) as whole:
            whole.write_bytes(content)
    except OSError as error:
        raise unwritable(path, error) from error
    return path


ELSEWHERE = "choose a place that you can write to"
_REMEDIES = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space there or choose another place"
    ),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "make that folder first"),
    errno.ENAMETOOLONG: "choose a shorter name",
}


def unwritable(path: Path, error: Exception, denied: str = ELSEWHERE) -> OSError:
    """Return an error that says in one sentence what could not be written, why, and what to do (`denied`: if not permitted)."""
    number = getattr(error, "errno", None)
    remedy = _REMEDIES.get(number or 0, "check the disk or choose another place")
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = denied
    reason = os.strerror(number) if number else brief(error)
    return OSError(f"{path.name} could not be written to {path.parent} ({reason}): {remedy}.")


def of_system(error: Exception) -> str | None:
    """Return what the system says is wrong, without the number that `str` begins with; None for other errors."""
    if not (isinstance(error, OSError) and error.strerror):
        return None
    return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."


def brief(error: BaseException) -> str:
    """Return the first line of an error from elsewhere, to be put into a sentence."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:200]
