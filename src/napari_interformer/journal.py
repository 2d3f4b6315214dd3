"""What was clicked, on disk while it happens: whoever comes back after a crash finds it.

Enters: what is known of a session's objects (`stories.Saved`), after every change. Leaves: a small file of it in the user's
data folder, written in a thread of its own, and later the offer to restore it. No Qt, no napari.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from napari_interformer.stories import Saved

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

DAYS = 30  # for which a file is kept
_RUN = secrets.token_hex(4)  # of this process, whose own work need not be offered to it


def folder() -> Path:
    """Return where journals lie."""
    return Path(platformdirs.user_data_dir("napari-interformer")) / "journal"


@dataclass(frozen=True)
class Offer:
    """Objects that were clicked on an image in another run, and are not in its labels.

    Attributes
    ----------
    path : Path
        For `Session.load_prompts`.
    objects : int
        How many, the one that was not committed included.
    when : datetime
        When the last of them was changed, local time.
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
        Told once, from the thread, if the file cannot be written; the journal ends then.
    """

    def __init__(self, image: str, failed: Callable[[OSError], None]) -> None:
        self.path = folder() / f"{_start_of_name(image)}-{_RUN}-{secrets.token_hex(4)}.json"
        self._failed = failed
        self._thread = ThreadPoolExecutor(1, "interformer-journal")
        self._newest: Saved | None = None  # of what was to be written
        self._superseded: list[Path] = []
        self._over = False

    def write(self, saved: Saved) -> None:
        """Have this written in place of what was written before, unless it is the same; if several wait, the last one is."""
        if saved != self._newest and not self._over:
            self._newest = saved
            self._thread.submit(self._write, saved)

    def _write(self, saved: Saved) -> None:
        if saved is not self._newest or self._over:
            return  # a later one is in line, or it cannot be written
        try:
            if saved.finished or saved.current.prompts:
                self.path.parent.mkdir(parents=True, exist_ok=True)
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
            except OSError as error:  # somebody has it open; it is tried again, and what is clicked is noted all the same
                log.info("journal %s is not deleted yet: %s", path.name, error)
            else:
                self._superseded.remove(path)

    def supersede(self, path: Path) -> None:
        """Delete another file once this one is written: its objects are this session's now."""
        self._superseded.append(path)

    def close(self) -> None:
        """Write what waits, and no more."""
        self._thread.shutdown(wait=False)


def offer(image: str, highest: int) -> Offer | None:
    """Return the newest objects of another run on an image, if labels up to `highest` do not hold them already.

    Files that are too old are deleted on the way. What cannot be read is passed over.
    """
    found: Offer | None = None
    for path in folder().glob("*.json"):
        try:
            changed = path.stat().st_mtime
            if changed < time.time() - DAYS * 86400:
                path.unlink()
            elif path.name.startswith(_start_of_name(image)) and _RUN not in path.name:
                when = datetime.fromtimestamp(changed)
                if found is None or when > found.when:
                    found = _offered(path, when, image, highest) or found
        except (OSError, ValueError) as error:
            log.info("journal %s is passed over: %s", path.name, error)
    return found


def _offered(path: Path, when: datetime, image: str, highest: int) -> Offer | None:
    saved = Saved.read(path)
    stories = [*saved.finished, *([saved.current] if saved.current.prompts else [])]
    new = {story.label for story in stories if not story.edited}
    if saved.image != image or not new or min(new) <= highest:
        return None
    return Offer(path, len({story.label for story in stories}), when)


def _start_of_name(image: str) -> str:
    return hashlib.sha256(image.encode()).hexdigest()[:16]
