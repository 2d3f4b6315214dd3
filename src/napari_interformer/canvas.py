"""What the mouse is for on napari's canvas: it adds clicks, draws a box or a line, or chooses an object.

Enters: the viewer, an image to click on, and the tool that a person asks for. Leaves: the layers of clicks and shapes in the
viewer, and calls that say what was clicked. Knows nothing of a session.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from napari.utils.notifications import show_warning
from qtpy.QtCore import QTimer

from napari_interformer.clicks import ClickLayer, put_away, stays
from napari_interformer.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    import napari.viewer
    from napari.layers import Labels, Shapes

    from napari_interformer.layers import Source
    from napari_interformer.prompts import Click, Given


class Pick(NamedTuple):
    """Which layer the next click chooses an object of, what is called with it, what for, and the key that begins it."""

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
        Calls something after the current event.

    Attributes
    ----------
    screen : Screen
        Which part of the image is on it.
    clicks : ClickLayer or None
        None until an image can be clicked on.
    edited, expected, moved, changed, shapes_shown : callable
        Called when the clicks were edited, when a click is about to come, when the mouse moved, when the mouse gets
        another purpose, and with the layer of shapes once there is one.
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
        clicks.show_at(self.screen.pixel)
        self._viewer.add_layer(clicks.layer)
        return clicks

    def zoomed(self, _: Any = None) -> None:
        """Note that the image is seen larger or smaller."""
        if self.clicks is not None and self.there:
            self.clicks.show_at(self.screen.pixel)

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
        """Give up the click layer; napari needs an empty one in the viewer (see `ClickLayer.put_away`)."""
        clicks, there = self.clicks, self.there
        self.clicks = None
        if clicks is not None:
            if there:
                clicks.put_away()
            else:
                clicks.disconnect()  # napari 0.6 sets no mode of a layer that was removed
            self._remove_shapes(clicks)

    def leave_clicks(self, labels: Labels, label: int, given: Iterable[Given], *, new: bool) -> None:
        """Give up the click layer, but leave what it shows in the viewer (see `ClickLayer.leave`)."""
        clicks, self.clicks = self.clicks, None
        if clicks is not None:
            clicks.leave(labels, label, given, new=new)
            self._remove_shapes(clicks)

    def _remove_shapes(self, clicks: ClickLayer) -> None:
        layer = clicks.shapes.drop()
        if layer in self._viewer.layers:
            self._viewer.layers.remove(layer)

    def look_for_shapes(self) -> None:
        """Forget the shapes if their layer was removed."""
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
        self.give_up_picking()
        return True

    # ------------------------------------------------------------------------------------------- tools

    def activate(self) -> None:
        """Make the click layer active, ready to add points."""
        if self.clicks is not None and self.there:
            self.clicks.layer.visible = True  # or napari would pan
            self._viewer.layers.selection.active = self.clicks.layer
            self._take_clicks()

    def _take_clicks(self) -> None:
        """Let a click on the canvas add a point, in a view where it is clear which pixel is meant."""
        if self.clicks is not None:
            self.clicks.layer.mode = "add" if self.screen.flat else "pan_zoom"

    def mode_chosen(self) -> None:
        """Take no clicks in 3-D after all, whichever key was pressed."""
        if self.clicks is not None and self.clicks.layer.mode == "add" and not self.screen.flat:
            self._take_clicks()

    def dimensions_shown(self, _: Any = None) -> None:
        """Take no clicks in 3-D, where a point would lie on the slider's plane and not on what is seen; take them again in 2-D.

        In 3-D, napari itself stops adding 2-D points, and does not start again.
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
        """Let the next drag draw a box around the object, with napari's own tool; called again, return to clicks.

        Raises
        ------
        ValueError
            If no plane of Y and X is shown.
        """
        self._draw("add_rectangle", "Boxes")

    def draw_line(self) -> None:
        """Let the next drag draw a line, with the meaning of the next click: what belongs to the object, or does not.

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
            remedy = "roll its axes back" if self.screen.flat else "switch it to the 2-D view"
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
        """What the next click chooses an object for, as given to `pick`; empty if it makes a click."""
        return "" if self._pick is None else self._pick.what

    def pick(self, labels: Labels, chosen: Callable[[int], None], what: str, key: str) -> None:
        """Let the next click choose an object of a Labels layer, and call `chosen`; called again, choose none.

        Parameters
        ----------
        labels : Labels
            Which holds the objects.
        chosen : callable
            Called with the label.
        what : str
            A word for the purpose, such as "Edit".
        key : str
            The key that begins it.

        Raises
        ------
        ValueError
            If nothing can be clicked on.
        """
        if self.clicks is None or not self.there:
            raise ValueError(
                f"{what} needs the click layer, which was removed: press Encode to bring it back."
            )
        before = self.picking
        self.give_up_picking()
        if before == what:
            return
        if not labels.visible:
            raise ValueError(
                f"{what} needs an object that you can see; {labels.name} is hidden: show it (the eye in the list of layers), "
                f"then press {key}."
            )
        self.activate()
        self.clicks.layer.mode = "pan_zoom"
        self.clicks.layer.mouse_drag_callbacks.append(self._picked)
        self.clicks.layer.events.mode.connect(self.give_up_picking)  # once another tool is chosen
        self._pick = Pick(labels, chosen, what, key)
        self.changed()

    def _picked(self, _: Any, event: Any) -> Generator[None, None, None]:
        """Choose what is clicked on; a drag moves the camera, and the next click still chooses."""
        asked = self._pick
        if not (yield from stays(event)) or asked is None or self._pick is not asked:
            return
        labels, chosen, what, key = asked
        self.give_up_picking()
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
                f"{what} needs an object of the Labels layer; there is none here: press {key} and click on one."
            )

    def layer_chosen(self, event: Any) -> None:
        """Give up choosing an object, or a drawing, when another layer becomes active."""
        if self.clicks is not None and event.value is not self.clicks.shapes.layer:
            self.clicks.shapes.stop()
        if self.clicks is not None and event.value is not self.clicks.layer:
            self.clicks.end_drag()
            self.give_up_picking()

    def give_up_picking(self, _: Any = None) -> None:
        """Return to clicks, or to the tool that was chosen instead, if the next click was to choose an object."""
        if self._pick is None or self.clicks is None:
            return
        self._pick = None
        layer = self.clicks.layer
        layer.mouse_drag_callbacks.remove(self._picked)
        layer.events.mode.disconnect(self.give_up_picking)
        if layer.mode == "pan_zoom":  # as `pick` left it
            self._take_clicks()
        self.changed()
