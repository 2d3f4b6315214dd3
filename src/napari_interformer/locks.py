"""What one process at a time has to itself: each is a byte of a file, with a lock on it.

The system itself gives a lock back when a process ends, however it ends. The bytes need not exist.
"""

from __future__ import annotations

import errno
import importlib
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

_system: Any = importlib.import_module("msvcrt" if os.name == "nt" else "fcntl")
_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)  # what the system says of a byte that somebody has
_guard = threading.Lock()
_files: dict[Path, int] = {}
_held: set[tuple[Path, int]] = set()  # within a process such locks are no obstacle


def _forget() -> None:
    """Begin anew in a forked process, which inherits no locks."""
    global _guard
    _guard = threading.Lock()
    _files.clear()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def take(file: Path, number: int) -> bool:
    """Take a byte of a file, which is made if it is not there; False if somebody has it.

    Where the file system has no locks, everybody gets it.
    """
    file = _named(file)
    with _guard:
        if (file, number) in _held:
            return False
        if not _free(file, number, "take"):
            _close_if_idle(file)
            return False
        _held.add((file, number))
        return True


def give_back(file: Path, number: int) -> None:
    """Give a byte back that was taken."""
    file = _named(file)
    with _guard:
        _held.discard((file, number))
        _release(file, number)


def taken(file: Path, number: int) -> bool:
    """Whether another process has a byte of a file; the file is not made."""
    file = _named(file)
    with _guard:
        if (file, number) in _held or not file.exists():
            return False
        free = _free(file, number, "look")  # as many as like may look at a time
        _release(file, number)
        return not free


def _named(file: Path) -> Path:
    """Return one name for a file that goes by several: closed under one, the system would give back what another holds."""
    return file.parent.resolve() / file.name


def _free(file: Path, number: int, what: Literal["take", "look"]) -> bool:
    """Lock a byte, unless somebody has it."""
    try:
        if file not in _files:
            _files[file] = os.open(file, os.O_RDWR | (os.O_CREAT if what == "take" else 0), 0o666)
        _lock(_files[file], number, what)
    except OSError as error:
        return error.errno not in _TAKEN or file not in _files
    return True


def _release(file: Path, number: int) -> None:
    with suppress(OSError, KeyError):
        _lock(_files[file], number, "give back")
    _close_if_idle(file)


def _close_if_idle(file: Path) -> None:
    """Close the file, since Windows removes no open ones; that gives back all locks on it."""
    if not any(one == file for one, _ in _held) and file in _files:
        os.close(_files.pop(file))


def _lock(file: int, number: int, what: Literal["take", "look", "give back"]) -> None:
    if os.name == "nt":
        os.lseek(file, number, os.SEEK_SET)
        _system.locking(file, _system.LK_UNLCK if what == "give back" else _system.LK_NBLCK, 1)
    else:
        how = {"take": _system.LOCK_EX, "look": _system.LOCK_SH, "give back": _system.LOCK_UN}[what]
        _system.lockf(file, how | (0 if what == "give back" else _system.LOCK_NB), 1, number)
