"""Torch's threads on a processor: how many of them work at one image, and several images side by side.

Enters: what is to be computed, and how many pixels it has. Leaves: the same results, whatever else runs on the machine.

Torch shares each operation among its threads and has them wait for each other after it, by spinning. The network runs a
thousand small operations, so where another program takes one core for a moment, all threads stand still a thousand times.
Whole images side by side wait once.
"""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")

# That a further thread has to have to itself, or it gains nothing even where nothing else runs.
PIXELS = 256**2
_POLL = 0.05  # seconds after which whoever waits is asked whether to stop
_saying = threading.Lock()  # one after the other changes what holds for threads to come


class _Stopped(Exception):
    """Nobody waits for this image any more."""


def here() -> int:
    """Return how many threads torch uses in the calling thread, not what `use` says for a moment."""
    with _saying:
        return torch.get_num_threads()


def use(count: int) -> None:
    """Let torch use so many threads in the calling thread alone.

    `torch.set_num_threads` also says what holds for threads to come, which are none of our business. A new thread knows what
    held for those, and takes it back.
    """
    common: list[int] = []
    known, said = threading.Event(), threading.Event()

    def restore() -> None:
        common.append(torch.get_num_threads())
        known.set()
        said.wait()
        torch.set_num_threads(common[0])

    with _saying:
        torch.get_num_threads()  # a thread's first call of torch would take over what holds for threads to come
        thread = threading.Thread(target=restore)
        thread.start()
        try:
            known.wait()
            torch.set_num_threads(count)
        finally:
            said.set()
            thread.join()


@contextmanager
def few(pixels: int) -> Iterator[None]:
    """Let torch use no more threads than a number of pixels is worth, in the calling thread."""
    before = here()
    count = _worth(before, pixels)
    if count == before:
        yield
        return
    use(count)
    try:
        yield
    finally:
        use(before)


def side_by_side(
    work: Callable[[Item, Callable[[], None] | None], Result],
    items: Sequence[Item],
    pixels: int,
    ask: Callable[[], None] | None = None,
) -> list[Result]:
    """Do the same with each of some images at once, on as many threads as the calling thread has.

    Parameters
    ----------
    work : callable
        Called with an item and something to call now and then, whose exceptions end it early.
    items : sequence
        The images; what becomes of them is returned in their order.
    pixels : int
        Of each of them.
    ask : callable, optional
        Called now and then in the calling thread; what it raises ends all of them early.
    """
    if len(items) == 1:
        with few(pixels):
            return [work(items[0], ask)]
    count = _worth(max(1, here() // len(items)), pixels)
    stopped = threading.Event()

    def go_on() -> None:
        if stopped.is_set():
            raise _Stopped

    with ThreadPoolExecutor(len(items), initializer=use, initargs=(count,)) as pool:
        jobs = [pool.submit(work, item, go_on) for item in items]
        try:
            left = set(jobs)
            while left:
                done, left = wait(left, _POLL, FIRST_EXCEPTION)
                for job in done:
                    job.result()
                if ask is not None:
                    ask()
        finally:
            stopped.set()
    return [job.result() for job in jobs]


def several(work: Callable[[Item], Result], items: Sequence[Item], pixels: int) -> Iterator[Result]:
    """Yield what becomes of each of many items, in their order, on as many threads as the calling thread has.

    `pixels` is how many each of them has. Whoever asks for no more ends it early.
    """
    most = here()
    count = _worth(most, pixels)
    if most // count < 2:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(most // count, initializer=use, initargs=(count,))
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(cancel_futures=True)


def _worth(most: int, pixels: int) -> int:
    return min(most, max(1, pixels // PIXELS))
