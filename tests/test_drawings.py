"""Shapes to boxes and lines and back, with napari's own tools: no window, no Qt."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from napari.layers import Image
from napari.layers.shapes._shapes_key_bindings import finish_drawing_shape
from napari.utils._proxies import ReadOnlyWrapper
from napari.utils.colormaps.standardize_color import transform_color
from napari.utils.interactions import mouse_move_callbacks, mouse_press_callbacks, mouse_release_callbacks

from napari_interformer.drawings import ShapeLayer
from napari_interformer.geometry import Box
from napari_interformer.layers import GREEN, RED, Source
from napari_interformer.prompts import BoxPrompt, Scribble

LINE, BOX = "add_path", "add_rectangle"


class Drawing:
    """Boxes and lines on an image, a mouse, and what was told."""

    def __init__(self):
        self.shapes = ShapeLayer(Source((Image(np.zeros((99, 99), np.uint8)),)))
        self.told, self.drawn, self._soon = [], 0, []
        self.shapes.told = lambda: self.told.append(self.shapes.read())
        self.shapes.drawn, self.shapes.later = self._count, self._soon.append
        self.layer = self.shapes.make()
        self.down = False

    def _count(self):
        self.drawn += 1

    def _event(self, callbacks, kind, place, button):
        # a pixel of the image is one of the screen
        event = SimpleNamespace(
            type=kind,
            position=place,
            pos=np.array(place),
            button=button,
            is_dragging=self.down,
            modifiers=(),
            view_direction=None,
            dims_displayed=[0, 1],
        )
        callbacks(self.layer, ReadOnlyWrapper(event))
        while self._soon:
            self._soon.pop(0)()

    def press(self, place, button=1):
        self._event(mouse_press_callbacks, "mouse_press", place, button)
        self.down = True

    def move(self, *places):
        for place in places:
            self._event(mouse_move_callbacks, "mouse_move", place, 1)

    def release(self, place, button=1):
        self.down = False
        self._event(mouse_release_callbacks, "mouse_release", place, button)

    def click(self, place, button=1):
        self.press(place, button)
        self.release(place, button)

    def drag(self, *places, button=1):
        self.press(places[0], button)
        self.move(*places[1:])
        self.release(places[-1], button)

    def use(self, tool):
        self.layer.mode = tool

    def escape(self):
        finish_drawing_shape(self.layer)
        while self._soon:
            self._soon.pop(0)()

    @property
    def colours(self):
        """What napari has of them, each named."""
        names = {tuple(transform_color(name)[0]): name for name in (GREEN, RED)}
        return [names[tuple(colour)] for colour in self.layer.edge_color]


@pytest.fixture
def drawing():
    return Drawing()


def box(left, top, right, bottom):
    return BoxPrompt((), Box(left, top, right, bottom))


@pytest.mark.parametrize("before", [(), (box(50, 50, 60, 60), Scribble((), ((70, 70), (70, 90)), False))])
def test_a_line_is_drawn_by_clicks_on_its_ends(drawing, before):
    drawing.shapes.write(before)
    drawing.use(LINE)
    drawing.click((10, 10))
    drawing.move((10, 13))
    drawing.shapes.write((*before, box(80, 0, 90, 9)))  # not shown as yet: the line would be gone
    assert drawing.layer.nshapes == len(before) + 1 and not drawing.told
    drawing.shapes.write(before)
    drawing.press((10, 18))
    line = Scribble((), ((10, 10), (10, 18)))
    assert drawing.told == [(*before, line)] and not drawing.drawn  # the layer must hear of the release
    drawing.release((10, 18))
    assert drawing.drawn == 1 and drawing.layer.nshapes == len(before) + 1
    assert drawing.colours[len(before) :] == [GREEN]
    np.testing.assert_allclose(drawing.layer.data[-1], line.path)
    drawing.drag((30, 10), (30, 25), (30, 40), (30, 55))
    assert drawing.drawn == 2 and len(drawing.shapes.read()) == drawing.layer.nshapes == len(before) + 2


def test_a_line_that_napari_has_between_two_clicks_is_kept_and_one_without_length_is_none(drawing):
    drawing.use(LINE)
    drawing.click((10, 10))
    drawing.move((10, 25), (25, 25))
    drawing.click((25, 25))
    (line,) = drawing.shapes.read()
    assert len(line.path) > 2 and drawing.layer.nshapes == drawing.drawn == 1
    for _ in range(2):
        drawing.click((50, 50))
    assert drawing.shapes.read() == (line,) and drawing.layer.nshapes == len(drawing.colours) == 1


def test_of_the_boxes_on_a_plane_the_newest_is_shown(drawing):
    line = Scribble((), ((70, 70), (70, 90)), False)
    first, second = box(10, 10, 21, 21), box(40, 10, 51, 21)
    drawing.shapes.write((first, line))
    drawing.use(BOX)
    drawing.drag((10, 40), (15, 45), (20, 50))
    assert set(drawing.shapes.read()) == set(drawing.told[-1]) == {line, second}
    assert drawing.layer.nshapes == 2 and drawing.drawn == 1
    drawing.shapes.write((first, line))
    assert drawing.layer.nshapes == 2
    np.testing.assert_allclose(drawing.layer.data[0].min(0), (9.5, 9.5))


@pytest.mark.parametrize("tool", [BOX, LINE])
@pytest.mark.parametrize("how", ["escape", "stop"])
def test_what_is_broken_off_leaves_nothing_behind(drawing, tool, how):
    there = (box(50, 50, 60, 60),)
    drawing.shapes.write(there)
    drawing.use(tool)
    drawing.press((10, 10))
    drawing.move((20, 20), (35, 30))
    getattr(drawing, how, drawing.shapes.stop)()
    assert drawing.layer.nshapes == 1 and drawing.drawn == (how == "escape")
    drawing.move((40, 40))
    drawing.release((45, 45))
    assert not drawing.told and drawing.shapes.read() == there and drawing.layer.nshapes == 1
    for again in (LINE, BOX):
        drawing.use(again)
        drawing.drag((10, 10), (10, 25), (25, 40))
    assert len(drawing.told) == 2 and len(drawing.shapes.read()) == drawing.layer.nshapes == 2


def test_a_release_that_the_layer_never_heard_of_leaves_nothing_either(drawing):
    drawing.use(BOX)
    drawing.press((10, 10))
    drawing.move((20, 20))
    drawing.escape()  # the button is released elsewhere
    drawing.use(LINE)
    drawing.drag((70, 10), (70, 25), (70, 40), (70, 55))
    (line,) = drawing.shapes.read()
    assert isinstance(line, Scribble) and drawing.layer.nshapes == 1


@pytest.mark.parametrize("moves", [[], [(10, 25), (10, 40)]])
def test_the_second_click_on_a_line_need_not_come(drawing, moves):
    drawing.use(LINE)
    drawing.click((10, 10))
    drawing.move(*moves)
    drawing.escape()
    assert not drawing.layer.nshapes and not drawing.told and drawing.drawn == 1
    drawing.use(LINE)
    drawing.click((10, 10))
    drawing.move(*moves)
    drawing.use("add_polyline")
    drawing.move((10, 50))
    assert not drawing.layer.nshapes and not drawing.told and drawing.layer.mode == "add_polyline"
    drawing.use(LINE)
    drawing.press((10, 10))
    drawing.move(*moves)
    drawing.use(BOX)  # in the midst of it
    drawing.move((10, 50))
    drawing.release((10, 50))
    assert not drawing.layer.nshapes and not drawing.told and drawing.layer.mode == BOX


def test_shapes_with_corners_are_drawn_to_their_end(drawing):
    drawing.use("add_polygon")
    for place in ((10, 10), (10, 31), (31, 31)):
        drawing.move(place)
        drawing.click(place)
    drawing.shapes.write(())
    drawing.escape()  # how napari ends one
    assert drawing.shapes.read() == (box(10, 10, 32, 32),) and drawing.drawn == 1
    drawing.click((50, 50))
    drawing.escape()  # of which napari keeps nothing but the colour
    assert drawing.layer.nshapes == len(drawing.layer.edge_color) == 1


def test_a_line_has_the_sign_that_is_chosen_whoever_takes_the_tool(drawing):
    path = (10, 10), (10, 25), (10, 40), (10, 55)
    drawing.shapes.positive = False
    for tool in (LINE, "add_line", BOX):
        drawing.use("select")
        drawing.use(tool)
        drawing.drag(*path if tool != BOX else ((40, 40), (50, 50), (60, 60)))
    drawing.use(LINE)
    drawing.press(path[0])
    drawing.move(*path[1:3])
    drawing.shapes.positive = True  # while it is drawn
    drawing.release(path[-1])
    drawing.shapes.positive = False  # after it was
    drawing.shapes.positive = True
    lines = [one for one in drawing.shapes.read() if isinstance(one, Scribble)]
    assert [line.positive for line in lines] == [False, False, True]
    assert drawing.colours == [RED, RED, GREEN, GREEN]


def test_a_line_of_the_right_button_is_negative_and_the_next_one_is_what_it_was(drawing):
    drawing.use(LINE)
    for button, y in ((2, 10), (1, 20), (2, 30)):
        drawing.drag((y, 10), (y, 25), (y, 40), (y, 55), button=button)
    drawing.click((40, 10), 2)
    drawing.click((40, 18), 1)
    assert [line.positive for line in drawing.shapes.read()] == [False, True, False, False]
    assert drawing.colours == [RED, GREEN, RED, RED] and transform_color(drawing.layer.current_edge_color)[
        0
    ] == pytest.approx(transform_color(GREEN)[0], abs=0.01)


def test_a_line_that_is_coloured_is_of_that_sign_at_once(drawing):
    line, there = Scribble((), ((10, 10), (10, 30))), box(50, 50, 60, 60)
    drawing.shapes.write((there, line))
    drawing.use("select")
    drawing.layer.selected_data = {0, 1}
    assert not drawing.told
    for colour, positive in (
        (RED, False),
        ("#ff0000", False),
        ("blue", True),
        ("darkred", False),
        (GREEN, True),
    ):
        drawing.layer.current_edge_color = colour
        assert drawing.shapes.read() == (there, Scribble((), line.path, positive))
    assert len(drawing.told) == 4  # nothing, where nothing changed
    drawing.shapes.pixel = lambda: 10.0  # seen from so far away, it is too short to be drawn
    drawing.layer.current_edge_color = RED
    assert drawing.shapes.read() == (there, Scribble((), line.path, False))
