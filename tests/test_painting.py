"""One object in a label image: its pixels and no others, and what was there before."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import zarr

from napari_interformer import files
from napari_interformer.files import planes_of
from napari_interformer.geometry import Box
from napari_interformer.painting import Backlog, Painting, highest_label, objects_on
from napari_interformer.prompts import Click, Mask

BOX = Box(4, 2, 8, 6)  # 4x4
FULL = np.ones((4, 4), bool)


class Recorded:
    """Labels that remember which boxes were written."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype, self.written = values, values.shape, values.dtype, []

    def __getitem__(self, key):
        return self.values[key]

    def __setitem__(self, key, value) -> None:
        self.written.append(key)
        self.values[key] = value


def labels_with_a_neighbour() -> np.ndarray:
    labels = np.zeros((10, 12), np.uint16)
    labels[2:6, 7:10] = 9  # a column of it lies in BOX
    return labels


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_object_takes_what_is_free_and_others_only_if_it_may(overwrite):
    labels = labels_with_a_neighbour()
    Painting(labels).paint((), BOX, FULL, label=3, overwrite=overwrite)
    assert (labels == 3).sum() == (16 if overwrite else 12)
    assert (labels == 9).sum() == (8 if overwrite else 12)


def test_an_object_that_shrinks_gives_back_what_lay_under_it():
    labels = labels_with_a_neighbour()
    before, painting = labels.copy(), Painting(labels)
    painting.paint((), BOX, FULL, label=3, overwrite=True)
    painting.paint((), Box(4, 2, 5, 3), np.ones((1, 1), bool), label=3, overwrite=True)
    assert (labels == 3).sum() == 1 and (labels == 9).sum() == 12
    painting.put_back((), 3, ())
    assert painting.boxes == {(): BOX}
    np.testing.assert_array_equal(labels, before)


def test_only_what_changes_is_written():
    labels = Recorded(np.zeros((2, 10, 12), np.int32))
    painting = Painting(labels)
    painting.paint((1,), BOX, FULL, label=1, overwrite=False)
    painting.paint((1,), BOX, FULL, label=1, overwrite=False)  # nothing new
    more = np.ones((4, 6), bool)
    painting.paint((1,), Box(4, 2, 10, 6), more, label=1, overwrite=False)
    assert labels.written == [(1, slice(2, 6), slice(4, 8)), (1, slice(2, 6), slice(8, 10))]
    assert list(painting.boxes) == [(1,)]


def test_what_others_paint_meanwhile_is_theirs_and_what_they_erase_waits_for_a_click():
    labels = np.zeros((10, 12), np.int32)
    painting, first = Painting(labels), Click((), 3, 5)
    painting.paint((), BOX, FULL, label=1, overwrite=False, prompts=[first])
    labels[2, 4:8] = 7
    labels[5, 4:8] = 0
    told = {"label": 1, "overwrite": False, "before": [first]}
    painting.paint((), BOX, FULL, prompts=[first, Click((), 3, 6)], **told)
    assert (labels[2, 4:8] == 7).all() and (labels[3:5, 4:8] == 1).all() and not labels[5].any()
    painting.paint((), BOX, FULL, prompts=[first, Click((), 5, 6)], **told)
    assert (labels[5, 4:8] == 1).all()


def test_an_object_that_is_edited_is_replaced_by_what_comes_of_it():
    labels = labels_with_a_neighbour()
    before, painting = labels.copy(), Painting(labels)
    painting.begin_with(Mask((), Box(7, 2, 10, 6), np.ones((4, 3), bool)), 9, Box(7, 2, 10, 6))
    painting.paint((), BOX, FULL, label=9, overwrite=False)
    assert (labels == 9).sum() == 16 and not labels[2:6, 8:].any()
    painting.put_back((), 9, ())
    np.testing.assert_array_equal(labels, before)


def test_a_copy_knows_what_was_known_then():
    labels = np.zeros((10, 12), np.int32)
    painting = Painting(labels)
    painting.paint((), BOX, FULL, label=1, overwrite=False)
    then, there = painting.copy(), labels.copy()
    labels[3, 5] = 7  # a stroke, which is taken back below
    painting.paint((), BOX, FULL, label=1, overwrite=False, before=())
    labels[...] = there
    painting.restore(then)
    painting.put_back((), 1, ())
    assert not labels.any()


def test_chunks_that_reach_through_several_planes_are_read_once(tmp_path, monkeypatch):
    labels = zarr.create_array(tmp_path / "a.zarr", shape=(2, 7, 8, 9), chunks=(1, 3, 8, 5), dtype="uint8")
    labels[:] = np.arange(labels.size).reshape(labels.shape) % 251
    read = []
    plain = zarr.Array.__getitem__
    monkeypatch.setattr(zarr.Array, "__getitem__", lambda array, key: read.append(key) or plain(array, key))
    planes = list(planes_of(labels))
    assert len(read) == 6 and [plane for plane, _ in planes] == list(np.ndindex(2, 7))
    for plane, pixels in planes:
        np.testing.assert_array_equal(pixels, plain(labels, plane))
    monkeypatch.setattr(files, "_SLAB", 2 * 8 * 9)
    del read[:]
    np.testing.assert_array_equal(
        [pixels for _, pixels in planes_of(labels)], [pixels for _, pixels in planes]
    )
    assert len(read) == 8


def test_the_highest_label_is_found_plane_by_plane():
    labels = np.zeros((3, 2, 4, 5), np.int16)
    assert highest_label(labels) == 0
    labels[2, 1, 3, 3] = 12
    labels[0] = -1
    assert highest_label(labels) == 12


def test_what_is_to_be_written_waits_where_it_may_and_keeps_its_order():
    backlog, written = Backlog(), []
    backlog.add(lambda: written.append(1))
    assert written == [1]
    with backlog.waiting():
        backlog.add(lambda: written.append(2))
        backlog.add(lambda: written.append(3))
    assert written == [1]
    assert not backlog.work_off(0) and written == [1]
    backlog.add(lambda: written.append(4))
    assert written == [1, 2, 3, 4] and backlog.work_off(0)


def test_what_cannot_be_written_is_tried_again_if_it_may_wait_and_given_up_if_not():
    backlog, written, full = Backlog(), [], True

    def write():
        if full:
            raise OSError("No space left")
        written.append(1)

    with pytest.raises(OSError, match="No space"):
        backlog.add(write)
    assert backlog.work_off()
    with backlog.waiting():
        backlog.add(write)
        backlog.add(lambda: written.append(2))
    with pytest.raises(OSError, match="No space"):
        backlog.work_off()
    full = False
    assert backlog.work_off() and written == [1, 2]


@pytest.mark.parametrize("dtype", ["uint64", ">i8"])
def test_large_numbers_cost_no_more_than_small_ones_and_negative_ones_are_no_objects(dtype):
    labels = np.zeros((40, 50), dtype)
    labels[2:9, 4:12], labels[20:30, 7:9] = np.iinfo(dtype).max, 7
    if dtype != "uint64":
        labels[30:40] = -1
    tracemalloc.start()
    found = dict(objects_on(labels))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == {7: (7, 20, 9, 30), np.iinfo(dtype).max: (4, 2, 12, 9)}
    assert peak < 1e6
    labels[2:9, 4:12] = 3  # as in most label images, where nothing is sorted
    assert dict(objects_on(labels)) == {7: (7, 20, 9, 30), 3: (4, 2, 12, 9)}


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("layer", [False, True])
def test_labels_in_a_folder_that_is_gone_are_neither_written_nor_taken_for_empty(tmp_path, version, layer):
    place = tmp_path / "l.zarr"
    array = zarr.create_array(place, shape=(10, 12), dtype="u2", chunks=(5, 6), zarr_format=version)
    labels = Recorded(array)
    labels.array = array
    labels = labels if layer else array
    painting, told = Painting(labels), {"label": 1, "overwrite": False}
    painting.paint((), BOX, FULL, **told)
    place.rename(tmp_path / "elsewhere")
    for act in (
        lambda: painting.paint((), Box(4, 2, 9, 6), np.ones((4, 5), bool), **told),
        lambda: Painting(labels).paint((), BOX, FULL, **told),
        lambda: highest_label(labels),
    ):
        with pytest.raises(
            FileNotFoundError, match=r"labels are not in .*l\.zarr any more: check that its disk"
        ):
            act()
    assert not place.exists()
    (tmp_path / "elsewhere").rename(place)
    painting.paint((), Box(4, 2, 9, 6), np.ones((4, 5), bool), before=(), **told)
    assert np.count_nonzero(array[:]) == 20 == np.count_nonzero(zarr.open_array(place)[:])
