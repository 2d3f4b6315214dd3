"""The panel `Plugins > InterFormer`: buttons, workers, keys. Decisions are made in `annotator` and `session`.

Two threads work for it: one encodes, one decodes clicks. Both report to the main thread, which alone touches layers.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Image, Labels
from napari.utils import progress
from napari.utils.notifications import show_info, show_warning
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtWidgets import QApplication, QFileDialog, QInputDialog, QScrollArea

from napari_interformer.annotator import Annotator, sentence
from napari_interformer.clicks import ClickLayer, put_away
from napari_interformer.form import DEFAULT_MODEL, Form, Lane, counted
from napari_interformer.image import write_labels
from napari_interformer.journal import Journal
from napari_interformer.journal import offer as find_offer
from napari_interformer.labels import (
    LayerLabels,
    Stroke,
    copied,
    labels_of,
    lay_over,
    made_for,
    new_labels,
    writable,
)
from napari_interformer.layers import PLACE, finest, place
from napari_interformer.prompts import Box, Click, blank, draw_click
from napari_interformer.strip import StackState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import napari.viewer
    from napari.layers import Shapes
    from qtpy.QtCore import QObject
    from qtpy.QtGui import QCloseEvent

    from napari_interformer.encoding import Part, Progress
    from napari_interformer.features import Features
    from napari_interformer.image import Planes
    from napari_interformer.journal import Offer
    from napari_interformer.layers import Source
    from napari_interformer.model import InterFormer
    from napari_interformer.session import Replay
    from napari_interformer.stories import Story
    from napari_interformer.train import Progress as Learnt

AT_ONCE = 0.05  # seconds for which the window may wait for an answer
SOON = 0.02  # seconds after which the encoding thread looks again
NOTED = 1000  # milliseconds after a change within which it is on disk
RESTING = 60  # milliseconds without a move after which the mouse may be about to be pressed
CTRL = "Meta" if sys.platform == "darwin" else "Control"  # napari calls the command key so


class Job:
    """Long work on its way: the window says when to stop and what somebody waits for.

    Parameters
    ----------
    source : Source
        The image.
    only : tuple of tuple of int, optional
        The planes to work on; all if None.
    """

    def __init__(self, source: Source, only: tuple[tuple[int, ...], ...] | None = None) -> None:
        self.source, self.only = source, only
        self.pixels = [finest(layer) for layer in source.layers]
        self.cancelled = threading.Event()
        self.wanted: Part | None = None
        self._bar: Any = None
        self._shown = 0.0

    def show(self, done: int, total: int, what: str) -> None:
        """Show how far it is among napari's activities."""
        if self._bar is None:
            self._bar = progress(total=total, desc=what)
        if done == total or time.monotonic() > self._shown + 0.2:  # drawing costs more than a small tile
            self._shown = time.monotonic()
            self._bar.update(done - self._bar.n)

    def unwanted(self, lane: Lane) -> bool:
        """Whether whoever works at it in this lane should stop."""
        return self.cancelled.is_set() or lane.closed

    def close(self) -> None:
        """Take it from the activities."""
        if self._bar is not None:
            self._bar.close()


class Panel(QScrollArea):
    """Encode an image, click its objects, correct, commit.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Given by napari.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self.form = Form()
        self.setWidget(self.form)
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.features: Features | None = None
        self.clicks: ClickLayer | None = None
        self.labels: LayerLabels | None = None
        self.annotator: Annotator | None = None
        self._models: dict[tuple[str, str], InterFormer] = {}
        # Features of images that are open, the ones used last at the end.
        self._kept: dict[tuple[Any, ...], Features] = {}
        # What a session knew of the objects in a Labels layer, for the next one there: the array, its image, their clicks.
        self._known: WeakKeyDictionary[Labels, tuple[Any, str, list[Story]]] = WeakKeyDictionary()
        self._job: Job | None = None
        self._adapting: Job | None = None
        self._carrying: Job | None = None
        self._bound: list[tuple[Any, str, Any]] = []
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(RESTING)
        self._rest.timeout.connect(self._rested)
        self._journal: Journal | None = None
        self._offer: Offer | None = None
        self._note = QTimer(self)
        self._note.setSingleShot(True)
        self._note.setInterval(NOTED)
        self._note.timeout.connect(self._write_journal)
        self._picking = self._docked = False
        self._followed: list[tuple[Any, Callable[[Any], None]]] = []
        self._clicks_gone = False  # the click layer was removed, and the person told
        self._outdated = False  # the pixels that were encoded are not those of the layer any more
        self._plane: tuple[int, ...] | None = None  # on screen when the Labels layer was drawn last
        # docs/performance.md has the figures behind these two threads, their cores and their priorities.
        self.encoder, self.decoder = Lane("encode", patient=True), Lane("decode")
        self._connect()
        self._fill_layers()
        self._image_chosen()
        self.decoder.run(self._model_names, self.form.fill_models, self._failed)
        self._refresh()

    # ------------------------------------------------------------------------------------- wiring

    def _connect(self) -> None:
        form = self.form
        for button, action in (
            (form.encode, self.encode),
            (form.cancel, self.cancel),
            (form.adapt_model, self.adapt),
            (form.adapt_cancel, self.cancel_adapting),
            (form.sign, self.toggle_sign),
            (form.flip, self.flip),
            (form.box, self.draw_box),
            (form.undo, self.undo),
            (form.redo, self.redo),
            (form.new, self.new_object),
            (form.commit, self.commit),
            (form.clear, self.clear),
            (form.edit, self.pick),
            (form.propagate, self.propagate),
            (form.stop, self.stop),
            (form.save_labels, self.save_labels),
            (form.save_prompts, self.save_prompts),
            (form.load_prompts, self.load_prompts),
            (form.restore, self.restore),
            (form.browse, self.browse_store),
        ):
            button.clicked.connect(partial(self._safely, action))
        form.overwrite.toggled.connect(self._overwrite)
        form.size.valueChanged.connect(self._size)
        form.image.activated.connect(self._image_chosen)
        form.labels.activated.connect(partial(self._safely, self._labels_chosen))
        form.model.activated.connect(self._model_chosen)
        form.planes.chosen.connect(self.go_to)
        for emitter, told in self._of_viewer():
            emitter.connect(told)
        self.destroyed.connect(self.encoder.close)
        self.destroyed.connect(self.decoder.close)
        QApplication.instance().aboutToQuit.connect(self.release)

    def _of_viewer(self) -> list[tuple[Any, Callable[[Any], None]]]:
        """Return what of the viewer is listened to, as long as the panel is there."""
        layers, dims = self.viewer.layers.events, self.viewer.dims.events
        return [
            (layers.inserted, self._inserted),
            (layers.removed, self._removed),
            (layers.reordered, self._fill_layers),
            (self.viewer.layers.selection.events.active, self._layer_chosen),
            (dims.current_step, self._plane_shown),
            (dims.ndisplay, self._dimensions_shown),
            (self._camera.events.center, self._wanted),
            *(pair for layer in self.viewer.layers for pair in self._of_layer(layer)),
        ]

    def _of_layer(self, layer: Any) -> list[tuple[Any, Callable[[Any], None]]]:
        events = layer.events
        data = [(events.data, self._pixels_given)] if isinstance(layer, Image) else []
        return [(events.name, self._fill_layers), *data]

    def _bind(self) -> None:
        """Bind the keys on our own layers, in place of nothing that napari uses there but undo and redo."""
        assert self.clicks is not None and self.labels is not None
        self._unbind()
        shared = {"T": self.toggle_sign, "C": self.commit, "Shift-C": self.clear}
        points = {
            **shared,
            "B": self.draw_box,
            "F": self.flip,
            "M": self.new_object,
            "E": self.pick,
            "Shift-S": self.propagate,
            f"{CTRL}-Z": self.undo,
            f"{CTRL}-Shift-Z": self.redo,
        }
        labels = {**shared, f"{CTRL}-Z": self._undo_there, f"{CTRL}-Shift-Z": self._redo_there}
        self._bind_on(self.clicks.layer, points)
        self._bind_on(self.labels.layer, labels)
        if self.clicks.boxes.layer is not None:
            self._bind_boxes(self.clicks.boxes.layer)

    def _bind_boxes(self, layer: Shapes) -> None:
        undone = {f"{CTRL}-Z": self.undo, f"{CTRL}-Shift-Z": self.redo}
        self._bind_on(layer, {"C": self.commit, "Shift-C": self.clear, **undone})  # B is napari's there

    def _bind_on(self, layer: Any, keys: dict[str, Callable[[], None]]) -> None:
        for key, action in keys.items():
            before = layer.bind_key(key, self._on_key(action), overwrite=True)
            self._bound.append((layer, key, before))

    def _on_key(self, action: Callable[[], None]) -> Callable[[Any], None]:
        def pressed(_: Any) -> None:
            self._safely(action)

        return pressed

    def _unbind(self) -> None:
        for layer, key, before in self._bound:
            layer.bind_key(key, before, overwrite=True)
        self._bound.clear()

    def _safely(self, action: Callable[[], None], *_: Any) -> None:
        """Do what a button or key says; what cannot be done is told in one sentence."""
        try:
            action()
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        show_warning(sentence(error))
        self._refresh()

    # ------------------------------------------------------------------------------------- encode

    def encode(self) -> None:
        """Encode what is not encoded yet of the image chosen, in a thread, and let clicks begin."""
        if self._job is not None or self._adapting is not None:
            return
        job = Job(self.form.source())
        name, device, store = self.form.model_name(), self.form.device.currentText(), self.form.store_path()
        known, made = self._models, [self.features, *self._kept.values()]

        def work() -> None:
            self.encoder.share(lambda cores: cores - max(1, cores // 4))
            model = known.get((name, device)) or _loaded(name, device)
            planes, features = features_for(job.source.planes(), model, store, made)
            features.ready_planes()  # looks through a store, once: not in the window
            while self._undecided(features):
                if job.unwanted(self.encoder):
                    return
                job.cancelled.wait(SOON)
            self.encoder.tell(partial(self._prepared, job, (name, device), model, features))
            self._encode(job, planes, features, model, device)

        self.form.bar.setRange(0, 0)
        self.form.bar.setFormat("Loading the model")
        self._start(job, work)

    def _undecided(self, features: Features) -> bool:
        """Whether nobody knows yet if the current session, of other features, has an object that must not be lost.

        A click that is just being answered is no less the person's than one that has been, and a commit may wait in line.
        """
        annotator = self.annotator
        return annotator is not None and annotator.session.features is not features and annotator.busy

    def _encode_asked(self) -> None:
        """Encode the planes on which clicks wait, though nobody pressed Encode (again)."""
        annotator, clicks = self.annotator, self.clicks
        if self._job is not None or self._adapting is not None:
            return
        if annotator is None or clicks is None or annotator.busy:
            return
        features, model, source = annotator.session.features, annotator.session.model, clicks.source
        ((_, device),) = self._models
        asked = tuple(dict.fromkeys(c.plane for c in annotator.waiting if not features.ready(c.plane)))
        if not asked:
            return
        job = Job(source, asked)

        def work() -> None:
            planes = features.source or source.planes().with_contrast(features.origin.contrast)
            self._encode(job, planes, features, model, device)

        self._start(job, work)

    def _encode(self, job: Job, planes: Planes, features: Features, model: Any, device: str) -> None:
        """In the encoding thread: encode what a job asks for, and report."""
        from napari_interformer.encoding import encode_tiles

        for step in encode_tiles(
            planes,
            features,
            model,
            device=device,
            first=lambda: job.wanted,
            only=job.only,
            cancelled=partial(job.unwanted, self.encoder),
        ):
            self.encoder.tell(partial(self._progressed, job, step))

    def _start(self, job: Job, work: Callable[[], None]) -> None:
        self._job = job
        self._wanted()
        self.encoder.run(work, partial(self._ended, job), partial(self._ended, job))
        self._refresh()

    def cancel(self) -> None:
        """Stop encoding at once, or within a tile; what is done is kept."""
        if self._job is not None:
            self._job.cancelled.set()
            self.form.bar.setFormat("Stopping")

    def _prepared(self, job: Job, key: tuple[str, str], model: InterFormer, features: Features) -> None:
        """Let clicks begin: the model is loaded, and there is room for features that are still to come."""
        if job is not self._job:
            return
        if any(layer not in self.viewer.layers for layer in job.source.layers):
            job.cancelled.set()
            return  # nobody can click on it any more
        try:
            self._begin(job.source, model, features)
        except Exception as error:
            job.cancelled.set()
            self._failed(error)
            return
        self._use(key, model)
        if any(
            finest(layer) is not pixels for layer, pixels in zip(job.source.layers, job.pixels, strict=True)
        ):
            self._pixels_replaced()
        else:
            self._keep(job.source, features)
        self._show_ready()
        self._refresh()
        self.decoder.run(partial(warm_up, model), lambda _: None, self._failed)

    def _keep(self, source: Source, features: Features) -> None:
        """Keep features as long as their image is open and there is room, for when somebody comes back to it."""
        from napari_interformer.features import fitting

        self._kept.pop(source.layers, None)
        self._kept = fitting({**self._kept, source.layers: features})

    def _begin(self, source: Source, model: InterFormer, features: Features) -> None:
        """Have layers and a session for these features; keep those there are if they fit."""
        annotator, clicks = self.annotator, self.clicks
        known = annotator is not None and annotator.session.features is features
        # Two layers may hold the same pixels, and share their features.
        if known and annotator is not None and clicks is not None and clicks.fits(source):
            if clicks.layer not in self.viewer.layers:
                clicks.disconnect()
                self._remove_boxes(clicks)
                annotator.show_on(self._add_clicks(clicks.source))
                self._bind()
        else:
            if (
                annotator is not None
                and clicks is not None
                and (annotator.session.prompts or annotator.waiting or annotator.busy)
            ):
                why = (
                    "other features would answer its clicks otherwise"
                    if clicks.source.image is source.image
                    else f"belongs to {clicks.source.image.name}"
                )
                raise ValueError(
                    f"Object {annotator.session.label} is not committed, and {why}: commit [C] or clear [Shift+C] it, "
                    "then encode again."
                )
            if self.form.image.layer() is source.image:
                chosen = self.form.labels.layer()
            else:  # another one was looked at meanwhile
                chosen = labels_of(source.image, self.viewer.layers)
            if chosen is not None and made_for(chosen, source.image):
                if tuple(finest(chosen).shape) != source.whole(features.shape):
                    chosen = None  # made before the image got data of another shape
            layer = new_labels(source, features.shape) if chosen is None else chosen
            self._annotate(source, model, features, layer)
            self.features = features
        self._outdated = False
        self._placed()
        self.activate()

    def _annotate(self, source: Source, model: InterFormer, features: Features, layer: Labels) -> None:
        """Start a session that writes to a Labels layer, or to a copy if it must; if it cannot, nothing has changed."""
        from napari_interformer.session import (
            Session,
        )  # loads torch, which opening the panel need not wait for

        chosen, there = layer, layer in self.viewer.layers
        layer = layer if writable(layer) else copied(layer)  # empty as yet: see `_look_through`
        labels = LayerLabels(layer, source.axis)
        session = Session(
            features,
            model,
            labels,
            overwrite=self.form.overwrite.isChecked(),
            live=True,
            object_size=self.form.size.value() or None,
            highest=0,  # as far as is known: see `_look_through`
        )
        if there and (self.labels is None or layer is not self.labels.layer) and lay_over(layer, source):
            show_info(f"{layer.name} was laid over {source.image.name}, since nobody had said where it lies.")
        if there and not layer.visible:
            layer.visible = True  # napari cannot write to a layer that it has never drawn
            show_info(f"{layer.name} was hidden; it is shown, since labels are written to it.")
        self._end_session()
        array, image, stories = self._known.pop(layer, (None, "", []))
        if array is not None and array() is labels.array and image == features.image_fingerprint:
            session.stories = stories
        clicks, layers = self.clicks, self.viewer.layers
        if clicks is not None and (not clicks.fits(source) or clicks.layer not in layers):
            self._put_clicks_away()
            clicks = None
        if layer not in layers:  # below the clicks, if they are there
            layers.insert(len(layers) if clicks is None else layers.index(clicks.layer), layer)
        clicks = clicks or self._add_clicks(source)
        self.labels = labels
        self._follow(layer.events.paint, self._painted)
        self._follow(layer.events.set_data, self._drawn)
        self._follow(layer.events.data, self._replaced)
        for name in PLACE:
            self._follow(getattr(source.image.events, name), self._placed)
        for one in source.layers:
            self._follow(one.events.data, self._pixels_replaced)
        self._placed()
        if self.form.image.layer() is source.image:
            self.form.labels.choose(layer)
        self.annotator = Annotator(session, clicks, self.decoder, tell=show_warning, changed=self._changed)
        self._bind()
        self._plane = self._shown_plane()
        self._refresh()
        if there:
            self._look_through(chosen)
        self._open_journal(self.annotator)
        self._take_over()

    def _look_through(self, chosen: Labels) -> None:
        """See which labels there are, in the decoding thread: a large stack takes long, and clicks wait for their number.

        If they cannot be written to where they are, they are copied on the way.
        """
        annotator, labels = self._now(), self.labels
        assert labels is not None
        layer = labels.layer

        def work() -> int | Exception:
            try:
                if layer is not chosen:
                    labels.copy(chosen)
                return labels.survey()
            except Exception as error:
                return error

        def then(found: int | Exception) -> None:
            if isinstance(found, Exception):
                self._end_session()  # or an object could get the number of another
                if layer is not chosen:
                    self.viewer.layers.remove(layer)
                raise found
            labels.make_room(found)
            annotator.found(found)
            if layer is not chosen:
                layer.refresh()
                chosen.visible = False
                show_info(
                    f"{chosen.name} cannot be written to: its objects were copied to {layer.name}, and new ones go there; "
                    "save them with Save labels…."
                )

        annotator.act(then, work)

    def _take_over(self) -> None:
        """Go on with the object that was not committed when the panel was closed."""
        annotator, clicks, labels = self.annotator, self.clicks, self.labels
        assert annotator is not None and clicks is not None and labels is not None
        left = clicks.take_over(self.viewer.layers, labels.layer)
        if left is None:
            return
        layer, label, points = left
        self.viewer.layers.remove(layer)
        clicks.layer.name = layer.name
        if label:
            annotator.edit(label)
        clicks.write(points)
        annotator.edited()

    def _open_journal(self, annotator: Annotator) -> None:
        """Note on disk what is clicked from now on, and look for what another run noted of this image."""
        session = annotator.session
        image = session.features.image_fingerprint

        def failed(error: OSError) -> None:
            self.decoder.tell(
                partial(show_warning, f"Clicks are not noted for after a crash: {sentence(error)}")
            )

        self._journal = Journal(image, failed)

        def found(offer: Offer | None) -> None:
            if offer is not None and not session.stories:
                self._offer = offer
                self.form.show_offer(offer)
                show_info(f"Not in these labels: {counted(offer)}. Restore, in the panel, brings it back.")

        # In line, since the labels have to be looked through before.
        annotator.act(found, lambda: find_offer(image, annotator.highest))

    def _changed(self) -> None:
        if not self._note.isActive():
            self._note.start()
        self._refresh()

    def _write_journal(self) -> None:
        annotator, journal = self.annotator, self._journal
        if annotator is None or journal is None:
            return
        saved = annotator.session.saved
        journal.write(saved)
        if saved.finished and self._offer is not None:  # their numbers are taken
            self._withdraw()

    def _withdraw(self) -> None:
        self._offer = None
        self.form.show_offer(None)

    def restore(self) -> None:
        """Replay what another run noted of this image."""
        annotator, offer, journal = self._now(), self._offer, self._journal
        if offer is None or journal is None:
            return

        def then(replay: Replay) -> None:
            annotator.session.adopt_saved(replay)
            journal.supersede(offer.path)
            self._withdraw()

        annotator.act(then, lambda: annotator.session.compute_saved(offer.path))

    def _follow(self, emitter: Any, told: Callable[[Any], None]) -> None:
        """Call `told` when something happens to a layer of the session, as long as there is the session."""
        emitter.connect(told)
        self._followed.append((emitter, told))

    def _add_clicks(self, source: Source) -> ClickLayer:
        """Give the viewer a new layer of clicks."""
        for layer in put_away(self.viewer.layers):
            self.viewer.layers.remove(layer)
        self.clicks, self._clicks_gone = ClickLayer(source), False
        self.clicks.positive = self.form.positive
        self.clicks.connect(self._clicked)
        self.clicks.expected, self.clicks.moved = self._expected, self._rest.start
        boxes = self.clicks.boxes
        boxes.shown, boxes.drawn = self._show_boxes, partial(self.decoder.tell, self.activate)
        boxes.pixel, boxes.later = lambda: 1 / self._camera.zoom, self.decoder.tell
        self.viewer.add_layer(self.clicks.layer)
        return self.clicks

    def _show_boxes(self, layer: Shapes) -> None:
        """Give the viewer the layer of boxes; another one stays active."""
        chosen = self.viewer.layers.selection
        active = chosen.active
        self.viewer.add_layer(layer)
        chosen.active = active
        self._bind_boxes(layer)

    def _expected(self, click: Click) -> None:
        self._rest.stop()
        if self.annotator is not None:
            self.annotator.expect(click)

    def _rested(self) -> None:
        """Have the click answered that the mouse may be about to make, so that it need not be waited for."""
        if self.annotator is None or self.clicks is None:
            return
        if self.annotator.busy:
            self._rest.start()
        else:
            self.annotator.expect(self.clicks.possible)

    def _clicked(self) -> None:
        if self.annotator is not None:
            self.annotator.edited()
            self.decoder.tell(self._await_answer)

    def _await_answer(self) -> None:
        """Wait for an answer that comes at once, rather than draw the click without it and then draw again.

        Drawing and Python's lock would hold up the decoding thread: it took three times as long.
        """
        self.decoder.wait(lambda: self.annotator is None or not self.annotator.busy, AT_ONCE)

    def _end_session(self) -> None:
        """Stop writing to the labels, which stay as they are; the click layer stays too, empty, and takes no keys."""
        self._let_go()
        if self.clicks is not None:
            self.clicks.write(())
        self._refresh()

    def _let_go(self) -> None:
        """Have no session, and nothing of it on its layers."""
        self._stop_picking()
        self.stop()
        self._unbind()
        self._rest.stop()
        if self._note.isActive():
            self._note.stop()
            self._write_journal()
        if self._journal is not None:
            self._journal.close()
        self._journal = None
        self._withdraw()
        if self.annotator is not None and self.labels is not None:
            self.annotator.close()
            session = self.annotator.session
            known = weakref.ref(self.labels.array), session.features.image_fingerprint, session.stories
            self._known[self.labels.layer] = known
        for emitter, told in self._followed:
            emitter.disconnect(told)
        self._followed.clear()
        self.labels = self.annotator = None

    def _put_clicks_away(self) -> None:
        clicks, self.clicks = self.clicks, None
        if clicks is not None:
            if clicks.layer in self.viewer.layers:
                clicks.put_away()
            else:
                clicks.disconnect()  # napari 0.6 sets no mode of a layer that was removed
            self._remove_boxes(clicks)

    def _remove_boxes(self, clicks: ClickLayer) -> None:
        layer = clicks.boxes.drop()
        if layer in self.viewer.layers:
            self.viewer.layers.remove(layer)

    def _progressed(self, job: Job, step: Progress) -> None:
        if job is not self._job:
            return
        job.show(step.done, step.total, "InterFormer encodes")
        self._show_ready(step)
        if self.annotator is not None:
            self.annotator.encoded(step.plane)
        self._wanted()

    def _show_ready(self, step: Progress | None = None) -> None:
        features, bar = self.features, self.form.bar
        if features is None or (self._job is None and (self._elsewhere or self._outdated)):
            bar.setRange(0, 1)
            bar.setValue(0)
            bar.setFormat("")
            self._show_planes()
            return
        ready = features.ready_planes()
        total, count = max(int(ready.size), 1), int(ready.sum())
        tiles = len(features.tiles)
        bar.setRange(0, total * tiles)
        bar.setValue(count * tiles if step is None else step.done)
        text = f"{count} of {total} planes" if features.leading else ("encoded" if count else "encoding")
        if step is not None and step.done < step.total:
            text += f", {_duration(step.seconds_left)} left"
        bar.setFormat(text)
        self._show_planes()

    def _ended(self, job: Job, error: Exception | None = None) -> None:
        job.close()
        if job is not self._job:
            return
        self._job = None
        self._show_ready()
        if self.annotator is not None:
            if error is not None or job.cancelled.is_set():
                self.annotator.give_up()
        if error is not None:
            self._failed(error)
        self._refresh()

    # --------------------------------------------------------------------------------------- model

    def _model_chosen(self, _: Any = None) -> None:
        if self.form.model.currentData() is None:
            path, _ = QFileDialog.getOpenFileName(self, "Model", "", "InterFormer (*.safetensors *.pth)")
            self.form.add_model(path or next(iter(self._models), (DEFAULT_MODEL, ""))[0])
        self._change_model()

    def _change_model(self) -> None:
        """Let the model chosen answer from the next click on, if it takes the features that are there."""
        annotator, key = self.annotator, (self.form.model_name(), self.form.device.currentText())
        if annotator is None or key in self._models:
            return

        def work() -> tuple[InterFormer, bool] | Exception:
            try:
                model = _loaded(*key)
            except Exception as error:
                return error
            return model, model.fingerprint == annotator.session.features.model_fingerprint

        def then(result: tuple[InterFormer, bool] | Exception) -> None:
            if self.form.model_name() != key[0]:
                return  # another one was chosen since
            if isinstance(result, Exception):
                self.form.add_model(next(iter(self._models))[0])
                raise result
            model, fits = result
            if fits:
                self._use(key, model)
            else:
                show_info("This model sees images in its own way: press Encode to go on with it.")

        annotator.act(then, work)

    def _use(self, key: tuple[str, str], model: InterFormer) -> None:
        """Let a model answer from the next click on."""
        self._models = {key: model}  # one at a time: they are large
        annotator = self.annotator
        if annotator is not None and annotator.session.model is not model:
            annotator.act(lambda _: annotator.session.change_model(model))

    def adapt(self) -> None:
        """Ask for a name, and teach a copy of the model from the finished objects."""
        from napari_interformer.checkpoint import new_name

        annotator = self._now()
        assert self.clicks is not None and self.labels is not None
        wanted, agreed = QInputDialog.getText(
            self,
            "Adapt to my images",
            f"The model learns from the finished objects in {self.labels.layer.name}, for a few minutes.\n"
            "Name of the new model:",
            text=new_name(self.clicks.source.image.name),
        )
        if agreed:
            # In line, so that an object that is just being committed is learnt from too.
            annotator.act(lambda _: self.adapt_as(wanted))

    def adapt_as(self, wanted: str) -> None:
        """Teach a copy of the model in the encoding thread; keep it under a name, and use it."""
        annotator, clicks = self._now(), self.clicks
        if self._job is not None or self._adapting is not None or clicks is None:
            return
        job = self._adapting = Job(clicks.source)
        session, ((before, device), model) = annotator.session, next(iter(self._models.items()))
        stopped = partial(job.unwanted, self.encoder)
        began: float | None = None

        def told(now: Learnt) -> None:
            nonlocal began
            began = time.monotonic() if began is None else began
            seconds, left = time.monotonic() - began, now.seconds_left
            self.encoder.tell(partial(self._learnt, job, seconds / (seconds + left) if left else 1, left))

        def work() -> tuple[str, InterFormer, list[str]]:
            from napari_interformer.adapting import adapt
            from napari_interformer.checkpoint import models, new_name, save_model, user_models

            user_models().mkdir(parents=True, exist_ok=True)  # if that is not allowed, nobody waits in vain
            adapted = adapt(model, session.features, session.finished, progress=told, cancelled=stopped)
            name = new_name(wanted)
            notes = {"adapted": f"from {Path(before).name} on 1 image"}
            path = save_model(adapted, user_models() / f"{name}.safetensors", notes)
            # It reads all weights, once: better here than in the window.
            assert adapted.fingerprint == session.features.model_fingerprint
            if stopped():
                path.unlink()
                raise InterruptedError
            return name, adapted, list(models())

        def done(result: tuple[str, InterFormer, list[str]]) -> None:
            name, adapted, names = result
            self._adapted(job)
            self.form.fill_models(names)
            self.form.add_model(name)
            self._use((name, device), adapted)
            show_info(
                f"{name} has learnt from your objects and answers from now on; to undo that, choose {Path(before).name}."
            )

        self.form.adapt_bar.setValue(0)
        self.form.adapt_bar.setFormat("Looking at objects")
        self.encoder.run(work, done, partial(self._adapted, job))
        self._refresh()

    def cancel_adapting(self) -> None:
        """Stop learning; everything stays as it was."""
        if self._adapting is not None:
            self._adapting.cancelled.set()
            self.form.adapt_bar.setFormat("Stopping")

    def _learnt(self, job: Job, done: float, seconds_left: float) -> None:
        if job is not self._adapting or job.cancelled.is_set():
            return
        job.show(round(100 * done), 100, "InterFormer adapts")
        self.form.adapt_bar.setValue(round(100 * done))
        self.form.adapt_bar.setFormat(f"{_duration(seconds_left)} left")

    def _adapted(self, job: Job, error: Exception | None = None) -> None:
        job.close()
        if job is not self._adapting:
            return
        self._adapting = None
        if error is not None and not job.cancelled.is_set():
            self._failed(error)
        self._refresh()

    # --------------------------------------------------------------------------------------- planes

    def _wanted(self, _: Any = None) -> None:
        """Let the encode take next what a click waits for, or else what is in the middle of the screen."""
        job, annotator, half = self._job, self.annotator, 0
        if job is None:
            return
        if annotator is not None and annotator.waiting:
            asked = annotator.waiting[0]
            click: Click | None = asked if isinstance(asked, Click) else asked.middle
            half = annotator.session.model.config.click_window // 2
        else:
            click = self._looked_at(job.source)
        if click is not None:
            y, x = click.y, click.x
            job.wanted = click.plane, Box(x - half, y - half, x + half + 1, y + half + 1)

    def _plane_shown(self, _: Any = None) -> None:
        self._wanted()
        self._show_planes()

    def _dimensions_shown(self, _: Any = None) -> None:
        """Take no clicks in 3-D, where a point would lie on the slider's plane and not on what is seen; then have them again.

        In 3-D, napari itself takes the mouse from 2-D points, and does not give it back.
        """

        def follow() -> None:  # once napari is done with its own
            if self.clicks is not None and not self._picking:
                self._take_clicks()
                self._refresh()

        QTimer.singleShot(0, follow)

    def _take_clicks(self) -> None:
        """Let a click on the canvas add a point, where it can be seen on which pixel."""
        if self.clicks is not None:
            self.clicks.layer.mode = "add" if self.viewer.dims.ndisplay == 2 else "pan_zoom"

    @property
    def _camera(self) -> Any:
        return getattr(self.viewer, "scene", self.viewer).camera  # moved in napari 0.9

    def _looked_at(self, source: Source) -> Click | None:
        """Return the image's pixel in the middle of the screen; None where the image has just left the viewer."""
        dims, world = self.viewer.dims, list(self.viewer.dims.point)
        if dims.ndisplay == 2:
            for axis, place in zip(dims.displayed, self._camera.center[-2:], strict=True):
                world[axis] = place
        with suppress(ValueError, IndexError):
            return source.click(world)
        return None

    def _shown_plane(self) -> tuple[int, ...] | None:
        """Return the plane on screen; None where it is none of the image's."""
        looked = None if self.clicks is None else self._looked_at(self.clicks.source)
        leading = () if self.annotator is None else self.annotator.session.features.leading
        if looked is None or len(looked.plane) != len(leading):
            return None
        return looked.plane if all(0 <= i < n for i, n in zip(looked.plane, leading, strict=True)) else None

    def go_to(self, number: int) -> None:
        """Show a plane, by its number in C order."""
        if self.clicks is not None and self.features is not None:
            dims = self.viewer.dims
            plane = tuple(int(i) for i in np.unravel_index(number, self.features.leading))
            places = self.clicks.source.places(plane)
            dims.set_point([dims.ndim + axis for axis in places], list(places.values()))

    def _show_planes(self) -> None:
        """Show in the strip what is so of each plane."""
        annotator, clicks, labels = self.annotator, self.clicks, self.labels
        if annotator is None or clicks is None or labels is None or (self._elsewhere and self._job is None):
            self.form.planes.show_state(None)
            return
        features = annotator.session.features
        asked = np.zeros(features.leading, bool)
        for click in annotator.waiting:
            asked[click.plane] = True
        shown = self._shown_plane()
        self.form.planes.show_state(
            StackState(
                features.leading,
                features.ready_planes().ravel(),
                labels.annotated.ravel(),
                asked.ravel(),
                None if shown is None else features.flat(shown),
            )
        )

    # ------------------------------------------------------------------------------------- objects

    def _now(self) -> Annotator:
        if self.annotator is None:
            raise ValueError("Clicks need an encoded image: choose one and press Encode.")
        return self.annotator

    def activate(self) -> None:
        """Make the click layer the one that the mouse and the keys go to, ready to add points."""
        if self.clicks is not None and self.clicks.layer in self.viewer.layers:
            self.viewer.layers.selection.active = self.clicks.layer
            self._take_clicks()

    def toggle_sign(self) -> None:
        """Switch between positive and negative clicks."""
        self.form.show_sign(not self.form.positive)
        if self.clicks is not None:
            self.clicks.positive = self.form.positive

    def flip(self) -> None:
        """Flip the selected points."""
        self._now()
        assert self.clicks is not None
        self.clicks.flip_selected()

    def draw_box(self) -> None:
        """Let the next drag draw a box around the object, with napari's own tool; have clicks again if it was about to."""
        self._now()
        assert self.clicks is not None
        active = self.viewer.layers.selection.active
        if active is not None and active is self.clicks.boxes.layer:
            self.activate()
            return
        dims = self.viewer.dims
        if dims.ndisplay == 3 or sorted(dims.displayed) != [dims.ndim - 2, dims.ndim - 1]:
            raise ValueError("Boxes are drawn on a plane of Y and X: switch napari to the 2-D view of it.")
        layer = self.clicks.boxes.make()
        layer.visible = True  # or napari would pan
        self.viewer.layers.selection.active = layer
        layer.mode = "add_rectangle"

    def undo(self) -> None:
        """Take back the last change of the current object."""
        self._now().undo()

    def redo(self) -> None:
        """Make it again."""
        self._now().redo()

    def _undo_there(self) -> None:
        """Undo on the Labels layer."""
        self._whose().undo()

    def _redo_there(self) -> None:
        """Make it again."""
        self._whose().redo()

    def _whose(self) -> Annotator | Labels:
        """Return who undoes on the Labels layer: napari knows what we wrote too, but not the clicks that it stands for."""
        annotator, labels = self._now(), self.labels
        assert labels is not None
        return annotator if annotator.can_undo or annotator.can_redo else labels.layer

    def new_object(self) -> None:
        """Go to the next object."""
        self._now().new()
        self.activate()

    def commit(self) -> None:
        """Write the object and go to the next one."""
        self._now().commit()

    def clear(self) -> None:
        """Drop the current object's clicks."""
        self._now().clear()

    def _overwrite(self, on: bool) -> None:
        if self.annotator is not None:
            self.annotator.session.overwrite = on

    def _size(self, pixels: int) -> None:
        if self.annotator is not None:
            self.annotator.session.object_size = pixels or None

    def pick(self) -> None:
        """Let the next click on the canvas choose the object to go on with; a second time, think better of it."""
        annotator = self._now()
        clicks, labels = self.clicks, self.labels
        assert clicks is not None and labels is not None
        points = clicks.layer
        if points not in self.viewer.layers:
            raise ValueError(
                "Edit takes a click on the click layer, which was removed: press Encode to bring it back."
            )
        if not (labels.layer.visible or self._picking):
            raise ValueError(
                f"Edit takes an object that is seen; {labels.layer.name} is hidden: show it (the eye in the list of layers), "
                "then press E."
            )

        def picked(_: Any, event: Any) -> None:
            self._stop_picking()
            self._refresh()
            value = labels.layer.get_value(
                event.position,
                view_direction=event.view_direction,
                dims_displayed=event.dims_displayed,
                world=True,
            )
            value = value[1] if isinstance(value, tuple) else value  # multiscale: the level comes first
            if value:
                annotator.edit(int(value))
            else:
                show_warning(
                    "Edit takes an object of the Labels layer; there is none here: press E and click on one."
                )

        if self._picking:
            self._stop_picking()
            self._refresh()
            return
        self.activate()
        points.mode = "pan_zoom"
        points.mouse_drag_callbacks.append(picked)
        self._picking = True
        self._refresh()

    def _layer_chosen(self, event: Any) -> None:
        """Give up waiting for the click that picks an object, since it would go to another layer."""
        if self._picking and self.clicks is not None and event.value is not self.clicks.layer:
            self._stop_picking()
            self._refresh()

    def _stop_picking(self) -> None:
        if self._picking and self.clicks is not None:
            self.clicks.layer.mouse_drag_callbacks.pop()
            self._take_clicks()
        self._picking = False

    # --------------------------------------------------------------------------------------- stack

    def propagate(self) -> None:
        """Carry the current object through the stack, in the decoding thread."""
        if self._carrying is not None:
            return  # the key is there though the button is not
        annotator = self._now()
        assert self.clicks is not None
        job = self._carrying = Job(self.clicks.source)

        def told(done: int, most: int) -> None:
            self.decoder.tell(partial(self._carried, job, done, most))

        annotator.propagate(told, partial(job.unwanted, self.decoder))
        self._refresh()

    def stop(self) -> None:
        """Stop carrying; the planes reached by then are kept."""
        if self._carrying is not None:
            self._carrying.cancelled.set()

    def _carried(self, job: Job, done: int, most: int) -> None:
        if job is self._carrying:
            self.form.object.setText(f"Propagating: {done} planes")
            # Last: Qt handles events meanwhile, after which there may be something else to say.
            job.show(done, most, "InterFormer propagates")

    # --------------------------------------------------------------------------------------- files

    def browse_store(self) -> None:
        """Choose where features are kept."""
        path = QFileDialog.getExistingDirectory(
            self, "Folder of features (.zarr): an existing one, or a new one"
        )
        if path:
            self.form.store.setText(path)

    def save_labels(self) -> None:
        """Write the label image as OME-TIFF or OME-Zarr with its pixel size."""
        annotator = self._now()
        assert self.labels is not None
        path, _ = QFileDialog.getSaveFileName(
            self, "Save labels", "labels.ome.tif", "OME-TIFF (*.tif *.tiff);;OME-Zarr (*.zarr)"
        )
        if path:
            self.write_labels(annotator, self.labels, _with_ending(path, ".ome.tif"))

    def write_labels(self, annotator: Annotator, labels: LayerLabels, path: Path) -> None:
        """Write labels in the decoding thread, once everything before is done."""
        assert self.clicks is not None
        source, (scale, unit) = self.clicks.source, labels.pixel_size
        names = labels.axis_labels  # such as z, or -3 where nobody named it
        axes = "".join(name if len(name) == 1 else "?" for name in names)

        def work() -> Path:
            told = None if unit or any(size != 1 for size in scale) else source.pixel_size_of_file()
            sizes, of_unit = told or (scale, unit)
            return write_labels(path, labels, axes=axes, scale=sizes, unit=of_unit)

        annotator.act(lambda saved: show_info(f"Labels are saved as {saved.name}."), work)

    def save_prompts(self) -> None:
        """Write every object's clicks, so that the work can be repeated."""
        annotator = self._now()
        path, _ = QFileDialog.getSaveFileName(self, "Save clicks", "clicks.json", "Clicks (*.json)")
        if path:
            file = _with_ending(path, ".json")
            annotator.act(
                lambda saved: show_info(f"Clicks are saved as {saved.name}."),
                lambda: annotator.session.save_prompts(file),
            )

    def load_prompts(self) -> None:
        """Replay saved clicks."""
        annotator = self._now()
        path, _ = QFileDialog.getOpenFileName(self, "Load clicks", "", "Clicks (*.json)")
        if path:
            session = annotator.session
            annotator.act(session.adopt_saved, lambda: session.compute_saved(path))

    # -------------------------------------------------------------------------- layers come and go

    def _fill_layers(self, _: Any = None) -> None:
        before = self.form.image.layer()
        self.form.fill(
            [layer for layer in self.viewer.layers if isinstance(layer, Image)],
            [layer for layer in self.viewer.layers if isinstance(layer, Labels)],
        )
        if before is not None and before is not self.form.image.layer():
            # Or the next image would be offered the labels of the one that is gone. Not now: a progress bar has Qt draw,
            # while napari is still busy with its layers.
            QTimer.singleShot(0, self._image_chosen)
        self._refresh()

    def _model_names(self) -> list[str]:
        # In the decoding thread: this loads torch.
        from napari_interformer.checkpoint import models

        self.decoder.share(lambda cores: cores // 4)
        return list(models())

    def _inserted(self, event: Any) -> None:
        for emitter, told in self._of_layer(event.value):
            emitter.connect(told)
        self._fill_layers()

    def _removed(self, event: Any) -> None:
        for emitter, told in self._of_layer(event.value):
            emitter.disconnect(told)
        self._drop(event.value)
        self._fill_layers()
        # Not now: a layer that is removed while another one is being removed leaves napari's canvas in disorder.
        QTimer.singleShot(0, self._look_for_layers)

    def _look_for_layers(self) -> None:
        """See which of the layers that the session needs are gone."""
        layers, told = self.viewer.layers, "nothing is encoded again."
        if self._job is not None and any(layer not in layers for layer in self._job.source.layers):
            self.cancel()
        if self.clicks is None:
            return
        boxes = self.clicks.boxes
        if boxes.layer is not None and boxes.layer not in layers:
            boxes.drop()
            boxes.write(())
            self._clicked()
        if any(layer not in layers for layer in self.clicks.source.layers):
            self.cancel_adapting()
            self._end_session()
            self._put_clicks_away()
            self.features, self._outdated = None, False
            self._image_shown()
        elif self.labels is not None and self.labels.layer not in layers:
            # The click layer is kept: napari 0.9 crashes at the next new layer if both go in this order.
            self._end_session()
            show_info(f"The Labels layer was removed; Encode starts with another one, {told}")
        elif self.annotator is not None and self.clicks.layer not in layers and not self._clicks_gone:
            self._clicks_gone = True
            self._stop_picking()
            self._refresh()
            show_info(f"The click layer was removed; Encode brings it back, {told}")

    def _painted(self, event: Any) -> None:
        annotator, labels = self.annotator, self.labels
        if labels is None or annotator is None or labels.writing:
            return
        annotator.painted(int(labels.layer.selected_label), Stroke(labels, event.value))
        if plane := self._shown_plane():
            self._survey([plane])

    def _drawn(self, _: Any) -> None:
        """See what napari's own undo did, which tells nobody: the layer is drawn anew though the plane is the same."""
        labels, before = self.labels, self._plane
        if labels is None or labels.layer.multiscale or labels.writing:
            return
        self._plane = plane = self._shown_plane()
        if plane and plane == before:
            self._survey([plane])

    def _survey(self, planes: Iterable[tuple[int, ...]]) -> None:
        """Look which planes hold labels, in the decoding thread, once everything before is done."""
        annotator, labels = self.annotator, self.labels
        if annotator is not None and labels is not None:
            annotator.act(lambda _: None, lambda: labels.survey(planes))

    def _replaced(self, _: Any) -> None:
        """Somebody gave the Labels layer another array: go on with that one."""
        annotator, clicks, labels = self.annotator, self.clicks, self.labels
        if annotator is None or clicks is None or labels is None or finest(labels.layer) is labels.array:
            return
        shown = clicks.read()
        before = annotator.session
        try:
            self._annotate(clicks.source, self._model(), before.features, labels.layer)
        except ValueError as error:
            self._end_session()
            self._failed(error)
            return
        annotator = self._now()
        session = annotator.session

        def go_on(_: None) -> None:
            if before.label <= annotator.highest:
                show_warning(
                    f"{labels.layer.name} got other data, which may hold object {before.label} already: it is left as it is "
                    "there, and its clicks are gone; press E and click on an object to go on with it."
                )
                return
            session.label = before.label  # there is nothing of it: it is painted again
            if before.masks:
                annotator.act(session.adopt, lambda: session.compute((*before.masks, *session.given)))
            clicks.write((*shown, *clicks.read()))
            annotator.edited()

        if shown or before.masks:
            annotator.act(go_on)  # once it is known which labels there are

    def _pixels_given(self, event: Any) -> None:
        """Somebody gave an image other pixels."""
        self._drop(event.source)

    def _drop(self, image: Any) -> None:
        """Keep no features any more that were made from an image layer."""
        self._kept = {images: kept for images, kept in self._kept.items() if image not in images}

    def _pixels_replaced(self, _: Any = None) -> None:
        """Somebody gave the image other pixels: what is encoded, and the current object, belong to those of before."""
        clicks = self.clicks
        if clicks is None or self._outdated:
            return  # told once
        self._outdated = True
        self.cancel()
        self._image_shown()
        show_warning(
            f"{clicks.source.image.name} got other data; clicks are answered from what was encoded before: commit the "
            "current object, then press Encode."
        )

    def _placed(self, _: Any = None) -> None:
        """Let what was made for the image lie where it lies now: somebody said how large its pixels are, or moved it."""
        clicks, labels = self.clicks, self.labels
        if clicks is None or labels is None or self._outdated:
            return
        place(clicks.layer, clicks.source)
        if clicks.boxes.layer is not None:
            place(clicks.boxes.layer, clicks.source)
        if made_for(labels.layer, clicks.source.image):
            place(labels.layer, clicks.source)

    def _model(self) -> InterFormer:
        (model,) = self._models.values()
        return model

    def _image_chosen(self, _: Any = None) -> None:
        self.form.adapt()
        self._image_shown()
        image, labels = self.form.image.layer(), self.labels
        if image is None:
            self.form.labels.choose(None)
        elif self.clicks is not None and image is self.clicks.source.image and labels is not None:
            self.form.labels.choose(labels.layer)
        else:  # what was begun before the panel was closed, or another image was looked at, is gone on with
            self.form.labels.choose(labels_of(image, self.viewer.layers))

    def _labels_chosen(self) -> None:
        annotator, clicks, labels = self.annotator, self.clicks, self.labels
        if annotator is None or clicks is None or labels is None:
            return
        layer = self.form.labels.layer()
        if layer is labels.layer or self.form.image.layer() is not clicks.source.image or self._outdated:
            return  # what is chosen counts at the next Encode
        try:
            if annotator.session.prompts or annotator.busy:
                raise ValueError(
                    f"Object {annotator.session.label} belongs to {labels.layer.name}: commit [C] or clear [Shift+C] it, then "
                    "choose another layer."
                )
            features = annotator.session.features
            layer = new_labels(clicks.source, features.shape) if layer is None else layer
            self._annotate(clicks.source, self._model(), features, layer)
            self.activate()
        except ValueError:
            self.form.labels.choose(labels.layer)
            raise

    # --------------------------------------------------------------------------------------- showing

    @property
    def _elsewhere(self) -> bool:
        """Whether clicks go to another image than the one chosen."""
        return self.clicks is not None and self.form.image.layer() is not self.clicks.source.image

    def _image_shown(self) -> None:
        """Show what is so of the image chosen."""
        if self._job is None:
            self._show_ready()
        self._refresh()

    def _to_know(self) -> str:
        """Say what a person should know before the next click."""
        if self.annotator is None or self.clicks is None or self._job is not None:
            return ""
        name = self.clicks.source.image.name
        if self._elsewhere:
            return f"Clicks go to {name} until you press Encode."
        if self.viewer.dims.ndisplay == 3 and not self._picking:
            return "Clicks need the 2-D view."
        return f"{name} has other data than was encoded: press Encode." if self._outdated else ""

    def _refresh(self) -> None:
        annotator = self.annotator
        if self._carrying is not None and (annotator is None or not annotator.busy):
            self._carrying.close()
            self._carrying = None
        self.form.show_state(
            annotator,
            encoding=self._job is not None,
            adapting=self._adapting is not None,
            carrying=self._carrying is not None,
            picking=self._picking,
            stack=annotator is not None and bool(annotator.session.features.leading),
            before=self._to_know(),
        )
        self._show_planes()
        self._wanted()
        self._encode_asked()

    # --------------------------------------------------------------------------------------- the end

    def release(self) -> None:
        """Give back keys, stop the threads; the Labels layer stays, and so do clicks that are not committed."""
        self.cancel()
        self.cancel_adapting()
        self.stop()
        for job in (self._job, self._adapting, self._carrying):
            if job is not None:
                job.close()
        self._job = self._adapting = self._carrying = None
        for emitter, told in self._of_viewer():
            emitter.disconnect(told)
        annotator, labels, clicks = self.annotator, self.labels, self.clicks
        self._let_go()
        if annotator and labels and clicks and clicks.read() and clicks.layer in self.viewer.layers:
            session = annotator.session
            label = 0 if session.empty or session.covered else session.label
            # It is gone on with from its mask, in which boxes are, if they have been answered.
            boxes = [box for box in clicks.boxes.read() if not label or box not in session.boxes]
            clicks.leave(labels.layer, label, boxes)
            self._remove_boxes(clicks)
            self.clicks = None
        else:
            self._put_clicks_away()
        self.encoder.close()
        self.decoder.close()

    def closeEvent(self, event: QCloseEvent) -> None:
        """Give everything back when closed as a window of its own."""
        self.release()
        super().closeEvent(event)

    def event(self, event: QEvent) -> bool:
        """Give everything back when napari takes the panel out of its dock; be as wide as its style asks for."""
        if event.type() in (QEvent.Type.Show, QEvent.Type.StyleChange):
            QTimer.singleShot(0, self.fit)
        if event.type() == QEvent.Type.ParentChange:
            if self.parent() is not None:
                self._docked = True
            elif self._docked:
                self._docked = False
                self.release()
        return bool(super().event(event))

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Be as wide as the form, which a scroll area watches, wants to be when its rows change, such as for channels."""
        if watched is self.form and event.type() == QEvent.Type.LayoutRequest:
            self.fit()
        return bool(super().eventFilter(watched, event))

    def fit(self) -> None:
        """Be wide enough for the form, which has its size once napari has given it its style."""
        bar = self.verticalScrollBar().sizeHint().width()
        self.setMinimumWidth(self.form.minimumSizeHint().width() + bar + 2 * self.frameWidth())


def features_for(
    planes: Planes, model: InterFormer, store: str | None, made: Iterable[Features | None]
) -> tuple[Planes, Features]:
    """Return the features to fill: of those made before the ones of the same image, model, contrast and tiling.

    A store that exists says itself which contrast and tiling it was made with.
    """
    from napari_interformer.encoding import room_for
    from napari_interformer.features import Features, Origin
    from napari_interformer.store import is_there, located, name_of

    path = None if store is None else located(store)
    before = [features for features in made if features is not None and features.path == path]
    if path is not None and is_there(path):
        found = before[0] if before else Features.open(path, mode="r+")
        planes = found.source = planes.with_contrast(found.origin.contrast)
        asked = Origin.of(planes, model, core=found.origin.core, halo=found.origin.halo)
        if different := found.origin.differences(asked):
            raise ValueError(
                f"{name_of(path)} holds features of another {' and '.join(different)}; choose another folder, or the image and "
                "model it was made with."
            )
        return planes, found
    if isinstance(path, Path) and not path.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"Features are kept in a new folder within one that is there; got {path}, and {path.absolute().parent} is not "
            "there: check the path."
        )
    fresh = room_for(planes, model, store=path)
    same = (features for features in before if not features.origin.differences(fresh.origin))
    return planes, next(same, fresh)


def warm_up(model: InterFormer) -> None:
    """Decode a black window, so that the first click finds torch's threads and kernels ready."""
    side = model.config.click_window
    sides = zip(model.channels, model.strides, strict=True)
    prepared = model.prepare_maps([np.zeros((c, side // s, side // s), np.float32) for c, s in sides])
    reference = draw_click(blank((side, side)), side // 2, side // 2, True, model.config.inner_radius)
    model.decode_logits(prepared, reference)


def _loaded(name: str, device: str) -> InterFormer:
    """Load a model to where it answers clicks; planes are encoded by a copy of it, if `device` is another."""
    from napari_interformer.checkpoint import load_model
    from napari_interformer.model import decoding_device

    return load_model(name, device=decoding_device(device))


def _with_ending(path: str, ending: str) -> Path:
    """Add the ending that not every system's dialog adds; it has not asked then whether a file is to be replaced."""
    if Path(path).suffix:
        return Path(path)
    named = Path(f"{path}{ending}")
    if named.exists():
        raise FileExistsError(
            f"{named.name} is there already; choose it in the list to replace it, or another name."
        )
    return named


def _duration(seconds: float) -> str:
    if not np.isfinite(seconds):
        return "some time"
    whole = round(seconds)
    return (
        f"{whole} s"
        if whole < 90
        else f"{round(whole / 60)} min"
        if whole < 5400
        else f"{whole / 3600:.1f} h"
    )
