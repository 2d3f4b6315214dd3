"""Where objects are annotated: a session, and the layers of the viewer that belong to it.

Enters: features and a model to begin a session with, and what a person does to its image and its Labels layer. Leaves: clicks
and strokes for the `Annotator`, which does them in order; layers that are made, followed, and let go of. Knows nothing of the
panel.
"""

from __future__ import annotations

import math
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from napari.utils.notifications import show_info, show_warning
from qtpy.QtCore import QTimer

from napari_interformer.annotator import Annotator, sentence
from napari_interformer.label_files import beyond
from napari_interformer.labels import (
    LayerLabels,
    Stroke,
    copied,
    lay_over,
    lies_over,
    made_for,
    use_for,
    writable,
)
from napari_interformer.layers import PLACE, finest, place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import napari.viewer
    from napari.layers import Image, Labels
    from numpy.typing import NDArray
    from qtpy.QtCore import QObject

    from napari_interformer.canvas import Canvas
    from napari_interformer.clicks import ClickLayer
    from napari_interformer.features import Features
    from napari_interformer.keys import Keys
    from napari_interformer.layers import Source
    from napari_interformer.model import InterFormer
    from napari_interformer.notes import Notes
    from napari_interformer.prompts import Click
    from napari_interformer.records import Record, Saved
    from napari_interformer.worker import WorkerThread

AT_ONCE = 0.05  # seconds for which the window may wait for an answer
# What sessions knew of the objects in a Labels layer, for the next ones there, of other panels too: the array, and what they
# would have saved, by the image.
_KNOWN: WeakKeyDictionary[Labels, tuple[Any, dict[str, Saved]]] = WeakKeyDictionary()
# Pixels of an image of one plane, at most, whose labels are looked through whenever a script may have written some.
SURVEYED = 2**25
RESTING = 60  # milliseconds without a move after which the mouse may be about to be pressed


class Workspace:
    """One session after another, each with a layer of clicks and a Labels layer. All methods are the main thread's.

    Parameters
    ----------
    parent : QObject
        Whose timer it is.
    viewer : napari.viewer.Viewer
        Has the layers.
    canvas : Canvas
        Of this viewer; what is clicked on it is the session's.
    worker : WorkerThread
        Decodes.
    keys : Keys
        Bound on the layers while there is a session.
    notes : Notes
        Told of the session and its changes.
    begun : callable
        Told that there is a new session.
    changed : callable
        Told that something changed.
    outdated : callable
        Told that the image has other pixels than those that were encoded.

    Attributes
    ----------
    annotator, labels : Annotator, LayerLabels or None
        The session with what waits in line for it, and the layer it writes to; None if there is no session.
    outdated : bool
        Whether the image has other pixels than those that were encoded.
    misplaced : bool
        Whether somebody moved the labels, or the image, so that masks appear away from the clicks.
    """

    def __init__(
        self,
        parent: QObject,
        viewer: napari.viewer.Viewer,
        canvas: Canvas,
        worker: WorkerThread,
        keys: Keys,
        notes: Notes,
        *,
        begun: Callable[[], None],
        changed: Callable[[], None],
        outdated: Callable[[], None],
    ) -> None:
        self.annotator: Annotator | None = None
        self.labels: LayerLabels | None = None
        self.outdated = self.misplaced = self._placing = False
        self._viewer, self._canvas, self._worker = viewer, canvas, worker
        self._keys, self._notes = keys, notes
        self._tell_begun, self._tell_changed, self._tell_outdated = begun, changed, outdated
        self._model: InterFormer | None = None
        self._followed: list[tuple[Any, Callable[[Any], None]]] = []
        # The object that napari's brush was given last, and whether that was there before.
        self._brush, self._brush_edits = 0, False
        self._meanwhile: list[Stroke] | None = None  # made while labels are looked through
        # Labels that cannot be written to, their copy as long as that is in the making, and the image.
        self._copying: tuple[Labels, Labels, Image] | None = None
        self._plane: tuple[int, ...] | None = None  # on screen when the Labels layer was drawn last
        self._rest = QTimer(parent)
        self._rest.setSingleShot(True)
        self._rest.setInterval(RESTING)
        self._rest.timeout.connect(self._rested)
        canvas.edited, canvas.expected, canvas.moved = self._edited, self._expected, self._rest.start
        canvas.changed, canvas.shapes_shown = changed, self._bind

    @property
    def clicks(self) -> ClickLayer | None:
        """The layer of clicks; it stays, empty, when the session ends."""
        return self._canvas.clicks

    @property
    def plane(self) -> tuple[int, ...] | None:
        """The plane on screen; None where it is none of the image's."""
        if self.clicks is None:
            return None
        leading = () if self.annotator is None else self.annotator.session.features.leading
        return self._canvas.screen.plane(self.clicks.source, leading)

    # ----------------------------------------------------------------------------------- begin and end

    def annotate(
        self,
        source: Source,
        model: InterFormer,
        features: Features,
        layer: Labels,
        *,
        overwrite: bool,
        object_size: float | None,
        finished: tuple[Record, ...] = (),
    ) -> Annotator:
        """Start a session that writes to a Labels layer, or to a copy if need be; if it fails, nothing has changed.

        `finished` are objects that the layer may hold: what is known of them is kept if it does.
        """
        # Loads torch, which opening the panel need not wait for.
        from napari_interformer.session import Session

        chosen, there = layer, layer in self._viewer.layers
        layer = layer if writable(layer) else copied(layer)  # empty as yet: see `_look_through`
        labels = LayerLabels(
            layer, source.axis, lambda: self.plane if self._canvas.screen.upright(source) else None
        )
        session = Session(
            features,
            model,
            labels,
            overwrite=overwrite,
            live=True,
            image=features.source,  # as the panel knows it: to look at its pixels again would hold up the window
            object_size=object_size,
            highest=0,  # as far as is known: see `_look_through`
        )
        if there and (self.labels is None or layer is not self.labels.layer) and lay_over(layer, source):
            show_info(f"{layer.name} had no position of its own, so it was aligned with {source.image.name}.")
        if there and not layer.visible:
            layer.visible = True  # napari cannot write to a layer that it has never drawn
            show_info(f"{layer.name} was hidden; it is shown now, because objects are written to it.")
        self.end()
        if known := _known(labels).get(features.image_fingerprint):
            session.go_on_from(known)
        clicks, layers = self.clicks, self._viewer.layers
        if clicks is not None and (not clicks.fits(source) or clicks.layer not in layers):
            self._canvas.put_clicks_away()
            clicks = None
        if layer not in layers:  # below the clicks, if they are there
            layers.insert(len(layers) if clicks is None else layers.index(clicks.layer), layer)
        clicks = clicks or self._canvas.add_clicks(source)
        use_for(layer, source.image)
        self.labels = labels
        self._follow_labels(layer)
        self._follow_image(source)
        self._follow_clicks(clicks)
        self._place()
        annotator = Annotator(session, clicks, self._worker, tell=show_warning, changed=self._changed)
        self.annotator, self._model, self._brush, self._brush_edits = annotator, model, 0, False
        self._notes.open(annotator)
        self._bind()
        self._plane = self.plane
        self._tell_begun()
        if there:
            self._look_through(annotator, labels, chosen, finished)
        self._notes.look()
        self._take_over(annotator, clicks, labels)
        return annotator

    def _follow(self, emitter: Any, told: Callable[[Any], None]) -> None:
        """Call `told` when something happens to a layer of the session, as long as there is the session."""
        emitter.connect(told)
        self._followed.append((emitter, told))

    def _follow_place(self, layer: Any, told: Callable[[Any], None]) -> None:
        for name in PLACE:
            self._follow(getattr(layer.events, name), told)

    def _follow_labels(self, layer: Labels) -> None:
        self._follow(layer.events.paint, self._painted)
        self._follow(layer.events.set_data, self._drawn)
        self._follow(layer.events.data, self._replaced)
        self._follow(layer.events.visible, lambda _: self._tell_changed())
        self._follow_place(layer, self._moved)

    def _follow_image(self, source: Source) -> None:
        self._follow_place(source.image, self._place)
        for layer in source.layers:
            self._follow(layer.events.data, self.pixels_replaced)

    def _follow_clicks(self, clicks: ClickLayer) -> None:
        self._follow_place(clicks.layer, self._moved)
        self._follow(clicks.layer.events.mode, self._mode_chosen)

    def _mode_chosen(self, _: Any) -> None:
        self._canvas.mode_chosen()
        self._tell_changed()

    def _bind(self, _: Any = None) -> None:
        """Bind the keys on our own layers; of what napari has bound there, only undo and redo are replaced."""
        assert self.clicks is not None and self.labels is not None
        self._keys.release()
        self._keys.bind(self.clicks.layer)
        self._keys.bind(self.labels.layer)
        if self.clicks.shapes.layer is not None:
            self._keys.bind(self.clicks.shapes.layer)

    def _changed(self) -> None:
        if self.annotator is not None and self.labels is not None and not self.annotator.session.prompts:
            self.labels.one_step()
        self._worker.later(self._give_brush)  # once the mask is seen: napari draws its controls anew for it
        self._notes.changed()
        self._tell_changed()

    def _give_brush(self) -> None:
        """Set napari's brush to the current object, once for each object; after that, a person can choose another label."""
        annotator, labels = self.annotator, self.labels
        if annotator is None or labels is None:
            return
        session, layer = annotator.session, labels.layer
        # From an object that was just finished, or is as it was before, it goes on to the next one, or it would paint that
        # over others.
        finished = bool(session.records) and self._brush == session.records[-1].label
        left = self._brush == layer.selected_label and (finished or self._brush_edits)
        there_is_room = session.label <= np.iinfo(labels.dtype).max
        if (session.prompts or left) and session.label != self._brush and there_is_room:
            self._brush = layer.selected_label = session.label
            self._brush_edits = session.edited

    def _look_through(
        self, annotator: Annotator, labels: LayerLabels, chosen: Labels, finished: tuple[Record, ...]
    ) -> None:
        """See which labels there are, in the decoding thread: a large stack takes long, and clicks need a free number.

        Labels that cannot be written to are copied at the same time. Of objects that were finished, those that are not there
        are forgotten.
        """
        layer = labels.layer
        meanwhile = self._meanwhile = []
        if layer is not chosen and self.clicks is not None:
            self._copying = chosen, layer, self.clicks.source.image

        def work() -> tuple[tuple[int, int], NDArray[Any] | None, set[int]]:
            if layer is not chosen:
                labels.copy(chosen)
            ends = labels.survey()
            return ends, labels.wider(ends[1]), labels.those_of({record.label for record in finished})

        def failed(error: Exception) -> None:
            self.end()  # or an object could get the number of another
            raise error

        def then(found: tuple[tuple[int, int], NDArray[Any] | None, set[int]]) -> None:
            (lowest, highest), wider, there = found
            annotator.session.records.extend(record for record in finished if record.label in there)
            if wider is not None:
                labels.take(wider)
                for stroke in meanwhile:
                    stroke.make()
            self._meanwhile = self._copying = None
            annotator.found(highest)
            if wider is None and (room := labels.room(highest)) is not None:
                show_warning(
                    f"{layer.name} is of type {labels.dtype} and has room for {room} more object{'s' * (room != 1)}: for more, "
                    "choose another layer under Labels."
                )
            if told := beyond(lowest, highest):
                show_warning(f"{layer.name}: {told} You can go on, but not save them like this.")
            if layer is not chosen:
                layer.refresh()
                chosen.visible = False
                show_info(
                    f"{chosen.name} cannot be written to: its objects were copied to {layer.name}, where new ones go, too; "
                    "save them with Save labels…."
                )

        annotator.act(then, work, failed)

    def _take_over(self, annotator: Annotator, clicks: ClickLayer, labels: LayerLabels) -> None:
        """Continue the object that was not committed when the panel was closed."""
        found = clicks.take_over(self._viewer.layers, labels.layer)
        if found is None:
            return
        layer, left = found
        self._viewer.layers.remove(layer)
        clicks.layer.name = layer.name

        def failed(error: Exception) -> None:
            if not isinstance(error, ValueError):
                raise error
            raise ValueError(
                f"Object {left.label} was left unfinished when the panel was closed, and {labels.layer.name} has no pixel of "
                "it any more: clicks that are left of it begin a new object; to drop them, press Clear [Shift+C]."
            ) from error

        if left.label:
            annotator.edit(left.label, new=left.new, failed=failed)
        clicks.write(left.given)
        annotator.edited()

    def go_on(self) -> None:
        """Accept clicks: the pixels are those that were encoded, and the click layer is there, in place and active."""
        if self.annotator is not None and self.clicks is not None and not self._canvas.there:
            gone = self.clicks.layer
            for pair in [pair for pair in self._followed if pair[0].source is gone]:
                pair[0].disconnect(pair[1])
                self._followed.remove(pair)
            clicks = self._canvas.renew_clicks()
            self.annotator.show_on(clicks)
            self._follow_clicks(clicks)
            self._bind()
        self.outdated = False
        self._place()
        self._canvas.activate()

    def use(self, model: InterFormer) -> None:
        """Let a model answer from the next click on."""
        self._model = model
        annotator = self.annotator
        if annotator is not None and annotator.session.model is not model:
            annotator.act(lambda _: annotator.session.change_model(model))

    def end(self, *, lost: bool = False) -> None:
        """Stop writing to the labels, which stay as they are; the click layer stays too, empty and without keys.

        `lost` says that this is because the image or the labels were removed.
        """
        self._let_go(lost=lost)
        if self.clicks is not None:
            self.clicks.write(())
        self._tell_changed()

    def leave(self) -> None:
        """Release the keys; the Labels layer stays, and so do clicks that are not committed."""
        annotator, labels, clicks = self.annotator, self.labels, self.clicks
        self._let_go()
        if annotator and labels and clicks and clicks.read() and clicks.layer in self._viewer.layers:
            session = annotator.session
            label = 0 if session.empty or session.covered else session.label
            # It continues from its mask, which includes boxes that have been answered.
            given = [prompt for prompt in clicks.read() if not label or prompt not in session.boxes]
            self._canvas.leave_clicks(labels.layer, label, given, new=not session.edited)
        else:
            self._canvas.put_clicks_away()

    def gone(self) -> None:
        """Note that the window is gone, although the panel was not closed: save what was to be saved."""
        if self.annotator is not None:
            self.annotator.gone()

    def _let_go(self, *, lost: bool = False) -> None:
        """Drop the session, and remove what it put on its layers."""
        self._canvas.give_up_picking()
        self._keys.release()
        self._rest.stop()
        if lost or self.labels is None:
            self._notes.close()
        else:
            self._notes.close(
                partial(_is_in, weakref.ref(self._viewer.layers), weakref.ref(self.labels.layer))
            )
        if self.annotator is not None and self.labels is not None:
            self.annotator.close()
            saved = self.annotator.session.saved
            known = {**_known(self.labels), saved.image: saved}
            _KNOWN[self.labels.layer] = weakref.ref(self.labels.array), known
        for emitter, told in self._followed:
            emitter.disconnect(told)
        self._followed.clear()
        self.labels = self.annotator = self._meanwhile = None
        if self._copying is not None:  # an empty copy would be taken for the labels
            (chosen, copy, image), self._copying = self._copying, None
            if copy in self._viewer.layers:
                self._viewer.layers.remove(copy)
            use_for(chosen, image)

    # ----------------------------------------------------------------------------------------- clicks

    def _expected(self, click: Click) -> None:
        self._rest.stop()
        if self.annotator is not None:
            self.annotator.expect(click)

    def _rested(self) -> None:
        """Compute the answer to the click that the mouse may be about to make, so that nobody has to wait for it."""
        if self.annotator is None or self.clicks is None:
            return
        if self.annotator.busy:
            self._rest.start()
        else:
            self.annotator.expect(self.clicks.possible)

    def _edited(self) -> None:
        if self.annotator is not None:
            self.annotator.edited()
            self._notes.changed()  # its answer may be long in coming
            self._worker.tell(self._await_answer)

    def _await_answer(self) -> None:
        """Wait for an answer that comes at once, rather than draw the click without it and then draw again.

        Drawing and Python's lock would hold up the decoding thread: it took three times as long.
        """
        self._worker.wait(lambda: self.annotator is None or not self.annotator.busy, AT_ONCE)

    # -------------------------------------------------------------------------------- the Labels layer

    def _painted(self, event: Any) -> None:
        annotator, labels = self.annotator, self.labels
        if labels is None or annotator is None or labels.writing:
            return
        stroke = Stroke(labels, event.value)
        if self._meanwhile is not None:
            self._meanwhile.append(stroke)
        annotator.painted(stroke.highest, stroke)
        if planes := stroke.planes:
            # Later: where a script paints and no mouse, napari tells before the pixels are there.
            self._worker.later(lambda: self._survey(planes) if self.labels is labels else None)

    def _drawn(self, _: Any) -> None:
        """See what napari's own undo did, of which there is no event: the layer is drawn anew on the same plane."""
        labels, before = self.labels, self._plane
        if labels is None or labels.layer.multiscale or labels.writing:
            return
        if finest(labels.layer) is not labels.array:  # given another array, of which napari tells next
            return
        self._plane = plane = self.plane
        if plane is None or plane != before:
            return
        if plane or math.prod(labels.shape[-2:]) <= SURVEYED:
            self._survey([plane])

    def undo_past(self) -> None:
        """Let napari take back on the Labels layer what it wrote before the current object."""
        if self.labels is not None:
            self._note(self.labels.undo())

    def redo_past(self) -> None:
        """Let napari make again what `undo_past` took back."""
        if self.labels is not None:
            self._note(self.labels.redo())

    def _note(self, stroke: Stroke) -> None:
        """Note that napari changed these pixels, as if somebody had painted them: the clicks alone would bring back others."""
        if self.annotator is not None:
            self.annotator.session.by_hand.add_stroke(stroke)
        if planes := stroke.planes:
            self._survey(planes)

    def _survey(self, planes: Iterable[tuple[int, ...]]) -> None:
        """Find out which planes hold labels, in the decoding thread, once everything before is done."""
        annotator, labels = self.annotator, self.labels
        if annotator is not None and labels is not None:

            def then(highest: int) -> None:
                session = annotator.session
                if not (session.unfinished and highest == session.label):
                    annotator.found(highest)  # written past napari, by a script or another plugin

            annotator.act(then, lambda: labels.survey(planes)[1])

    def _replaced(self, _: Any) -> None:
        """Continue with the new array that the Labels layer was given."""
        annotator, clicks, labels = self.annotator, self.clicks, self.labels
        if annotator is None or clicks is None or labels is None or finest(labels.layer) is labels.array:
            return
        assert self._model is not None
        shown = clicks.read()
        before = annotator.session
        try:
            annotator = self.annotate(
                clicks.source,
                self._model,
                before.features,
                labels.layer,
                overwrite=before.overwrite,
                object_size=before.object_size,
                finished=tuple(before.records),
            )
        except ValueError as error:
            self.end()
            show_warning(sentence(error))
            return
        session = annotator.session
        session.by_hand.include(before.by_hand.read(before.labels))

        def go_on(_: None) -> None:
            if before.label <= annotator.highest:
                show_warning(
                    f"The data of {labels.layer.name} changed and may already hold object {before.label}: it is left as it is "
                    "there, and its clicks are gone; to continue it, press Edit object and click on it."
                )
                return
            session.number_from(before.label)  # there is nothing of it: it is painted again
            if before.masks:
                annotator.act(session.adopt, lambda: session.compute((*before.masks, *session.given)))
            clicks.write((*shown, *clicks.read()))
            annotator.edited()

        if shown or before.masks:
            annotator.act(go_on)  # once it is known which labels there are

    # -------------------------------------------------------------------------------- the other layers

    def _place(self, _: Any = None) -> None:
        """Align what was made for the image with it: its pixel size or its position was changed."""
        clicks, labels = self.clicks, self.labels
        if clicks is None or labels is None or self.outdated:
            return
        self._placing = True
        try:
            place(clicks.layer, clicks.source)
            if clicks.shapes.layer is not None:
                place(clicks.shapes.layer, clicks.source)
            if made_for(labels.layer, clicks.source.image):
                place(labels.layer, clicks.source)
        finally:
            self._placing = False
        self._see_if_over(clicks, labels)

    def _moved(self, _: Any) -> None:
        """Put a layer that was made for the image back over it, or see that somebody's labels no longer lie there."""
        if not self._placing:
            self._place()

    def _see_if_over(self, clicks: ClickLayer, labels: LayerLabels) -> None:
        before, source, layer = self.misplaced, clicks.source, labels.layer
        # An image that is just given data with more or fewer axes tells of its place first.
        comparable = layer.ndim == source.ndim
        self.misplaced = comparable and not made_for(layer, source.image) and not lies_over(layer, source)
        if self.misplaced is not before:
            self._tell_changed()

    def pixels_replaced(self, event: Any = None) -> None:
        """Note that the image was given other pixels: what is encoded, and the current object, belong to the old ones."""
        clicks = self.clicks
        if clicks is None or self.outdated:
            return  # told once
        self.outdated = True
        self._tell_outdated()
        layer = clicks.source.image if event is None else event.source
        show_warning(
            f"The pixels of {layer.name} changed; clicks are still answered from what was encoded before: "
            "commit the current object, then press Encode."
        )

    def look_for_layers(self) -> bool:
        """See which layers that the session needs are gone; return whether the image is, and everything with it."""
        layers = self._viewer.layers
        if self.clicks is None:
            return False
        self._canvas.look_for_shapes()
        gone = [layer for layer in self.clicks.source.layers if layer not in layers]
        if gone:
            annotator, labels = self.annotator, self.labels
            if annotator and labels and annotator.session.prompts and labels.layer in layers:
                show_info(
                    f"{gone[0].name} was removed; object {annotator.session.label} stays as it is in {labels.layer.name}: to "
                    "continue it, encode again, press Edit object and click on it."
                )
            self.end(lost=True)
            self._canvas.put_clicks_away()
            self.outdated = False
            return True
        if self.labels is not None and self.labels.layer not in layers:
            # The click layer is kept: napari 0.9 crashes at the next new layer if both go in this order.
            self.end(lost=True)
            show_info("The Labels layer was removed; Encode starts a new one.")
        elif self.annotator is not None and self._canvas.newly_gone():
            self._tell_changed()
            show_info("The click layer was removed; Encode brings it back.")
        return False


def _known(labels: LayerLabels) -> dict[str, Saved]:
    """Return what earlier sessions knew of the objects in these labels, by the image."""
    array, known = _KNOWN.get(labels.layer, (None, {}))
    return known if array is not None and array() is labels.array else {}


def _is_in(layers: weakref.ref[Any], layer: weakref.ref[Any]) -> bool:
    """Whether a layer is still one of a viewer's."""
    among, one = layers(), layer()
    return among is not None and one is not None and one in among
