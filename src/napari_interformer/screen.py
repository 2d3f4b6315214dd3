"""What of the image is on the screen: napari's sliders and camera, as pixels and planes of a source. No Qt, no napari.

Enters: napari's viewer. Leaves: the pixel in the middle of the screen, the plane that is shown, and how much of it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_interformer.geometry import Box
from napari_interformer.image import plane_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_interformer.layers import Source
    from napari_interformer.prompts import Click


class Screen:
    """A viewer's sliders and camera.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Or its model.
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer

    @property
    def camera(self) -> Any:
        """The viewer's camera."""
        return getattr(self._viewer, "scene", self._viewer).camera  # moved in napari 0.9

    @property
    def pixel(self) -> float:
        """How large a pixel of the screen is in the world."""
        return 1 / float(self.camera.zoom)

    @property
    def flat(self) -> bool:
        """Whether a plane is shown, and not a volume: a place on the screen is one pixel of the image then."""
        return bool(self._viewer.dims.ndisplay == 2)

    def upright(self, source: Source) -> bool:
        """Whether that plane is one of the image's Y and X."""
        dims = self._viewer.dims
        if source.image.ndim - (source.axis is not None) < 2:
            return False  # the image was just given data without the axis of its channels
        return self.flat and sorted(dims.displayed) == [dims.ndim + axis for axis in source.upright]

    def looked_at(self, source: Source) -> Click | None:
        """Return the image's pixel in the middle of the screen; None where the image has just left the viewer."""
        dims, world = self._viewer.dims, list(self._viewer.dims.point)
        if self.flat:
            for axis, place in zip(dims.displayed, self.camera.center[-2:], strict=True):
                world[axis] = place
        with suppress(ValueError, IndexError):
            return source.click(world)
        return None

    def plane(self, source: Source, leading: Sequence[int]) -> tuple[int, ...] | None:
        """Return the plane on screen of an image whose axes before (Y, X) are so long; None where it is none of them."""
        looked = self.looked_at(source)
        if looked is not None:
            with suppress(ValueError):
                return plane_of(looked.plane, tuple(leading))
        return None

    def seen(self, source: Source, layer: Any) -> Box:
        """Return the box of an image's pixels that are on screen, told by its labels; of multiscale ones it may be larger."""
        # Not told by the image: napari has that of a multiscale one larger, and it may have an axis of channels.
        corners = np.array([layer.corner_pixels[0], layer.corner_pixels[1] + 1])
        if layer.multiscale:  # they are of the level that is shown
            corners = corners * layer.downsample_factors[layer.data_level]
        (top, left), (bottom, right) = corners[:, source.upright].round().astype(int).tolist()
        return Box(left, top, right, bottom)

    def go_to(self, source: Source, plane: Sequence[int]) -> None:
        """Show a plane of the image."""
        dims, places = self._viewer.dims, source.places(plane)
        dims.set_point([dims.ndim + axis for axis in places], list(places.values()))
