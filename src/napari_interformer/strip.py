"""The stack at a glance: a strip with a column for each plane, waiting, encoded or annotated; a click goes to a plane.

Enters: flags of each plane, and which one is on screen. Leaves: `chosen`, the number of the plane that was clicked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QEvent, QRect, QSize, Qt, Signal
from qtpy.QtGui import QColor, QPainter, QPalette
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from napari_interformer.layers import GREEN

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from qtpy.QtGui import QHelpEvent, QMouseEvent, QPaintEvent

# They differ in lightness too, for whoever sees no colours, and stand out from a dark and from a light window.
WAITING, ENCODED, ANNOTATED, ASKED = "#7c8088", "#3b78c8", GREEN, "#ffb300"
_HEIGHT, _MARK = 14, 5  # of the columns, and of the mark below them, in pixels
_GAP_FROM = 5  # columns that are so wide stand apart


@dataclass(frozen=True, eq=False)
class StackState:
    """The state of each plane, in C order of the axes before (Y, X).

    Attributes
    ----------
    leading : tuple of int
        Lengths of those axes.
    encoded, annotated, asked : (planes,) bool
        Ready for clicks; holding labels; waited for by a click.
    current : int or None
        The plane on screen.
    """

    leading: tuple[int, ...]
    encoded: NDArray[np.bool_]
    annotated: NDArray[np.bool_]
    asked: NDArray[np.bool_]
    current: int | None

    def is_same(self, other: StackState) -> bool:
        """Whether nothing would look different."""
        mine, theirs = ((one.encoded, one.annotated, one.asked) for one in (self, other))
        same = (self.leading, self.current) == (other.leading, other.current)
        return same and all(map(np.array_equal, mine, theirs))

    def tell(self, number: int) -> str:
        """Describe the state of a plane."""
        index = ", ".join(str(i) for i in np.unravel_index(number, self.leading))
        text = "encoded" if self.encoded[number] else "waiting to be encoded"
        if self.annotated[number]:
            text = "annotated" if self.encoded[number] else f"annotated, {text}"
        return f"Plane {index}: {text}{', a click waits' if self.asked[number] else ''}"


class PlaneStrip(QWidget):
    """One column per plane; where there are more planes than pixels, a column stands for several and fills up."""

    chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.state: StackState | None = None
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setAccessibleName("Planes of the stack")
        self.hide()

    def show_state(self, state: StackState | None) -> None:
        """Show the planes of a stack; None, or a single plane, shows nothing."""
        state = state if state is not None and state.encoded.size > 1 else None
        if state is not None and self.state is not None and state.is_same(self.state):
            return  # to paint a thousand planes takes as long as to decode a click
        self.state = state
        self.setVisible(self.state is not None)
        self.update()

    def sizeHint(self) -> QSize:
        """Return a size that fits into the panel."""
        return QSize(120, _HEIGHT + _MARK)

    def minimumSizeHint(self) -> QSize:
        """Return the same: the strip has one height."""
        return self.sizeHint()

    def columns(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the first plane of each column, and the column's left edge in pixels."""
        assert self.state is not None
        planes, width = self.state.encoded.size, max(self.width(), 1)
        count = np.arange(min(planes, width))
        return count * planes // len(count), count * width // len(count)

    def plane_at(self, x: int) -> int:
        """Return the (first) plane that is drawn at a pixel."""
        starts, lefts = self.columns()
        return int(starts[max(int(np.searchsorted(lefts, x, "right")) - 1, 0)])

    def x_of(self, number: int) -> int:
        """Return the pixel in the middle of a plane's column."""
        starts, lefts = self.columns()
        column = int(np.searchsorted(starts, number, "right")) - 1
        return int((lefts[column] + [*lefts[1:], self.width()][column]) // 2)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the columns, then the mark of the plane on screen."""
        state = self.state
        if state is None:
            return
        starts, lefts = self.columns()
        widths = np.diff([*lefts, self.width()])
        widths[widths >= _GAP_FROM] -= 1
        encoded = np.add.reduceat(state.encoded.astype(int), starts) / np.diff([*starts, state.encoded.size])
        full = np.ceil(encoded * _HEIGHT).astype(int)
        annotated = np.logical_or.reduceat(state.annotated, starts)
        asked = np.logical_or.reduceat(state.asked, starts)
        painter = QPainter(self)
        for left, width, height, labels, clicks in zip(lefts, widths, full, annotated, asked, strict=True):
            for colour, top in (
                (WAITING, 0),
                (ENCODED, _HEIGHT - height),
                (ANNOTATED, _HEIGHT // 2 if labels else _HEIGHT),
                (ASKED, 0 if clicks else _HEIGHT),
            ):
                painter.fillRect(QRect(int(left), int(top), int(width), _HEIGHT - int(top)), QColor(colour))
        if state.current is not None:
            middle = self.x_of(state.current)
            ink = self.palette().color(QPalette.ColorRole.WindowText)
            for row in range(_MARK):  # a triangle that points up
                painter.fillRect(QRect(middle - row, _HEIGHT + row, 2 * row + 1, 1), ink)
        painter.end()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Go to the plane under the mouse."""
        self._choose(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Follow the mouse while its button is held."""
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._choose(event)

    def _choose(self, event: QMouseEvent) -> None:
        if self.state is not None:
            self.chosen.emit(self.plane_at(event.pos().x()))

    def event(self, event: QEvent) -> bool:
        """Show the state of the plane under the mouse, and what the colours mean."""
        if event.type() == QEvent.Type.ToolTip and self.state is not None:
            help_event: QHelpEvent = event
            QToolTip.showText(help_event.globalPos(), self.tip(help_event.pos().x()), self)
            return True
        return bool(super().event(event))

    def tip(self, x: int) -> str:
        """Return the tooltip at a pixel."""
        assert self.state is not None
        legend = " ".join(
            f'<span style="color:{colour}">■</span>&nbsp;{name}'
            for colour, name in (
                (WAITING, "waiting"),
                (ENCODED, "encoded"),
                (ANNOTATED, "annotated"),
                (ASKED, "click&nbsp;waits"),
            )
        )
        return f"<p>{self.state.tell(self.plane_at(x))}. Click to go there.</p><p>{legend}</p>"
