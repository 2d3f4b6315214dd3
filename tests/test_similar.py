"""Finding what looks like the objects that are finished, with a model whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conftest import BlobModel, blobs
from napari_interformer.appearance import Appearance
from napari_interformer.encoding import encode, room_for
from napari_interformer.geometry import Box
from napari_interformer.image import Planes
from napari_interformer.prompts import Click, NotEncodedError
from napari_interformer.session import Session
from napari_interformer.similar import MOST_PIXELS, finished

IMAGE, LABELS = blobs()
MODEL = BlobModel()
FEATURES = encode(IMAGE, MODEL, contrast=(0, 255), device="cpu")
WHOLE = Box.of(LABELS.shape)


def after_one_click(features=FEATURES, **options) -> Session:
    """Return a session with the first square finished."""
    session = Session(features, MODEL, **options)
    session.click((32, 32) if not features.leading else (0, 32, 32))
    session.commit()
    return session


def squares_found(labels, like=LABELS):
    """Return the numbers of the squares that labels have as they are."""
    return [
        number
        for number in np.unique(like[like > 0]).tolist()
        if len(found := np.unique(labels[like == number])) == 1
        and found[0]
        and np.array_equal(labels == found[0], like == number)
    ]


def test_all_that_looks_like_a_finished_object_is_found_and_each_gets_a_number_of_its_own():
    session = after_one_click()
    assert session.find_similar() == [2, 3, 4, 5, 6]
    assert squares_found(session.labels) == [1, 2, 3, 4, 5, 6]
    assert session.label == 7 and not session.prompts
    assert session.find_similar() == []  # there is nothing left


def test_a_disk_that_fills_up_midway_leaves_none_of_what_was_found():
    class Filling(np.ndarray):
        room = 1000

        def __setitem__(self, key, value):
            if not (value == 0).all():  # nothing compresses to nothing
                Filling.room -= 1
                if Filling.room < 0:
                    raise OSError("No space left on device")
            super().__setitem__(key, value)

    session = after_one_click(labels=np.zeros(LABELS.shape, np.int32).view(Filling))
    Filling.room = 2
    with pytest.raises(OSError, match="No space"):
        session.find_similar()
    assert np.unique(np.asarray(session.labels)).tolist() == [0, 1] and session.objects.keys() == {1}
    Filling.room = 1000
    assert session.find_similar() == [2, 3, 4, 5, 6]
    assert squares_found(np.asarray(session.labels)) == [1, 2, 3, 4, 5, 6]


def test_what_was_found_is_an_object_like_any_other_that_one_click_made(tmp_path):
    session = after_one_click()
    session.find_similar()
    assert all(isinstance(prompt, Click) for prompts in session.objects.values() for prompt in prompts)
    again = Session(FEATURES, MODEL)
    again.load_prompts(session.save_prompts(tmp_path / "clicks.json"))
    np.testing.assert_array_equal(again.labels, session.labels)
    assert again.expected_size == session.expected_size
    session.edit(3)
    assert session.mask.sum() == 1024 and session.commit() == 3


def test_found_objects_tell_how_large_the_next_one_is_for_as_long_as_they_are_there(blob_model):
    blob_model.config = replace(blob_model.config, diameters=(8.0, 16.0))
    session = Session(FEATURES, blob_model, image=Planes.of(IMAGE, contrast=(0, 255)))
    session.click((32, 32))
    session.commit()
    for place in (20, 90, 150):
        session.box((100, place), (104, place + 5))
        session.commit()
    small = session.expected_size
    session.find_similar(box=Box(0, 0, 200, 70))
    assert session.expected_size > small
    session.undo()
    assert session.expected_size == small
    session.redo()
    assert session.expected_size > small


@pytest.mark.parametrize("live", [False, True])
def test_a_number_that_was_cleared_after_finding_is_not_given_again_when_all_is_redone(live):
    session = after_one_click(live=live)
    session.find_similar(box=Box(0, 0, 100, 160))
    session.click((32, 160))
    session.clear()
    label = session.label
    session.click((112, 160))
    labels = session.labels.copy()
    while session.undo():
        pass
    while session.redo():
        pass
    assert session.label == label
    np.testing.assert_array_equal(session.labels, labels)


def test_finding_is_one_step_for_undo_and_redo():
    session = after_one_click()
    before, records = np.array(session.labels), list(session.records)
    session.find_similar()
    found = np.array(session.labels)
    session.click((4, 4))
    assert session.undo()  # the click
    np.testing.assert_array_equal(session.labels, found)
    assert session.undo()
    np.testing.assert_array_equal(session.labels, before)
    assert session.records == records and session.label == 2 and not session.can_undo
    assert session.redo()
    np.testing.assert_array_equal(session.labels, found)
    assert session.label == 7 and len(session.records) == 6
    session.click((4, 4))
    session.commit()
    assert not session.can_undo and squares_found(session.labels) == [1, 2, 3, 4, 5, 6]


def test_what_somebody_paints_over_a_found_object_stays_when_finding_is_undone():
    session = after_one_click()
    session.find_similar()
    session.labels[100:104, 20:24] = 50
    session.undo()
    assert (session.labels[100:104, 20:24] == 50).all()
    assert set(np.unique(session.labels)) == {0, 1, 50}


def test_what_was_deleted_is_not_found_again_until_that_is_undone():
    session = after_one_click()
    session.find_similar()
    wrong = int(session.labels[112, 96])
    session.delete(wrong)
    assert session.find_similar() == []
    session.undo()
    assert not session.rejected and session.labels[112, 96] == wrong
    session.redo()
    session.click((112, 96))  # a person may
    session.commit()
    assert squares_found(session.labels) == [1, 2, 3, 4, 5, 6]


def test_other_objects_are_protected_even_if_the_current_one_may_overwrite_them():
    labels = np.zeros(LABELS.shape, np.int32)
    labels[16:48, 80:90] = 9  # a part of the second square, which is found all the same
    session = Session(FEATURES, MODEL, labels, overwrite=True)
    session.click((32, 32))
    session.commit()
    session.find_similar()
    assert session.labels[32, 100] not in (0, 9) and (session.labels[16:48, 80:90] == 9).all()
    assert session.overwrite


def test_only_the_box_is_looked_through_and_what_lies_in_it_tells_what_is_looked_for():
    session = after_one_click()
    session.find_similar(box=Box(0, 0, 120, 80))
    assert squares_found(session.labels) == [1, 2]
    with pytest.raises(ValueError, match="there is none in this part of the plane"):
        session.find_similar(box=Box(120, 80, 192, 160))
    with pytest.raises(ValueError, match="outside of it"):
        session.find_similar(box=Box(300, 0, 400, 80))
    for box in ((1, 2, 3), "abcd", (0.5, 0, 9, 9), 7):
        with pytest.raises(ValueError, match="box of whole numbers"):
            session.find_similar(box=box)


def test_what_is_much_larger_or_smaller_or_looks_otherwise_is_left():
    image = IMAGE.copy()
    image[96:128, 16:48] = 0
    image[104:110, 24:30] = 200  # much smaller
    image[16:48, 144:176] = 90  # seen by the model as background
    session = after_one_click(encode(image, MODEL, contrast=(0, 255), device="cpu"))
    session.find_similar()
    assert squares_found(session.labels) == [1, 2, 5, 6]


def test_objects_of_other_planes_do_not_count():
    stack = np.stack([IMAGE, np.roll(IMAGE, 0, 0)])
    session = after_one_click(encode(stack, MODEL, contrast=(0, 255), device="cpu"))
    assert len(session.find_similar((0,))) == 5
    assert squares_found(session.labels[0]) == [1, 2, 3, 4, 5, 6] and not session.labels[1].any()
    with pytest.raises(ValueError, match="there is none in this part of the plane"):
        session.find_similar((1,))


def test_stopping_keeps_what_was_found_by_then():
    session, told = after_one_click(), []
    found = session.find_similar(
        progress=lambda done, most: told.append((done, most)), cancelled=lambda: len(told) == 2
    )
    assert told == [(1, 5), (2, 5)] and len(found) == 2
    assert len(squares_found(session.labels)) == 3


def test_stopping_before_anything_is_tried_finds_nothing():
    session = after_one_click()
    assert session.find_similar(progress=pytest.fail, cancelled=lambda: True) == [] and not session.can_undo


def test_a_session_with_an_open_object_or_without_a_finished_one_is_refused_and_stays_as_it_is():
    session = Session(FEATURES, MODEL)
    with pytest.raises(ValueError, match="there is none in this part of the plane"):
        session.find_similar()
    session.click((32, 32))
    with pytest.raises(ValueError, match="commit or clear it"):
        session.find_similar()
    assert session.mask.any() and not session.labels.any()


def test_objects_that_look_like_their_surroundings_are_refused():
    labels = np.zeros(LABELS.shape, np.int32)
    labels[60:70, 60:70] = 1  # nothing but background
    with pytest.raises(ValueError, match="look different from"):
        Session(FEATURES, MODEL, labels).find_similar()


def test_what_is_not_encoded_is_not_looked_through():
    features = room_for(Planes.of(IMAGE, contrast=(0, 255)), MODEL)
    labels = np.where(LABELS == 1, 1, 0).astype(np.int32)
    with pytest.raises(NotEncodedError):
        Session(features, MODEL, labels).find_similar()


def test_an_error_of_ours_is_none_of_a_place_that_is_not_encoded(monkeypatch):
    session = after_one_click()

    def broken(*_):
        raise KeyError("a mistake")

    monkeypatch.setattr(session.decoding, "steps", broken)
    with pytest.raises(KeyError, match="a mistake"):
        session.find_similar()


def test_a_box_that_is_too_large_says_how_large_it_may_be():
    side = int(MOST_PIXELS**0.5) + 33
    features = room_for(Planes.of(np.broadcast_to(np.uint8(0), (side, side)), contrast=(0, 255)), MODEL)
    labels = np.zeros((side, side), np.uint8)
    labels[10:14, 10:14] = 1
    with pytest.raises(ValueError, match="zoom in"):
        Session(features, MODEL, labels).find_similar()


def test_objects_that_the_box_cuts_off_count_only_if_there_are_no_others():
    session = Session(FEATURES, MODEL, LABELS.copy())
    assert len(finished(session, (), WHOLE)) == 6
    assert [one.box for one in finished(session, (), Box(0, 0, 100, 60))] == [Box(16, 16, 48, 48)]
    (cut,) = finished(session, (), Box(0, 0, 30, 60))
    assert cut.box == Box(16, 16, 30, 48) and cut.mask.all()


def test_pixels_with_a_negative_number_are_no_object_to_go_by():
    labels = np.where(LABELS == 1, 5, np.where(LABELS == 2, -3, 0)).astype(np.int16)
    session = Session(FEATURES, MODEL, labels)
    assert [one.box for one in finished(session, (), WHOLE)] == [Box(16, 16, 48, 48)]
    assert [one.box for one in finished(session, (), Box(20, 0, 120, 60))] == [Box(20, 16, 48, 48)]


def test_a_look_tells_two_kinds_of_pixels_apart(rng):
    ours, theirs = rng.normal((1, 5), 1, (500, 2)).T, rng.normal((0, 0), 1, (500, 2)).T
    appearance = Appearance.between(ours.astype(np.float32), theirs.astype(np.float32))
    means = [appearance.likeness(values).mean() for values in (ours, theirs)]
    assert means == pytest.approx([1, 0], abs=1e-6)
    assert np.mean(appearance.likeness(ours) > 0.5) > 0.98
    assert Appearance.between(ours[:, :0], theirs) is None
    assert Appearance.between(ours, ours) is None


@pytest.mark.parametrize(("columns", "found"), [(10, [1, 2, 3]), (20, [1, 3])])
def test_what_is_for_the_most_part_another_object_is_no_object_of_its_own(columns, found):
    labels = np.where(LABELS == 1, 1, 0).astype(np.int32)
    labels[16:48, 80 : 80 + columns] = 9  # of the 32 of the second square
    session = Session(FEATURES, MODEL, labels)
    session.find_similar(box=Box(0, 0, 192, 60))
    assert [n for n in (1, 2, 3) if session.labels[LABELS == n].all()] == found


class SurerAtTheRight(BlobModel):
    """A model that hesitates about the upper half of a blob if its left half was clicked."""

    def decode_logits(self, maps, reference, roi=None):
        logits = super().decode_logits(maps, reference, roi)
        rows, columns = np.nonzero(logits > 0)
        if columns.size and np.nonzero(reference == 4)[1].mean() < columns.mean():
            logits[rows[rows < rows.mean()], columns[rows < rows.mean()]] = 1.0
        return logits


def test_of_two_answers_for_one_object_the_surer_one_stays():
    image, labels = np.zeros((64, 192), np.uint8), np.zeros((64, 192), np.int32)
    image[16:48, 16:48] = image[16:48, 80:176] = 200
    labels[16:48, 16:48] = 1
    model = SurerAtTheRight()
    session = Session(encode(image, model, contrast=(0, 255), device="cpu"), model, labels)
    tried = []
    assert session.find_similar(progress=lambda done, most: tried.append(most)) == [2]
    assert tried[0] > 1 and session.objects[2][0].x > 128
