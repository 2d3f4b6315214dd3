"""A Shapes layer as the boxes and lines of the current object. No Qt.

Enters: rectangles and paths that somebody draws, moves or deletes, with napari's own tools. Leaves: boxes and scribbles in data
pixels. The layer is there only once there is one, or somebody is about to draw one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Shapes
from napari.utils.colormaps.standardize_color import transform_color

from napari_interformer.layers import GREEN, RED
from napari_interformer.prompts import Box, BoxPrompt, Click, Scribble

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from numpy.typing import NDArray

    from napari_interformer.layers import Source

    Drawn = BoxPrompt | Scribble

SHAPES = "InterFormer shapes"
LINES = ("path", "line")  # what napari calls them; of other shapes the extent counts
_EDGE, _SMALLEST = 2, 4  # pixels of the screen: how wide edges are, and what is smaller was no drag


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
        self._seen: tuple[Drawn, ...] = ()  # in the layer; others, if they were written during a drag
        self._writing = self._dragging = False

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
            self.layer.events.data.connect(self._on_data)
            self.layer.events.set_data.connect(self._pasted)
            self.layer.mouse_drag_callbacks.append(self._pressed)
            self.shown(self.layer)
            self._show()
        self.layer.current_edge_width = self._thickness(self.layer)
        return self.layer

    def drop(self) -> Shapes | None:
        """Have no layer any more; return the one there was."""
        layer, self.layer, self._seen, self._dragging = self.layer, None, (), False
        if layer is not None:
            layer.events.data.disconnect(self._on_data)
            layer.events.set_data.disconnect(self._pasted)
            layer.mouse_drag_callbacks.remove(self._pressed)
        return layer

    def read(self) -> tuple[Drawn, ...]:
        """Return what is drawn; what is being drawn is nothing yet."""
        return self._drawn

    def write(self, drawn: Iterable[Drawn]) -> None:
        """Show these; once it is over, if one is being drawn or moved: napari would end the drag."""
        self._drawn = tuple(drawn)
        if self._drawn and self.layer is None:
            self.make()
        self._settle()

    def _settle(self) -> None:
        if self._drawn != self._seen and not self._dragging:
            self._show()

    def _show(self) -> None:
        layer = self.layer
        if layer is None:
            return
        self._writing, self._seen = True, self._drawn
        try:
            layer.selected_data = set()
            layer.data = [self._shape(layer, prompt) for prompt in self._drawn]
            if self._drawn:
                layer.edge_color = [GREEN if _positive(prompt) else RED for prompt in self._drawn]
            layer.edge_width = self._thickness(layer)
        finally:
            self._writing = False

    def _on_data(self, event: Any) -> None:
        if not self._writing and str(event.action) in ("added", "removed", "changed"):
            before = self._drawn
            self._read_layer()
            if str(event.action) == "added" and self._drawn != before:
                self.drawn()

    def _pasted(self, _: Any) -> None:
        # Of shapes that are pasted napari tells nothing but that it draws them.
        # While one is being drawn, it is in the layer too.
        drawing = self._dragging or (self.layer is not None and str(self.layer.mode).startswith("add_"))
        if not self._writing and not drawing and self.layer is not None:
            if self.layer.nshapes > len(self._seen):
                self._read_layer()

    def _pressed(self, _: Shapes, event: Any) -> Generator[None, None, None]:
        self._dragging = True
        yield
        while event.type == "mouse_move":
            yield
        self._dragging = False
        self.later(self._settle)

    def _read_layer(self) -> None:
        """See what somebody drew, moved or deleted."""
        assert self.layer is not None
        layer = self.layer
        read = [
            prompt
            for vertices, kind, colour in zip(layer.data, layer.shape_type, layer.edge_color, strict=True)
            if (prompt := self._prompt(layer, vertices, kind, colour)) is not None
            and (prompt in self._seen or self._is_large(layer, vertices))
        ]
        if self._drawn == self._seen:
            self._drawn = tuple(read)
        else:  # others were written during the drag: what came of it is the newest
            self._drawn = (*self._drawn, *(one for one in read if one not in self._seen))
        if len(read) == len(self.layer.data):
            self._seen = tuple(read)
        else:
            self._show()  # what says nothing is not kept
        self.told()

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
            return Scribble.along(places, not np.allclose(colour[:3], transform_color(RED)[0, :3]))
        (top, left), (bottom, right) = places[:, -2:].min(0), places[:, -2:].max(0)
        box = Box(math.ceil(left), math.ceil(top), math.floor(right) + 1, math.floor(bottom) + 1)
        return None if box.empty else BoxPrompt(planes.pop(), box)

    def _is_large(self, layer: Shapes, vertices: NDArray[Any]) -> bool:
        """Whether somebody dragged to draw a shape, and did not just click, as the screen is now."""
        world = np.array([layer.data_to_world(vertex) for vertex in vertices])
        return bool(np.ptp(world, axis=0).max() >= _SMALLEST * self.pixel())

    def _thickness(self, layer: Shapes) -> float:
        """Return how wide edges are, in pixels of the layer, so that they are seen but hide nothing at this zoom."""
        return _EDGE * self.pixel() / abs(float(layer.scale[-1]))

    def _shape(self, layer: Shapes, prompt: Drawn) -> tuple[NDArray[np.float64], str]:
        """Return the rectangle around a box's pixels, or a scribble's path: its vertices (N, axes), and which it is."""
        stops: list[tuple[float, float]]
        if isinstance(prompt, BoxPrompt):
            left, top, right, bottom = (edge - 0.5 for edge in prompt.box)
            stops = [(top, left), (top, right), (bottom, right), (bottom, left)]
            kind = "rectangle"
        else:
            stops = [*prompt.path] * (
                1 if len(prompt.path) > 1 else 2
            )  # napari draws no path of a single point
            kind = "path"
        places = [layer.world_to_data(self.source.world((*prompt.plane, *stop))) for stop in stops]
        return np.array(places), kind


def _positive(prompt: Drawn) -> bool:
    """Whether what is drawn says where the object is, and not where it is not."""
    return isinstance(prompt, BoxPrompt) or prompt.positive
