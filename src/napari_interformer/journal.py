"""What was clicked, written to disk as it happens, so that it can be restored after a crash.

Enters: what is known of a session's objects (`records.Saved`), after every change. Leaves: a small file of it in the user's
data folder, written in a thread of its own, and later the offer to restore it. No Qt, no napari.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from napari_interformer import NAME, locks
from napari_interformer.prompts import Mark
from napari_interformer.records import Saved

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_interformer.prompts import Prompt
    from napari_interformer.records import Record

log = logging.getLogger(__name__)

DAYS = 30  # for which a file is kept
_PART = "-above-"  # in the name of a file with those objects of another that labels do not hold
# Written by this process; each with a function that tells whether its objects are still on the screen. Other processes are
# known by their locks.
_OWN: dict[Path, Callable[[], bool]] = {}


def folder() -> Path:
    """Return the folder of the journals."""
    return Path(platformdirs.user_data_dir(NAME)) / "journal"


@dataclass(frozen=True)
class Offer:
    """Objects that were clicked on an image, or painted, in another session, and are not in its labels.

    Attributes
    ----------
    path : Path
        For `Session.load_prompts`.
    objects : int
        How many, including one that was not committed.
    when : datetime
        When the last of them was changed, in local time.
    """

    path: Path
    objects: int
    when: datetime

    def __str__(self) -> str:
        return f"{self.objects} object{'s' * (self.objects != 1)} of {self.when:%d %b, %H:%M}"


class Journal:
    """The file of one session.

    Parameters
    ----------
    image : str
        The image's fingerprint.
    failed : callable
        Called once, from the thread, if the file cannot be written; the journal then ends.
    """

    def __init__(self, image: str, failed: Callable[[OSError], None]) -> None:
        self.path = folder() / f"{_start_of_name(image)}-{secrets.token_hex(8)}.json"
        _OWN[self.path] = lambda: True  # until it is closed
        self._failed = failed
        self._thread = ThreadPoolExecutor(1, "interformer-journal")
        self._newest: Saved | None = None  # of what was to be written
        self._superseded: list[Path] = []
        self._over = False

    def write(self, saved: Saved) -> None:
        """Write this in place of what was written before, unless it is the same; if several wait, only the last is written."""
        if saved != self._newest and not self._over:
            self._newest = saved
            try:
                self._thread.submit(self._write, saved)
            except RuntimeError:  # Python is ending, and begins nothing any more
                self._write(saved)

    def _write(self, saved: Saved) -> None:
        if saved is not self._newest or self._over:
            return  # a later one is in line, or it cannot be written
        try:
            if saved.finished or saved.current.prompts or saved.by_hand:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                locks.take(*_lock_of(self.path))  # until this process ends, or the window is gone
                saved.write(self.path)
                self._delete_superseded()
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            self._over = True
            self._failed(error)

    def _delete_superseded(self) -> None:
        for path in tuple(self._superseded):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                # Somebody has it open; it is tried again, and what is clicked is noted all the same.
                log.info("journal %s is not deleted yet: %s", path.name, error)
            else:
                self._superseded.remove(path)

    def supersede(self, path: Path) -> None:
        """Delete another file once this one is written: its objects are this session's now."""
        self._superseded.append(path)

    def close(self, shown: Callable[[], bool] | None = None) -> None:
        """Write what waits, and no more; the objects are offered again once they are not `shown` any more, or at once.

        Other processes offer what was `shown` when this process has ended.
        """
        if shown is None:
            _OWN.pop(self.path, None)
            with suppress(RuntimeError):  # Python is ending, and gives it back as well
                self._thread.submit(locks.give_back, *_lock_of(self.path))
        else:
            _OWN[self.path] = shown
        self._thread.shutdown(wait=False)


def offer(image: str, highest: int) -> Offer | None:
    """Return the newest objects of another session on an image that labels up to `highest` do not hold.

    Labels that were saved in between hold some of a file's objects; then the others are offered, in a separate file. This
    is done for the last file of an image only: earlier ones numbered their objects differently.

    Files that are too old are deleted. Files that cannot be read are skipped.
    """
    found: Offer | None = None
    last = True
    for path in _newest_first():
        if not path.name.startswith(_start_of_name(image)) or _PART in path.name:
            continue
        try:
            if _in_use(path):
                last = False
                continue
            saved = Saved.read(path)
            if saved.image == image:
                found = found or _offered(path, saved, highest, last)
                last = False
        except (OSError, ValueError) as error:
            log.info("journal %s is passed over: %s", path.name, error)
    return found


def _newest_first() -> list[Path]:
    """Return the files that are not too old, and delete the others."""
    found = []
    for path in folder().glob("*.json"):
        try:
            changed = path.stat().st_mtime
            if changed < time.time() - DAYS * 86400 and _is_left(path):
                path.unlink()
            else:
                found.append((changed, path))
        except OSError as error:
            log.info("journal %s is passed over: %s", path.name, error)
    return [path for _, path in sorted(found, reverse=True)]


def _is_left(path: Path) -> bool:
    """Whether nobody has a file in use any more."""
    with suppress(ValueError):  # a part of one, or somebody's copy: their names end otherwise
        return not _in_use(path)
    return True


def _in_use(path: Path) -> bool:
    """Whether a session that is open, here or in another process, has what a file is about."""
    shown = _OWN.get(path)  # asked once: the main thread may close it meanwhile
    return locks.taken(*_lock_of(path)) if shown is None else shown()


def _offered(path: Path, saved: Saved, highest: int, last: bool) -> Offer | None:
    missing = _missing(saved, highest)
    newest = {record.label: record for record in missing.finished}
    deleted = {number for number, record in newest.items() if record.is_deletion}
    # The current one may have the number of one that was deleted.
    told = (*(record for record in missing.finished if record.label not in deleted), missing.current)
    records = [record for record in told if any(map(_finds, record.prompts))]
    painted = {number for piece in saved.by_hand for number in piece.objects if number > highest}
    if not painted and not any(record.label > highest and not record.edited for record in records):
        return None
    when = datetime.fromtimestamp(path.stat().st_mtime)
    if missing != saved:
        if not last:
            return None
        path = missing.write(path.with_name(f"{path.stem}{_PART}{highest}.json"))
    return Offer(path, len(painted.union(record.label for record in records)), when)


def _finds(prompt: Prompt) -> bool:
    """Whether something can be found at a prompt: at red clicks alone nothing is."""
    return not isinstance(prompt, Mark) or prompt.positive


def _missing(saved: Saved, highest: int) -> Saved:
    """Leave out what labels up to `highest` hold.

    Numbers grow, so the labels were saved after the object with the highest was made, and hold what was done before. Whether
    they hold later edits is not known; these are kept, and change nothing where the labels hold them already.
    """

    def is_new(record: Record) -> bool:
        return record.label > highest

    held = [i for i, record in enumerate(saved.finished) if not (record.edited or is_new(record))]
    later = held[-1] + 1 if held else 0
    finished = tuple(
        record for i, record in enumerate(saved.finished) if is_new(record) or (record.edited and i >= later)
    )
    current = saved.current
    if not (current.edited or is_new(current)):
        current = replace(current, prompts=())
    return replace(saved, finished=finished, current=current)


def _lock_of(path: Path) -> tuple[Path, int]:
    """Return what a process that writes a file has to itself."""
    # The end of the name is random; some systems lock no byte beyond 2 GB.
    return path.with_name("open"), int(path.stem[-7:], 16)


def _start_of_name(image: str) -> str:
    return hashlib.sha256(image.encode()).hexdigest()[:16]
