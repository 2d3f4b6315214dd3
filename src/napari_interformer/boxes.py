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
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from napari_interformer.layers import Source

BOXES = "InterFormer boxes"
_EDGE = 2  # pixels of the screen


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
        self._boxes: tuple[BoxPrompt, ...] = ()
        self._writing = False

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
            self.shown(self.layer)
            self._show()
        self.layer.current_edge_width = self._thickness(self.layer)
        return self.layer

    def drop(self) -> Shapes | None:
        """Have no boxes and no layer any more; return the one there was."""
        layer, self.layer, self._boxes = self.layer, None, ()
        if layer is not None:
            layer.events.data.disconnect(self._on_data)
        return layer

    def read(self) -> tuple[BoxPrompt, ...]:
        """Return the boxes; one that is being drawn is none yet."""
        return self._boxes

    def write(self, boxes: Iterable[BoxPrompt]) -> None:
        """Show these."""
        before, self._boxes = self._boxes, tuple(boxes)
        if self._boxes and self.layer is None:
            self.make()
        elif self._boxes != before:
            self._show()

    def _show(self) -> None:
        layer = self.layer
        if layer is None:
            return
        self._writing = True
        try:
            layer.selected_data = set()
            layer.data = [(self._corners(layer, prompt), "rectangle") for prompt in self._boxes]
            layer.edge_width = self._thickness(layer)
        finally:
            self._writing = False

    def _on_data(self, event: Any) -> None:
        if self._writing or str(event.action) not in ("added", "removed", "changed"):
            return
        assert self.layer is not None
        read = [box for vertices in self.layer.data if (box := self._box(self.layer, vertices)) is not None]
        lost = len(read) < len(self.layer.data)
        self._boxes = tuple(read)
        if lost:
            self._show()  # what holds no pixel is not kept
        self.told()
        if str(event.action) == "added":
            self.drawn()

    def _box(self, layer: Shapes, vertices: NDArray[Any]) -> BoxPrompt | None:
        """Return the box of the pixels whose middles lie within a shape's extent; None if there is none."""
        places = np.array([self.source.position(layer.data_to_world(vertex)) for vertex in vertices])
        (top, left), (bottom, right) = places[:, -2:].min(0), places[:, -2:].max(0)
        box = Box(math.ceil(left), math.ceil(top), math.floor(right) + 1, math.floor(bottom) + 1)
        return None if box.empty else BoxPrompt(Click.at(places[0]).plane, box)

    def _thickness(self, layer: Shapes) -> float:
        """Return how wide edges are, in pixels of the layer, so that they are seen but hide nothing at this zoom."""
        return _EDGE * self.pixel() / float(layer.scale[-1])

    def _corners(self, layer: Shapes, prompt: BoxPrompt) -> NDArray[np.float64]:
        """Return the rectangle around a box's pixels, (4, axes of the layer)."""
        left, top, right, bottom = (edge - 0.5 for edge in prompt.box)
        corners = (top, left), (top, right), (bottom, right), (bottom, left)
        return np.array([layer.world_to_data(self.source.world((*prompt.plane, *c))) for c in corners])
