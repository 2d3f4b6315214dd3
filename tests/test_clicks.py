"""Points to clicks and back: no window, no Qt."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from napari.layers import Image
from napari.layers.base import ActionType
from napari.utils.colormaps.standardize_color import transform_color

from napari_interformer.clicks import ClickLayer, in_turn
from napari_interformer.geometry import Box
from napari_interformer.layers import GREEN, Source
from napari_interformer.prompts import BoxPrompt, Click, Scribble


def test_points_between_pixels_belong_to_the_nearest_and_are_not_moved():
    clicks = ClickLayer(Source((Image(np.zeros((9, 9), np.uint8)),)))
    clicks.layer.add([[2.4, 3.6], [5.2, 5.2]])
    assert [click.position for click in clicks.read()] == [(2, 4), (5, 5)]
    clicks.write((*clicks.read()[:1], Click((), 7, 7, False)))
    np.testing.assert_allclose(clicks.layer.data, [[2.4, 3.6], [7, 7]])
    assert [click.positive for click in clicks.read()] == [True, False]


@pytest.mark.filterwarnings(
    "ignore::RuntimeWarning:napari"
)  # its thumbnail, and colours by a column that is gone
def test_points_that_are_nowhere_say_nothing_and_those_with_other_features_are_positive():
    clicks = ClickLayer(Source((Image(np.zeros((9, 9), np.uint8)),)))
    clicks.layer.add([[2, 3], [np.nan, 1]])
    assert clicks.read() == (Click((), 2, 3),)
    clicks.write(clicks.read())
    assert len(clicks.layer.data) == 1
    clicks.layer.features = {"area": [12.0]}
    assert clicks.read() == (Click((), 2, 3),)
    clicks.positive = False
    clicks.layer.add([[5, 5]])
    assert [click.position for click in clicks.read()] == [(2, 3), (5, 5)]
    clicks.write((Click((), 2, 3), Click((), 5, 5, False)))
    assert [click.positive for click in clicks.read()] == [True, False]


@pytest.mark.filterwarnings("ignore:property used for face_color dropped:RuntimeWarning")
def test_what_somebody_else_notes_of_points_stays_and_changes_no_sign():
    clicks = ClickLayer(Source((Image(np.zeros((9, 9), np.uint8)),)))
    layer = clicks.layer
    clicks.write((Click((), 2, 3), Click((), 5, 5, False)))
    layer.features = layer.features.assign(score=[1.0, 2.0])
    layer.selected_data = {0}
    clicks.flip_selected()
    assert layer.features["score"].tolist() == [1, 2]
    assert [click.positive for click in clicks.read()] == [False, False]
    layer.features = {"score": [3.0, 4.0]}
    assert [click.positive for click in clicks.read()] == [False, False]
    assert layer.features["score"].tolist() == [3, 4]
    layer.add([[7, 7]])
    assert [click.positive for click in clicks.read()] == [False, False, True]


def test_points_are_taken_hold_of_where_they_are_drawn():
    clicks = ClickLayer(Source((Image(np.zeros((3000, 4000), np.uint8), scale=(0.5, 0.5)),)))
    for pixel in (4, 0.1):  # of the screen, in the world
        clicks.show_at(pixel)
        clicks.write((*clicks.read(), Click((), 500, 600)))
        reach = clicks.layer.size[-1] / 2 * 0.5 / pixel
        assert np.all(clicks.layer.size == clicks.layer.current_size) and 4.5 <= reach <= 7
    channels_last = Image(np.zeros((2, 30, 40, 3), np.uint8), scale=(1, 10, 10, 1))
    stack = ClickLayer(Source((channels_last,), 3, (0,)))
    stack.show_at(10)  # one pixel of the image
    placed = ClickLayer(Source((Image(np.zeros((30, 40), np.uint8), affine=np.diag([10, 10, 1])),)))
    placed.show_at(10)
    assert 9 <= stack.layer.current_size <= 14 and 9 <= placed.layer.current_size <= 14
    clicks.show_at(0.11)  # about the same: nothing is drawn anew
    assert clicks.layer.current_size == clicks.layer.size[-1]


@pytest.mark.parametrize("positive", [True, False])
def test_whatever_is_written_over_whatever_was_there_is_shown(rng, positive):
    clicks = ClickLayer(Source((Image(np.zeros((9, 9), np.uint8)),)))
    clicks.positive = positive
    pool = [Click((), y, x, sign) for y in range(2) for x in range(2) for sign in (True, False)]
    before: list[Click] = []
    for _ in range(60):
        # undo and redo, which take the short ways, are as frequent as anything else
        cut, more = rng.integers(0, len(before) + 1), rng.integers(0, 4)
        wanted = before[: cut if rng.random() < 0.5 else None]
        wanted = wanted + [pool[i] for i in rng.integers(0, len(pool), more)]
        if rng.random() < 0.3:
            rng.shuffle(wanted)
        clicks.layer.selected_data = set(np.flatnonzero(rng.random(len(before)) < 0.5))
        clicks.positive = positive  # selecting points makes napari take over what they are
        clicks.write(wanted)
        assert clicks.read() == tuple(wanted) and clicks.positive == positive
        assert clicks.layer.selected_data <= set(range(len(wanted)))
        green = transform_color(GREEN)[0]
        assert [(color == green).all() for color in clicks.layer.face_color] == [c.positive for c in wanted]
        before = wanted


def test_every_edit_of_the_points_is_told_and_our_own_are_not():
    clicks = ClickLayer(Source((Image(np.zeros((9, 9), np.uint8)),)))
    seen = []
    clicks.connect(lambda: seen.append(clicks.read()))
    clicks.layer.add([[1, 1], [2, 2]])
    assert seen[-1] == (Click((), 1, 1), Click((), 2, 2))
    clicks.layer.selected_data = {0}
    clicks.flip_selected()
    assert seen[-1] == (Click((), 1, 1, False), Click((), 2, 2))
    clicks.layer.remove_selected()
    assert seen[-1] == (Click((), 2, 2),)
    clicks.layer.data = [[3, 3]]
    assert seen[-1] == (Click((), 3, 3),)
    count, heard = len(seen), []
    clicks.layer.events.data.connect(lambda event: heard.append((str(event.action), len(event.value))))
    clicks.write(())
    assert len(seen) == count and clicks.read() == ()
    assert heard == [("changed", 0)]  # once, though napari would tell twice
    clicks.positive = False
    clicks.write(())
    assert not clicks.positive
    clicks.layer.add([[1, 1]])
    clicks.positive = True
    clicks.layer.selected_data = {0}  # napari would make the next point red, as this one is
    clicks.layer.add([[2, 2]])
    assert [click.positive for click in clicks.read()] == [False, True]
    clicks.layer.selected_data = set()
    with pytest.raises(ValueError, match="at least one selected point"):
        clicks.flip_selected()


def test_points_that_are_dragged_count_where_they_were_until_they_are_let_go():
    clicks = ClickLayer(Source((Image(np.zeros((9, 9), np.uint8)),)))
    layer, seen = clicks.layer, []
    layer.add([[1, 1], [2, 2]])
    before = clicks.read()
    clicks.connect(lambda: seen.append(clicks.read()))

    def tell(action):
        layer.events.data(value=layer.data, action=action, data_indices=(1,), vertex_indices=((),))
        layer.events.features()

    with pytest.raises(ValueError, match="inhomogeneous"):
        layer.data = [[1, 2], [3]]  # napari told that something was to change
    clicks.layer.selected_data = {0}
    clicks.flip_selected()
    clicks.flip_selected()
    assert [read[0].positive for read in seen] == [False, True]
    seen.clear()
    layer.events.data(value=layer.data, action=ActionType.CHANGING, data_indices=(1,), vertex_indices=((),))
    for x in (30, 5):  # as napari does while the mouse moves, outside too
        with layer.events.data.blocker():
            layer.data[1] = 4, x
            tell(ActionType.CHANGED)
        assert clicks.read() == before and not seen
    tell(ActionType.CHANGED)
    assert set(seen) == {(Click((), 1, 1), Click((), 4, 5))}


def test_prompts_of_two_layers_keep_the_turn_in_which_they_were_made():
    a, b, c = (Click((), n, n) for n in range(3))
    line, other, box = Scribble((), ((5, 5), (6, 6))), Scribble((), ((7, 7),)), BoxPrompt((), Box(0, 0, 4, 4))
    before = (box, a, line, b)
    assert in_turn(before, (box, line, a, b)) == before
    assert in_turn(before, (box, line, a, b, c)) == (*before, c)
    assert in_turn(before, (line, other, a, b)) == (a, line, b, other)
    assert in_turn(before, (box, line, c, b)) == (box, c, line, b)  # moved
    assert in_turn(before, (box, other, a, b)) == (box, a, other, b)
    assert in_turn(before, (line, b)) == (line, b)
    assert in_turn((a, line, a), (line, a, a)) == (a, line, a)
    assert in_turn((), (line, a, a)) == (line, a, a)


def test_lines_and_clicks_are_read_in_the_order_in_which_they_were_written():
    clicks = ClickLayer(Source((Image(np.zeros((9, 9), np.uint8)),)))
    given = (Click((), 1, 1), Scribble((), ((2, 2), (2, 5)), False), Click((), 7, 7), Scribble((), ((4, 4),)))
    clicks.write(given)
    layer = clicks.shapes.layer
    assert clicks.read() == given and layer.nshapes == 2
    layer.data = layer.data  # somebody else set them: read anew
    layer.events.data(action=ActionType.CHANGED)
    assert clicks.read() == given
    clicks.write(given[:1])
    assert not layer.nshapes and clicks.read() == given[:1]


@pytest.mark.parametrize("mode", ["add", "pan_zoom"])
def test_a_click_on_a_layer_that_is_hidden_shows_it_and_counts_and_a_drag_does_neither(mode):
    clicks = ClickLayer(Source((Image(np.zeros((99, 99), np.uint8)),)))
    clicks.layer.mode = mode

    event = SimpleNamespace(button=1)

    def drag(*places, button=1):
        kinds = ("mouse_press", *["mouse_move"] * (len(places) - 2), "mouse_release")
        going_on = []
        event.button = button
        for kind, place in zip(kinds, places, strict=True):
            event.type, event.position, event.pos = kind, place, place
            if kind == "mouse_press":
                going_on = [callback(clicks.layer, event) for callback in clicks.layer.mouse_drag_callbacks]
            for one in going_on:
                if one is not None:
                    next(one, None)

    for button in (1, 2):
        clicks.layer.visible = False
        drag((10, 10), (20, 20), (30, 30), button=button)
        assert not clicks.layer.visible
        drag((10, 10), (10, 12), (10, 12), button=button)
        assert clicks.layer.visible and clicks.layer.mode == mode
    made = (Click((), 10, 12), Click((), 10, 12, False))
    assert clicks.read() == (made if mode == "add" else ())
