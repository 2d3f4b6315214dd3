"""A plane with its labels and prompts drawn over it, as a PNG."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import imageio.v3 as iio
import numpy as np
from PIL.PngImagePlugin import PngInfo
from skimage.draw import disk
from skimage.segmentation import find_boundaries

from napari_interformer import NAME
from napari_interformer.files import labels_at, write_whole
from napari_interformer.geometry import Box, line
from napari_interformer.prompts import BoxPrompt, Mark

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_interformer.image import Planes
    from napari_interformer.session import Session


def write_picture(path: Path, planes: Planes, session: Session, plane: tuple[int, ...]) -> None:
    """Write a PNG of one plane: the image, the labels in colour with their outlines, boxes and clicks in green and red.

    OSError if it cannot be written.
    """
    labels: NDArray[np.integer[Any]] = labels_at(session.labels, plane)
    drawn = planes.read(plane)
    colours = np.array(
        [[230, 159, 0], [86, 180, 233], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]],
        np.float32,
    )
    inside = labels > 0
    drawn[inside] = 0.75 * drawn[inside] + 0.25 * colours[labels[inside] % len(colours)]
    outline = find_boundaries(labels, mode="inner")
    drawn[outline] = colours[labels[outline] % len(colours)]
    radius = max(2.0, min(planes.size) / 250)
    green, red = (0, 160, 60), (220, 30, 30)
    here = [p for prompts in session.objects.values() for p in prompts if p.plane == plane]
    edge = round(radius / 2)
    for box in (prompt.box for prompt in here if isinstance(prompt, BoxPrompt)):
        within = drawn[box.slices].copy()  # the edge lies around the box: what it holds stays to be seen
        for width, colour in ((edge + 1, 255), (edge, green)):
            drawn[box.grown(width, width).intersect(Box.of(planes.size)).slices] = colour
        drawn[box.slices] = within
    for mark in (prompt for prompt in here if isinstance(prompt, Mark)):
        for wider, colour in ((1, (255, 255, 255)), (0, green if mark.positive else red)):
            for pixel in line(mark.path):
                drawn[disk(pixel, radius + wider, shape=planes.size)] = colour
    about = PngInfo()
    about.add_text("Software", NAME)
    pixels = np.clip(drawn, 0, 255).astype(np.uint8)
    write_whole(path, iio.imwrite("<bytes>", pixels, plugin="pillow", extension=".png", pnginfo=about))
