"""Objects carried through stacks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conftest import BlobModel, blobs
from napari_interformer import decoding
from napari_interformer.encoding import encode, encode_tiles
from napari_interformer.gaps import Ended, Reason
from napari_interformer.geometry import Box
from napari_interformer.image import Planes
from napari_interformer.prompts import Mask
from napari_interformer.session import Session
from napari_interformer.volume import _without_loose, between

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


@pytest.mark.parametrize(("axes", "shape"), [("TZYX", (9, 1)), ("ZTYX", (1, 9)), ("ZTYX", (9, 1))])
def test_axes_of_one_plane_are_passed_over(stack, axes, shape, tmp_path):
    features, _ = stack
    flat = Session(features, MODEL)
    planes = np.zeros((9, *features.size), np.uint8)
    _, labels = blobs()
    planes[:] = np.where(labels == 2, 200, 0)
    planes[2:7][:, labels == 1] = 200
    place = tuple(np.argmax(shape) == axis for axis in range(len(shape)))

    def at(z):
        return tuple(z * here for here in place)

    image = Planes.of(planes.reshape(*shape, *features.size), axes=axes, contrast=(0, 255))
    s = Session(encode(image, MODEL, device="cpu"), MODEL)
    for one, planes_of in ((flat, lambda z: (z,)), (s, at)):
        one.click((*planes_of(3), 32, 32))
        one.click((*planes_of(5), 32, 32))
        one.propagate()
    assert s.planes == tuple(at(z) for (z,) in flat.planes) and len(s.planes) == 5
    np.testing.assert_array_equal(np.reshape(s.mask, flat.mask.shape), flat.mask)
    saved = s.save_prompts(tmp_path / "clicks.json")
    again = Session(s.features, MODEL)
    again.load_prompts(saved)
    told = [list(one.gaps) for one in (again, s)]
    assert told[0] == told[1]


def test_times_within_depths_are_refused():
    planes = np.zeros((3, 2, 64, 64), np.uint8)
    planes[..., 20:40, 20:40] = 200
    session = Session(encode(Planes.of(planes, axes="ZTYX"), MODEL, device="cpu"), MODEL)
    session.click((1, 1, 30, 30))
    with pytest.raises(ValueError, match="got ZTYX: swap T and Z"):
        session.propagate()
    assert session.planes == ((1, 1),)


def test_an_object_is_carried_from_a_box_though_a_red_click_corrects_it(stack):
    features, labels = stack
    s = Session(features, MODEL)
    s.box((4, 16, 16), (4, 47, 47))
    s.propagate()
    assert [plane for (plane,) in s.planes] == [2, 3, 4, 5, 6]
    np.testing.assert_array_equal(s.mask[3], labels == 1)
    s.clear()
    s.box((4, 16, 16), (4, 47, 47))
    s.click((4, 32, 96), positive=False)
    steps = s.compute_propagate().steps
    assert steps[-1].prompt == s.clicks[-1] and s.boxes[0] in [step.prompt for step in steps]


def test_a_brighter_neighbour_that_touches_the_object_is_another_one():
    planes = np.zeros((6, 64, 96), np.uint8)
    planes[:, 20:44, 20:44] = 150
    planes[2:, 16:48, 44:76] = 250  # which the model takes for one with it
    model = BlobModel()
    model.config = replace(
        model.config, diameters=(8.0, 200.0)
    )  # whoever sees objects larger or smaller knows the image
    s = Session(encode(planes, model, contrast=(0, 255), device="cpu"), model)
    s.click((0, 32, 32))
    s.propagate()
    for mask in s.mask:
        assert mask[20:44, 20:44].mean() > 0.85 and not mask[:, 48:].any()  # smoothing blurs where they meet


def test_what_lies_behind_a_membrane_is_not_the_object_though_a_part_of_its_own_is():
    """A model that takes all that is bright; one part was clicked on its own, one is behind a thin dark line."""

    class Greedy(BlobModel):
        def decode_logits(self, maps, reference, roi=None):
            bright = np.kron(np.asarray(maps[0][0]) > 100, np.ones((4, 4), bool))
            return np.where(bright, 4.0, -4.0).astype(np.float32)

    planes = np.zeros((3, 64, 96), np.uint8)
    planes[:, 16:48, 16:48] = planes[:, 52:60, 16:40] = 200
    planes[2, 16:48, 52:64] = 200
    model = Greedy()
    session = Session(encode(planes, model, contrast=(0, 255), device="cpu"), model)
    session.click((1, 32, 32))
    session.propagate()
    np.testing.assert_array_equal(session.mask[0], planes[0] > 0)
    np.testing.assert_array_equal(session.mask[2], planes[0] > 0)


def on_all_planes(*, encoded=None, labels=None, live=True):
    """Return a session on nine planes with both blobs, of which some are encoded."""
    _, blob = blobs()
    planes = np.stack([np.where((blob == 1) | (blob == 2), 200, 0).astype(np.uint8)] * 9)
    features = encode(planes, MODEL, contrast=(0, 255), device="cpu", planes=encoded)
    return Session(features, MODEL, labels=labels, live=live)


def of_a_file():
    """Return labels that have the first blob on all nine planes."""
    return np.stack([np.where(blobs()[1] == 1, 1, 0).astype(np.int32)] * 9)


def there(array):
    return [z for z in range(9) if array[z].any()]


def test_an_edited_object_that_is_not_on_a_plane_stays_on_the_others():
    s = on_all_planes(labels=of_a_file())
    s.edit(1)
    s.click((6, 32, 32), positive=False)
    s.propagate()
    assert there(s.mask) == there(s.labels == 1) == [0, 1, 2, 3, 4, 5, 7, 8]
    before = s.changes
    s.propagate()
    assert s.changes == before


class Stroke:
    """Pixels of a plane that somebody painted over."""

    def __init__(self, labels, plane, box, number):
        self._part, self._pixels = (plane, box, np.ones(box.shape, bool)), labels[(*plane, *box.slices)]
        self._before, self._number = self._pixels.copy(), number
        self.make()

    def parts(self):
        return [self._part]

    def make(self):
        self._pixels[...] = self._number

    def take_back(self):
        self._pixels[...] = self._before


def test_what_was_painted_on_an_edited_object_s_planes_is_not_carried_over():
    s = on_all_planes(labels=of_a_file())
    s.painted(Stroke(s.labels, (5,), Box(20, 20, 30, 30), 0))
    s.painted(Stroke(s.labels, (6,), Box(40, 40, 64, 64), 1))
    s.painted(Stroke(s.labels, (7,), Box(100, 100, 110, 110), 9))  # another object, far from it
    s.edit(1)
    areas = [int((plane == 1).sum()) for plane in s.labels]
    assert areas[5] == areas[0] - 100 and areas[6] > areas[0]
    s.click((0, 32, 32))
    s.propagate()
    s.commit()
    assert [int((plane == 1).sum()) for plane in s.labels] == areas


@pytest.mark.parametrize("again", [False, True])
def test_a_stroke_that_was_taken_back_holds_nothing_and_one_made_again_does(again):
    labels = of_a_file()
    labels[5][16:40] = 0  # a plane of the file is not good
    s = on_all_planes(labels=labels)
    s.painted(Stroke(s.labels, (5,), Box(40, 40, 44, 44), 0))
    s.undo()
    if again:
        s.redo()
    before = int((s.labels[5] == 1).sum())
    s.edit(1)
    s.click((0, 32, 32))
    s.propagate()
    s.commit()
    assert (int((s.labels[5] == 1).sum()) == before) == again


def test_strokes_beside_an_edited_object_hold_nothing():
    labels = of_a_file()
    labels[5][16:40] = 0  # a plane of the file is not good
    s = on_all_planes(labels=labels)
    for y, x in ((2, 2), (100, 60)):
        s.painted(Stroke(s.labels, (5,), Box(x, y, x + 2, y + 2), 0))
    s.edit(1)
    s.click((0, 32, 32))
    s.propagate()
    s.commit()
    assert len({int((plane == 1).sum()) for plane in s.labels}) == 1


def test_what_was_carried_before_is_carried_anew_where_somebody_painted():
    labels = of_a_file()
    labels[3:] = 0
    s = on_all_planes(labels=labels)
    s.painted(Stroke(s.labels, (5,), Box(40, 40, 44, 44), 0))
    s.edit(1)
    s.click((0, 32, 32))
    s.propagate()
    assert there(s.mask) == list(range(9))
    s.click((3, 32, 32), positive=False)
    s.propagate()
    assert there(s.mask) == [0, 1, 2]


@pytest.mark.parametrize("why", ["not encoded", "stopped"])
def test_what_an_object_has_where_it_was_not_carried_to_stays(why):
    s = on_all_planes(labels=of_a_file(), encoded=[(z,) for z in range(5)] if why == "not encoded" else None)
    s.edit(1)
    s.click((2, 32, 32))
    done = [0]

    def told(planes, _):
        done[0] = planes

    s.propagate(progress=told, cancelled=(lambda: done[0] >= 2) if why == "stopped" else None)
    s.commit()
    assert there(s.labels == 1) == list(range(9))


def test_stopping_at_once_keeps_what_was_carried_before():
    s = on_all_planes()
    s.click((2, 32, 96))
    s.propagate()
    s.click((4, 32, 32))
    s.propagate(cancelled=lambda: True)
    assert there(s.mask) == list(range(9))


def test_what_lies_beyond_a_plane_that_was_clicked_on_once_and_is_empty_now_stays():
    s = on_all_planes(labels=of_a_file())
    s.edit(1)
    s.click((5, 32, 32), positive=False)
    s.propagate()
    s.commit()
    s.edit(1)
    s.click((2, 32, 32))
    s.propagate()
    s.commit()
    assert there(s.labels == 1) == [0, 1, 2, 3, 4, 6, 7, 8]


@pytest.mark.parametrize(
    ("shape", "axes", "told"),
    [
        ((1,), "ZYX", "got a single plane"),
        ((1, 1), "TZYX", "got a single plane"),
    ],
)
def test_an_axis_of_one_plane_carries_nothing_and_says_so(shape, axes, told):
    planes = np.zeros((*shape, 64, 64), np.uint8)
    planes[..., 20:40, 20:40] = 200
    session = Session(encode(Planes.of(planes, axes=axes, contrast=(0, 255)), MODEL, device="cpu"), MODEL)
    session.click((*(0 for _ in shape), 30, 30))
    with pytest.raises(ValueError, match=told):
        session.propagate()


def test_a_plane_that_was_clicked_away_stays_so_when_the_object_is_edited(tmp_path):
    s = on_all_planes()
    s.click((2, 32, 32))
    s.propagate()
    s.click((5, 32, 32), positive=False)
    s.propagate()
    assert there(s.mask) == [0, 1, 2, 3, 4]
    s.commit()
    s.edit(1)
    s.click((1, 32, 96))
    s.propagate()
    assert there(s.mask) == [0, 1, 2, 3, 4]
    before = s.changes
    s.propagate()
    assert s.changes == before


def test_undo_of_loaded_clicks_takes_what_was_carried_with_its_click(tmp_path):
    s = on_all_planes()
    s.click((2, 32, 32))
    s.propagate()
    again = on_all_planes()
    again.load_prompts(s.save_prompts(tmp_path / "c.json"))
    assert there(again.mask) == list(range(9))
    assert again.undo() and not again.can_undo and not again.prompts and not again.labels.any()
    assert again.redo() and there(again.labels) == list(range(9))


def test_a_plane_that_was_clicked_away_goes_with_its_clicks():
    s = on_all_planes()
    s.click((2, 32, 32))
    s.propagate()
    s.click((5, 32, 32), positive=False)
    s.propagate()
    s.remove(1)
    s.remove(0)
    assert not s.prompts and not s.unfinished


def test_carrying_is_one_step_for_undo(stack):
    s = Session(stack[0], MODEL, live=True)
    s.click((4, 32, 32))
    carried = s.compute_propagate()
    assert s.planes == ((4,),) and not s.gaps  # nothing has changed yet
    s.adopt_propagate(carried)
    assert s.gaps.keys() == {(None, (4,)), ((4,), None)}
    s.undo()
    assert s.mask.any(axis=(1, 2)).tolist() == [z == 4 for z in range(9)]
    assert (s.labels > 0).sum() == 1024
    s.redo()
    assert s.mask.any(axis=(1, 2)).sum() == 5


def test_what_was_carried_goes_with_its_click_though_a_second_run_was_undone():
    planes = np.zeros((5, 64, 128), np.uint8)
    planes[:, 24:40, 16:32] = planes[:, 12:52, 56:96] = 200
    s = Session(encode(planes, MODEL, contrast=(0, 255), device="cpu"), MODEL)
    s.click((1, 32, 24))
    s.propagate()
    s.click((1, 32, 72))
    s.propagate()
    s.undo()
    s.remove(0)
    s.remove(0)
    assert not s.prompts and not s.unfinished and not s.mask.any()


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
    assert len(told) == 2 and told[-1] == (2, 8)
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


def planes_of(*sides, step=0):
    """Return planes with one bright square of these sides, each moved `step` pixels to the right."""
    planes = np.zeros((len(sides), 96, 192), np.uint8)
    for z, side in enumerate(sides):
        half, x = side // 2, 40 + step * z
        planes[z, 48 - half : 48 + half, x - half : x + half] = 200
    return planes


def session_of(images, **more):
    model = BlobModel()
    return Session(encode(images, model, contrast=(0, 255), device="cpu", **more), model)


def test_it_says_where_and_why_an_object_ends(stack):
    s, ends = Session(stack[0], MODEL), []
    s.click((4, 32, 32))
    s.propagate(ended=ends.append)
    assert sorted(ends, key=lambda end: end.plane) == [Ended((1,), Reason.UNLIKE), Ended((7,), Reason.UNLIKE)]
    assert str(ends[0]) == "The object ends before plane 1: what is there looks like the surroundings."
    s.clear()
    s.click((4, 32, 96))  # this one goes on to the ends of the stack
    s.propagate(ended=ends.append)
    assert len(ends) == 2 and len(s.planes) == 9


def test_another_object_in_the_way_is_where_it_ends(stack):
    there = np.zeros(stack[0].shape, np.int32)
    there[6, 16:40, 16:48] = 5
    s, ends = Session(stack[0], MODEL, labels=there), []
    s.click((4, 32, 32))
    s.propagate(ended=ends.append)
    assert Ended((6,), Reason.OCCUPIED) in ends
    there[6, 16:40] = 0
    there[6, 16:20, 16:48] = 5  # of a small part, the rest is still the object's
    s.gaps.clear()
    s.propagate()
    assert next(mask.box for mask in s.masks if mask.plane == (6,)) == Box(16, 20, 48, 48)


def test_another_object_that_takes_all_that_lies_between_two_clicks_is_where_it_ends():
    planes = planes_of(40, 40, 40, 24)
    planes[1:3] = 0
    s, ends = session_of(planes), []
    s.click((0, 48, 40))
    s.click((3, 48, 40))
    mine = s.mask[0]
    s.labels[1][mine] = 9
    y, x = np.argwhere(mine)[0]
    s.labels[1][y, x] = 0  # a corner, which the shape between the two leaves out
    s.labels[2][mine] = 9
    s.labels[2, 48 - 6 : 48 + 6, 40 - 6 : 40 + 6] = 0
    s.propagate(ended=ends.append)
    assert {end.reason for end in ends} == {Reason.OCCUPIED}


def test_planes_that_are_not_encoded_end_it():
    s, ends = session_of(planes_of(32, 32, 32, 32), planes=[(0,), (1,)]), []
    s.click((0, 48, 40))
    s.propagate(ended=ends.append)
    assert s.planes == ((0,), (1,))
    assert ends == [Ended((2,), Reason.NOT_ENCODED)]


def test_an_object_behind_a_waist_is_another_one():
    s, ends = session_of(planes_of(40, 32, 24, 20, 28, 40)), []
    s.click((0, 48, 40))
    s.propagate(ended=ends.append)
    assert ends == [Ended((4,), Reason.ANOTHER)]
    assert s.planes == ((0,), (1,), (2,), (3,))
    s.click((5, 48, 40))  # unless the user says that it is the same
    s.propagate()
    assert len(s.planes) == 6


def test_a_red_click_at_its_heart_says_that_the_object_is_not_there():
    s = session_of(planes_of(*[32] * 9))
    s.click((2, 48, 40))
    s.propagate()
    s.click((5, 34, 40), positive=False)  # at its rim: a correction, which planes beyond follow
    assert s.plane_mask((5,))[1].sum() < 1024
    s.undo()
    s.click((5, 48, 40), positive=False)
    s.propagate()
    assert s.mask.any(axis=(1, 2)).tolist() == [z < 5 for z in range(9)]
    decoded = s.model.decoded
    s.propagate()
    assert s.model.decoded == decoded


def test_what_another_object_had_of_it_is_looked_at_again_once_that_is_gone():
    block = np.zeros((3, 96, 128), np.uint8)
    block[:, 16:48, 16:48] = 200
    s = Session(encode(block, MODEL, contrast=(0, 255), device="cpu"), MODEL, live=True)
    s.labels[1, 16:28, 16:48] = 9
    s.click((0, 40, 32))
    s.propagate()
    assert s.mask[1].sum() == 20 * 32
    before = s.changes
    s.propagate()
    assert s.changes == before, "nothing has changed"
    s.labels[s.labels == 9] = 0
    s.propagate()
    np.testing.assert_array_equal(s.mask, block > 0)


def test_what_ended_it_for_a_while_is_looked_at_again(stack):
    features = encode(
        np.where(stack[1] == 1, 200, 0).astype(np.uint8)[None].repeat(5, 0), MODEL, planes=[(2,)]
    )
    s = Session(features, MODEL)
    s.click((2, 32, 32))
    s.labels[3] = 7
    s.propagate()
    assert s.planes == ((2,),)
    for _ in encode_tiles(features.source, features, MODEL, device="cpu"):
        pass
    s.propagate()
    assert s.planes == ((0,), (1,), (2,))
    s.labels[3] = 0
    s.propagate()
    assert s.planes == tuple((z,) for z in range(5))


@pytest.mark.parametrize("live", [False, True])
def test_planes_that_an_edited_object_leaves_are_empty(stack, live):
    features, labels = stack
    there = np.where(labels == 1, 1, 0)[None].repeat(9, 0).astype(np.int32)  # too long at both ends
    s = Session(features, MODEL, labels=there, live=live)
    s.edit(1)
    s.click((4, 32, 32))
    s.propagate()
    s.commit()
    assert [z for z in range(9) if there[z].any()] == [2, 3, 4, 5, 6]


def test_an_edited_object_keeps_what_was_corrected_before_and_what_it_has_at_other_times():
    _, labels = blobs()
    planes = np.where((labels == 1) | (labels == 2), 200, 0).astype(np.uint8)
    s = session_of(np.broadcast_to(planes, (2, 5, *planes.shape)).copy())
    for place in ((0, 2, 32, 32), (1, 2, 32, 32), (0, 3, 32, 96)):
        s.click(place)
    s.propagate()
    s.commit()
    before = s.labels.copy()
    assert before[0, 3, 32, 96] == 1 and before[0, 1, 32, 96] == 0
    s.edit(1)
    s.click((0, 1, 32, 96))
    s.propagate()
    s.commit()
    np.testing.assert_array_equal(s.labels[1], before[1])
    np.testing.assert_array_equal(s.labels[0, 3], before[0, 3])
    assert s.labels[0, 0, 32, 96] == 1, "the click of this time is carried on, too"


def test_what_is_carried_again_as_it_was_is_no_change(tmp_path):
    s = session_of(planes_of(40, 40, 40))
    s.click((1, 48, 40))
    s.propagate()
    again = Session(s.features, s.model)
    again.load_prompts(s.save_prompts(tmp_path / "clicks.json"))
    changes = again.changes
    again.propagate()
    assert again.changes == changes
    again.remove(0)
    assert not again.prompts, "what was carried goes with its click"


def test_editing_one_plane_keeps_the_story_of_the_others(stack, tmp_path):
    s = Session(stack[0], MODEL)
    s.click((4, 32, 32))
    s.propagate()
    s.commit()
    s.edit(1, plane=(3,))
    s.click((3, 32, 96))
    s.commit()
    again = Session(stack[0], MODEL)
    again.load_prompts(s.save_prompts(tmp_path / "clicks.json"))
    np.testing.assert_array_equal(again.labels, s.labels)
    assert {prompt.plane for prompt in s.objects[1]} == {(z,) for z in range(2, 7)}


def test_a_gap_in_the_image_between_two_clicks_is_filled_with_what_lies_between():
    planes = planes_of(40, 40, 24, 24)
    planes[1:3] = 0
    s = session_of(planes)
    s.click((0, 48, 40))
    s.click((3, 48, 40))
    s.propagate()
    areas = s.mask.sum(axis=(1, 2))
    assert areas[0] == 1600 and areas[3] == 576
    assert areas[0] > areas[1] > areas[2] > areas[3]
    widths = [int(plane.any(axis=0).sum()) for plane in s.mask]
    assert widths[0] - widths[1] >= 5  # a third of 16


def test_the_shape_between_two_squares_is_the_square_between_them():
    outer = Mask((0,), Box(0, 0, 20, 20), np.ones((20, 20), bool))
    inner = Mask((4,), Box(8, 8, 12, 12), np.ones((4, 4), bool))
    for z, side in ((1, 16), (2, 12), (3, 8)):
        shape, late = between(outer, inner, (z,), 1, 2)
        assert (shape.plane, shape.box.width, shape.box.height) == ((z,), side, side)
        assert between(inner, outer, (z,), 1)[0].box == shape.box
        assert late.box.width > side  # for longer like the first


@pytest.mark.parametrize(
    ("sides", "expected"), [((40,) * 6 + (8,), [1, 2, 3, 4, 5]), ((8,) + (40,) * 6, [5, 4, 3, 2, 1])]
)
def test_the_larger_of_two_ends_is_carried_first(sides, expected):
    order = []
    s = session_of(planes_of(*sides))
    s.click((0, 48, 40))
    s.click((6, 48, 40))
    plain = s.decoding.guess
    s.decoding.guess = lambda start, *rest: (order.append(start.plane[0]), plain(start, *rest))[1]
    s.propagate()
    assert order == expected


def test_a_new_click_decodes_only_what_it_can_change(stack):
    model = BlobModel()
    s = Session(stack[0], model)

    def decoded(change):
        before, masks = model.decoded, {m.plane[0]: m for m in s.masks}
        change()
        kept = {z for m in s.masks if masks.get(z := m.plane[0]) is m}
        planes, left = divmod(model.decoded - before, decoding.ANSWERS)
        assert not left
        return planes, kept

    s.click((2, 32, 96))
    assert decoded(s.propagate) == (8, set())
    assert decoded(s.propagate) == (0, {0, 1, 3, 4, 5, 6, 7, 8})
    s.click((6, 32, 96))
    assert decoded(s.propagate) == (5, {0, 1, 6})  # 3, 4, 5 between the clicks, 7 and 8 beyond
    s.click((8, 32, 96))
    assert decoded(s.propagate) == (1, {0, 1, 3, 4, 5, 6, 8})
    s.undo()
    assert decoded(s.propagate)[0] == 0
    s.clear()
    s.click((2, 32, 96))
    assert decoded(s.propagate)[0] == 8  # nothing is remembered of another object


def test_what_was_cancelled_is_carried_on_the_next_time(stack):
    s, told = Session(stack[0], MODEL), []
    s.click((4, 32, 96))
    s.propagate(progress=lambda done, most: told.append(done), cancelled=lambda: len(told) >= 2)
    s.propagate()
    assert len(s.planes) == 9


def test_a_moving_object_is_followed_through_time():
    s = session_of(planes_of(*[32] * 8, step=8))
    s.click((3, 48, 64))
    s.propagate()
    np.testing.assert_array_equal(s.mask, planes_of(*[32] * 8, step=8) > 0)


def test_in_stacks_over_time_each_time_has_its_own_clicks():
    s = session_of(np.stack([planes_of(32, 32, 32)] * 2))
    s.click((1, 1, 48, 40))
    s.propagate()
    assert s.planes == ((1, 0), (1, 1), (1, 2))
    s.click((0, 2, 48, 40))
    s.propagate()
    assert len(s.planes) == 6


def test_an_object_is_told_from_its_surroundings_with_and_without_the_image(default_model, tmp_path):
    from napari_interformer.features import Features
    from napari_interformer.geometry import iou
    from napari_interformer.samples import nuclei_stack

    image, truth = nuclei_stack((12, 96, 96))
    target = truth == 4  # on planes 5 to 10
    z = int(target.sum(axis=(1, 2)).argmax())
    y, x = np.argwhere(target[z]).mean(axis=0).astype(int)
    encode(image, default_model, device="cpu", store=tmp_path / "stack.zarr")
    for features in (encode(image, default_model, device="cpu"), Features.open(tmp_path / "stack.zarr")):
        s = Session(features, default_model)
        s.click((z, y, x))
        s.propagate()
        assert iou(s.mask, target) > 0.7


def test_a_loose_part_of_a_mask_stays_if_half_of_it_was_expected():
    mask = np.zeros((8, 24), bool)
    mask[:, :8] = mask[2:4, 10:16] = mask[2:4, 18:24] = True
    expected = np.zeros_like(mask)
    expected[:, :8] = expected[2:4, 13:16] = expected[2, 18] = True
    kept = _without_loose(mask, expected)
    np.testing.assert_array_equal(kept[:, :16], mask[:, :16])
    assert not kept[:, 16:].any()


def test_an_object_has_ended_where_little_of_it_is_left_however_slowly_it_shrinks():
    s, ends = session_of(planes_of(40, 32, 28, 24, 20, 16, 12, 10)), []
    s.click((0, 48, 40))
    s.propagate(ended=ends.append)
    assert ends == [Ended((6,), Reason.VANISHED)]
