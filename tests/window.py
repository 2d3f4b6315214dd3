"""For the window's tests: a model that answers at once and predictably, and hands on mouse and keyboard."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from napari_interformer.model import InterFormerConfig
from napari_interformer.reference import State

PATIENCE = 120  # seconds; nothing takes that long, but a busy machine may
PLENTY = 1000  # tiles; no test encodes so many
CONFIG = InterFormerConfig(window=64, click_window=64, inner_radius=2, zoom_min_size=32)


class BrightModel:
    """Bright things are objects: a positive click takes the bright region under it, a negative one a bite out of it.

    `gate` holds up decoding, `steps` says how many tiles may be encoded, so that tests can act in between.
    """

    def __init__(self) -> None:
        self.config = CONFIG
        self.fingerprint = self.decoder_fingerprint = "bright"
        self.channels, self.strides = (1, 1, 1, 1), (1, 8, 16, 32)
        self.device, self.training = torch.device("cpu"), False
        self.gate, self.steps = threading.Event(), threading.Semaphore(PLENTY)
        self.gate.set()
        self.tiles = 0
        self.decoded = 0
        self.threads: set[int] = set()

    def encode_pixels(self, pixels, before_layer=None):
        self.threads.add(threading.get_ident())
        for _ in pixels:
            assert self.steps.acquire(timeout=PATIENCE)
        self.tiles += len(pixels)
        height, width = (-(-n // 32) * 32 for n in pixels.shape[1:3])
        grey = np.zeros((len(pixels), 1, height, width), np.float32)
        grey[:, 0, : pixels.shape[1], : pixels.shape[2]] = pixels.max(axis=3)
        return [grey] + [
            np.zeros((len(pixels), 1, height // s, width // s), np.float32) for s in self.strides[1:]
        ]

    def prepare_maps(self, maps):
        return maps[0][0] > 100

    def decode_logits(self, bright, reference, roi=None):
        self.threads.add(threading.get_ident())
        assert self.gate.wait(PATIENCE)
        self.decoded += 1
        regions, _ = ndimage.label(bright)
        chosen = np.unique(regions[reference >= State.POSSIBLE_FOREGROUND])
        mask = np.isin(regions, chosen[chosen > 0])
        mask &= ~ndimage.binary_dilation(reference == State.BACKGROUND, iterations=4)
        return np.where(mask, 4, -4).astype(np.float32)


def squares(shape: tuple[int, int] = (96, 160)) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Return an image of bright squares of 20 pixels on black, and their centres."""
    image = np.zeros(shape, np.uint8)
    centres = [(y, x) for y in range(20, shape[0] - 10, 48) for x in range(20, shape[1] - 10, 40)]
    for y, x in centres:
        image[y - 10 : y + 10, x - 10 : x + 10] = 200
    return image, centres


class Hands:
    """Mouse and keyboard on a viewer's canvas."""

    def __init__(self, viewer: Any) -> None:
        from qtpy.QtCore import QPoint, Qt
        from qtpy.QtTest import QTest
        from qtpy.QtWidgets import QApplication

        self.viewer, self.Qt, self.QPoint, self.QTest = viewer, Qt, QPoint, QTest
        self.app = QApplication.instance()
        # napari offers no public way to the canvas' widget, which is where mouse and keys arrive
        self.canvas = viewer.window._qt_viewer.canvas.native

    def wait(self, until: Callable[[], bool], seconds: float = PATIENCE) -> None:
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, "waited too long"
            self.app.processEvents()
            time.sleep(0.002)

    def rest(self, seconds: float = 0.05) -> None:
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() > end)

    def pixel(self, world: tuple[float, ...]) -> Any:
        """Return where a place in the world is on the canvas."""
        camera = getattr(self.viewer, "scene", self.viewer).camera  # moved in napari 0.9
        away = (np.array(world, float)[-2:] - np.array(camera.center)[-2:]) * camera.zoom
        point = self.QPoint(
            round(self.canvas.width() / 2 + away[1]), round(self.canvas.height() / 2 + away[0])
        )
        assert self.canvas.rect().contains(point), f"{world} is not on the canvas"
        return point

    def click(self, world: tuple[float, ...], button: str = "Left") -> None:
        pixel = self.pixel(world)
        self.QTest.mouseMove(self.canvas, pixel)
        self.QTest.mouseClick(self.canvas, getattr(self.Qt.MouseButton, f"{button}Button"), pos=pixel)

    def hold(self, world: tuple[float, ...]) -> None:
        """Press the left button, and hold it."""
        pixel = self.pixel(world)
        self.QTest.mouseMove(self.canvas, pixel)
        self.app.processEvents()
        self.QTest.mousePress(self.canvas, self.Qt.MouseButton.LeftButton, pos=pixel)
        self.app.processEvents()

    def let_go(self, world: tuple[float, ...]) -> None:
        """Release the left button."""
        self.QTest.mouseRelease(self.canvas, self.Qt.MouseButton.LeftButton, pos=self.pixel(world))
        self.app.processEvents()

    def drag(self, start: tuple[float, ...], end: tuple[float, ...], button: str = "Left") -> None:
        first, last, pressed = (
            self.pixel(start),
            self.pixel(end),
            getattr(self.Qt.MouseButton, f"{button}Button"),
        )
        self.QTest.mouseMove(self.canvas, first)
        self.app.processEvents()
        self.QTest.mousePress(self.canvas, pressed, pos=first)
        for share in (0.3, 0.6, 1.0):
            self.QTest.mouseMove(self.canvas, first + (last - first) * share)
            self.app.processEvents()
        self.QTest.mouseRelease(self.canvas, pressed, pos=last)

    def key(self, name: str) -> None:
        """Press a key such as T, Delete or Ctrl+Shift+Z."""
        *modifiers, letter = name.split("+")
        pressed = self.Qt.KeyboardModifier.NoModifier
        for modifier in modifiers:
            pressed |= {
                "Ctrl": self.Qt.KeyboardModifier.ControlModifier,
                "Shift": self.Qt.KeyboardModifier.ShiftModifier,
            }[modifier]
        self.QTest.keyClick(self.canvas, getattr(self.Qt.Key, f"Key_{letter}"), pressed)
