"""Encoding beside the window, in a worker that works at once: what is reported when, and when nothing is any more."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Image

from napari_interformer.encodes import Encodes
from napari_interformer.feature_cache import features_for
from napari_interformer.geometry import Box
from napari_interformer.image import Planes
from napari_interformer.layers import Source


class Here:
    """A worker that does its work when it is asked to, and notes in which order it reports."""

    closed = False

    def __init__(self):
        self.jobs = []

    def run(self, work, done, failed):
        self.jobs.append((work, done, failed))

    def work(self):
        work, done, failed = self.jobs.pop(0)
        try:
            done(work())
        except Exception as error:
            failed(error)

    def tell(self, call):
        call()

    def share(self, part):
        pass


@pytest.fixture
def shop(small_model):
    """Return encodes of a stack of 3 planes in a worker, what they report, and how to begin them."""
    told, worker = [], Here()
    source = Source((Image(np.random.default_rng(0).integers(0, 255, (3, 40, 50), np.uint8)),))
    encodes = Encodes(
        worker,
        progressed=lambda step: told.append(step.plane),
        ended=lambda job, error: told.append((job.cancelled.is_set(), error)),
    )

    def begin(prepared=lambda *_: told.append("prepared"), undecided=lambda _: False, first=None):
        encodes.begin(
            source,
            "cpu",
            load=lambda: small_model,
            find=lambda model: features_for(source.planes(), model, None, []),
            undecided=undecided,
            prepared=prepared,
            first=first,
        )
        return encodes.job

    return encodes, worker, told, begin


def test_clicks_may_begin_before_the_first_plane_and_what_is_wanted_comes_first(shop):
    encodes, worker, told, begin = shop
    begin(first=((2,), Box(0, 0, 1, 1)))
    worker.work()
    assert told == ["prepared", (2,), (0,), (1,), (False, None)] and encodes.job is None
    begin().wanted = ((1,), Box(0, 0, 1, 1))
    worker.work()
    assert told[6] == (1,)


def test_who_is_told_that_clicks_may_begin_can_stop_it(shop):
    encodes, worker, told, begin = shop
    begin(prepared=lambda job, *_: job.cancelled.set())
    worker.work()
    assert told == [(True, None)] and encodes.job is None


def test_cancelled_while_it_is_undecided_nothing_begins(shop):
    encodes, worker, told, begin = shop
    begin(undecided=lambda _: encodes.cancel() or True)
    worker.work()
    assert told == [(True, None)]


def test_what_fails_is_told_and_what_was_dropped_reports_no_more(shop):
    encodes, worker, told, begin = shop
    error = OSError("full")

    def full(_):
        raise error

    begin(undecided=full)
    worker.work()
    assert told == [(False, error)] and encodes.job is None
    job = begin()
    encodes.drop()
    worker.work()
    assert job.cancelled.is_set() and len(told) == 1


@pytest.mark.parametrize("when", ["undecided", "failing"])
def test_what_was_read_ahead_is_given_back_however_it_ends(shop, small_model, monkeypatch, when):
    encodes, worker, told, begin = shop
    released = []
    monkeypatch.setattr(Planes, "release", lambda planes: released.append(planes))

    def full(*_):
        raise OSError("full")

    monkeypatch.setattr("napari_interformer.features.Features.write", full)
    begin(undecided=lambda _: when == "undecided" and (encodes.cancel() or True))
    worker.work()
    assert len(released) == 1 and told[-1][0] == (when == "undecided")


def test_single_planes_are_added_to_features_that_are_there(shop, small_model):
    encodes, worker, told, begin = shop
    made = []

    def prepared(job, _, features):
        made.append((job.source, features))
        job.cancelled.set()

    begin(prepared)
    worker.work()
    ((source, features),) = made
    encodes.go_on(source, features, small_model, "cpu", ((1,),), None)
    worker.work()
    assert told[1:] == [(1,), (False, None)] and features.ready_planes().tolist() == [False, True, False]
