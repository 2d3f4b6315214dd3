"""Torch's threads on a processor: how many of them work at one image, and several images side by side.

Enters: what is to be computed, and how many pixels it has. Leaves: the same results, whatever else runs on the machine.

Torch shares each operation among its threads and has them wait for each other after it, by spinning. The network runs a
thousand small operations, so where another program takes one core for a moment, all threads stand still a thousand times.
Whole images side by side wait once; of a single one, the time that it takes tells whether others use the cores.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
    from concurrent.futures import Future

Item = TypeVar("Item")
Result = TypeVar("Result")

# That each further thread must get, to be worth it where other programs use the cores.
PIXELS = 256**2
# Others use the cores if something takes so many times as long as it can, and so many seconds longer; for how many seconds that
# is believed, the first time and at most.
SLOWER, LATE, WAIT, LONGEST = 2.5, 0.03, 10.0, 300.0
# Or if threads side by side have less than this share of a core: on two cores 0.96 where nothing else runs, 0.6 beside a
# program that takes one of them.
FREE = 0.8
# Seconds after which whoever waits is asked whether to stop, and after which is looked again for something to do.
_POLL, _NAP = 0.05, 0.02
_saying = threading.Lock()  # one after the other changes what holds for threads to come


class _Stopped(Exception):
    """Nobody waits for this image any more."""


def here() -> int:
    """Return how many threads torch uses in the calling thread; not while `use` changes the common number for a moment."""
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
        thread = threading.Thread(
            target=restore, daemon=True
        )  # should Ctrl+C come before it is known to have started
        try:
            thread.start()
            known.wait()
            torch.set_num_threads(count)
        finally:
            said.set()
            if thread.is_alive():
                thread.join()


@contextmanager
def few(pixels: int) -> Iterator[None]:
    """Where others use the cores, let torch use no more threads than a number of pixels is worth, in the calling thread."""
    before = here()
    count = _worth(before, pixels)
    if count == before or time.monotonic() > _crowd.until:
        yield
        return
    use(count)
    try:
        yield
    finally:
        use(before)


@contextmanager
def watched(what: Hashable) -> Iterator[None]:
    """See from how long something takes, which always takes as long, whether others use the cores."""
    began, count = time.perf_counter(), here()
    yield
    if count > 1:  # one thread waits for no other
        _crowd.see((what, count), time.perf_counter() - began)


class _Crowd:
    """Whether others use the cores, as far as is known: until when it is taken to be so."""

    def __init__(self) -> None:
        self.until = 0.0
        self._wait = WAIT
        self._best: dict[Hashable, float] = {}

    def see(self, what: Hashable, took: float) -> None:
        """Compare with the best time so far: much longer than that, and threads have waited for each other."""
        best = self._best[what] = min(took, self._best.get(what, took))
        if took > SLOWER * best and took > best + LATE:
            self.until = time.monotonic() + self._wait
            self._wait = min(2 * self._wait, LONGEST)  # each further look costs somebody a slow click
        elif self.until < time.monotonic():
            self._wait = WAIT

    def share(self, least: float) -> None:
        """Tell the share of a core that each of as many threads as there are cores had at least."""
        if least < FREE:
            self.until = max(self.until, time.monotonic() + WAIT)
        else:
            self.until, self._wait = 0.0, WAIT


_crowd = _Crowd()


def as_done(
    work: Callable[[Item, Callable[[], None]], Result],
    items: Iterator[Item | None],
    pixels: int,
    ask: Callable[[], None],
    most: int,
) -> Generator[tuple[Item, Result], None, None]:
    """Yield images, each with what becomes of it, as they are done: several at once, on as many threads as the caller has.

    Whoever asks for no more ends those that are being done.

    Parameters
    ----------
    work : callable
        Called with an item and something to call now and then, whose exceptions end it early.
    items : iterator
        The images; asked in the calling thread for the next one as soon as a thread is free. None says that there is none at
        the moment.
    pixels : int
        Of each of them, at most.
    ask : callable
        Called now and then in the calling thread; what it raises ends all of them early, but what is done is yielded before.
    most : int
        So many at once, at most.
    """
    threads = here()
    lanes = max(1, min(threads, most))
    count = _worth(max(1, threads // lanes), pixels)
    stopped = threading.Event()
    shares: deque[float] = deque(maxlen=lanes)  # of a core, which each thread had

    def go_on() -> None:
        if stopped.is_set():
            raise _Stopped

    def measured(item: Item) -> Result:
        began, busy = time.perf_counter(), time.thread_time()
        result = work(item, go_on)
        shares.append((time.thread_time() - busy) / max(time.perf_counter() - began, 1e-9))
        return result

    running: dict[Future[Result], Item] = {}
    ended, failed = False, None
    with ThreadPoolExecutor(lanes, initializer=use, initargs=(count,)) as pool:
        try:
            while running or not ended:
                fresh: list[Item] = []
                while not ended and len(running) + len(fresh) < lanes:
                    try:
                        item = next(items)
                    except StopIteration:
                        ended = True
                    except Exception as error:
                        ended, failed = True, error  # told once what is being done is done
                    else:
                        if item is None:
                            break
                        fresh.append(item)
                if len(fresh) == 1 and not running:  # all threads work at it
                    yield fresh[0], work(fresh[0], ask)
                    continue
                for item in fresh:
                    running[pool.submit(measured, item)] = item
                if running:
                    done, _ = wait(running, _POLL, FIRST_COMPLETED)
                    for job in sorted(done, key=lambda job: job.exception() is not None):
                        yield running.pop(job), job.result()
                    if len(shares) == lanes:
                        _crowd.share(min(shares))
                elif not ended:
                    time.sleep(_NAP)
                ask()
            if failed is not None:
                raise failed
        finally:
            for job in running:
                job.cancel()
            stopped.set()


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
