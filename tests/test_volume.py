"""Objects carried through stacks."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import BlobModel, blobs
from napari_interformer.encoding import encode
from napari_interformer.session import Session

MODEL = BlobModel()


@pytest.fixture(scope="module")
def stack():
    """Return 9 planes; the first blob is there on planes 2 to 6, the second on all."""
    _, labels = blobs()
    planes = np.stack([np.where(labels == 2, 200, 0).astype(np.uint8)] * 9)
    planes[2:7][:, labels == 1] = 200
    return encode(planes, MODEL, contrast=(0, 255), device="cpu"), labels


def test_an_object_is_carried_both_ways_and_ends_where_it_ends(stack):
    features, labels = stack
    s = Session(features, MODEL)
    s.click((4, 32, 32))
    s.propagate()
    assert [plane for (plane,) in s.planes] == [2, 3, 4, 5, 6]
    for z in range(2, 7):
        np.testing.assert_array_equal(s.mask[z], labels == 1)
    assert s.commit() == 1
    assert (s.labels == 1).sum() == 5 * 1024


def test_carrying_is_one_step_for_undo(stack):
    s = Session(stack[0], MODEL, live=True)
    s.click((4, 32, 32))
    s.propagate()
    s.undo()
    assert s.mask.any(axis=(1, 2)).tolist() == [z == 4 for z in range(9)]
    assert (s.labels > 0).sum() == 1024
    s.redo()
    assert s.mask.any(axis=(1, 2)).sum() == 5


def test_clicked_planes_are_not_touched_and_a_second_run_follows_new_clicks(stack):
    s = Session(stack[0], MODEL)
    s.click((4, 32, 32))
    s.propagate()
    s.click((5, 32, 32), positive=False)
    s.propagate()
    assert not s.mask[6].any() and not s.mask[5, 20, 20]
    assert s.mask[2].any()


def test_carrying_tells_its_progress_and_stops_when_asked(stack):
    s = Session(stack[0], MODEL)
    s.click((4, 32, 96))
    told = []
    s.propagate(progress=lambda done, most: told.append((done, most)), cancelled=lambda: len(told) >= 2)
    assert len(told) == 2 and told[-1] == (2, 9)
    assert s.mask.any(axis=(1, 2)).sum() == 3


def test_other_objects_are_not_overwritten(stack):
    features, _ = stack
    there = np.zeros(features.shape, np.int32)
    there[6, 16:48, 16:48] = 5
    s = Session(features, MODEL, labels=there)
    s.click((4, 32, 32))
    s.propagate()
    s.commit()
    assert (s.labels[6, 16:48, 16:48] == 5).all()


def test_a_single_plane_or_no_click_is_refused(stack):
    image, _ = blobs()
    with pytest.raises(ValueError, match="stack"):
        flat = Session(encode(image, MODEL, device="cpu"), MODEL)
        flat.click((32, 32))
        flat.propagate()
    with pytest.raises(ValueError, match="at least one click"):
        Session(stack[0], MODEL).propagate()
