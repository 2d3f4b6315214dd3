"""Work that is too long for the window: a thread that reports to it, and what the window and the thread tell each other.

Enters: callables. Leaves: calls in the main thread, with what they returned or how far they are. Nothing here knows what
the work is.
"""

from __future__ import annotations

import atexit
import os
import queue
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from napari.utils import progress
from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QApplication

if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE = 10  # "niceness"; torch's threads inherit it from the thread that first calls it


class WorkerThread(QObject):
    """A thread that does one thing after another and reports to the thread that made it.

    It stays: torch keeps a team of threads for each thread that calls it, and a new one for every click would cost more
    than the click.

    Parameters
    ----------
    name : str
        For debuggers.
    patient : bool
        Whether the window and clicks go first where there are not enough cores for all.
    """

    _told = Signal()

    def __init__(self, name: str, *, patient: bool = False) -> None:
        # The application owns it: were the thread the last to let go of it, Qt would delete it there.
        application = QApplication.instance()
        super().__init__(application)
        for worker in [] if application is None else application.findChildren(WorkerThread):
            if worker is not self:
                worker._go_if_over()
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._calls: deque[Callable[[], None]] = deque()
        self._calling = self._shared = False
        self._told.connect(self._call, Qt.ConnectionType.QueuedConnection)
        self._report = threading.Event()  # one is there
        self._thread = threading.Thread(
            target=_work, args=(self, self._jobs, patient), name=f"interformer-{name}", daemon=True
        )
        self._thread.start()
        # Python must not end under a thread that is within torch: that aborts.
        atexit.register(self._end)

    def run(
        self, work: Callable[[], Any], done: Callable[[Any], None], failed: Callable[[Exception], None]
    ) -> None:
        """Call `work` in the thread, then `done` with what it returns or `failed` with what it raises here."""
        self._jobs.put((work, done, failed))

    def later(self, call: Callable[[], None]) -> None:
        """From the main thread: have `call` called there, after all that has come up meanwhile, such as mouse and drawing."""
        QTimer.singleShot(0, call)

    def tell(self, call: Callable[[], None]) -> None:
        """From any thread: have `call` called in the main thread, after the event at hand."""
        self._calls.append(call)
        if self._closed.is_set():
            self._calls.clear()
            return
        self._report.set()
        with suppress(RuntimeError):  # the window was deleted this very moment
            self._told.emit()

    def wait(self, done: Callable[[], bool], seconds: float) -> None:
        """From within a told call: make the calls that wait behind it until `done`, for some seconds at most."""
        end = time.monotonic() + seconds
        while not done() and not self._closed.is_set() and (left := end - time.monotonic()) > 0:
            self._report.clear()
            if self._calls:
                self._calls.popleft()()
            else:
                self._report.wait(left)

    def _call(self) -> None:
        # napari's progress bars handle events while they are drawn, so that reports arrive within reports: they wait.
        if self._calling:
            return
        self._calling = True
        try:
            while self._calls and not self._closed.is_set():
                self._calls.popleft()()
        finally:
            self._calling = False
            if self._calls and not self._closed.is_set():  # one raised, and others were told meanwhile
                self._told.emit()

    def share(self, part: Callable[[int], int]) -> None:
        """From the thread: let torch use this many of its cores here, once and for all.

        More threads than there are free cores are ruinous (`cores`), so the workers share them.
        """
        if self._shared:
            return
        self._shared = True
        from napari_interformer import cores

        cores.use(max(1, part(cores.here())))

    @property
    def closed(self) -> bool:
        """Whether nobody waits for results any more."""
        return self._closed.is_set()

    def _end(self) -> None:
        self.close()
        self._thread.join(60)

    def _go_if_over(self) -> None:
        """Let go of what is closed and whose thread has ended; only the main thread asks, so that Qt deletes it there."""
        if self._closed.is_set() and not self._thread.is_alive():
            atexit.unregister(self._end)
            self.deleteLater()

    def close(self, _: Any = None) -> None:
        """Do nothing more after the job at hand, report no more, and hold on to nothing of those who asked."""
        self._closed.set()
        self._calls.clear()
        self._jobs.put(None)


def _work(worker: WorkerThread, jobs: queue.SimpleQueue[Any], patient: bool) -> None:
    if patient and sys.platform == "linux":
        # Elsewhere a thread has no priority of its own, or another way to it.
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(_PATIENCE, os.getpriority(os.PRIO_PROCESS, thread)))
    while (job := jobs.get()) is not None:
        if worker.closed:
            continue
        work, done, failed = job
        try:
            result = work()
        except Exception as error:
            worker.tell(partial(failed, error))
        else:
            worker.tell(partial(done, result))
            del result
        del job, work, done, failed  # or the window would live on in them until the next job


class Job:
    """Long work on its way: the window shows how far it is, and says when to stop.

    Parameters
    ----------
    worker : WorkerThread
        Works at it.
    what : str
        Its name among napari's activities.
    """

    def __init__(self, worker: WorkerThread, what: str) -> None:
        self.cancelled = threading.Event()
        self._worker, self._what = worker, what
        self._bar: Any = None
        self._shown = 0.0

    def show(self, done: int, total: int) -> None:
        """Show how far it is among napari's activities."""
        if self._bar is None:
            self._bar = progress(total=total, desc=self._what)
        if done == total or time.monotonic() > self._shown + 0.2:  # drawing costs more than a small tile
            self._shown = time.monotonic()
            self._bar.update(done - self._bar.n)

    def unwanted(self) -> bool:
        """Whether whoever works at it should stop."""
        return self.cancelled.is_set() or self._worker.closed

    def close(self) -> None:
        """Take it from the activities."""
        if self._bar is not None:
            self._bar.close()


J = TypeVar("J", bound=Job)


class OneJob(Generic[J]):
    """At most one job on its way; all methods but `tell` are the main thread's.

    Parameters
    ----------
    worker : WorkerThread
        Works at it.

    Attributes
    ----------
    job : Job or None
        The one in progress.
    """

    def __init__(self, worker: WorkerThread) -> None:
        self.job: J | None = None
        self._worker = worker

    def _run(self, job: J, work: Callable[[], Any], ended: Callable[[J, Any], None]) -> None:
        """Have a job done; unless it is dropped, `ended` is called with it and with what the work returned or raised."""

        def end(result: Any) -> None:
            job.close()
            if job is self.job:
                self.job = None
                ended(job, result)

        self.job = job
        self._worker.run(work, end, end)

    def tell(self, job: J, call: Callable[[], None]) -> None:
        """From any thread: have `call` called in the main thread, unless the job is over or dropped by then."""
        self._worker.tell(lambda: call() if job is self.job else None)

    def cancel(self) -> None:
        """Stop at once, or within a step; what is done is kept, if a part of it is of use."""
        if self.job is not None:
            self.job.cancelled.set()

    def drop(self) -> None:
        """Stop, and report no more."""
        if self.job is not None:
            self.job.cancelled.set()
            self.job.close()
        self.job = None
