"""Clicks, undo, objects and labels, with a model whose answers are known."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from dataclasses import replace

import dask.array
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation

from conftest import BlobModel, blobs
from napari_interformer.by_hand import Piece
from napari_interformer.encoding import encode, encode_tiles, room_for
from napari_interformer.features import Features
from napari_interformer.geometry import Box
from napari_interformer.image import Planes
from napari_interformer.prompts import BoxPrompt, Click, Mask, NotEncodedError
from napari_interformer.session import Session

IMAGE, LABELS = blobs()
MODEL = BlobModel()
FEATURES = encode(IMAGE, MODEL, contrast=(0, 255), device="cpu")
CENTRES = [(32, 32), (32, 96), (32, 160), (112, 32), (112, 96), (112, 160)]


def session(**options) -> Session:
    return Session(FEATURES, MODEL, **options)


def test_a_click_gives_the_object_under_it():
    mask = session().click(CENTRES[1])
    np.testing.assert_array_equal(mask, LABELS == 2)


def test_positive_clicks_add_and_negative_ones_remove():
    s = session()
    s.click(CENTRES[0])
    s.click(CENTRES[1])
    np.testing.assert_array_equal(s.mask, (LABELS == 1) | (LABELS == 2))
    s.click(CENTRES[0], positive=False)
    assert not s.mask[20, 20] and s.mask[20, 90]


def test_a_clicks_own_pixel_is_as_the_user_says():
    s = session()
    assert s.click((2, 2))[2, 2]  # background, as the model sees it
    assert not s.click((30, 30), positive=False)[30, 30]


def test_undo_and_redo_are_exact_at_any_depth():
    s = session()
    masks = [s.mask]
    for centre in CENTRES:
        s.click(centre)
        masks.append(s.mask)
    for mask in reversed(masks[:-1]):
        assert s.undo()
        np.testing.assert_array_equal(s.mask, mask)
    assert not s.undo() and not s.can_undo
    for mask in masks[1:]:
        assert s.redo()
        np.testing.assert_array_equal(s.mask, mask)
    assert not s.redo()


def test_clicks_are_removed_moved_and_flipped_by_their_number():
    s = session()
    same = Click((), *CENTRES[0])
    s.set_prompts([same, same, Click((), *CENTRES[1])])  # one object twice in the list is two clicks
    s.remove(0)
    assert s.clicks == (same, Click((), *CENTRES[1]))
    s.flip(-1)
    s.move(0, CENTRES[2])
    assert s.clicks == (Click((), *CENTRES[2]), Click((), *CENTRES[1], False))
    for change in (s.remove, s.flip, lambda number: s.move(number, CENTRES[3])):
        for number in (2, -3):
            with pytest.raises(IndexError, match="from 0, and there are 2; got"):
                change(number)
    with pytest.raises(IndexError):
        session().remove(0)


@pytest.mark.parametrize("position", [5, (5,), ("a", 5), (float("nan"), 5), (float("inf"), 5), None])
def test_a_position_that_is_none_is_refused(position):
    with pytest.raises(ValueError, match=r"A click needs a position in pixels such as \(y, x\)"):
        session().click(position)


def test_a_session_tells_what_it_takes(tmp_path):
    with pytest.raises(TypeError, match=r"Session takes features, .* got BlobModel and Features"):
        Session(MODEL, FEATURES)
    with pytest.raises(TypeError, match=r"got list: convert it with numpy\.asarray"):
        session(labels=[[0] * IMAGE.shape[1]] * IMAGE.shape[0])
    fixed = np.zeros(IMAGE.shape, int)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="read-only one: copy it"):
        session(labels=fixed)
    zarr.save_array(tmp_path / "labels.zarr", np.zeros(IMAGE.shape, int))
    with pytest.raises(ValueError, match="or open it for writing"):
        session(labels=zarr.open_array(tmp_path / "labels.zarr", mode="r"))


def test_a_box_gives_the_object_in_it_and_hardly_anything_outside():
    s = session()
    np.testing.assert_array_equal(s.box((16, 80), (47, 111)), LABELS == 2)
    assert s.boxes == s.given == (BoxPrompt((), Box(80, 16, 112, 48)),) and not s.clicks
    mask = s.box((100, 143), (16, 20))  # in its place; its middle is background, but somebody drew it
    assert mask.any() and not mask[:8].any() and not mask[110:].any() and len(s.boxes) == 1
    for expected in (LABELS == 2, np.zeros(IMAGE.shape, bool)):
        s.undo()
        np.testing.assert_array_equal(s.mask, expected)
    s.redo()
    np.testing.assert_array_equal(s.labels == s.commit(), LABELS == 2)


def test_a_box_counts_before_the_clicks_of_its_plane():
    one, other = session(), session()
    one.click(CENTRES[0])
    one.click(CENTRES[1], positive=False)
    one.box((10, 10), (50, 50))
    other.box((10, 10), (50, 50))
    other.click(CENTRES[0])
    other.click(CENTRES[1], positive=False)
    assert one.prompts == other.prompts
    np.testing.assert_array_equal(one.mask, other.mask)
    one.remove(0)
    assert len(one.boxes) == len(one.clicks) == 1


def test_what_a_box_replaced_does_not_come_back_with_the_next_click():
    model = BlobModel()
    model.config = replace(model.config, diameters=(8.0, 60.0))
    image = np.zeros((400, 400), np.uint8)
    image[100:260, 20:180] = image[100:180, 280:360] = 200
    labels = np.zeros(image.shape, np.int32)
    labels[100:260, 20:180] = 1
    s = Session(encode(image, model, contrast=(0, 255), device="cpu"), model, labels)
    s.edit(1)
    s.box((100, 280), (179, 359))
    assert s.mask.any() and not s.mask[:, :200].any()
    s.click((140, 320))
    assert s.level == -1 and s.mask.any() and not s.mask[:, :200].any()


def test_a_box_on_the_edge_of_the_image_is_what_is_inside_of_it():
    s = session()
    s.box((-20, -30), (40, 40))
    assert s.boxes == (BoxPrompt((), Box(0, 0, 41, 41)),)
    before = s.prompts
    for corners in [((-9, -9), (-1, 50)), ((500, 500), (600, 600)), ((0, 1, 1), (0, 5, 5))]:
        with pytest.raises(ValueError, match="A box needs pixels inside the image"):
            s.box(*corners)
    assert s.prompts == before


def test_boxes_are_saved_and_replayed(tmp_path):
    s = session()
    s.box((16, 80), (47, 111))
    s.commit()
    s.box((96, 80), (127, 111))
    s.click(CENTRES[4])
    again = session()
    again.load_prompts(s.save_prompts(tmp_path / "prompts.json"))
    assert again.objects == s.objects and again.prompts == s.prompts
    np.testing.assert_array_equal(again.labels, s.labels)


@pytest.mark.parametrize("side", [10, 20, 200])
def test_a_box_tells_how_large_the_object_is(default_model, side):
    image = np.zeros((320, 384), np.uint8)
    rows, columns = np.ogrid[:320, :384]
    truth = (rows - 160) ** 2 + (columns - 190) ** 2 <= (side / 2) ** 2
    image[truth] = 180
    s = Session(encode(image, default_model, device="cpu"), default_model)
    y, x = np.nonzero(truth)
    mask = s.box((y.min(), x.min()), (y.max(), x.max()))
    assert s.level == {10: 1, 20: 1, 200: -2}[side]
    assert (mask & truth).sum() / (mask | truth).sum() > 0.8
    beyond = side // 10
    assert not mask[: y.min() - beyond].any() and not mask[:, x.max() + 1 + beyond :].any()


def test_a_new_click_after_undo_drops_what_could_be_redone():
    s = session()
    s.click(CENTRES[0])
    s.undo()
    s.click(CENTRES[1])
    assert not s.can_redo


clicks = st.lists(st.tuples(st.integers(0, 159), st.integers(0, 191), st.booleans()), max_size=5)
edits = st.lists(
    st.one_of(
        st.tuples(st.just("click"), st.integers(0, 159), st.integers(0, 191), st.booleans()),
        st.tuples(st.just("remove"), st.integers(0, 9)),
        st.tuples(st.just("flip"), st.integers(0, 9)),
        st.tuples(st.just("move"), st.integers(0, 9), st.integers(0, 159), st.integers(0, 191)),
        st.tuples(st.just("undo")),
        st.tuples(st.just("redo")),
    ),
    max_size=12,
)


@given(edits)
@settings(max_examples=60)
def test_whatever_was_edited_replaying_the_points_gives_the_same_mask(steps):
    s = session()
    for name, *args in steps:
        if name == "click":
            s.click(args[:2], args[2])
        elif name in ("undo", "redo"):
            getattr(s, name)()
        elif s.clicks:
            index = args[0] % len(s.clicks)
            getattr(s, name)(index, *([args[1:]] if name == "move" else []))
    direct = session()
    for click in s.clicks:
        direct.click(click.position, click.positive)
    np.testing.assert_array_equal(s.mask, direct.mask)


@given(clicks, st.integers(0, 4))
@settings(max_examples=40)
def test_undo_all_then_redo_all_is_where_one_was(given_clicks, extra):
    s = session(live=True)
    for y, x, positive in given_clicks:
        s.click((y, x), positive)
    mask, labels = s.mask, s.labels.copy()
    for _ in given_clicks:
        s.undo()
    assert not s.mask.any() and not np.any(s.labels)
    for _ in range(len(given_clicks) + extra):
        s.redo()
    np.testing.assert_array_equal(s.mask, mask)
    np.testing.assert_array_equal(s.labels, labels)


def test_only_what_follows_a_changed_point_is_decoded_again():
    s = session()
    for centre in CENTRES[:4]:
        s.click(centre)
    before = MODEL.decoded
    s.remove(3)
    assert MODEL.decoded == before
    s.click(CENTRES[3])
    s.flip(2)
    assert MODEL.decoded - before <= 2 * 3  # a window may be decoded twice while it grows


def test_commit_writes_the_object_and_starts_the_next():
    s = session()
    s.click(CENTRES[0])
    assert not np.any(s.labels)
    assert s.commit() == 1
    s.click(CENTRES[4])
    assert s.commit() == 2
    np.testing.assert_array_equal(s.labels, (LABELS == 1) + 2 * (LABELS == 5))
    assert s.clicks == () and not s.mask.any() and not s.can_undo


def test_nothing_can_not_be_committed():
    s = session()
    with pytest.raises(ValueError, match="empty mask"):
        s.commit()


@pytest.mark.parametrize("live", [False, True])
def test_an_object_without_a_pixel_of_its_own_can_not_be_committed(live):
    there = np.full(IMAGE.shape, 7, np.uint16)
    s = session(labels=there, live=live)
    s.click(CENTRES[0])
    with pytest.raises(ValueError, match="all of its pixels belong to other objects"):
        s.commit()
    assert s.clicks == (Click.at(CENTRES[0], True),) and s.label == 8 and (there == 7).all()
    s.overwrite = True
    s.click(CENTRES[0])
    s.commit()
    np.testing.assert_array_equal(there == 8, LABELS == 1)


def test_existing_objects_are_protected_unless_told_otherwise():
    there = np.zeros(IMAGE.shape, np.uint16)
    there[16:32, 16:48] = 7
    for overwrite in (False, True):
        s = session(labels=there.copy(), overwrite=overwrite)
        s.click(CENTRES[0])
        assert s.commit() == 8
        assert (s.labels[16:32, 16:48] == (8 if overwrite else 7)).all()
        assert (s.labels[32:48, 16:48] == 8).all()


@pytest.mark.parametrize("overwrite", [False, True])
def test_live_painting_shows_the_object_and_takes_it_back_exactly(overwrite):
    there = np.zeros(IMAGE.shape, np.int32)
    there[10:30, 10:30] = 3
    s = session(labels=there.copy(), live=True, overwrite=overwrite)
    s.click(CENTRES[0])
    assert (s.labels == 4).sum() == (LABELS == 1).sum() - (
        0 if overwrite else (there[LABELS == 1] == 3).sum()
    )
    s.undo()
    np.testing.assert_array_equal(s.labels, there)
    s.redo()
    s.clear()
    np.testing.assert_array_equal(s.labels, there)


def test_what_somebody_paints_meanwhile_is_theirs():
    s = session(live=True)
    s.click(CENTRES[0])
    s.labels[20:24, 20:24] = 9  # napari's brush
    s.undo()
    assert (s.labels[20:24, 20:24] == 9).all() and (s.labels == 1).sum() == 0


def test_what_somebody_erases_stays_erased_until_it_is_clicked_on():
    s = session(live=True)
    (y, x), other = CENTRES[0], CENTRES[1]
    s.click((y, x))
    whole = s.labels.copy()
    for part in (slice(x - 8, x - 4), slice(x + 4, x + 8)):
        s.painted(Stroke(s.labels, y - 4, part.start, 0, (8, 4)))
    erased = s.labels.copy()
    assert (whole != erased).sum() == 64
    s.click(other)  # the object grows, and so does its patch
    there = whole != 0
    np.testing.assert_array_equal(s.labels[there], erased[there])
    s.click((y, x - 6))
    back = s.labels.copy()
    assert (back[y - 4 : y + 4, x - 8 : x - 4] == 1).all() and not back[y - 4 : y + 4, x + 4 : x + 8].any()
    for expected in (erased, erased, None, whole):
        s.undo()
        if expected is not None:
            np.testing.assert_array_equal(s.labels[there], expected[there])
    for _ in range(4):
        s.redo()
    np.testing.assert_array_equal(s.labels, back)
    s.commit()
    np.testing.assert_array_equal(s.labels, back)


def test_a_second_click_on_one_pixel_brings_back_what_was_erased_there():
    s = session(live=True)
    s.click(CENTRES[0])
    s.labels[28:36, 28:36] = 0  # napari's brush
    s.click(CENTRES[0])
    np.testing.assert_array_equal(s.labels == 1, LABELS == 1)


def test_a_box_whose_middle_has_no_value_is_refused():
    image = IMAGE.astype(np.float32)
    image[10:50, 10:50] = np.nan
    s = Session(encode(image, MODEL, contrast=(0, 255), device="cpu"), MODEL)
    for corners in [((16, 16), (47, 47)), ((1.5, 2), ("a", 3))]:
        with pytest.raises(ValueError, match="A box needs"):
            s.box(*corners)
    with pytest.raises(ValueError, match="A box needs whole numbers"):
        s.set_prompts([BoxPrompt((), Box(1.5, 2, 20, 20))])
    assert not s.prompts


class Stroke:
    """A square painted on a label image."""

    def __init__(self, labels, y, x, label, size=(24, 24)):
        self.labels, self.label = labels, label
        self.where = slice(y, y + size[0]), slice(x, x + size[1])
        self.before = labels[self.where].copy()
        self.make()

    def make(self):
        self.labels[self.where] = self.label

    def take_back(self):
        self.labels[self.where] = self.before

    def parts(self):
        rows, columns = self.where
        box = Box(columns.start, rows.start, columns.stop, rows.stop)
        yield (), box, np.ones(self.before.shape, bool)


def test_undo_of_overwrite_leaves_what_was_painted_over_the_object():
    s = session(live=True, overwrite=True)
    s.click(CENTRES[0])
    s.painted(Stroke(s.labels, 20, 20, 9, (12, 12)))
    before = s.labels.copy()
    s.overwrite = False
    s.undo()
    np.testing.assert_array_equal(s.labels, before)


def test_what_an_erased_neighbour_left_to_the_object_comes_back_with_redo():
    s = session(labels=np.where(LABELS == 6, 3, 0).astype(np.int32), live=True)
    s.label = 7
    for centre in (CENTRES[0], CENTRES[5]):  # the second is covered by object 3
        s.click(centre)
    s.painted(Stroke(s.labels, 100, 150, 0, (12, 12)))
    s.click(CENTRES[1])
    before = s.labels.copy()
    assert (before[100:112, 150:162] == 7).all()
    s.undo()
    s.redo()
    np.testing.assert_array_equal(s.labels, before)


def test_a_stroke_that_lay_in_the_way_of_an_answer_leaves_no_hole():
    s = session(live=True)
    stroke = Stroke(s.labels, 30, 30, 9, (4, 4))  # painted while the click is answered
    s.click(CENTRES[0])
    s.painted(stroke, late=True)
    assert (s.labels == 1).sum() == (LABELS == 1).sum() - 16
    s.undo()
    np.testing.assert_array_equal(s.labels, LABELS == 1)
    s.redo()
    assert (s.labels == 9).sum() == 16


CLICK = st.tuples(st.just("click"), st.integers(0, 5), st.booleans())
STROKE = st.tuples(
    st.just("stroke"), st.tuples(st.integers(0, 130), st.integers(0, 160)), st.sampled_from([0, 1, 9])
)
SWITCH = st.tuples(st.just("switch"), st.just(0), st.just(0))


@given(st.lists(CLICK | STROKE | SWITCH, min_size=1, max_size=6), st.booleans())
@settings(max_examples=60)
def test_undo_and_redo_walk_through_clicks_and_strokes_in_their_order(changes, overwrite):
    s = session(labels=np.where(LABELS == 6, 3, 0).astype(np.int32), live=True, overwrite=overwrite)
    s.label, seen = 1, [s.labels.copy()]
    for kind, where, what in changes:
        if kind == "click":
            s.click(CENTRES[where], what)
        elif kind == "stroke":
            s.painted(Stroke(s.labels, *where, what))
        elif s.prompts:  # else it is no change
            s.overwrite = not s.overwrite
        else:
            continue
        seen.append(s.labels.copy())
    for _ in range(2):
        for before in reversed(seen[:-1]):
            assert s.undo()
            np.testing.assert_array_equal(s.labels, before)
        assert not s.can_undo and not s.prompts
        for after in seen[1:]:
            assert s.redo()
            np.testing.assert_array_equal(s.labels, after)
        assert not s.can_redo


def test_undo_and_redo_are_exact_where_overwriting_was_allowed_after_a_stroke():
    s = session(live=True)
    seen = [s.labels.copy()]
    s.click(CENTRES[0])
    seen.append(s.labels.copy())
    s.painted(Stroke(s.labels, 8, 40, 7))
    seen.append(s.labels.copy())
    s.overwrite = True
    seen.append(s.labels.copy())
    s.click(CENTRES[1])
    seen.append(s.labels.copy())
    assert (seen[3] != seen[2]).any()
    for _ in range(2):
        for before in reversed(seen[:-1]):
            assert s.undo()
            np.testing.assert_array_equal(s.labels, before)
        assert not s.overwrite
        for after in seen[1:]:
            assert s.redo()
            np.testing.assert_array_equal(s.labels, after)
        assert s.overwrite


def test_undo_is_exact_where_overwriting_was_allowed_in_between():
    there = np.where(LABELS == 2, 4, 0).astype(np.int32)
    s = session(labels=there.copy(), live=True)
    for centre in CENTRES[:2]:
        s.click(centre)
    before = s.labels.copy()
    s.overwrite = True
    assert (s.labels[LABELS == 2] == s.label).all()  # at once, and all of the object
    s.undo()
    np.testing.assert_array_equal(s.labels[LABELS == 2], 4)
    s.redo()
    assert (s.labels[LABELS == 2] == s.label).all()
    s.overwrite = False
    np.testing.assert_array_equal(s.labels, before)


@pytest.mark.parametrize("live", [False, True])
def test_an_object_is_committed_as_may_be_when_it_is(live):
    s = session(labels=np.where(LABELS == 1, 4, 0).astype(np.int32), live=live)
    s.click(CENTRES[0])
    assert s.covered
    s.overwrite = True
    assert s.commit() == 5 and (s.labels[LABELS == 1] == 5).all()


def test_a_session_says_what_there_is_in_it():
    s = session()
    s.click(CENTRES[0])
    s.commit()
    s.scribble([CENTRES[1], (34, 98)])
    assert repr(s).endswith("1 objects committed, object 2 with 0 boxes, 0 clicks, 1 scribbles)")


def test_a_mask_that_is_handed_out_cannot_be_written_to():
    s = session()
    s.click(CENTRES[0])
    with pytest.raises(ValueError, match="read-only"):
        s.plane_mask()[1][:] = True
    s.click(CENTRES[0])[:] = False  # a copy
    np.testing.assert_array_equal(s.mask, LABELS == 1)


def test_what_is_painted_with_the_objects_own_number_stays():
    s = session(live=True)
    s.click(CENTRES[0])
    s.painted(Stroke(s.labels, 50, 60, 1))
    s.click(CENTRES[1])
    s.click(CENTRES[0], False)
    assert (s.labels[50:74, 60:84] == 1).all() and s.labels[CENTRES[0]] == 0
    s.commit()
    assert (s.labels[50:74, 60:84] == 1).all() and s.label == 2


def test_a_new_stroke_takes_the_place_of_what_was_undone():
    s = session(live=True)
    s.click(CENTRES[0])
    s.undo()
    s.painted(Stroke(s.labels, 60, 60, 9))
    assert not s.can_redo
    s.clear()  # of strokes alone there is no object
    assert s.label == 1 and (s.labels == 9).sum() == 24**2 and s.undo() and not s.labels.any()


def test_what_is_deleted_is_no_object_even_where_it_has_no_pixels_left():
    image = np.stack([IMAGE] * 3)
    s = Session(encode(image, MODEL, contrast=(0, 255), device="cpu"), MODEL)
    s.click((0, *CENTRES[0]))
    s.click((2, *CENTRES[0]))
    s.commit()
    s.labels[2] = 0  # somebody erased it there
    s.delete(1)
    assert s.objects == {}
    s.undo()
    assert len(s.objects[1]) == 2


def test_redo_gives_a_deleted_objects_number_to_the_same_object_again():
    s = session(labels=np.where(LABELS == 1, 1, 0))
    s.delete(1)
    s.label = 1
    s.click(CENTRES[3])
    assert s.undo() and s.undo() and s.redo() and s.redo()
    assert s.commit() == 1


def test_editing_goes_on_from_the_mask_under_the_same_label():
    there = np.where(LABELS == 2, 5, np.where(LABELS == 3, 6, 0))
    s = session(labels=there.copy(), live=True)
    s.edit(5)
    np.testing.assert_array_equal(s.mask, LABELS == 2)
    s.click(CENTRES[0])
    assert s.commit() == 5
    # The blob model forgets the mask, as its answer depends on clicks alone; the label stays.
    np.testing.assert_array_equal(s.labels == 6, LABELS == 3)
    assert (s.labels[LABELS == 1] == 5).all()


def test_clearing_an_edited_object_puts_it_back():
    there = np.where(LABELS == 2, 5, 0)
    s = session(labels=there.copy(), live=True)
    s.edit(5)
    s.click(CENTRES[0])
    s.clear()
    np.testing.assert_array_equal(s.labels, there)
    assert s.label == 6


@pytest.mark.parametrize("live", [False, True])
def test_what_is_clicked_away_while_editing_is_gone_from_the_labels(live):
    there = np.where((LABELS == 1) | (LABELS == 6), 1, 0).astype(np.int32)
    s = session(labels=there, live=live)
    s.edit(1)
    s.click(CENTRES[0])  # this model's answer is what is clicked, and no more
    s.commit()
    np.testing.assert_array_equal(there, LABELS == 1)


class Fragile(np.ndarray):
    """Labels on a disk that may be full."""

    full = False

    def __setitem__(self, key, value):
        if Fragile.full:
            raise OSError("No space left on device")
        super().__setitem__(key, value)


@pytest.mark.parametrize("way", ["click", "undo", "redo"])
def test_what_cannot_be_written_leaves_all_as_it_was(way, monkeypatch):
    s = session(labels=np.zeros(IMAGE.shape, np.int32).view(Fragile), live=True)
    for centre in CENTRES[:3]:
        s.click(centre)
    s.undo()
    before = s.prompts, s.changes, s.can_redo
    monkeypatch.setattr(Fragile, "full", True)
    with pytest.raises(OSError, match="No space"):
        {"click": lambda: s.click(CENTRES[4]), "undo": s.undo, "redo": s.redo}[way]()
    assert (s.prompts, s.changes, s.can_redo) == before
    monkeypatch.undo()
    assert s.redo() and len(s.clicks) == 3
    np.testing.assert_array_equal(np.asarray(s.labels) == 1, s.mask)
    assert all(s.undo() for _ in range(3)) and not np.asarray(s.labels).any()


class Filling(np.ndarray):
    """Labels on a disk that holds so many more writes."""

    room, error = 10**9, OSError("No space left on device")

    def __setitem__(self, key, value):
        if not Filling.room:
            raise Filling.error
        Filling.room -= 1
        super().__setitem__(key, value)


STACK = encode(np.stack([IMAGE] * 4), MODEL, contrast=(0, 255), device="cpu")


@pytest.fixture
def on_a_filling_disk(monkeypatch):
    """A session on a stack with an object on each of three planes, and a function that lets so many more writes succeed."""
    there = np.zeros((4, *IMAGE.shape), np.int32)
    there[:3] = np.where(LABELS == 5, 5, 0)
    s = Session(STACK, MODEL, labels=there.view(Filling))
    return s, lambda writes: monkeypatch.setattr(Filling, "room", writes)


def test_an_object_that_cannot_be_deleted_as_a_whole_comes_back(on_a_filling_disk):
    s, room = on_a_filling_disk
    before = np.array(s.labels)
    room(1)
    with pytest.raises(OSError, match="No space"):
        s.delete(5)
    assert not s.can_undo and not s.records
    room(99)
    s.delete(5)
    assert not np.asarray(s.labels).any() and s.undo()
    np.testing.assert_array_equal(s.labels, before)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(("what", "number"), [("live", 1), ("overwrite", 5)])
def test_what_was_said_and_could_not_be_written_can_be_said_again(on_a_filling_disk, what, number, again):
    s, room = on_a_filling_disk
    before = np.array(s.labels)
    s.live = what == "overwrite"
    for plane in range(2):
        s.click((plane, *CENTRES[number - 1]))
    room(1)
    with pytest.raises(OSError, match="No space"):
        setattr(s, what, True)
    assert not getattr(s, what)
    room(99)
    if again:
        setattr(s, what, True)
    elif what == "overwrite":  # all of it belongs to the other one
        with pytest.raises(ValueError, match="belong to other objects"):
            s.commit()
        np.testing.assert_array_equal(s.labels, before)
        return
    s.commit()
    for plane in range(2):
        np.testing.assert_array_equal(s.labels[plane] == 6, LABELS == number)


class Chunked(np.ndarray):
    """Labels of which a write may be interrupted when half of its rows are there."""

    writes = 10**9

    def __setitem__(self, key, value):
        Chunked.writes -= 1
        if Chunked.writes < 0:
            *plane, rows, columns = key
            half = slice(rows.start, (rows.start + rows.stop) // 2)
            super().__setitem__((*plane, half, columns), value[: half.stop - half.start])
            raise KeyboardInterrupt
        super().__setitem__(key, value)


@pytest.mark.parametrize("writes", [0, 1])
@pytest.mark.parametrize("live", [False, True])
def test_what_was_interrupted_leaves_nothing_behind(monkeypatch, writes, live):
    labels = np.zeros((4, *IMAGE.shape), np.int32).view(Chunked)
    s = Session(STACK, MODEL, labels=labels, live=live)
    s.click((0, *CENTRES[0]))
    monkeypatch.setattr(Chunked, "writes", writes)
    with pytest.raises(KeyboardInterrupt):
        if live:
            s.set_prompts([*s.prompts, Click((1,), *CENTRES[0]), Click((2,), *CENTRES[0])])
        else:
            s.click((1, *CENTRES[0]))
            s.click((2, *CENTRES[0]))
            s.commit()
    monkeypatch.setattr(Chunked, "writes", 10**9)
    s.clear()
    assert not np.asarray(labels).any()
    s.click((3, *CENTRES[1]))
    number = s.commit()
    np.testing.assert_array_equal(np.asarray(labels)[3] == number, LABELS == 2)
    assert not np.asarray(labels)[:3].any()


@pytest.mark.parametrize("what", ["delete", "find_similar"])
def test_what_is_interrupted_midway_is_as_it_was(on_a_filling_disk, monkeypatch, what):
    s, room = on_a_filling_disk
    if what == "find_similar":
        s.click((3, *CENTRES[0]))
        s.commit()
    before = np.array(s.labels)
    monkeypatch.setattr(Filling, "error", KeyboardInterrupt())
    room(1)
    with pytest.raises(KeyboardInterrupt):
        s.delete(5) if what == "delete" else s.find_similar((3,))
    room(99)
    s.clear()
    np.testing.assert_array_equal(s.labels, before)


@pytest.mark.parametrize("what", ["clear", "undo delete", "undo find_similar"])
def test_what_cannot_be_taken_back_as_a_whole_is_there_as_before(on_a_filling_disk, what):
    s, room = on_a_filling_disk
    if what == "undo delete":
        s.delete(5)
    elif what == "undo find_similar":
        s.click((3, *CENTRES[0]))
        s.commit()
        s.find_similar((3,))
    else:
        s.live = True
        for plane in range(3):
            s.click((plane, *CENTRES[0]))
    before, objects, changes = np.array(s.labels), s.objects, s.changes
    room(1)
    with pytest.raises(OSError, match="No space"):
        s.clear() if what == "clear" else s.undo()
    room(99)
    s.backlog.work_off()
    np.testing.assert_array_equal(s.labels, before)
    assert s.objects == objects and s.changes == changes
    s.clear() if what == "clear" else s.undo()
    assert not np.array_equal(s.labels, before)


def test_a_second_failure_does_not_lose_what_is_to_be_put_back(on_a_filling_disk):
    s, room = on_a_filling_disk
    for plane in range(2):
        s.click((plane, *CENTRES[0]))
    for left in (1, 0):
        room(left)
        with pytest.raises(OSError, match="No space"):
            s.commit()
    room(99)
    s.clear()
    assert not (np.asarray(s.labels) == 6).any()


def test_an_object_that_cannot_be_committed_leaves_nothing_to_the_next_one(on_a_filling_disk):
    s, room = on_a_filling_disk
    for plane in range(2):
        s.click((plane, *CENTRES[0]))
    room(1)
    with pytest.raises(OSError, match="No space"):
        s.commit()
    room(99)
    assert s.undo() and s.undo()
    s.clear()
    assert not (np.asarray(s.labels) == 6).any()
    s.click((3, *CENTRES[0]))
    assert s.commit() == 6
    assert [(np.asarray(s.labels[z]) == 6).any() for z in range(4)] == [False, False, False, True]


def test_saved_clicks_are_loaded_though_the_disk_is_full(on_a_filling_disk, tmp_path):
    s, room = on_a_filling_disk
    other = Session(STACK, MODEL, labels=np.array(s.labels))
    for number, plane in ((0, 0), (1, 1), (2, 2)):
        other.click((plane, *CENTRES[number]))
        other.commit()
    path = other.save_prompts(tmp_path / "clicks.json")
    room(1)
    with pytest.raises(OSError, match="No space"):
        s.load_prompts(path)
    assert len(s.records) == 3 and not s.unfinished
    room(99)
    s.click((3, *CENTRES[0]))
    s.clear()
    np.testing.assert_array_equal(s.labels, other.labels)


def test_a_number_that_was_free_after_a_deletion_is_no_obstacle_to_loading(tmp_path):
    there = np.where(LABELS == 5, 5, 0).astype(np.int32)
    s = session(labels=there.copy())
    s.delete(5)
    s.label = 5
    s.click(CENTRES[0])
    assert s.commit() == 5
    path = s.save_prompts(tmp_path / "clicks.json")
    again = session(labels=there)
    again.load_prompts(path)
    np.testing.assert_array_equal(again.labels, s.labels)


def test_numbers_of_64_bits_are_not_rounded(tmp_path):
    number = 720575940621039145
    there = np.where(LABELS == 5, number, 0).astype(np.uint64)
    s = session(labels=there.copy())
    s.click(CENTRES[4])
    assert s.rival == number
    s.clear()
    s.click(CENTRES[0])
    new = s.commit()
    assert number < new < number + 9
    path = s.save_prompts(tmp_path / "clicks.json")
    again = session(labels=there)
    again.load_prompts(path)
    np.testing.assert_array_equal(again.labels, s.labels)


@pytest.mark.parametrize("live", [False, True])
def test_undo_and_redo_do_not_reach_behind_an_edit(live):
    s = session(live=live)
    s.click(CENTRES[0])
    first = s.commit()
    s.click(CENTRES[4])
    s.undo()
    s.edit(first)
    assert not s.can_undo and not s.can_redo
    s.redo()
    s.commit()
    np.testing.assert_array_equal(s.labels, LABELS == 1)


@pytest.mark.parametrize("live", [False, True])
def test_an_edited_object_without_prompts_is_still_to_be_finished(live, tmp_path):
    there = np.where(LABELS < 3, LABELS, 0)
    s = session(labels=there.copy(), live=live)
    path = session().save_prompts(tmp_path / "prompts.json")
    s.edit(1)
    s.set_prompts(())
    for next_thing in (lambda: s.edit(2), lambda: s.load_prompts(path)):
        with pytest.raises(ValueError, match="commit or clear"):
            next_thing()
    s.clear()
    s.edit(2)
    s.commit()
    np.testing.assert_array_equal(s.labels, there)


@pytest.mark.parametrize("live", [False, True])
def test_clearing_tells_where_the_object_was(live):
    s = session(live=live)
    s.click(CENTRES[0])
    (box,) = [box for _, box in s.clear()]
    assert box.holds(Box.around(LABELS == 1))


def test_a_click_is_found_by_a_whole_number_alone():
    s = session()
    s.click(CENTRES[0])
    for index in (0.0, "0", None, True):
        with pytest.raises(TypeError, match="A click's number is a whole one"):
            s.remove(index)
    s.remove(np.int64(0))
    assert not s.clicks
    with pytest.raises(TypeError, match="prompts in a list"):
        s.set_prompts(Click((), *CENTRES[0]))


def test_saved_clicks_replace_saved_clicks_and_nothing_else(tmp_path):
    s = session()
    s.click(CENTRES[0])
    path = s.save_prompts(tmp_path / "clicks.json")
    s.click(CENTRES[1])
    assert len(json.loads(s.save_prompts(path).read_text())["current"]["prompts"]) == 2
    image = tmp_path / "image.tif"
    image.write_bytes(b"II*\0 and so on")
    for other in (image, tmp_path):
        with pytest.raises(FileExistsError, match="holds no saved clicks"):
            s.save_prompts(other)
    assert image.read_bytes() == b"II*\0 and so on"


@pytest.mark.parametrize("live", [True, False])
def test_a_stroke_on_an_object_that_was_edited_and_cleared_does_not_bring_it_into_the_next_one(live):
    labels = LABELS.copy()
    labels[labels == 1] = 0
    s = session(labels=labels, live=live)
    s.edit(2)
    s.painted(Stroke(labels, 60, 60, 9, (4, 4)))
    s.clear()
    s.undo()
    s.click(CENTRES[0])
    s.commit()
    np.testing.assert_array_equal(labels == 2, LABELS == 2)


def test_a_stroke_that_a_later_one_lies_over_is_not_undone_without_it():
    s = session(live=True)
    labels = s.labels
    s.painted(Stroke(labels, 60, 50, 30, (20, 20)))
    s.click(CENTRES[0])
    s.painted(Stroke(labels, 60, 60, 31, (4, 4)))
    s.clear()
    s.click(CENTRES[1])
    assert s.undo() and not s.undo()
    assert (labels == 31).sum() == 16 and (labels == 30).sum() == 384


def test_a_number_whose_object_is_back_again_is_not_given_to_the_next():
    labels = LABELS.copy()
    s = session(labels=labels)
    s.delete(3)
    s.label = 3
    s.undo()
    labels[labels == 4] = 0
    s.click(CENTRES[3])
    assert s.commit() == 7
    np.testing.assert_array_equal(labels == 3, LABELS == 3)


def test_pixels_below_0_are_no_object_but_nobodys_to_take(tmp_path):
    labels = np.where(LABELS == 0, -1, 0)
    labels[LABELS == 1] = -1
    s = session(labels=labels, live=True)
    s.click(CENTRES[0])
    assert s.rival is None and s.covered
    s.clear()
    s.painted(Stroke(labels, 0, 0, 9, (6, 6)))
    s.undo()
    s.click(CENTRES[1])
    s.commit()
    s.save_prompts(tmp_path / "c.json")
    again = session(labels=np.where(LABELS == 0, -1, 0))
    again.load_prompts(tmp_path / "c.json")
    np.testing.assert_array_equal(again.labels > 0, LABELS == 2)


def test_a_saved_object_that_may_overwrite_others_lets_no_later_one_do_so(tmp_path):
    s = session()
    s.click(CENTRES[0])
    s.commit()
    s.overwrite = True
    s.click(CENTRES[1])
    s.save_prompts(tmp_path / "c.json")
    again = session()
    again.load_prompts(tmp_path / "c.json")
    assert again.overwrite, "that object may"
    again.commit()
    assert not again.overwrite
    again.click(CENTRES[0])
    assert again.covered
    other = session()
    other.load_prompts(tmp_path / "c.json")
    other.overwrite = True  # said again, it holds
    other.commit()
    assert other.overwrite


def test_the_overwriting_of_a_saved_object_that_is_undone_is_none_of_the_next_one_s(tmp_path):
    s = session(overwrite=True)
    s.click(CENTRES[1])
    s.save_prompts(tmp_path / "c.json")
    for next_one in ("click", "edit"):
        labels = np.where(LABELS == 1, 7, 0)
        again = session(labels=labels, live=True)
        again.load_prompts(tmp_path / "c.json")
        while again.undo():
            pass
        if next_one == "click":
            again.click(CENTRES[0])
        else:
            again.edit(7)
        assert not again.overwrite and (labels == 7).sum() == 1024
    again = session(live=True)
    again.load_prompts(tmp_path / "c.json")
    while again.undo():
        pass
    again.load_prompts(tmp_path / "c.json")  # once more, which says nothing of the session either
    again.commit()
    assert not again.overwrite
    again = session(live=True)
    again.load_prompts(tmp_path / "c.json")
    again.overwrite = False
    again.undo()
    again.commit()
    assert not again.overwrite
    again = session(live=True, overwrite=True)
    again.load_prompts(tmp_path / "c.json")
    again.overwrite = False
    again.undo()
    again.commit()
    assert again.overwrite, "as was said when the session began"


def test_pixels_below_0_are_not_loaded_into_labels_that_cannot_hold_them(tmp_path):
    labels = np.zeros(IMAGE.shape, np.int32)
    s = session(labels=labels, live=True)
    s.painted(Stroke(labels, 0, 0, -1, (6, 6)))
    s.click(CENTRES[1])
    s.commit()
    s.save_prompts(tmp_path / "c.json")
    again = session(labels=np.zeros(IMAGE.shape, np.uint8))
    with pytest.raises(ValueError, match="has pixels of -1, which labels of dtype uint8 cannot hold"):
        again.load_prompts(tmp_path / "c.json")
    assert not again.labels.any() and not again.objects


def test_nothing_of_a_deleted_object_comes_back_though_another_model_answers_its_clicks(tmp_path):
    class Wider(BlobModel):
        def decode_logits(self, maps, reference, roi=None):
            return np.maximum(
                super().decode_logits(maps, reference, roi),
                binary_dilation(super().decode_logits(maps, reference, roi) > 0, iterations=2) * 8.0 - 4.0,
            ).astype(np.float32)

    s = session()
    s.click(CENTRES[0])
    s.commit()
    s.delete(1)
    s.save_prompts(tmp_path / "c.json")
    for live in (True, False):
        again = Session(FEATURES, Wider(), live=live)
        again.load_prompts(tmp_path / "c.json")
        assert not again.labels.any() and not again.objects


def test_clearing_leaves_what_somebody_painted_meanwhile():
    s = session(live=True)
    s.click(CENTRES[0])
    s.labels[20:25, 20:30] = 9
    s.clear()
    assert (s.labels == 9).sum() == 50 == (s.labels > 0).sum()


def test_an_object_larger_than_a_window_is_edited_whole_without_the_image():
    image = np.zeros((64, 1600), np.uint8)
    image[:32] = 200
    features = encode(image, MODEL, contrast=(0, 255), device="cpu")
    there = (image > 0).astype(np.int32)
    s = Session(features, MODEL, labels=there.copy())
    assert s.image is None
    s.edit(1)
    np.testing.assert_array_equal(s.mask, there)
    s.click((20, 100))
    s.commit()
    np.testing.assert_array_equal(s.labels, there)


def test_an_image_that_was_not_encoded_is_refused():
    s = session(image=IMAGE)
    assert s.image is None  # this model knows no magnification
    with pytest.raises(ValueError, match="another one"):
        session(image=IMAGE[:-1])


@pytest.mark.parametrize("size", [0, -1, np.inf, np.nan, "20"])
def test_an_object_size_is_a_number_of_pixels(size):
    with pytest.raises(ValueError, match="object_size takes a number of pixels"):
        session(object_size=size)


def test_a_label_read_from_a_narrow_label_image_is_counted_on_from():
    labels = np.zeros(IMAGE.shape, np.uint8)
    one = session(labels=labels)
    labels[100:120, 20:30] = 255  # somebody else's brush
    one.edit(labels[110, 25])
    one.click((110, 30))
    assert type(one.commit()) is int and one.label == 256
    assert type(one.highest) is int


@pytest.mark.parametrize("label", [0, -1, 2.5])
def test_an_objects_number_is_no_background(label):
    given = session()
    with pytest.raises(ValueError, match="label takes a whole number from 1"):
        given.label = label
    assert given.label == 1


def test_a_number_is_given_once():
    given = session(labels=np.zeros(IMAGE.shape, np.uint8))
    given.click(CENTRES[0])
    with pytest.raises(ValueError, match="object 1 is not: commit"):
        given.label = 7
    given.commit()
    given.label = 7
    given.click(CENTRES[1])
    given.commit()
    for label, reason in (
        (7, "to continue that object"),
        (1, "to continue that object"),
        (300, "wider dtype"),
    ):
        with pytest.raises(ValueError, match=reason):
            given.label = label
    given.label = 3  # left out so far
    given.click(CENTRES[2])
    assert (given.commit(), given.label) == (3, 8)


def test_planes_are_named_by_number_where_there_is_one_axis():
    stack = np.stack([IMAGE] * 3)
    one = Session(encode(stack, BlobModel(), device="cpu"), BlobModel(), np.stack([LABELS] * 3))
    one.edit(1, 2)
    assert one.planes == ((2,),)
    assert one.plane_mask(2)[1].sum() == 32 * 32
    assert one.latest(np.int64(2)) is one.latest((2,)) is not None
    for plane in (3, (-1,), (0, 0)):
        with pytest.raises(ValueError, match=r"plane takes an index into \(3,\)"):
            one.plane_mask(plane)
    one.clear()
    with pytest.raises(ValueError, match="plane takes"):
        one.edit(1, (3,))


@pytest.mark.parametrize(
    ("prompt", "told"),
    [((20, 20), "got .20, 20.: Click.at makes"), (Click((), 20.5, 20), "whole numbers; got .20.5, 20.")],
)
def test_what_is_no_prompt_changes_nothing(prompt, told):
    one = session()
    one.click((20, 20))
    with pytest.raises((TypeError, ValueError), match=told):
        one.set_prompts([prompt])
    assert len(one.clicks) == 1


def replayed(s, path, **options):
    """Return another session into which the prompts of this one were loaded."""
    again = Session(s.features, s.model, **options)
    again.load_prompts(s.save_prompts(path))
    return again


GAP = np.zeros((8, 64, 64), np.uint8)  # a block on planes 0 to 3, and another one below it on 5 to 7
GAP[[0, 1, 2, 3, 5, 6, 7], 20:44, 20:44] = 200


def stack_session(**options):
    return Session(encode(GAP, MODEL, contrast=(0, 255), device="cpu"), MODEL, **options)


def edited_away(s):
    """Finish an object on the first block of the stack, on whose second one somebody paints it, and edit that away again."""
    s.click((1, 32, 32))
    s.propagate()
    label = s.commit()
    s.labels[5:8] = np.where(GAP[5:8] > 0, label, 0)
    s.edit(label)
    s.click((1, 32, 32))
    s.propagate()
    return s.commit()


@pytest.mark.parametrize("live", [False, True])
def test_planes_that_an_edit_took_away_do_not_come_back(live, tmp_path):
    s = stack_session(live=live)
    label = edited_away(s)
    assert not s.labels[5:].any() and {prompt.plane for prompt in s.objects[label]} == {
        (0,),
        (1,),
        (2,),
        (3,),
    }
    np.testing.assert_array_equal(replayed(s, tmp_path / "c.json").labels, s.labels)


def test_who_lay_beside_an_object_that_was_deleted_is_as_it_was(tmp_path):
    s = session()
    for mine in (CENTRES[:2], CENTRES[1:3]):  # of the second object, the first one has a part
        for centre in mine:
            s.click(centre)
        s.commit()
    first = 1
    s.delete(first)
    assert not s.labels[LABELS == 2].any() and (s.labels[LABELS == 3] == 2).all()
    assert first not in s.objects
    again = replayed(s, tmp_path / "c.json")
    np.testing.assert_array_equal(again.labels, s.labels)
    assert len(again.rejected) == 1  # and not found again
    s.undo()
    assert first in s.objects
    np.testing.assert_array_equal(replayed(s, tmp_path / "c.json").labels, s.labels)


@pytest.mark.parametrize("live", [False, True])
def test_what_was_painted_comes_back_with_saved_clicks(live, tmp_path):
    s = session(live=True)
    s.click(CENTRES[0])
    s.painted(Stroke(s.labels, 20, 20, 0, (6, 6)))  # of the object that is finished next
    s.painted(Stroke(s.labels, 60, 60, 1, (4, 4)))
    s.commit()
    s.click(CENTRES[1])
    s.painted(Stroke(s.labels, 100, 100, 9, (5, 5)))  # an object of its own
    s.painted(Stroke(s.labels, 100, 100, 0, (1, 1)))
    s.undo()
    erased = Stroke(s.labels, 30, 94, 0, (8, 8))
    s.painted(erased)
    path = s.save_prompts(tmp_path / "c.json")
    again = Session(s.features, s.model, live=live)
    again.load_prompts(path)
    open_one = again.labels == 2
    np.testing.assert_array_equal(np.where(open_one, 0, again.labels), np.where(s.labels == 2, 0, s.labels))
    if live:
        np.testing.assert_array_equal(again.labels, s.labels)
        assert again.saved.by_hand == s.saved.by_hand
        again.click(CENTRES[2])
        assert not again.labels[erased.where].any() and again.labels[CENTRES[2]] == 2
    assert again.commit() == 2
    assert again.label == 10 and again.highest == 9
    one = session()
    one.click(CENTRES[0])
    assert replayed(one, tmp_path / "e.json").highest == 0
    np.testing.assert_array_equal(again.labels[100:105, 100:105], s.labels[100:105, 100:105])


def test_a_click_on_another_object_has_it_for_a_rival_unless_it_continues_or_paints_one():
    there = np.where(LABELS == 1, 1, 0).astype(np.int32)
    there[100:104, 90:94] = 2  # a small one, on another blob
    s = session(labels=there, live=True)
    s.click(CENTRES[0])
    assert s.rival == 1
    s.painted(Stroke(s.labels, 60, 60, s.label, (4, 4)))
    assert s.rival is None
    s.undo()
    assert s.rival == 1
    s.overwrite = True
    assert s.rival is None
    s.clear()
    s.overwrite = False
    s.edit(2)
    s.click(CENTRES[0])
    assert s.mask[LABELS == 1].all() and s.rival is None


def test_what_a_stroke_that_is_undone_gives_back_counts_as_painted_by_nobody():
    s = session(live=True)
    s.click(CENTRES[0])
    whole = s.labels.copy()
    s.painted(Stroke(s.labels, 24, 24, 0, (6, 6)))
    s.live = False
    s.live = True
    s.undo()
    np.testing.assert_array_equal(s.labels, whole)
    s.undo()
    assert not s.labels.any()


def test_what_was_undone_before_the_object_was_given_up_does_not_come_back():
    s = session()
    s.click(CENTRES[0])
    s.undo()
    assert s.can_redo and s.clear() == [] and not s.can_redo and s.label == 1


def test_saved_clicks_take_no_number_that_no_object_has(tmp_path):
    s = session()
    s.click(CENTRES[0])
    path = tmp_path / "c.json"
    s.commit()
    s.save_prompts(path)
    others = np.zeros(IMAGE.shape, np.int32)
    others[:4, :4], others[-4:, -4:] = 2, 50  # 2 is what the next object would have been
    again = session(labels=others)
    again.load_prompts(path)
    assert again.highest == 50 and again.label == 51
    assert replayed(s, path).label == 2


def test_of_saved_clicks_without_an_answer_no_model_is_told(tmp_path):
    s = session()
    assert s.saved.current.decoder == ""
    other = BlobModel()
    other.decoder_fingerprint = "adapted"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Session(FEATURES, other).load_prompts(s.save_prompts(tmp_path / "c.json"))


def test_another_session_in_the_same_labels_saves_what_was_finished_and_painted_before():
    s = session(live=True)
    s.click(CENTRES[0])
    s.painted(Stroke(s.labels, 60, 60, 1, (4, 4)))
    s.commit()
    again = session(labels=s.labels, live=True)
    again.go_on_from(s.saved)
    assert again.saved.finished == s.saved.finished and again.saved.by_hand == s.saved.by_hand


def test_without_the_current_object_labels_are_all_that_is_there():
    s = session(live=True)
    s.painted(Stroke(s.labels, 60, 60, s.label, (4, 4)))
    np.testing.assert_array_equal(s.finished[...], s.labels)
    s.click(CENTRES[0])
    assert not s.finished[...].any()


def test_what_an_edit_began_with_stays_with_a_click_that_was_saved_and_goes(tmp_path):
    s = stack_session()
    s.click((1, 32, 32))
    s.propagate()
    s.edit(s.commit())
    s.click((1, 32, 33))
    again = replayed(s, tmp_path / "c.json")
    again.remove(0)
    s.remove(0)
    assert s.mask[:4].any(axis=(1, 2)).all()
    np.testing.assert_array_equal(again.mask, s.mask)


@pytest.mark.parametrize(
    ("plane", "box"), [((3,), (0, 0, 2, 2)), ((), (191, 0, 193, 2)), ((), (-1, 0, 1, 2))]
)
def test_what_was_painted_outside_the_image_is_refused_and_nothing_changes(plane, box, tmp_path):
    s = session()
    s.click(CENTRES[0])
    s.commit()
    wrong = Piece(plane, Box(*box), b"\xf0", (1, 4))
    path = replace(s.saved, by_hand=(wrong,)).write(tmp_path / "c.json")
    again = session()
    with pytest.raises(ValueError, match=r"damaged|plane takes"):
        again.load_prompts(path)
    assert not again.labels.any() and again.label == 1


def test_a_journal_notes_what_was_painted_unless_a_disk_has_it(tmp_path):
    on_disk = zarr.create_array(tmp_path / "l.zarr", shape=IMAGE.shape, dtype=np.int32, chunks=(64, 64))
    for labels, noted in ((np.zeros(IMAGE.shape, np.int32), 1), (on_disk, 0)):
        s = session(labels=labels, live=True)
        s.click(CENTRES[0])
        s.painted(Stroke(s.labels, 60, 60, 1, (4, 4)))
        assert (len(s.noted.by_hand), len(s.saved.by_hand)) == (noted, 1)
        assert s.noted.current == s.saved.current


def test_what_was_painted_of_objects_alone_keeps_their_numbers(tmp_path):
    s = session(live=True)
    s.painted(Stroke(s.labels, 20, 20, 7, (6, 6)))
    again = replayed(s, tmp_path / "c.json")
    np.testing.assert_array_equal(again.labels, s.labels)
    assert again.label == 8 and not again.unfinished
    with pytest.raises(ValueError, match="labels of dtype uint8 cannot hold label 700"):
        s.painted(Stroke(s.labels, 20, 20, 700, (6, 6)))
        replayed(s, tmp_path / "c.json", labels=np.zeros(IMAGE.shape, np.uint8))


def test_saved_clicks_give_back_the_labels_where_writing_waits_as_in_the_window(tmp_path):
    s = stack_session()
    edited_away(s)
    s.click((6, 32, 32))
    s.delete(s.commit())
    path = s.save_prompts(tmp_path / "c.json")
    again = Session(s.features, s.model, live=True)
    with again.backlog.waiting():
        again.adopt_saved(again.compute_saved(path))
    again.backlog.work_off()
    assert s.labels[:4].any() and not s.labels[4:].any()
    np.testing.assert_array_equal(again.labels, s.labels)


def test_what_was_deleted_can_be_brought_back_after_an_object_that_came_to_nothing():
    s = session()
    s.click(CENTRES[0])
    label = s.commit()
    s.delete(label)
    s.click(CENTRES[1])
    s.clear()
    assert s.undo() and (s.labels[LABELS == 1] == label).all() and not s.can_undo


@pytest.mark.parametrize("do", ["delete", "find_similar"])
def test_what_was_done_while_an_object_had_lost_its_clicks_can_be_taken_back_after_it(do):
    s = session(live=True)
    s.click(CENTRES[0])
    s.commit()
    before = s.labels.copy()
    s.click(CENTRES[1])
    s.remove(0)
    s.delete(1) if do == "delete" else s.find_similar()
    s.clear()
    assert s.undo() and not s.can_undo
    np.testing.assert_array_equal(s.labels, before)


def test_an_open_object_of_masks_alone_is_undone_after_loading(tmp_path):
    s = session()
    s.set_prompts([Mask((), Box(0, 0, 4, 4), np.ones((4, 4), bool))])
    again = replayed(s, tmp_path / "c.json")
    assert again.mask.sum() == 16 and again.undo() and not again.prompts


def test_an_answer_is_of_one_model_though_it_is_changed_meanwhile():
    answered = []

    class Named(BlobModel):
        def __init__(self, name, meanwhile=lambda: None):
            super().__init__()
            self.name, self.meanwhile = name, meanwhile

        def prepare_maps(self, maps):
            self.meanwhile()
            return self.name, super().prepare_maps(maps)

        def decode_logits(self, maps, reference, roi=None):
            answered.append((self.name, maps[0]))
            return super().decode_logits(maps[1], reference, roi)

    s = Session(FEATURES, Named("old", lambda: s.change_model(Named("new"))))
    s.click(CENTRES[0])
    s.click(CENTRES[1])
    assert answered == [("old", "old"), ("new", "new")]


def test_what_was_carried_goes_with_its_click_after_another_model_and_another_day(tmp_path):
    s = stack_session()
    s.click((1, 32, 32))
    s.propagate()
    assert len(s.planes) == 4
    again = replayed(s, tmp_path / "c.json")
    assert len(again.planes) == 4
    again.remove(0)
    assert not again.mask.any()
    s.change_model(BlobModel())
    s.remove(0)
    assert not s.mask.any()


def test_what_was_carried_beside_others_is_carried_anew_where_it_may_overwrite_them():
    labels = np.zeros(GAP.shape, np.int32)
    labels[:4, 20:44, 36:44] = 7
    s = stack_session(labels=labels)
    s.click((1, 26, 26))
    s.propagate()
    assert s.mask[0].sum() == 24 * 16
    s.undo()
    s.overwrite = True
    s.propagate()
    assert s.mask[0].sum() == 24 * 24


def test_the_size_of_an_object_is_the_one_of_its_first_click_after_undo_and_redo(tmp_path):
    s = session(image=Planes.of(IMAGE, contrast=(0, 255)))
    s.click(CENTRES[0])
    s.undo()
    s.object_size = 300
    s.redo()
    s.commit()
    assert s.records[0].size is None
    s.object_size = 30
    s.click(CENTRES[1])
    s.commit()
    assert s.records[1].size == 30


def test_the_next_object_is_taken_to_be_as_large_as_those_finished_last(tmp_path, blob_model):
    blob_model.config = replace(blob_model.config, diameters=(8.0, 20.0))

    def begin():
        return Session(FEATURES, blob_model, image=Planes.of(IMAGE, contrast=(0, 255)))

    s = begin()
    assert s.expected_size is None
    sizes = []
    for box in ((20, 22, 40, 43), (24, 88, 27, 91), (24, 152, 27, 155), (104, 24, 107, 27)):
        s.box(box[:2], box[2:])
        s.commit()
        sizes.append(s.expected_size)
    assert sizes == [26, 20, 20, 4]  # one small object does not outweigh what the model knows best
    s.click(CENTRES[4])
    s.undo()
    s.object_size = 300
    assert s.expected_size == 300
    s.object_size = None
    s.redo()
    s.save_prompts(tmp_path / "clicks.json")
    assert s.records[0].size is None and s.saved.current.size == 4
    again = begin()
    again.load_prompts(tmp_path / "clicks.json")
    np.testing.assert_array_equal(again.mask, s.mask)
    assert again.expected_size == 4 and again.object_size is None
    assert session().expected_size is None


@pytest.mark.parametrize("live", [False, True])
def test_an_open_object_that_may_overwrite_is_gone_on_with_as_such(live, tmp_path):
    s = session(overwrite=True, live=live)
    s.box((20, 20), (44, 100))
    s.commit()
    s.click(CENTRES[1])
    again = replayed(s, tmp_path / "c.json", live=live)
    assert again.overwrite
    for one in (s, again):
        one.commit()
    np.testing.assert_array_equal(again.labels, s.labels)
    np.testing.assert_array_equal(replayed(again, tmp_path / "d.json").labels, s.labels)


def test_clearing_a_loaded_edit_brings_back_what_was_painted_and_erased_before_it(tmp_path):
    s = session(live=True)
    s.click(CENTRES[0])
    label = s.commit()
    s.painted(Stroke(s.labels, 16, 50, label, (32, 10)))
    s.painted(Stroke(s.labels, 16, 16, 0, (8, 8)))
    finished = s.labels.copy()
    s.edit(label)
    s.click((20, 55), positive=False)
    again = replayed(s, tmp_path / "c.json", live=True)
    np.testing.assert_array_equal(again.labels, s.labels)
    assert not np.array_equal(s.labels, finished)
    for one in (s, again):
        one.clear()
        np.testing.assert_array_equal(one.labels, finished)


def test_numbers_of_numpy_are_saved_as_any_others(tmp_path):
    one = session(overwrite=np.True_, object_size=np.float32(30))
    one.set_prompts([Click((), np.int64(20), np.int16(20), np.True_)])
    again = session()
    again.load_prompts(one.save_prompts(tmp_path / "clicks.json"))
    np.testing.assert_array_equal(again.mask, one.mask)


def test_labels_of_dask_are_labels():
    one = session(labels=dask.array.zeros(IMAGE.shape, chunks=50, dtype=np.int32))
    one.click((20, 20))
    one.commit()
    assert np.count_nonzero(one.labels) == 32 * 32


def test_editing_needs_an_object_and_no_unfinished_one():
    s = session()
    with pytest.raises(ValueError, match="no pixel"):
        s.edit(3)
    s.click(CENTRES[0])
    with pytest.raises(ValueError, match="commit or clear"):
        s.edit(3)


@pytest.mark.parametrize("position", [(-1, 5), (5, -1), (160, 5), (5, 192), (0, 5, 5), (5,)])
def test_a_click_outside_changes_nothing(position):
    s = session(live=True)
    s.click(CENTRES[0])
    mask, labels = s.mask, s.labels.copy()
    with pytest.raises(ValueError, match=r"needs a position"):
        s.click(position)
    np.testing.assert_array_equal(s.mask, mask)
    np.testing.assert_array_equal(s.labels, labels)
    assert len(s.clicks) == 1


def test_a_click_on_a_pixel_without_a_value_is_refused():
    image = IMAGE.astype(np.float32)
    image[50:60, 50:60] = np.nan
    s = Session(encode(image, MODEL, contrast=(0, 255), device="cpu"), MODEL)
    with pytest.raises(ValueError, match="NaN"):
        s.click((55, 55))
    assert s.click(CENTRES[0]).any()


def test_a_click_on_a_plane_that_is_not_encoded_is_refused_until_it_is():
    planes = Planes.of(np.stack([IMAGE] * 3), contrast=(0, 255))
    features = room_for(planes, MODEL, tile="whole")
    steps = encode_tiles(planes, features, MODEL, device="cpu", first=lambda: (1,))
    next(steps)
    s = Session(features, MODEL)
    assert s.click((1, *CENTRES[0])).any()
    with pytest.raises(NotEncodedError, match="not encoded"):
        s.click((2, *CENTRES[0]))
    assert len(s.clicks) == 1
    list(steps)
    assert s.click((2, *CENTRES[0])).any()
    assert s.mask.sum(axis=(1, 2)).tolist() == [0, 1024, 1024]


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (np.zeros((3, 3), int), "shape"),
        (np.zeros(IMAGE.shape, float), "integer"),
        (np.zeros((1, *IMAGE.shape), int), "shape"),
    ],
)
def test_a_label_image_that_does_not_fit_is_refused(labels, told):
    with pytest.raises(ValueError, match=told):
        session(labels=labels)


def test_features_of_another_model_are_refused():
    other = BlobModel()
    other.fingerprint = "another"
    with pytest.raises(ValueError, match="model"):
        Session(FEATURES, other)


def test_a_label_that_does_not_fit_the_dtype_is_refused_and_nothing_lost():
    there = np.zeros(IMAGE.shape, np.uint8)
    there[0, 0] = 255
    for live in (False, True):
        s = session(labels=there, live=live)
        with pytest.raises(ValueError, match="wider dtype"):
            s.click(CENTRES[0])
        assert not s.clicks and not s.can_undo and not s.can_redo and (s.labels > 0).sum() == 1


def test_labels_on_a_drive_that_is_gone_are_told(tmp_path):
    labels = zarr.create_array(tmp_path / "l.zarr", shape=IMAGE.shape, dtype="u2", chunks=(64, 64))
    one = session(labels=labels)
    one.click(CENTRES[0])
    shutil.rmtree(tmp_path / "l.zarr")
    with pytest.raises(FileNotFoundError, match=r"labels are not in .*l\.zarr any more"):
        one.commit()
    assert not one.records and not (tmp_path / "l.zarr").exists()
    one.clear()
    with pytest.raises(FileNotFoundError, match="not in"):
        one.edit(1)


def test_labels_that_do_not_fit_into_memory_are_told(monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("napari_interformer.session.np.zeros", full)
    with pytest.raises(MemoryError, match=r"Labels of shape .* need 0\.0 GiB of memory.*: keep them on disk"):
        session()


def test_labels_in_zarr_are_written_in_place():
    store = zarr.create_array({}, shape=IMAGE.shape, dtype="u2", chunks=(64, 64))
    s = session(labels=store, live=True)
    s.click(CENTRES[5])
    s.commit()
    np.testing.assert_array_equal(store[:], (LABELS == 6).astype(np.uint16))


def test_saved_prompts_reproduce_the_work(tmp_path):
    s = session()
    s.click(CENTRES[0])
    s.click((5, 60), positive=False)
    s.commit()
    s.edit(1)
    s.click(CENTRES[1])
    s.commit()
    s.click(CENTRES[4])
    path = s.save_prompts(tmp_path / "prompts.json")
    again = session()
    again.load_prompts(path)
    np.testing.assert_array_equal(again.labels, s.labels)
    np.testing.assert_array_equal(again.mask, s.mask)
    assert again.clicks == s.clicks and again.label == s.label


def test_prompts_of_another_image_or_no_prompts_at_all_are_refused(tmp_path):
    other = Session(encode(255 - IMAGE, MODEL, contrast=(0, 255), device="cpu"), MODEL)
    path = other.save_prompts(tmp_path / "prompts.json")
    with pytest.raises(ValueError, match="another image"):
        session().load_prompts(path)
    path.write_text('{"no": "prompts"}')
    with pytest.raises(ValueError, match="something else"):
        session().load_prompts(path)


def test_an_edited_object_is_replayed_in_its_turn(tmp_path):
    s = session(overwrite=True)
    s.click(CENTRES[0])
    s.commit()
    s.click(CENTRES[4])
    s.commit()
    s.edit(1)
    s.click(CENTRES[4])  # takes it from the second
    s.commit()
    s.overwrite = False
    s.edit(1)
    s.click(CENTRES[1])
    again = session()
    again.load_prompts(s.save_prompts(tmp_path / "prompts.json"))
    np.testing.assert_array_equal(again.labels, s.labels)
    assert again.label == 1 and not again.overwrite
    assert again.commit() == s.commit() == 1
    np.testing.assert_array_equal(again.labels, s.labels)
    assert again.objects.keys() == s.objects.keys()


def test_loaded_clicks_are_undone_one_by_one(tmp_path):
    s = session()
    for centre in CENTRES[:3]:
        s.click(centre)
    again = session()
    again.load_prompts(s.save_prompts(tmp_path / "prompts.json"))
    for left in (2, 1, 0):
        assert again.undo() and s.undo()
        assert again.clicks == s.clicks and len(s.clicks) == left
        np.testing.assert_array_equal(again.mask, s.mask)
    assert not again.can_undo


def test_loading_spares_what_is_there(tmp_path):
    s = session()
    s.click(CENTRES[0])
    s.commit()
    s.click(CENTRES[1])
    s.commit()
    path = s.save_prompts(tmp_path / "prompts.json")
    for there in (np.where(LABELS == 6, 2, 0), np.eye(*IMAGE.shape, dtype=int)):
        before = there.copy()
        for load in (
            Session.load_prompts,
            Session.compute_saved,
        ):  # the second, in a worker, looks through all labels
            with pytest.raises(ValueError, match="is there already"):
                load(session(labels=there), path)
        np.testing.assert_array_equal(there, before)
    with pytest.raises(ValueError, match="is there already"):
        s.load_prompts(path)
    s.labels[:] = 0
    s.load_prompts(path)
    np.testing.assert_array_equal(s.labels, np.where(LABELS < 3, LABELS, 0))


@pytest.mark.parametrize("what", ["edit", "finished edit", "deletion"])
def test_saved_edits_are_of_the_object_that_has_their_number_or_are_refused(what, tmp_path):
    s = session(labels=np.where(LABELS == 1, 7, 0))
    if what == "deletion":
        s.delete(7)
    else:
        s.edit(7)
        s.click(CENTRES[1])
        if what == "finished edit":
            s.commit()
    path = s.save_prompts(tmp_path / "c.json")
    there = np.where(LABELS == 6, 7, 0)
    other = session(labels=there.copy())
    with pytest.raises(ValueError, match="object 7 is another one: load them into the labels"):
        other.load_prompts(path)
    np.testing.assert_array_equal(other.labels, there)
    for same in (np.where(LABELS == 1, 7, 0), np.where(np.isin(LABELS, (1, 2)), 7, 0), np.zeros_like(there)):
        again = session(labels=same)
        again.load_prompts(path)
        if what == "edit":
            again.commit()
        assert (same[LABELS == 1] == 0).all() if what == "deletion" else (same[LABELS == 2] == 7).all()


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("format", 99, "later version"),
        ("current", {}, "damaged"),
        (
            "objects",
            [{"label": 1, "size": "wide", "overwrite": False, "edited": False, "prompts": []}],
            "damaged",
        ),
        (
            "objects",
            [
                {
                    "label": 1,
                    "size": None,
                    "overwrite": False,
                    "edited": True,
                    "prompts": [{"mask": "AAAA", "plane": [], "box": [0, 0, 4, 4]}],
                }
            ],
            "damaged",
        ),
    ],
)
def test_a_damaged_file_of_prompts_is_refused(tmp_path, key, value, match):
    path = session().save_prompts(tmp_path / "prompts.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    s = session()
    with pytest.raises(ValueError, match=match):
        s.load_prompts(path)
    assert not s.objects and s.label == 1


@pytest.mark.parametrize("place", [{"box": [900, 900, 940, 940]}, {"plane": [9]}])
def test_what_an_edited_object_began_with_lies_in_the_image_or_nothing_is_loaded(place, tmp_path):
    labels = np.where(LABELS == 2, 7, 0)
    s = session(labels=labels.copy())
    s.click(CENTRES[0])
    s.commit()
    s.edit(7)
    s.click(CENTRES[2])
    s.commit()
    path = s.save_prompts(tmp_path / "prompts.json")
    content = json.loads(path.read_text())
    content["objects"][1]["begun"][0] |= place
    path.write_text(json.dumps(content))
    again = session(labels=labels.copy())
    with pytest.raises(ValueError, match=r"outside the image|plane"):
        again.load_prompts(path)
    assert not again.objects and not again.unfinished and (again.labels == labels).all()


def test_loading_is_all_or_nothing(tmp_path):
    s = session()
    for label in (1, 300):
        s.label = label
        s.click(CENTRES[0] if label == 1 else CENTRES[4])
        s.commit()
    path = s.save_prompts(tmp_path / "prompts.json")
    again = session(labels=np.zeros(IMAGE.shape, np.uint8))
    with pytest.raises(ValueError, match="wider dtype"):
        again.load_prompts(path)
    assert not again.objects and not again.labels.any() and not again.clicks


def test_prompts_made_with_another_model_are_answered_with_a_warning(tmp_path):
    path = session().save_prompts(tmp_path / "prompts.json")
    path.write_text(path.read_text().replace(FEATURES.model_fingerprint, "another"))
    with pytest.warns(UserWarning, match="another model"):
        session().load_prompts(path)


def test_prompts_that_were_answered_in_another_way_are_told(tmp_path):
    adapted = BlobModel()
    adapted.decoder_fingerprint = "adapted"
    s = session()
    s.click(CENTRES[0])
    s.commit()
    s.click(CENTRES[1])
    path = s.save_prompts(tmp_path / "prompts.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session().load_prompts(path)
    with pytest.warns(UserWarning, match="another model"):
        Session(FEATURES, adapted).load_prompts(path)
    s.change_model(adapted)
    s.commit()
    s.save_prompts(path)
    with pytest.warns(UserWarning, match="another model"):  # one of them was
        session().load_prompts(path)


def test_prompts_of_a_session_with_the_image_are_told_to_one_without(tmp_path):
    model = BlobModel()
    model.config = replace(model.config, diameters=(8.0, 60.0))
    planes = Planes.of(IMAGE, contrast=(0, 255))
    encode(planes, model, device="cpu", store=tmp_path / "features.zarr")
    stored = Features.open(tmp_path / "features.zarr")
    with_image, without = Session(stored, model, image=planes), Session(stored, model)
    for one, other, told in (
        (with_image, without, "image=image"),
        (without, with_image, "without the image"),
    ):
        one.click(CENTRES[0])
        path = one.save_prompts(tmp_path / "prompts.json")
        one.clear()
        with pytest.warns(UserWarning, match=told):
            other.load_prompts(path)
        other.clear()


def test_computing_changes_nothing_until_it_is_adopted():
    s = session(live=True)
    steps = s.compute([Click.at(CENTRES[0])])
    assert not s.mask.any() and not np.any(s.labels) and not s.can_undo
    ((plane, box),) = s.adopt(steps)
    assert plane == () and box.holds(box.around(LABELS == 1))
    assert s.adopt(steps) == []  # the same again is no change
    assert s.undo() and not s.can_undo


def test_finished_objects_are_those_that_are_not_being_worked_on():
    s = session(live=True)
    assert s.highest == 0
    s.click(CENTRES[0])
    assert s.labels.any() and not s.finished[...].any()
    first = s.commit()
    finished = s.finished
    s.click(CENTRES[1])
    assert s.highest == first and set(np.unique(finished[...])) == {0, first}
    second = s.commit()
    s.edit(first)
    assert set(np.unique(finished[:, :])) == {0, second} and set(np.unique(s.labels)) == {0, first, second}


def test_another_model_answers_what_comes_and_leaves_what_is_there():
    class Greedy(BlobModel):
        def decode_logits(self, maps, reference, roi=None):
            return np.ones(reference.shape, np.float32)

    s = session()
    s.click(CENTRES[0])
    before = s.mask
    s.change_model(Greedy())
    np.testing.assert_array_equal(s.mask, before)
    assert s.click(CENTRES[1])[32, 64]  # between the two
    s.undo()
    np.testing.assert_array_equal(s.mask, before)
    s.change_model(MODEL)
    np.testing.assert_array_equal(s.click(CENTRES[1]), (LABELS == 1) | (LABELS == 2))


def test_a_model_for_other_features_is_not_taken():
    s, other = session(), BlobModel()
    other.fingerprint = "others"
    with pytest.raises(ValueError, match="another encoder"):
        s.change_model(other)
    assert s.model is MODEL


def test_lines_add_and_remove_and_count_in_their_turn():
    s = session()
    s.click(CENTRES[0])
    mask = s.scribble([(32, 96), (32, 100), (40, 100)])
    np.testing.assert_array_equal(mask, (LABELS == 1) | (LABELS == 2))
    s.click(CENTRES[2])
    s.scribble([(30, 96), (40, 96)], positive=False)
    assert not s.mask[30:41, 96].any() and s.mask[CENTRES[0]] and s.mask[CENTRES[2]]
    first, green, second, red = s.prompts
    assert s.scribbles == (green, red) and s.clicks == (first, second)
    s.remove(0)
    assert s.prompts == (green, second, red)
    s.flip(0)
    assert s.prompts == (green, Click((), *CENTRES[2], False), red)
    assert s.undo() and s.undo() and s.prompts == (first, green, second, red)


def test_lines_are_saved_and_replayed(tmp_path):
    s = session()
    s.scribble([(32, 20), (32, 40)])
    s.click(CENTRES[1])
    s.commit()
    s.scribble([CENTRES[3]])
    again = session()
    again.load_prompts(s.save_prompts(tmp_path / "prompts.json"))
    assert again.objects == s.objects and again.prompts == s.prompts
    np.testing.assert_array_equal(again.labels, s.labels)


@pytest.mark.parametrize(
    ("positions", "told"),
    [
        ([], "at least one position; got none"),
        (
            [(5, 300), (5, 500)],
            r"A scribble needs a position inside the image .* got \(5, 300\): draw on the image",
        ),
        ([(5, 5), (5, "a")], "A scribble needs a list of positions in pixels"),
        ([(0, 5, 5), (1, 5, 9)], "one plane"),
        ([(0, 5, 5), (0, 5, 9)], "inside the image"),
        (7, "A scribble needs a list of positions in pixels"),
    ],
)
def test_a_line_that_is_none_changes_nothing(positions, told):
    s = session()
    s.click(CENTRES[0])
    with pytest.raises(ValueError, match=told):
        s.scribble(positions)
    assert len(s.prompts) == 1 and not s.scribbles


def test_of_a_line_beyond_the_edge_the_longest_part_within_counts():
    s = session()
    s.scribble([(30, 30), (30, -30), (34, -30), (34, 2)])
    (scribble,) = s.scribbles
    assert scribble.path == tuple((30, x) for x in range(30, -1, -1))


def test_what_was_erased_comes_back_where_a_line_crosses_it():
    s = session(live=True)
    s.click(CENTRES[0])
    s.labels[36:48, 16:48] = 0
    s.scribble([(20, 20), (30, 30)])
    assert not s.labels[36:48].any()
    s.scribble([(30, 30), (40, 30)])
    np.testing.assert_array_equal(s.labels == 1, LABELS == 1)


def two_finished() -> Session:
    """Return a session with two objects, one of which was edited later."""
    s = session()
    for centre in CENTRES[:2]:
        s.click(centre)
        s.commit()
    s.edit(1)
    s.click(CENTRES[2])
    s.commit()
    return s


def test_an_object_that_is_deleted_leaves_no_pixel_and_no_prompt_and_comes_back_by_undo():
    s = two_finished()
    before, objects = np.array(s.labels), s.objects
    s.delete(1)
    assert set(np.unique(s.labels)) == {0, 2} and list(s.objects) == [2] and s.label == 3
    assert s.undo()
    np.testing.assert_array_equal(s.labels, before)
    assert s.objects == objects and not s.can_undo
    assert s.redo()
    assert set(np.unique(s.labels)) == {0, 2} and list(s.objects) == [2]
    s.click(CENTRES[0])  # where it was is free again
    assert s.commit() == 3 and (s.labels == 3).sum() == 1024


def test_what_is_painted_where_an_object_was_deleted_stays_when_it_comes_back():
    s = two_finished()
    s.delete(2)
    s.labels[20:24, 84:88] = 7
    s.undo()
    assert (s.labels[20:24, 84:88] == 7).all() and (s.labels == 2).sum() == 1024 - 16


def test_an_object_is_deleted_on_all_planes():
    labels = np.zeros((5, 32, 32), np.uint8)
    labels[1:4, 4:9, 4:9] = 3
    labels[2, 9:12, 4:9] = 4
    features = encode(np.zeros((5, 32, 32), np.uint8), MODEL, contrast=(0, 255), device="cpu")
    s = Session(features, MODEL, labels)
    s.delete(3)
    assert set(np.unique(labels)) == {0, 4} and (labels == 4).sum() == 15
    s.undo()
    assert (labels == 3).sum() == 75


def test_only_finished_objects_that_are_there_are_deleted():
    s = two_finished()
    before = np.array(s.labels)
    for wrong in (3, 0, -1, "a", 1.5):
        with pytest.raises(ValueError, match="delete needs a label that is in the label image"):
            s.delete(wrong)
    s.click(CENTRES[4])
    with pytest.raises(ValueError, match="commit or clear it"):
        s.delete(1)
    np.testing.assert_array_equal(s.labels, before)
    assert len(s.clicks) == 1


@pytest.mark.parametrize("live", [False, True])
def test_painting_live_can_be_switched_on_and_off_in_the_midst_of_an_object(live):
    features = encode(np.stack([IMAGE] * 3), MODEL, contrast=(0, 255), device="cpu")
    s = Session(features, MODEL, live=live)
    s.click((0, *CENTRES[0]))
    s.click((2, *CENTRES[1]))
    s.live = not live
    np.testing.assert_array_equal(s.labels, s.mask if s.live else 0 * s.labels)
    s.undo()
    s.click((1, *CENTRES[2]))
    np.testing.assert_array_equal(s.labels, s.mask if s.live else 0 * s.labels)
    mask = s.mask
    assert s.commit() == 1
    np.testing.assert_array_equal(s.labels, mask)


def test_a_size_that_is_none_is_refused_later_too():
    features = encode(IMAGE, MODEL, contrast=(0, 255), device="cpu")
    s = Session(features, MODEL)
    for wrong in (0, -5, np.nan, np.inf, "30"):
        with pytest.raises(ValueError, match="object_size takes a number of pixels above 0"):
            s.object_size = wrong
    assert s.object_size is None
    s.object_size = 12
    assert s.object_size == 12


def test_saved_clicks_tell_that_the_image_was_encoded_otherwise(tmp_path):
    s = session()
    s.click(CENTRES[0])
    s.commit()
    path = s.save_prompts(tmp_path / "c.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session().load_prompts(path)
    other = Session(encode(IMAGE, MODEL, contrast=(0, 200), device="cpu"), MODEL)
    with pytest.warns(UserWarning, match="made with another contrast or tiling"):
        other.load_prompts(path)
    told = json.loads(path.read_text())
    del told["encoded"]  # as versions before this one wrote
    path.write_text(json.dumps(told))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Session(other.features, MODEL).load_prompts(path)


def test_an_object_that_two_models_answered_is_neither_s(tmp_path):
    second = BlobModel()
    second.decoder_fingerprint = "otherwise"
    s = session()
    s.click(CENTRES[0])
    s.change_model(second)
    s.click(CENTRES[1])
    s.commit()
    s.click(CENTRES[2])
    s.commit()
    assert [record.decoder for record in s.records] == ["blobs+otherwise", "otherwise"]
    path = s.save_prompts(tmp_path / "c.json")
    for model in (MODEL, second):
        with pytest.warns(UserWarning, match="made with another model"):
            Session(FEATURES, model).load_prompts(path)


def test_a_model_in_training_answers_as_in_use(small_model):
    training = copy.deepcopy(small_model).train()
    features = encode(IMAGE, small_model, device="cpu")
    masks = [Session(features, model).click(CENTRES[0]) for model in (small_model, training, training)]
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[0], masks[2])
    assert training.training


def test_an_array_that_was_filled_anew_is_not_taken_for_the_image():
    buffer = IMAGE.copy()
    features = encode(buffer, MODEL, contrast=(0, 255), device="cpu")
    Session(features, MODEL)
    buffer[:] = IMAGE[::-1]
    with pytest.raises(ValueError, match="has other pixels now"):
        Session(features, MODEL)
    assert Session(features, MODEL, image=IMAGE).click(CENTRES[0]).sum() == 1024


def test_a_click_that_lies_on_no_other_object_means_an_object_of_its_own():
    s = session(labels=np.where(LABELS == 1, 1, 0).astype(np.int32))
    s.click((2, 2))  # background
    s.click(CENTRES[0])
    assert s.mask.sum() > 1000 and s.rival is None
    s.remove(0)
    assert s.rival == 1
    s.click((2, 2), positive=False)
    assert s.rival == 1
    s.overwrite = True
    assert s.rival is None


def test_nothing_covers_an_object_without_a_pixel():
    s = session(labels=np.ones(IMAGE.shape, np.int32))
    s.click(CENTRES[0], positive=False)
    assert s.empty and not s.covered
    s.flip(0)
    assert s.covered


def test_an_object_that_comes_back_keeps_its_number_though_its_clicks_are_gone():
    s = session()
    assert not s.can_undo
    s.click(CENTRES[0])
    assert s.can_undo
    s.remove(0)
    s.number_from(5)
    assert s.label == 1
    s.undo()
    assert s.label == 1 and s.mask.any()
    s.remove(0)
    assert s.clear() == [] and s.label == 2  # its number was seen


def test_what_was_deleted_leaves_no_prompts_to_another_object_of_its_number():
    s = session()
    for centre in CENTRES[:2]:
        s.click(centre)
        s.commit()
    s.delete(1)
    assert len(s.rejected) == 1
    s.label = 1
    s.click(CENTRES[2])
    s.commit()
    assert s.objects[1] == (Click((), *CENTRES[2]),)
    s.edit(2)
    s.click(CENTRES[3])
    s.commit()
    assert len(s.rejected) == 1  # an edit deletes nothing
    stack = stack_session()
    stack.click((1, 32, 32))
    stack.commit()
    stack.labels[:] = 0  # somebody rubs it out
    stack.label = 1
    stack.click((6, 32, 32))
    stack.commit()
    assert stack.objects == {1: (Click((6,), 32, 32),)}


def test_strokes_are_made_again_in_their_order_after_a_click_over_them_was_undone():
    s = session(live=True, overwrite=True)
    s.click(CENTRES[1])
    for number in (9, 8):
        s.painted(Stroke(s.labels, 24, 24, number, (6, 6)))
    before = s.labels.copy()
    s.click(CENTRES[0])
    s.undo()
    np.testing.assert_array_equal(s.labels, before)
    assert (s.labels[24:30, 24:30] == 8).all()


def test_saved_clicks_of_an_open_object_need_its_number_and_tell_its_model(tmp_path):
    s = session()
    s.click(CENTRES[0])
    path = s.save_prompts(tmp_path / "c.json")
    with pytest.raises(ValueError, match="object 1 is there already"):
        session(labels=np.where(LABELS == 2, 1, 0)).load_prompts(path)
    other = BlobModel()
    other.decoder_fingerprint = "adapted"
    with pytest.warns(UserWarning, match="made with another model"):
        Session(FEATURES, other).load_prompts(path)


def test_numbers_are_looked_for_on_all_planes_before_saved_clicks_are_loaded(tmp_path):
    s = stack_session()
    s.click((1, 32, 32))
    s.commit()
    there = np.zeros(GAP.shape, np.int32)
    there[6, :4, :4] = 1
    with pytest.raises(ValueError, match="object 1 is there already"):
        Session(s.features, s.model, there).load_prompts(s.save_prompts(tmp_path / "c.json"))


def test_of_saved_clicks_that_do_not_tell_how_they_were_seen_nothing_is_said(tmp_path, blob_model):
    blob_model.config = replace(blob_model.config, diameters=(8.0, 300.0))
    encode(IMAGE, blob_model, contrast=(0, 255), device="cpu", store=tmp_path / "f.zarr")
    opened, image = Features.open(tmp_path / "f.zarr"), Planes.of(IMAGE, contrast=(0, 255))
    path = Session(opened, blob_model, image=image).save_prompts(tmp_path / "c.json")
    told = json.loads(path.read_text())
    assert told.pop("magnified") is True  # as versions before this one wrote
    path.write_text(json.dumps(told))
    for seen in (None, image):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Session(opened, blob_model, image=seen).load_prompts(path)


@pytest.mark.parametrize("tiling", [{"tile": 96, "halo": 32}, {"tile": 64, "halo": 0}])
def test_saved_clicks_tell_that_the_image_was_tiled_otherwise(tiling, tmp_path):
    s = Session(encode(IMAGE, MODEL, contrast=(0, 255), device="cpu", tile=128, halo=32), MODEL)
    path = s.save_prompts(tmp_path / "c.json")
    other = Session(encode(IMAGE, MODEL, contrast=(0, 255), device="cpu", **tiling), MODEL)
    with pytest.warns(UserWarning, match="another contrast or tiling"):
        other.load_prompts(path)


def test_an_open_edit_without_a_click_is_saved_as_one(tmp_path):
    s = stack_session()
    s.click((1, 32, 32))
    s.propagate()
    s.edit(s.commit())
    again = replayed(s, tmp_path / "c.json")
    assert again.unfinished and again.label == 1 and not again.can_undo
    np.testing.assert_array_equal(again.mask, s.mask)


def test_what_was_carried_is_forgotten_with_its_object():
    s = stack_session()
    s.click((1, 32, 32))
    s.propagate()
    assert s.gaps
    s.commit()
    assert not s.gaps


def test_what_is_erased_stays_erased_though_the_labels_are_without_the_object_for_a_while():
    s = session(live=True)
    s.click(CENTRES[0])
    erased = Stroke(s.labels, 24, 24, 0, (6, 6))
    s.painted(erased)
    before = s.labels.copy()
    s.live = False
    assert not s.labels.any()
    s.live = True
    np.testing.assert_array_equal(s.labels, before)
    s.overwrite = True
    np.testing.assert_array_equal(s.labels, before)


def test_an_object_that_is_not_shown_yet_is_not_painted_when_it_may_overwrite():
    s = session(labels=np.where(LABELS == 1, 7, 0).astype(np.int32))
    s.click(CENTRES[0])
    s.overwrite = True
    assert (s.labels[LABELS == 1] == 7).all()
    assert s.commit() == 8 and (s.labels[LABELS == 1] == 8).all()


def test_an_object_of_which_only_the_brush_left_something_is_not_erased():
    s = session(live=True)
    s.click(CENTRES[0])
    s.painted(Stroke(s.labels, 0, 0, 0, (64, 64)))
    with pytest.raises(ValueError, match="all of its pixels were erased"):
        s.commit()
    s.painted(Stroke(s.labels, 120, 120, s.label, (4, 4)))
    assert s.commit() == 1 and (s.labels == 1).sum() == 16


def test_an_object_covered_on_one_plane_and_empty_on_the_next_cannot_be_committed():
    labels = np.zeros(GAP.shape, np.int32)
    labels[1] = 7
    s = stack_session(labels=labels)
    s.click((1, 32, 32))
    s.click((2, 32, 32), positive=False)
    assert s.covered
    with pytest.raises(ValueError, match="belong to other objects"):
        s.commit()


def test_a_click_tells_of_and_writes_to_no_other_plane():
    s = stack_session(live=True)
    s.click((1, 32, 32))
    changed = s.set_prompts((*s.prompts, Click((5,), 32, 32)))
    assert [plane for plane, _ in changed] == [(5,)]


def test_what_is_told_of_a_change_holds_what_was_there_before():
    s = session()
    s.click(CENTRES[0])
    s.click(CENTRES[5])
    ((_, box),) = s.set_prompts((Click((), *CENTRES[1]),))
    assert box.holds(Box.around((LABELS == 1) | (LABELS == 6) | (LABELS == 2)))


def test_what_was_erased_stays_erased_when_the_object_may_overwrite_others():
    s = session(live=True)
    s.click(CENTRES[0])
    s.painted(Stroke(s.labels, 20, 20, 0, (6, 6)))
    s.overwrite = True
    assert not s.labels[20:26, 20:26].any()
    s.click(CENTRES[1])
    assert not s.labels[20:26, 20:26].any()


def test_objects_finished_long_ago_do_not_tell_how_large_the_next_one_is(blob_model):
    blob_model.config = replace(blob_model.config, diameters=(8.0, 20.0))
    s = Session(FEATURES, blob_model, image=Planes.of(IMAGE, contrast=(0, 255)))
    for far, near in ((-16, 5), (12, 15)):  # six large ones, then six small ones
        for y, x in CENTRES:
            s.box((y + far, x + far), (y + near, x + near))
            s.commit()
    assert s.expected_size < 8


def test_an_object_is_as_large_as_on_its_largest_plane():
    planes = np.zeros((3, 64, 64), np.uint8)
    for z, half in enumerate((4, 12, 20)):
        planes[z, 32 - half : 32 + half, 32 - half : 32 + half] = 200
    model = BlobModel()
    model.config = replace(model.config, diameters=(8.0, 20.0))
    s = Session(encode(planes, model, contrast=(0, 255), device="cpu"), model)
    for z in range(3):
        s.click((z, 32, 32))
    s.commit()
    assert s.expected_size == 40


def test_similar_objects_take_no_pixel_of_others():
    labels = np.where(LABELS == 1, 1, 0).astype(np.int32)
    labels[16:48, 80:90] = 9
    s = session(labels=labels)
    found = s.find_similar()
    assert s.labels[32, 100] in found and (s.labels[16:48, 80:90] == 9).all()


def test_what_was_erased_of_a_found_object_stays_erased_after_undo_and_redo():
    s = session(live=True)
    s.click(CENTRES[0])
    s.commit()
    s.find_similar()
    s.labels[100:104, 20:24] = 0
    s.undo()
    s.redo()
    assert not s.labels[100:104, 20:24].any()


def test_what_was_found_can_be_taken_back_after_an_object_that_came_to_nothing():
    s = session()
    s.click(CENTRES[0])
    s.commit()
    s.find_similar()
    s.click((4, 4))
    s.clear()
    assert s.undo() and set(np.unique(s.labels)) == {0, 1} and not s.can_undo


def test_saved_clicks_are_answered_at_the_magnification_at_which_they_were(tmp_path, blob_model):
    blob_model.config = replace(blob_model.config, diameters=(8.0, 60.0))
    image = Planes.of(IMAGE, contrast=(0, 255))
    s = Session(FEATURES, blob_model, image=image, object_size=300)
    s.click(CENTRES[0])
    s.commit()
    s.click(CENTRES[1])
    again = replayed(s, tmp_path / "c.json", image=image)
    assert again.level == s.level < 0 and again.records[0].size == 300
    assert again.saved == s.saved


def test_found_objects_are_saved_with_their_size(blob_model):
    blob_model.config = replace(blob_model.config, diameters=(8.0, 60.0))
    s = Session(FEATURES, blob_model, image=Planes.of(IMAGE, contrast=(0, 255)))
    s.click(CENTRES[0])
    s.commit()
    s.find_similar()
    assert len(s.records) > 1 and None not in {record.size for record in s.records[1:]}


def test_undo_takes_back_the_click_where_overwriting_writes_nothing():
    s = session()
    s.click(CENTRES[0])
    s.overwrite = True
    assert s.changes == 1 and s.undo() and not s.clicks and s.overwrite


def test_overwriting_is_no_step_without_an_object():
    s = session(live=True)
    s.overwrite = True
    assert not s.can_undo and s.overwrite


def test_found_objects_get_no_number_of_another():
    s = session(labels=np.where(LABELS == 1, 1, np.where(LABELS == 6, 5, 0)))
    s.label = 3
    before = s.labels.copy()
    assert s.find_similar() == [6, 7, 8, 9]
    np.testing.assert_array_equal(s.labels[before > 0], before[before > 0])
    assert len(np.unique(s.labels)) == 7


def test_found_objects_get_no_number_that_was_painted():
    s = session(labels=np.where(LABELS == 1, 1, 0))
    s.number_from(10)
    assert s.find_similar() == [10, 11, 12, 13, 14]


def test_of_found_objects_those_stay_for_which_there_are_numbers():
    s = session(labels=np.zeros(IMAGE.shape, np.uint8))
    s.label = 252
    s.click(CENTRES[0])
    s.commit()
    with pytest.warns(
        UserWarning, match="5 objects were found, but labels of dtype uint8 have room for 3 more"
    ):
        assert s.find_similar() == [253, 254, 255]
    tried = []
    with pytest.raises(ValueError, match="cannot hold label 256"):
        s.find_similar(progress=lambda *_: tried.append(1))
    assert not tried


def test_found_objects_may_have_the_last_number_there_is():
    labels = np.where(LABELS == 1, 250, 0).astype(np.uint8)
    s = session(labels=labels)
    assert s.find_similar() == [251, 252, 253, 254, 255]


def test_nothing_is_adopted_while_there_is_an_object():
    s = session()
    s.click(CENTRES[0])
    s.commit()
    similar = s.compute_similar()
    s.click(CENTRES[1])
    with pytest.raises(ValueError, match="commit or clear"):
        s.adopt_similar(similar)


def test_an_edited_object_is_as_large_as_it_was_taken_to_be(blob_model):
    blob_model.config = replace(blob_model.config, diameters=(8.0, 60.0))
    s = Session(
        FEATURES, blob_model, LABELS.copy(), image=Planes.of(IMAGE, contrast=(0, 255)), object_size=30
    )
    s.edit(1)
    s.object_size = 300
    s.click(CENTRES[0])
    s.commit()
    assert s.records[-1].size == 30


def test_a_model_that_answered_nothing_is_not_named():
    second = BlobModel()
    second.decoder_fingerprint = "otherwise"
    s = session()
    s.change_model(second)
    s.click(CENTRES[0])
    s.commit()
    assert s.records[0].decoder == "otherwise"


def test_another_model_carries_anew():
    second = BlobModel()
    s = stack_session()
    s.click((1, 32, 32))
    s.propagate()
    s.change_model(second)
    s.propagate()
    assert second.decoded > 0


def test_what_was_carried_is_no_step_of_its_own_after_loading(tmp_path):
    s = stack_session()
    s.click((1, 32, 32))
    s.propagate()
    again = replayed(s, tmp_path / "c.json")
    assert again.changes == len(again.clicks) == 1


def test_planes_of_other_objects_that_were_clicked_on_are_carried_to():
    s = stack_session()
    s.click((1, 2, 2))
    s.commit()
    s.click((2, 32, 32))
    s.commit()
    s.edit(2)
    assert s.clicked_before == {(2,)}


def test_a_new_size_does_not_change_the_object_that_has_begun(blob_model):
    blob_model.config = replace(blob_model.config, diameters=(8.0, 60.0))
    s = Session(FEATURES, blob_model, image=Planes.of(IMAGE, contrast=(0, 255)), object_size=30)
    s.click(CENTRES[0])
    s.object_size = 300
    s.click(CENTRES[1])
    s.commit()
    assert s.records[0].size == 30


def test_a_red_click_brings_nothing_back_that_was_erased():
    s = session(live=True)
    s.click(CENTRES[0])
    s.labels[28:44, 28:44] = 0
    s.click((40, 40), positive=False)
    s.click(CENTRES[1])
    assert not s.labels[28:44, 28:44].any()


def test_what_was_erased_with_its_click_stays_erased():
    s = session(live=True)
    s.click(CENTRES[0])
    y, x = CENTRES[0]
    s.painted(Stroke(s.labels, y - 4, x - 4, 0, (8, 8)))
    s.click(CENTRES[1])
    assert not s.labels[y - 4 : y + 4, x - 4 : x + 4].any() and s.labels[y - 6, x] == 1


def test_undo_of_a_late_stroke_keeps_the_one_before_it():
    s = session(live=True, overwrite=True)
    s.click(CENTRES[0])
    one = Stroke(s.labels, 20, 20, 9, (8, 8))
    s.painted(one)
    two = Stroke(s.labels, 30, 30, 8, (8, 8))
    s.painted(two, late=True)
    s.undo()
    assert (s.labels[20:28, 20:28] == 9).all()


class Damaged(np.ndarray):
    """Labels of which a part may be damaged, as a library tells it."""

    broken = False

    def __getitem__(self, key):
        if Damaged.broken:
            raise RuntimeError("Zstd decompression error: invalid input data")
        return super().__getitem__(key)


@pytest.mark.parametrize(
    "do",
    [
        lambda s: s.click(CENTRES[1]) is None or s.commit(),
        lambda s: s.edit(1),
        lambda s: s.delete(1),
        lambda s: s.find_similar(),
        lambda s: Session(FEATURES, MODEL, labels=s.labels),
    ],
)
def test_labels_that_cannot_be_read_are_an_error_in_words(do, monkeypatch):
    s = session(labels=np.zeros(IMAGE.shape, np.int32).view(Damaged))
    s.click(CENTRES[0])
    s.commit()
    before = s.records
    monkeypatch.setattr(Damaged, "broken", True)
    with pytest.raises(OSError, match=r"could not be read \(Zstd.*: check what stores them"):
        do(s)
    monkeypatch.undo()
    assert [one.label for one in s.records[: len(before)]] == [1]
