"""What the mouse is for on napari's canvas: it adds clicks, draws a box or a line, or chooses an object.

Enters: the viewer, an image to click on, and the tool a person asks for. Leaves: the layers of clicks and shapes in the viewer,
and word of what was clicked on it. Knows nothing of a session.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from napari.utils.notifications import show_warning
from qtpy.QtCore import QTimer

from napari_interformer.clicks import ClickLayer, put_away
from napari_interformer.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import napari.viewer
    from napari.layers import Labels, Shapes

    from napari_interformer.layers import Source
    from napari_interformer.prompts import Click, Given


class Pick(NamedTuple):
    """Of which layer the next click chooses an object, who is told which, what for, and the key that begins it."""

    labels: Labels
    chosen: Callable[[int], None]
    what: str
    key: str


class Canvas:
    """A viewer's layer of clicks, and what happens when it is clicked on.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Gets the layer.
    later : callable
        Has something called after the event at hand.

    Attributes
    ----------
    screen : Screen
        What of the image is on it.
    clicks : ClickLayer or None
        There once an image can be clicked on.
    edited, expected, moved, changed, shapes_shown : callable
        Told that somebody edited the clicks, that a click is about to come, that the mouse moved, that the mouse is for
        something else now, and of the layer of shapes when there is one.
    """

    def __init__(self, viewer: napari.viewer.Viewer, later: Callable[[Callable[[], None]], None]) -> None:
        self.screen = Screen(viewer)
        self.clicks: ClickLayer | None = None
        self.edited: Callable[[], None] = lambda: None
        self.expected: Callable[[Click], None] = lambda _: None
        self.moved: Callable[[], None] = lambda: None
        self.changed: Callable[[], None] = lambda: None
        self.shapes_shown: Callable[[Shapes], None] = lambda _: None
        self._viewer, self._later = viewer, later
        self._positive = True
        self._known_gone = False
        self._pick: Pick | None = None  # None if the next click chooses no object

    # --------------------------------------------------------------------------------- the click layer

    @property
    def there(self) -> bool:
        """Whether there is a click layer, and the viewer has it."""
        return self.clicks is not None and self.clicks.layer in self._viewer.layers

    @property
    def positive(self) -> bool:
        """Whether the next click is positive."""
        return self._positive

    @positive.setter
    def positive(self, value: bool) -> None:
        self._positive = value
        if self.clicks is not None:
            self.clicks.positive = value

    def add_clicks(self, source: Source) -> ClickLayer:
        """Give the viewer a new layer of clicks."""
        for layer in put_away(self._viewer.layers):
            self._viewer.layers.remove(layer)
        clicks = self.clicks = ClickLayer(source)
        self._known_gone = False
        clicks.positive = self._positive
        clicks.connect(self.edited)
        clicks.expected, clicks.moved = self.expected, self.moved
        shapes = clicks.shapes
        shapes.shown, shapes.drawn = self._show_shapes, partial(self._later, self.activate)
        shapes.pixel, shapes.later = lambda: self.screen.pixel, self._later
        self._viewer.add_layer(clicks.layer)
        return clicks

    def _show_shapes(self, layer: Shapes) -> None:
        """Give the viewer the layer of shapes; another one stays active."""
        active = self._viewer.layers.selection.active
        self._viewer.add_layer(layer)
        self._viewer.layers.selection.active = active
        self.shapes_shown(layer)

    def renew_clicks(self) -> ClickLayer:
        """Give the viewer a layer of clicks in place of the one that was removed."""
        assert self.clicks is not None
        self.clicks.disconnect()
        self._remove_shapes(self.clicks)
        return self.add_clicks(self.clicks.source)

    def put_clicks_away(self) -> None:
        """Have no click layer any more; napari needs an empty one in the viewer (see `ClickLayer.put_away`)."""
        clicks, there = self.clicks, self.there
        self.clicks = None
        if clicks is not None:
            if there:
                clicks.put_away()
            else:
                clicks.disconnect()  # napari 0.6 sets no mode of a layer that was removed
            self._remove_shapes(clicks)

    def leave_clicks(self, labels: Labels, label: int, given: Iterable[Given]) -> None:
        """Have no click layer any more, but leave what it shows in the viewer (see `ClickLayer.leave`)."""
        clicks, self.clicks = self.clicks, None
        if clicks is not None:
            clicks.leave(labels, label, given)
            self._remove_shapes(clicks)

    def _remove_shapes(self, clicks: ClickLayer) -> None:
        layer = clicks.shapes.drop()
        if layer in self._viewer.layers:
            self._viewer.layers.remove(layer)

    def look_for_shapes(self) -> None:
        """If somebody removed the layer of shapes, there are none any more."""
        shapes = None if self.clicks is None else self.clicks.shapes
        if shapes is not None and shapes.layer is not None and shapes.layer not in self._viewer.layers:
            shapes.drop()
            shapes.write(())
            self.edited()

    def newly_gone(self) -> bool:
        """Whether somebody removed the click layer since this was asked last."""
        if self.there or self._known_gone:
            return False
        self._known_gone = True
        self.stop_picking()
        return True

    # ------------------------------------------------------------------------------------------- tools

    def activate(self) -> None:
        """Make the click layer the one that the mouse and the keys go to, ready to add points."""
        if self.clicks is not None and self.there:
            self.clicks.layer.visible = True  # or napari would pan
            self._viewer.layers.selection.active = self.clicks.layer
            self._take_clicks()

    def _take_clicks(self) -> None:
        """Let a click on the canvas add a point, where it can be seen on which pixel."""
        if self.clicks is not None:
            self.clicks.layer.mode = "add" if self.screen.flat else "pan_zoom"

    def dimensions_shown(self, _: Any = None) -> None:
        """Take no clicks in 3-D, where a point would lie on the slider's plane and not on what is seen; then have them again.

        In 3-D, napari itself takes the mouse from 2-D points, and does not give it back.
        """

        def follow() -> None:  # once napari is done with its own
            if self.clicks is not None and not self.picking:
                drawn_on = self.clicks.shapes.layer
                if (
                    drawn_on is not None
                    and drawn_on is self._viewer.layers.selection.active
                    and not self.screen.flat
                ):
                    self.activate()  # napari took the tool away
                self._take_clicks()
                self.changed()

        QTimer.singleShot(0, follow)

    def draw_box(self) -> None:
        """Let the next drag draw a box around the object, with napari's own tool; have clicks again if it was about to.

        Raises
        ------
        ValueError
            If no plane of Y and X is shown.
        """
        self._draw("add_rectangle", "Boxes")

    def draw_line(self) -> None:
        """Let the next drag draw a line through what belongs to the object, or does not, as the next click would say.

        Raises
        ------
        ValueError
            As for `draw_box`.
        """
        self._draw("add_path", "Lines")

    def _draw(self, mode: str, name: str) -> None:
        assert self.clicks is not None
        shapes, selection = self.clicks.shapes, self._viewer.layers.selection
        if shapes.layer is not None and selection.active is shapes.layer and str(shapes.layer.mode) == mode:
            self.activate()
            return
        if not self.screen.upright(self.clicks.source):
            remedy = "roll its axes back" if self.screen.flat else "switch napari to the 2-D view of it"
            raise ValueError(
                f"{name} are drawn on a plane of Y and X; napari shows something else: {remedy}."
            )
        shapes.stop()
        layer = shapes.make()
        layer.visible = True  # or napari would pan
        selection.active = layer
        layer.mode = mode
        shapes.ink()

    @property
    def picking(self) -> str:
        """What the next click chooses an object for, as `pick` was told; empty if it makes a click."""
        return "" if self._pick is None else self._pick.what

    def pick(self, labels: Labels, chosen: Callable[[int], None], what: str, key: str) -> None:
        """Let the next click choose an object of a Labels layer, and call `chosen`; a second time, think better of it.

        Parameters
        ----------
        labels : Labels
            Whose objects they are.
        chosen : callable
            Told the label.
        what : str
            A word for what it is done for, such as "Edit".
        key : str
            Which begins it.

        Raises
        ------
        ValueError
            If nothing can be clicked on.
        """
        if self.clicks is None or not self.there:
            raise ValueError(
                f"{what} takes a click on the click layer, which was removed: press Encode to bring it back."
            )
        before = self.picking
        self.give_up_picking()
        if before == what:
            return
        if not labels.visible:
            raise ValueError(
                f"{what} takes an object that is seen; {labels.name} is hidden: show it (the eye in the list of layers), "
                f"then press {key}."
            )
        self.activate()
        self.clicks.layer.mode = "pan_zoom"
        self.clicks.layer.mouse_drag_callbacks.append(self._picked)
        self._pick = Pick(labels, chosen, what, key)
        self.changed()

    def _picked(self, _: Any, event: Any) -> None:
        assert self._pick is not None
        labels, chosen, what, key = self._pick
        self.stop_picking()
        self.changed()
        value = labels.get_value(
            event.position,
            view_direction=event.view_direction,
            dims_displayed=event.dims_displayed,
            world=True,
        )
        value = value[1] if isinstance(value, tuple) else value  # multiscale: the level comes first
        if value:
            chosen(int(value))
        else:
            show_warning(
                f"{what} takes an object of the Labels layer; there is none here: press {key} and click on one."
            )

    def layer_chosen(self, event: Any) -> None:
        """Give up what the mouse was about to do, since it goes to another layer: choose an object, or end a drawing."""
        if self.clicks is not None and event.value is not self.clicks.shapes.layer:
            self.clicks.shapes.stop()
        if self.clicks is not None and event.value is not self.clicks.layer:
            self.give_up_picking()

    def give_up_picking(self) -> None:
        """Have clicks again, if the next one was to choose an object."""
        if self.picking:
            self.stop_picking()
            self.changed()

    def stop_picking(self) -> None:
        """Have clicks again, if the next one was to choose an object; `changed` is not called."""
        if self.picking and self.clicks is not None:
            self.clicks.layer.mouse_drag_callbacks.remove(self._picked)
            self._take_clicks()
        self._pick = None
