"""What one process at a time has to itself: each is a byte of a file, with a lock on it.

The system itself gives a lock back when a process ends, however it ends. The bytes need not exist.
"""

from __future__ import annotations

import errno
import importlib
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

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
    with _guard:
        if (file, number) in _held:
            return False
        try:
            if file not in _files:
                _files[file] = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            _lock(_files[file], number, take=True)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK) and file in _files:
                _close_if_idle(file)
                return False
        _held.add((file, number))
        return True


def give_back(file: Path, number: int) -> None:
    """Give a byte back that was taken."""
    with _guard:
        _held.discard((file, number))
        with suppress(OSError, KeyError):
            _lock(_files[file], number, take=False)
        _close_if_idle(file)


def taken(file: Path, number: int) -> bool:
    """Whether another process has a byte of a file; the file is not made."""
    if (file, number) in _held or not file.exists():
        return False
    free = take(file, number)
    if free:
        give_back(file, number)
    return not free


def _close_if_idle(file: Path) -> None:
    """Close the file, since Windows removes no open ones; that gives back all locks on it."""
    if not any(one == file for one, _ in _held) and file in _files:
        os.close(_files.pop(file))


def _lock(file: int, number: int, *, take: bool) -> None:
    if os.name == "nt":
        windows: Any = importlib.import_module("msvcrt")
        os.lseek(file, number, os.SEEK_SET)
        windows.locking(file, windows.LK_NBLCK if take else windows.LK_UNLCK, 1)
    else:
        posix: Any = importlib.import_module("fcntl")
        posix.lockf(file, posix.LOCK_EX | posix.LOCK_NB if take else posix.LOCK_UN, 1, number)
