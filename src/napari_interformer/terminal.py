"""What a command shows on the terminal while it works, and the signals that it hears there."""

from __future__ import annotations

import signal
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from napari_interformer.settings import of_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ONE_WISH = 1.0  # seconds in which several signals mean one


def count(number: int, noun: str) -> str:
    """Return "1 plane", "2 planes"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def first_process() -> bool:
    """Whether this process prints: under torchrun, only one does."""
    return of_process()[0] == 0


@contextmanager
def bar(title: str, unit: str) -> Iterator[Callable[..., None]]:
    """Show a progress bar on standard error while something runs.

    Yields a function that moves it to `done` of `total`, and shows a `note` beside it if there is one.
    """
    from tqdm import tqdm

    watched = sys.stderr is not None and sys.stderr.isatty()
    pause = 0.1 if watched else 60  # in the log of a batch job each state is a line
    # The delay keeps an error that comes at once free of an empty bar.
    with tqdm(
        desc=title,
        unit=f" {unit}",
        file=sys.stderr,
        dynamic_ncols=True,
        total=0,
        delay=0.1,
        mininterval=pause,
        maxinterval=max(pause, 10),
        disable=not first_process(),
    ) as line:

        def show(done: int, total: int, note: str = "") -> None:
            line.total = total
            line.set_postfix_str(note, refresh=False)
            line.update(done - line.n)

        yield show


@contextmanager
def between_steps() -> Iterator[Callable[[], int]]:
    """Let Ctrl+C, or what else ends a command, stop work between two steps, where its state can be saved.

    Yields a function that returns the signal that came, or 0. Another Ctrl+C stops it at once, but not what comes with the
    first one: torchrun passes on what reached all processes, and a shell what its terminal had sent already.
    """
    asked: list[int] = []
    since = 0.0

    def ask(number: int, _: Any) -> None:
        nonlocal since
        if not asked:
            since = time.monotonic()
            asked.append(number)
        elif number == signal.SIGINT and time.monotonic() > since + ONE_WISH:
            raise KeyboardInterrupt

    with handled(ask, signal.SIGINT, *_endings()):
        yield lambda: asked[0] if asked else 0


@contextmanager
def as_interrupt() -> Iterator[Callable[[], int]]:
    """Let what else ends a command do what Ctrl+C does: clean up, and say what is kept.

    Yields a function that returns the signal that came, or 0. A second one is ignored, or it would interrupt the cleaning up.
    """
    came: list[int] = []

    def end(number: int, _: Any) -> None:
        if not came:
            came.append(number)
            raise KeyboardInterrupt

    with handled(end, *_endings()):
        yield lambda: came[0] if came else 0


def _endings() -> list[signal.Signals]:
    """Return SIGTERM, with which batch systems end what takes too long, and SIGHUP, which tells that the terminal is closed."""
    hang_up: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none
    if hang_up is None or signal.getsignal(hang_up) is signal.SIG_IGN:  # as under nohup
        return [signal.SIGTERM]
    return [signal.SIGTERM, hang_up]


@contextmanager
def handled(handler: Callable[[int, Any], None], *numbers: signal.Signals) -> Iterator[None]:
    """Let signals call a function meanwhile; outside of the main thread, which alone may ask for them, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
