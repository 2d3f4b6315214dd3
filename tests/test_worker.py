"""A thread that reports to the window: each report arrives, whatever others do. A loop of events, but no window."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
from qtpy.QtCore import QEvent

from napari_interformer.worker import WorkerThread

SECONDS = 60  # nothing takes that long


@pytest.fixture
def worker(qapp):
    made = WorkerThread("test")
    yield made
    made.close()
    made._thread.join(SECONDS)


def test_a_report_arrives_though_the_one_before_it_raises(worker, qapp, qtbot):
    arrived = []

    def drawn():
        """Do as napari's progress bars: handle events while something is drawn; then fail."""
        worker.tell(lambda: arrived.append("second"))
        qapp.processEvents()
        raise ValueError("the first")

    worker.tell(drawn)
    with qtbot.captureExceptions() as raised:
        qapp.processEvents()
        qtbot.waitUntil(lambda: arrived == ["second"], timeout=2000)
    assert [str(value) for _, value, _ in raised] == ["the first"]


def test_what_is_for_later_is_not_done_at_once(worker, qtbot):
    done = []
    worker.later(lambda: done.append(threading.current_thread()))
    assert not done
    qtbot.waitUntil(lambda: done == [threading.main_thread()], timeout=2000)


def test_closed_lanes_go_once_their_threads_have_ended(qapp):
    begun, go_on, results = threading.Event(), threading.Event(), []
    over, at_work = WorkerThread("over"), WorkerThread("at work")
    at_work.run(lambda: begun.set() or go_on.wait(SECONDS), results.append, results.append)
    assert begun.wait(SECONDS)
    for worker in (over, at_work):
        worker.close()
    over._thread.join(SECONDS)
    gone, still = weakref.ref(over), weakref.ref(at_work)
    thread = at_work._thread
    del over, at_work, worker

    def another():
        made = WorkerThread("another")
        qapp.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        made.close()
        made._thread.join(SECONDS)
        del made
        gc.collect()

    another()
    assert gone() is None and still() is not None  # Python waits for its thread
    go_on.set()
    thread.join(SECONDS)
    another()
    assert still() is None and not results
