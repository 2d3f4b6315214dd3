"""A Shapes layer as the boxes of the current object. No Qt.

Enters: rectangles that somebody draws, moves or deletes, with napari's own tools. Leaves: box prompts in data pixels. The layer
is there only once there is a box, or somebody is about to draw one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Shapes

from napari_interformer.prompts import Box, BoxPrompt, Click

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from numpy.typing import NDArray

    from napari_interformer.layers import Source

BOXES = "InterFormer boxes"
_EDGE, _SMALLEST = 2, 4  # pixels of the screen: how wide edges are, and what is smaller was no drag


class BoxLayer:
    """Boxes, and the layer that shows them.

    Parameters
    ----------
    source : Source
        The image that they are drawn on.
    colour : str
        Of their edges.
    """

    def __init__(self, source: Source, colour: str) -> None:
        self.source, self._colour = source, colour
        self.layer: Shapes | None = None
        self.told: Callable[[], None] = lambda: None  # somebody drew, moved or deleted one
        self.drawn: Callable[[], None] = lambda: None  # somebody drew one
        self.shown: Callable[[Shapes], None] = lambda _: None  # there is a layer now, for the viewer
        self.pixel: Callable[[], float] = lambda: 1.0  # how large a pixel of the screen is in the world
        self.later: Callable[[Callable[[], None]], None] = lambda call: call()  # after the event at hand
        self._boxes: tuple[BoxPrompt, ...] = ()
        self._seen: tuple[BoxPrompt, ...] = ()  # in the layer; others, if they were written during a drag
        self._writing = self._dragging = False

    def make(self) -> Shapes:
        """Return the layer, ready for a box to be drawn; there is one from now on."""
        if self.layer is None:
            place = self.source.placement()
            self.layer = Shapes(
                ndim=len(place["scale"]),
                edge_color=self._colour,
                face_color="transparent",
                name=BOXES,
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

    def read(self) -> tuple[BoxPrompt, ...]:
        """Return the boxes; one that is being drawn is none yet."""
        return self._boxes

    def write(self, boxes: Iterable[BoxPrompt]) -> None:
        """Show these; once it is over, if a box is being drawn or moved: napari would end the drag."""
        self._boxes = tuple(boxes)
        if self._boxes and self.layer is None:
            self.make()
        self._settle()

    def _settle(self) -> None:
        if self._boxes != self._seen and not self._dragging:
            self._show()

    def _show(self) -> None:
        layer = self.layer
        if layer is None:
            return
        self._writing, self._seen = True, self._boxes
        try:
            layer.selected_data = set()
            layer.data = [(self._corners(layer, prompt), "rectangle") for prompt in self._boxes]
            layer.edge_width = self._thickness(layer)
        finally:
            self._writing = False

    def _on_data(self, event: Any) -> None:
        if not self._writing and str(event.action) in ("added", "removed", "changed"):
            before = self._boxes
            self._read_layer()
            if str(event.action) == "added" and self._boxes != before:
                self.drawn()

    def _pasted(self, _: Any) -> None:
        # Of shapes that are pasted napari tells nothing but that it draws them.
        if not self._writing and not self._dragging and self.layer is not None:
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
            box
            for vertices in layer.data
            if (box := self._box(layer, vertices)) is not None
            and (box in self._seen or self._is_large(layer, vertices))
        ]
        if self._boxes == self._seen:
            self._boxes = tuple(read)
        else:  # others were written during the drag: what came of it is the newest
            self._boxes = (*self._boxes, *(box for box in read if box not in self._seen))
        if len(read) == len(self.layer.data):
            self._seen = tuple(read)
        else:
            self._show()  # what is no box is not kept
        self.told()

    def _box(self, layer: Shapes, vertices: NDArray[Any]) -> BoxPrompt | None:
        """Return the box of the pixels whose middles a shape spans; None if there are none, or it is on no plane of Y and X."""
        places = np.array([self.source.position(layer.data_to_world(vertex)) for vertex in vertices])
        (top, left), (bottom, right) = places[:, -2:].min(0), places[:, -2:].max(0)
        box = Box(math.ceil(left), math.ceil(top), math.floor(right) + 1, math.floor(bottom) + 1)
        planes = {Click.at(place).plane for place in places}
        return None if box.empty or len(planes) > 1 else BoxPrompt(planes.pop(), box)

    def _is_large(self, layer: Shapes, vertices: NDArray[Any]) -> bool:
        """Whether somebody dragged to draw a shape, and did not just click, as the screen is now."""
        world = np.array([layer.data_to_world(vertex) for vertex in vertices])
        return bool(np.ptp(world, axis=0).max() >= _SMALLEST * self.pixel())

    def _thickness(self, layer: Shapes) -> float:
        """Return how wide edges are, in pixels of the layer, so that they are seen but hide nothing at this zoom."""
        return _EDGE * self.pixel() / abs(float(layer.scale[-1]))

    def _corners(self, layer: Shapes, prompt: BoxPrompt) -> NDArray[np.float64]:
        """Return the rectangle around a box's pixels, (4, axes of the layer)."""
        left, top, right, bottom = (edge - 0.5 for edge in prompt.box)
        corners = (top, left), (top, right), (bottom, right), (bottom, left)
        return np.array([layer.world_to_data(self.source.world((*prompt.plane, *c))) for c in corners])
