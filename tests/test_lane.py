"""A thread that reports to the window: each report arrives, whatever others do. A loop of events, but no window."""

from __future__ import annotations

import pytest

from napari_interformer.lane import Lane

SECONDS = 60  # nothing takes that long


@pytest.fixture
def lane(qapp):
    made = Lane("test")
    yield made
    made.close()
    made._thread.join(SECONDS)


def test_a_report_arrives_though_the_one_before_it_raises(lane, qapp, qtbot):
    arrived = []

    def drawn():
        """Do as napari's progress bars: handle events while something is drawn; then fail."""
        lane.tell(lambda: arrived.append("second"))
        qapp.processEvents()
        raise ValueError("the first")

    lane.tell(drawn)
    with qtbot.captureExceptions() as raised:
        qapp.processEvents()
        qtbot.waitUntil(lambda: arrived == ["second"], timeout=2000)
    assert [str(value) for _, value, _ in raised] == ["the first"]
