"""A Points layer as the clicks of the current object, and what is drawn of it beside them. No Qt.

Enters: points that a person adds, moves, flips or deletes, with napari's own tools. Leaves: clicks in data pixels, in the order
in which they were made, with scribbles among them, behind the boxes. A layer that is no longer clicked on is put away, or left
for the next session.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from napari.layers import Points
from napari.layers.base import ActionType

from napari_interformer.annotator import merge
from napari_interformer.drawings import ShapeLayer, red
from napari_interformer.layers import GREEN, RED, lengths
from napari_interformer.prompts import BoxPrompt, Click, Mark, Scribble, in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from napari.layers import Labels
    from numpy.typing import NDArray

    from napari_interformer.layers import Source
    from napari_interformer.prompts import Given

CLICKS = "InterFormer clicks"
_POSITIVE = "positive"  # the feature column that says what a point means
_LEFT = "napari-interformer object"  # in the metadata of a click layer that was left: a `Left`
_PUT_AWAY = "napari-interformer put away"  # in the metadata of a click layer that nobody uses
_NO_DRAG = 5  # pixels of the screen that the mouse may move in a click, as in napari
_ON_SCREEN = (9, 14)  # pixels; zoomed in or out, points stay visible and never hide small objects
_ABOUT = 1.2  # by so much their size may be wrong: napari draws all of them anew for another one


def stays(event: Any) -> Generator[None, None, bool]:
    """Wait until the mouse is let go, as one of napari's drag callbacks; return whether it was a click and no drag."""
    start = np.array(event.pos)
    yield
    while event.type == "mouse_move":
        yield
    return bool(np.linalg.norm(np.array(event.pos) - start) < _NO_DRAG)


class Left(NamedTuple):
    """An object that was left unfinished: the ids of its image and Labels layer, its label, its prompts, and if it was new."""

    image: Any
    labels: Any
    label: int
    given: tuple[Given, ...]
    new: bool


class ClickLayer:
    """A Points layer as an ordered list of clicks, and shapes beside it. The layers are the truth; this reads and writes them.

    Parameters
    ----------
    source : Source
        The image that is clicked on.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        place = source.placement()
        self.layer = Points(
            np.empty((0, len(place["scale"]))),
            features={_POSITIVE: np.empty(0, bool)},
            feature_defaults={_POSITIVE: [True]},
            face_color=_POSITIVE,
            face_color_cycle={True: GREEN, False: RED},
            border_color="white",
            border_width=0.15,
            canvas_size_limits=_ON_SCREEN,
            name=CLICKS,
            **place,
        )
        self.shapes = ShapeLayer(source)
        # What both layers held when they were last read or written, in order.
        self._given: tuple[Given, ...] = ()
        self._writing = False
        self._held: tuple[Click, ...] | None = None  # what there was before the drag that is going on
        self._count = 0  # points that there were when somebody was last told
        self._told: Callable[[], None] = lambda: None
        self.expected: Callable[[Click], None] = lambda _: None  # told of clicks that are about to come
        self.moved: Callable[[], None] = lambda: None  # told that `possible` may be another one
        self._mouse: Sequence[float] = ()  # where it was last, in the world
        self._right = False  # whether the right button was pressed there, for a negative point
        self._positive = True
        self.layer.mouse_drag_callbacks.append(self._pressed)
        self.layer.mouse_move_callbacks.append(self._moved)
        for emitter, told in self._of_layer():
            emitter.connect(told)

    def _of_layer(self) -> list[tuple[Any, Callable[..., None]]]:
        """Return what of the layer is listened to, until `disconnect`."""
        events = self.layer.events
        return [
            (events.data, self._on_data),
            (events.mode, self.end_drag),
            (events.features, self._flipped),
            (events.feature_defaults, self._keep_sign),
            (events.current_face_color, self._recoloured),
            (events.face_color, self._coloured),
            (self.layer.selected_data.events.items_changed, self._selected),
        ]

    def show_at(self, pixel: float) -> None:
        """Make points as large as they are drawn, where a pixel of the screen is so large in the world.

        napari takes hold of a point anywhere within its size, however small it is drawn.
        """
        layer = self.layer
        size = sum(_ON_SCREEN) / 2 * pixel / float(lengths(layer)[list(self.source.upright)].min())
        if not size / _ABOUT < layer.current_size < size * _ABOUT:
            layer.current_size = size
            if len(layer.data):
                layer.size = size

    def fits(self, source: Source) -> bool:
        """Whether the layer lies where clicks on another source would; if so, it belongs to that source from now on."""
        if source.image is not self.source.image or source.axis != self.source.axis:
            return False
        if self.layer.ndim != source.ndim:  # the image got data with more or fewer axes
            return False
        self.source = self.shapes.source = source
        return True

    def connect(self, told: Callable[[], None]) -> None:
        """Call `told` whenever points are added, removed, moved or flipped, or shapes are drawn, moved or deleted."""
        self._told = self.shapes.told = told

    def disconnect(self) -> None:
        """Stop listening to the layer."""
        self._told = lambda: None
        self.layer.mouse_drag_callbacks.remove(self._pressed)
        self.layer.mouse_move_callbacks.remove(self._moved)
        for emitter, told in self._of_layer():
            emitter.disconnect(told)

    def put_away(self) -> None:
        """Stop listening, and leave the layer in the viewer, empty, for `put_away` to find.

        A Points layer must be there, and be visible, when the image is removed from above or below a Labels layer: without
        one, napari 0.9 with vispy 0.17 dies of a segmentation fault at the next drawing.
        """
        self.disconnect()
        self.write(())
        self.layer.mode = "pan_zoom"  # or points would be added to what nobody reads
        self.layer.metadata[_PUT_AWAY] = True

    def leave(self, labels: Labels, label: int, given: Iterable[Given], *, new: bool) -> None:
        """Stop listening, and leave an object's points, and its prompts in order, in the viewer, for `take_over` to find.

        Its label is 0 if it has no pixels in the labels; `new` says that it was not there before it was clicked on.
        """
        self.disconnect()
        self.layer.mode = "pan_zoom"
        self.layer.metadata[_LEFT] = Left(
            self.source.image.unique_id, labels.unique_id, label, tuple(given), new
        )

    def take_over(self, layers: Iterable[Any], labels: Labels) -> tuple[Points, Left] | None:
        """Return a layer of points that was left (see `leave`) on the same image and labels, and the object as it is now."""
        made = self.source.image.unique_id, labels.unique_id
        for one in layers:
            left = one.metadata.get(_LEFT) if isinstance(one, Points) else None
            if isinstance(left, Left) and (left.image, left.labels) == made:
                drawn = (prompt for prompt in left.given if not isinstance(prompt, Click))
                return one, left._replace(given=in_turn(left.given, (*drawn, *self._clicks(one))))
        return None

    def _clicks(self, layer: Points) -> tuple[Click, ...]:
        """Return the clicks that points stand for; points at NaN stand for none."""
        return tuple(
            self.source.click(layer.data_to_world(point), bool(sign))
            for point, sign in zip(layer.data, _signs(layer), strict=True)
            if np.isfinite(point).all()
        )

    def _pressed(self, layer: Points, event: Any) -> Generator[None, None, None]:
        """Tell of the click that napari is about to add; add it to a hidden layer, where napari ignores it, and show that."""
        self._right, right = False, event.button == 2
        if event.button not in (1, 2):
            return
        if layer.mode == "add":
            # napari adds the point when the button, whichever it is, is released where it was pressed.
            self._right, self._mouse = right, event.position
            self.expected(self.possible)
        elif not layer.visible and (yield from stays(event)):  # a drag moves the camera
            layer.visible = True  # with what the mouse was for before it was hidden
            if layer.mode == "add":
                self._right = right
                layer.add(layer.world_to_data(event.position))

    def _moved(self, layer: Points, event: Any) -> None:
        self._right = False
        if layer.mode == "add":
            self._mouse = event.position
            self.moved()

    @property
    def possible(self) -> Click:
        """The click that a point would be where the mouse was last."""
        place = self.layer.data_to_world(self.layer.world_to_data(self._mouse))
        return self.source.click(place, self.positive and not self._right)

    def _on_data(self, event: Any) -> None:
        # Points tell before and after an edit. The indices that come along have been wrong, so the layer is read anew.
        if str(event.action) == "changing":
            self._held = self._read()
        elif str(event.action) in ("added", "removed", "changed"):
            if str(event.action) == "added" and self._right:
                self._make_last_negative()
            self._changed()

    def end_drag(self, _: Any = None) -> None:
        """Take a drag for finished, since another tool was chosen in the midst of it: napari tells no more of it."""
        if self._held is not None:
            self._changed()

    def _make_last_negative(self) -> None:
        self._writing, self._right = True, False
        try:
            self._sign([*self._read()[:-1], replace(self._read()[-1], positive=False)])
            self._keep_sign()
        finally:
            self._writing = False

    def _flipped(self, _: Any) -> None:
        # While points are dragged napari tells of each move here, and of the data not before the button is released.
        if self.layer.events.data.blocked():
            return
        if _POSITIVE not in self.layer.features:  # somebody noted something else of the points
            known = [click.positive for click in self._given if isinstance(click, Click)]
            count = len(self.layer.data)
            self._set_signs(known if len(known) == count else [True] * count)  # comes here again
            self.layer.face_color = _POSITIVE
            self._keep_sign()
            return
        self._changed()

    def _recoloured(self, _: Any) -> None:
        """Take the colour that somebody gave a point for what it means, as of lines; later points have their own again."""
        layer = self.layer
        if str(layer.face_color_mode) != "direct" or _POSITIVE not in layer.features:
            return
        if len(layer.face_color) != len(layer.features):  # a point is being added
            return
        signs = np.array([not red(colour) for colour in layer.face_color], bool)
        layer.face_color_mode = "cycle"
        self._set_signs(signs)  # tells whoever is connected
        self._keep_sign()

    def _coloured(self, _: Any) -> None:
        """Give all points their own colours again, where a script gave the layer one: that means nothing of a single point."""
        if _POSITIVE in self.layer.features:
            self.layer.face_color_mode = "cycle"

    def _selected(self, *_: Any) -> None:
        # Of points that are pasted napari tells nothing but that they are selected.
        if len(self.layer.data) > self._count:
            self._changed()

    def _changed(self) -> None:
        self._held = None
        self._count = len(self.layer.data)
        # While a point is being added its coordinates are there a moment before its features.
        if not self._writing and len(self.layer.data) == len(self.layer.features):
            self._told()

    @property
    def positive(self) -> bool:
        """Whether the next point will be positive."""
        return self._positive

    @positive.setter
    def positive(self, value: bool) -> None:
        self._positive = self.shapes.positive = bool(value)
        self._keep_sign()

    def _keep_sign(self, _: Any = None) -> None:
        # napari would make the next point like those that are selected, and forgets what to make where there are none.
        signs = self.layer.feature_defaults.get(_POSITIVE)  # None if somebody gave the points other features
        if signs is not None and bool(signs[0]) != self._positive:
            self.layer.feature_defaults = self.layer.feature_defaults.assign(**{_POSITIVE: [self._positive]})

    def read(self) -> tuple[Given, ...]:
        """Return what is drawn, and the clicks that the points stand for, in the order in which they were made.

        Points that are being dragged count where they were.
        """
        self._given = in_turn(self._given, (*self.shapes.read(), *self._read()))
        return self._given

    def _read(self) -> tuple[Click, ...]:
        return self._clicks(self.layer) if self._held is None else self._held

    def write(self, given: Iterable[Given]) -> None:
        """Show these prompts; points that stay are not moved, so that fractions of a pixel survive."""
        self._held = None
        self._given = given = tuple(given)
        self.shapes.write(prompt for prompt in given if not isinstance(prompt, Click))
        layer, shown = self.layer, self._read()
        wanted = tuple(prompt for prompt in given if isinstance(prompt, Click))
        kept = len(wanted)
        self._writing = True
        try:
            # Each of these makes napari draw the layer anew, so what undo, redo and commit do not need is left out.
            if wanted == shown[:kept]:
                if layer.selected_data:
                    layer.selected_data = {index for index in layer.selected_data if index < kept}
                self._put(layer.data[:kept])
            elif wanted[: len(shown)] == shown:
                added = wanted[len(shown) :]
                self._put(np.concatenate([layer.data, self._places(added)]))
                if any(click.positive != self.positive for click in added):
                    self._sign(wanted)
            else:
                self._rewrite(shown, wanted)
            self._keep_sign()
        finally:
            self._writing = False
            self._count = len(layer.data)

    def _rewrite(self, shown: Sequence[Click], wanted: Sequence[Click]) -> None:
        layer, there = self.layer, defaultdict[Click, list[int]](list)
        for index, click in enumerate(shown):
            there[click].append(index)
        points, selected = self._places(wanted), set()
        for index, click in enumerate(wanted):
            if there[click]:
                before = there[click].pop(0)
                points[index] = layer.data[before]
                if before in layer.selected_data:
                    selected.add(index)
        layer.selected_data = set()
        self._put(points)
        self._sign(wanted)
        layer.selected_data = selected

    def _put(self, points: NDArray[np.float64]) -> None:
        """Set the points with one event: napari sends two, and its viewer looks at every layer each time."""
        with self.layer.events.data.blocker():
            self.layer.data = points
        self.layer.events.data(
            value=self.layer.data,
            action=ActionType.CHANGED,
            data_indices=tuple(range(len(points))),
            vertex_indices=((),),
        )

    def _places(self, clicks: Sequence[Click]) -> NDArray[np.float64]:
        """Return where the points of these clicks lie, (N, axes of the layer)."""
        places = [self.layer.world_to_data(self.source.world(click.position)) for click in clicks]
        return np.array(places, float).reshape(-1, self.layer.ndim)

    def _sign(self, clicks: Sequence[Click]) -> None:
        self._set_signs([click.positive for click in clicks])

    def _set_signs(self, signs: Sequence[bool] | NDArray[np.bool_]) -> None:
        """Say which points are positive; what else somebody noted of them stays."""
        self.layer.features = self.layer.features.assign(**{_POSITIVE: np.array(signs, bool)})

    def flip_selected(self) -> None:
        """Turn the selected points from positive to negative and back.

        Raises
        ------
        ValueError
            If no point is selected.
        """
        chosen = sorted(self.layer.selected_data)
        if not chosen:
            raise ValueError(
                "Flip needs at least one selected point; got none: press 3 (select points) and click on one."
            )
        signs = _signs(self.layer)
        signs[chosen] ^= True
        self._set_signs(signs)  # tells whoever is connected


def _signs(layer: Points) -> NDArray[np.bool_]:
    """Return which points are positive: all of them if they were given other features."""
    return np.array(layer.features.get(_POSITIVE, np.ones(len(layer.data), bool)), bool)


def in_turn(before: Sequence[Given], now: Sequence[Given]) -> tuple[Given, ...]:
    """Return what there is now, in the order in which it was made; `before` is what there was, in order.

    Each layer knows only its own order. What was moved keeps its place in the order; what is new comes last.
    """
    marks: tuple[Given, ...] = tuple(before)
    for kind in (Scribble, Click):  # as they come in `now`
        old, new = ([one for one in given if isinstance(one, kind)] for given in (marks, now))
        if len(old) == len(new):
            changed = iter(new)
            marks = tuple(next(changed) if isinstance(one, kind) else one for one in marks)
        else:
            marks = merge(marks, old, new)
    boxes = (one for one in now if isinstance(one, BoxPrompt))
    return in_order((*boxes, *(one for one in marks if isinstance(one, Mark))))


def put_away(layers: Iterable[Any]) -> list[Points]:
    """Return the layers that once held clicks and were put away."""
    return [
        one for one in layers if isinstance(one, Points) and one.metadata.get(_PUT_AWAY) and not len(one.data)
    ]
