"""A Shapes layer as the boxes and lines of the current object. No Qt.

Enters: rectangles and paths that somebody draws, moves or deletes, with napari's own tools. Leaves: boxes and scribbles in data
pixels. The layer is there only once there is one, or somebody is about to draw one.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from napari.layers import Shapes
from napari.utils.colormaps.standardize_color import transform_color

from napari_interformer.geometry import Box
from napari_interformer.layers import GREEN, RED, lengths
from napari_interformer.prompts import BoxPrompt, Click, Scribble

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from numpy.typing import NDArray

    from napari_interformer.layers import Source

    Drawn = BoxPrompt | Scribble

SHAPES = "InterFormer shapes"
LINES = ("path", "line")  # what napari calls them; of other shapes the extent counts
_LINE_TOOLS = ("add_path", "add_polyline", "add_line")
_CORNER_TOOLS = ("add_polygon", "add_polyline")  # a click for each corner; the others are drawn in one go
_EDGE, _SMALLEST = 2, 4  # pixels of the screen: how wide edges are, and what is smaller was no drag

Hand = Literal["free", "down", "between", "down again"]  # "between" the clicks on both ends of a line


class ShapeLayer:
    """Boxes and scribbles, and the layer that shows them; a red line goes through what is not part of the object.

    Parameters
    ----------
    source : Source
        The image that they are drawn on.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.layer: Shapes | None = None
        self.told: Callable[[], None] = lambda: None  # somebody drew, moved or deleted one
        self.drawn: Callable[[], None] = lambda: None  # somebody drew one
        self.shown: Callable[[Shapes], None] = lambda _: None  # there is a layer now, for the viewer
        self.pixel: Callable[[], float] = lambda: 1.0  # how large a pixel of the screen is in the world
        self.later: Callable[[Callable[[], None]], None] = lambda call: call()  # after the event at hand
        self._drawn: tuple[Drawn, ...] = ()
        # What each shape in the layer says, None if that is nothing; others, if they were written during a drag.
        self._seen: tuple[Drawn | None, ...] = ()
        self._ends: NDArray[np.float64] | None = None  # of a line, both of which were clicked on
        self._writing = self._hearing = self._over = False
        self._hand: Hand = "free"
        self._tool = ""  # that the button was pressed with
        self._positive = True

    @property
    def positive(self) -> bool:
        """Whether the next line goes through what belongs to the object; of one that is being drawn, too."""
        return self._positive

    @positive.setter
    def positive(self, value: bool) -> None:
        self._positive = bool(value)
        self.ink()

    def make(self) -> Shapes:
        """Return the layer, ready for a shape to be drawn; there is one from now on."""
        if self.layer is None:
            place = self.source.placement()
            self.layer = Shapes(
                ndim=len(place["scale"]),
                edge_color=GREEN,
                face_color="transparent",
                name=SHAPES,
                **place,
            )
            for emitter, told in self._of(self.layer):
                emitter.connect(told)
            self.layer.mouse_drag_callbacks.insert(0, self._pressed)  # before what napari does
            self.shown(self.layer)
            self._show()
        self.layer.current_edge_width = self._thickness(self.layer)
        return self.layer

    def drop(self) -> Shapes | None:
        """Have no layer any more; return the one there was."""
        layer, self.layer, self._seen, self._hand = self.layer, None, (), "free"
        if layer is not None:
            for emitter, told in self._of(layer):
                emitter.disconnect(told)
            layer.mouse_drag_callbacks.remove(self._pressed)
        return layer

    def _of(self, layer: Shapes) -> list[tuple[Any, Callable[..., None]]]:
        """Return what of the layer is listened to, until `drop`."""
        events = layer.events
        return [
            (events.data, self._on_data),
            (events.set_data, self._pasted),
            (events.edge_color, self._recoloured),
            (events.mode, self.ink),
        ]

    def read(self) -> tuple[Drawn, ...]:
        """Return what is drawn; what is being drawn is nothing yet."""
        return self._drawn

    def write(self, drawn: Iterable[Drawn]) -> None:
        """Show these; once it is over, if one is being drawn or moved: napari would end the drag."""
        self._drawn = tuple(drawn)
        if self._drawn and self.layer is None:
            self.make()
        self._settle()

    def ink(self, _: Any = None, *, positive: bool | None = None) -> None:
        """Give the pen the colour of what it would draw: a box, or a line of the sign that is chosen."""
        layer = self.layer
        if layer is None or not str(layer.mode).startswith("add_"):
            return
        if layer.nshapes == len(self._seen):  # none is being drawn, which would be selected
            layer.selected_data = set()  # or these would be coloured, too
        line = str(layer.mode) in _LINE_TOOLS
        positive = self._positive if positive is None else positive
        layer.current_edge_color = RED if line and not positive else GREEN

    def stop(self) -> None:
        """Let what is being drawn or moved be nothing, and have nothing left of it in napari."""
        layer = self.layer
        if layer is None or self._hand == "free":
            return
        self._let_go(layer)
        self._writing = True
        try:
            if str(layer.mode) == self._tool and self._tool.startswith("add_"):
                layer.mode = "pan_zoom"
        finally:
            self._writing = False
        self._show()

    def plane_changed(self) -> None:
        """Give up what is being drawn or moved: the rest of it would lie on another plane."""
        if self.layer is not None and self._hand != "free":
            self.stop()
            self.drawn()

    def _let_go(self, layer: Shapes) -> None:
        self._hand, self._ends, self._over = "free", None, False
        # napari would go on with the drag when the button is pressed next; it offers no public way to end one.
        for drag in getattr(layer, "_mouse_drag_gen", {}).values():
            if not drag.gi_running:
                drag.close()

    @property
    def _drawing(self) -> bool:
        """Whether a shape is being drawn or moved; setting others would end that, and napari not bear it in its midst."""
        layer = self.layer
        if layer is None:
            return False
        cornered = str(layer.mode) in _CORNER_TOOLS and layer.nshapes > len(self._seen)
        return self._hand != "free" or self._hearing or cornered

    def _settle(self) -> None:
        torn = self.layer is not None and _torn(self.layer)
        if (torn or self._drawn != self._seen) and not self._drawing:
            self._show()

    def _show(self) -> None:
        layer = self.layer
        if layer is None:
            return
        self._writing, self._seen = True, self._drawn
        try:
            layer.selected_data = set()
            if _torn(layer):
                layer.data = []  # the only way to have it forget
            layer.data = [self._shape(layer, prompt) for prompt in self._drawn]
            if self._drawn:
                layer.edge_color = [GREEN if prompt.middle.positive else RED for prompt in self._drawn]
            layer.edge_width = self._thickness(layer)
        finally:
            self._writing = False

    def _on_data(self, event: Any) -> None:
        if self._writing or str(event.action) not in ("added", "removed", "changed"):
            return
        assert self.layer is not None
        added = str(event.action) == "added"
        if added and (self._hand == "between" or (self._hand == "down" and self._tool not in _CORNER_TOOLS)):
            self._give_up(self.layer)
            return
        before = self._drawn
        self._read_layer()
        if added:
            self.ink()  # the last one may have been drawn with the right button
            if self._drawn == before:
                pass
            elif self._hand == "free":
                self.drawn()
            else:
                self._over = True  # the layer must hear that the button is released

    def _give_up(self, layer: Shapes) -> None:
        """Forget what napari was told to finish before it was drawn: by Esc, or since another tool was chosen."""
        if str(layer.mode) == self._tool:
            self.stop()
            self.drawn()
        else:
            self._let_go(layer)
            self.later(self._show)

    def _pasted(self, _: Any) -> None:
        # Of shapes that are pasted napari tells nothing but that it draws them.
        # While one is being drawn, it is in the layer too.
        layer = self.layer
        if self._writing or self._drawing or layer is None or str(layer.mode).startswith("add_"):
            return
        if layer.nshapes > len(self._seen):
            self._read_layer()

    def _recoloured(self, _: Any) -> None:
        layer = self.layer
        if self._writing or self._drawing or layer is None:
            return
        if layer.nshapes == len(self._seen) and not _torn(layer) and self._says(layer) != self._seen:
            self._read_layer()

    def _pressed(self, layer: Shapes, event: Any) -> Generator[None, None, None]:
        self._tool = str(layer.mode)
        if self._hand == "between" and layer.nshapes > len(self._seen):
            self._hand = "down again"
            self._ends = np.array([layer.data[-1][0], layer.world_to_data(event.position)])
        else:
            self._hand = "down"
            if event.button == 2 and self._tool in _LINE_TOOLS:
                self.ink(positive=False)
        yield
        while event.type == "mouse_move":
            yield
        # A path that was dragged ends here; napari takes one of two vertices for the first click on a path.
        path = self._tool == "add_path" and layer.nshapes > len(self._seen)
        clicked = self._hand == "down" and path and len(layer.data[-1]) <= 2
        self._hand = "between" if clicked else "free"
        if self._over:
            self._over = False
            self.drawn()
        self.later(self._settle)

    def _read_layer(self) -> None:
        """See what somebody drew, moved, recoloured or deleted."""
        assert self.layer is not None
        layer, ends, before = self.layer, self._ends, self._seen
        self._ends = None
        seen = self._says(layer)
        read = [prompt for prompt in seen if prompt is not None]
        if ends is not None and layer.nshapes == len(before) and self._is_large(layer, ends):
            # napari had nothing but the ends, and no path is left of it.
            straight = self._prompt(layer, ends, "path", transform_color(layer.current_edge_color)[0])
            read += [] if straight is None else [straight]
        if self._drawn != before:  # others were written during the drag: what came of it is the newest
            read = [*self._drawn, *(one for one in read if one not in before)]
        newest = {one.plane: one for one in read if isinstance(one, BoxPrompt)}
        self._seen = seen
        self._drawn = tuple(one for one in read if not isinstance(one, BoxPrompt) or newest[one.plane] is one)
        self._hearing = True
        try:
            self.told()
        finally:
            self._hearing = False
        # What says nothing is not kept, nor a box that another one took the place of.
        self.later(self._settle)

    def _says(self, layer: Shapes) -> tuple[Drawn | None, ...]:
        """Return what each shape says; None for what was no drag."""
        shapes = zip(layer.data, layer.shape_type, layer.edge_color, strict=False)  # see `_torn`
        said = [(vertices, self._prompt(layer, vertices, kind, colour)) for vertices, kind, colour in shapes]
        known = {one for prompt in self._seen for one in _either(prompt)}
        return tuple(
            prompt if prompt in known or self._is_large(layer, vertices) else None
            for vertices, prompt in said
        )

    def _prompt(
        self, layer: Shapes, vertices: NDArray[Any], kind: str, colour: NDArray[np.floating]
    ) -> Drawn | None:
        """Return what a shape says; None if it says nothing, or is on no plane of Y and X.

        A box holds the pixels whose middles it spans.
        """
        places = np.array([self.source.position(layer.data_to_world(vertex)) for vertex in vertices])
        planes = {Click.at(place).plane for place in places}
        if len(planes) > 1:
            return None
        if kind in LINES:
            return Scribble.along(places, not red(colour))
        (top, left), (bottom, right) = places[:, -2:].min(0), places[:, -2:].max(0)
        box = Box(math.ceil(left), math.ceil(top), math.floor(right) + 1, math.floor(bottom) + 1)
        return None if box.empty else BoxPrompt(planes.pop(), box)

    def _is_large(self, layer: Shapes, vertices: NDArray[Any]) -> bool:
        """Whether somebody dragged to draw a shape, and did not just click, as the screen is now."""
        world = np.array([layer.data_to_world(vertex) for vertex in vertices])
        return bool(np.ptp(world, axis=0).max() >= _SMALLEST * self.pixel())

    def _thickness(self, layer: Shapes) -> float:
        """Return how wide edges are, in pixels of the layer, so that they are seen but hide nothing at this zoom."""
        return _EDGE * self.pixel() / float(lengths(layer)[self.source.upright[-1]])

    def _shape(self, layer: Shapes, prompt: Drawn) -> tuple[NDArray[np.float64], str]:
        """Return the rectangle around a box's pixels, or a scribble's path: its vertices (N, axes), and which it is."""
        stops: list[tuple[float, float]]
        if isinstance(prompt, BoxPrompt):
            left, top, right, bottom = (edge - 0.5 for edge in prompt.box)
            stops = [(top, left), (top, right), (bottom, right), (bottom, left)]
            kind = "rectangle"
        else:
            # napari draws no path of a single point.
            stops = [*prompt.path] * (1 if len(prompt.path) > 1 else 2)
            kind = "path"
        places = [layer.world_to_data(self.source.world((*prompt.plane, *stop))) for stop in stops]
        return np.array(places), kind


def _either(prompt: Drawn | None) -> tuple[Drawn | None, ...]:
    """Return it, and a line with the other sign, too."""
    return (
        (prompt, replace(prompt, positive=not prompt.positive)) if isinstance(prompt, Scribble) else (prompt,)
    )


def red(colour: NDArray[np.floating]) -> bool:
    """Whether a colour (red, green, blue, alpha) is red, of whatever shade."""
    return bool(colour[0] - max(colour[1:3]) > 0.4)


def _torn(layer: Shapes) -> bool:
    """Whether napari has more colours than shapes: it keeps the colour of a path that was too short to stay."""
    return bool(len(layer.edge_color) != layer.nshapes)
