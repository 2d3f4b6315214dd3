"""The panel: what its buttons do, and what it shows. Decisions are made in `annotator` and `session`.

Two threads work for it: one encodes, one decodes clicks. Both report to the main thread, which alone touches layers. What
happens to layers is `workspace`'s.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from napari.layers import Image, Labels, Points, Shapes
from napari.utils.notifications import show_info, show_warning
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtWidgets import QApplication, QInputDialog, QScrollArea

from napari_interformer.annotator import sentence
from napari_interformer.canvas import Canvas
from napari_interformer.dialogs import (
    clicks_to_load,
    clicks_to_save,
    features_folder,
    labels_to_save,
    model_to_open,
)
from napari_interformer.encodes import Encodes
from napari_interformer.feature_cache import FeatureCache, features_for
from napari_interformer.form import DELETE, EDIT, Form
from napari_interformer.gaps import where_it_ends
from napari_interformer.geometry import Box
from napari_interformer.hints import NOTHING_TO_UNDO, before_a_click, found, hidden
from napari_interformer.image import plane_at
from napari_interformer.keys import CTRL, Keys
from napari_interformer.labels import belongs, labels_of, new_labels
from napari_interformer.layers import finest
from napari_interformer.lessons import Learnt, Lessons
from napari_interformer.notes import Notes
from napari_interformer.reference import blank, draw_click
from napari_interformer.strip import StackState
from napari_interformer.worker import Job, OneJob, WorkerThread
from napari_interformer.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari.viewer
    from qtpy.QtCore import QObject
    from qtpy.QtGui import QCloseEvent

    from napari_interformer.annotator import Annotator
    from napari_interformer.clicks import ClickLayer
    from napari_interformer.encodes import EncodeJob
    from napari_interformer.encoding import Part, Progress
    from napari_interformer.features import Features
    from napari_interformer.labels import LayerLabels
    from napari_interformer.layers import Source
    from napari_interformer.model import InterFormer
    from napari_interformer.prompts import Click


class Loaded(NamedTuple):
    """The model that answers, the name and device by which it was asked for, and which version of its file it is."""

    name: str
    device: str
    model: InterFormer
    version: tuple[int, int] | None

    @classmethod
    def of(cls, name: str, device: str, model: InterFormer) -> Loaded:
        """Return a model that was just loaded."""
        return cls(name, device, model, _version(name))

    def is_of(self, name: str, device: str) -> bool:
        """Whether this is what a name and a device ask for; a file that is gone has no other version."""
        return (self.name, self.device) == (name, device) and _version(name) in (None, self.version)


class Panel(QScrollArea):
    """Encode an image, click its objects, correct, commit.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Given by napari.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        # napari hands plugins a proxy, through which no layer is the same object as itself.
        self.viewer = viewer = getattr(viewer, "__wrapped__", viewer)
        self.form = Form()
        self.setWidget(self.form)
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        # docs/performance.md has the figures behind these two threads, their cores and their priorities.
        self.encoder, self.decoder = WorkerThread("encode", patient=True), WorkerThread("decode")
        self.features: Features | None = None
        self.canvas = Canvas(viewer, self.decoder.tell)
        self.screen = self.canvas.screen
        self.notes = Notes(self, self.decoder.tell, self.form.show_offer)
        self.workspace = Workspace(
            self,
            viewer,
            self.canvas,
            self.decoder,
            self._keys(),
            self.notes,
            begun=self._begun,
            changed=self._refresh,
            outdated=self._outdated,
        )
        self._loaded: Loaded | None = None  # one at a time: they are large
        self._cache = FeatureCache()
        self._encodes = Encodes(self.encoder, progressed=self._progressed, ended=self._ended)
        self._lessons = Lessons(self.encoder, progressed=self.form.show_learnt, ended=self._learnt)
        self._carrying: OneJob[Job] = OneJob(self.decoder)
        self._docked = self._chosen_by_hand = False
        self._image: Image | None = None  # that was chosen last
        self._connect()
        self._fill_layers()
        self._image_chosen()
        self.decoder.run(self._model_names, self.form.fill_models, self._failed)
        self._refresh()

    @property
    def annotator(self) -> Annotator | None:
        """The session, and what waits in line for it; None if there is no session."""
        return self.workspace.annotator

    @property
    def clicks(self) -> ClickLayer | None:
        """The layer of clicks, if there is one."""
        return self.workspace.clicks

    @property
    def labels(self) -> LayerLabels | None:
        """The layer that the session writes to."""
        return self.workspace.labels

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
            (form.line, self.draw_line),
            (form.undo, self.undo),
            (form.redo, self.redo),
            (form.new, self.new_object),
            (form.commit, self.commit),
            (form.clear, self.clear),
            (form.edit, self.pick),
            (form.delete, self.pick_to_delete),
            (form.similar, self.find_similar),
            (form.propagate, self.propagate),
            (form.stop, self.stop),
            (form.save_labels, self.save_labels),
            (form.save_prompts, self.save_prompts),
            (form.load_prompts, self.load_prompts),
            (form.restore, self.restore),
            (form.browse, self.browse_store),
        ):
            button.clicked.connect(partial(self._safely, action))
        form.overwrite.toggled.connect(partial(self._set, "overwrite"))
        form.size.valueChanged.connect(lambda pixels: self._set("object_size", pixels or None))
        form.size.lineEdit().returnPressed.connect(self._focus)
        form.image.activated.connect(self._image_picked)
        for choice in (form.image, form.green, form.blue, form.channel_axis, form.labels):
            choice.activated.connect(self._chose)
        form.labels.activated.connect(partial(self._safely, self._labels_chosen))
        form.model.activated.connect(self._model_chosen)
        form.planes.chosen.connect(self.go_to)
        for emitter, told in self._of_viewer():
            emitter.connect(told)
        self.destroyed.connect(self.encoder.close)
        self.destroyed.connect(self.decoder.close)
        # A window that is closed by its frame tells its panels nothing else.
        self.destroyed.connect(self.workspace.gone)
        self.destroyed.connect(self.notes.gone)
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
            (dims.order, self._plane_shown),
            (dims.ndisplay, self.canvas.dimensions_shown),
            (self.screen.camera.events.center, self._wanted),
            (self.screen.camera.events.zoom, self.canvas.zoomed),
            *(pair for layer in self.viewer.layers for pair in self._of_layer(layer)),
        ]

    def _of_layer(self, layer: Any) -> list[tuple[Any, Callable[[Any], None]]]:
        events = layer.events
        data = [(events.data, self._pixels_given)] if isinstance(layer, Image) else []
        return [(events.name, self._fill_layers), *data]

    def _keys(self) -> Keys:
        """Say what keys do on our own layers."""
        undo = {f"{CTRL}-Z": self.undo, f"{CTRL}-Shift-Z": self.redo}
        shared = {
            "T": self.toggle_sign,
            "C": self.commit,
            "Shift-C": self.clear,
            "G": self.find_similar,
        }
        points = {
            **shared,
            "B": self.draw_box,
            "L": self.draw_line,
            "F": self.flip,
            "M": self.new_object,
            "E": self.pick,
            "X": self.pick_to_delete,
            "Shift-S": self.propagate,
            "Escape": self.canvas.give_up_picking,
            **undo,
        }
        labels = {**shared, f"{CTRL}-Z": self._undo_there, f"{CTRL}-Shift-Z": self._redo_there}
        shapes = {"C": self.commit, "Shift-C": self.clear, **undo}
        # Some of these are napari's own there, but while one of our tools is on.
        tool = {"Escape": self.activate, "B": self.draw_box, "L": self.draw_line}
        tools = {"add_rectangle": tool, "add_path": {**tool, "T": self.toggle_sign}}
        return Keys({Points: points, Labels: labels, Shapes: shapes}, self._safely, {Shapes: tools})

    def _safely(self, action: Callable[[], None], *_: Any) -> None:
        """Do what a button or key asks for; if it cannot be done, say why in one sentence."""
        try:
            if self.decoder.closed:
                raise ValueError(
                    "This panel was closed, and works no more: open InterFormer anew in the Plugins menu."
                )
            action()
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        show_warning(sentence(error))
        self._refresh()

    # ------------------------------------------------------------------------------------- encode

    def encode(self) -> None:
        """Encode what is not encoded yet of the chosen image, in a thread, and let clicks begin."""
        if self._occupied:
            return
        source, store = self.form.source(), self.form.store_path()
        name, device = self.form.model_name(), self.form.device.currentText()
        # Of an image that got other pixels nothing is good any more, though its fingerprint may be the same: it is a sample.
        made = [None if self.workspace.outdated else self.features, *self._cache.features]
        known = self._loaded
        self.form.show_loading()
        self._encodes.begin(
            source,
            device,
            load=lambda: known.model if known and known.is_of(name, device) else _load(name, device),
            find=lambda model: features_for(source.planes(), model, store, made),
            undecided=self._undecided,
            prepared=lambda job, model, found: self._prepared(job, Loaded.of(name, device, model), found),
            first=self._looked_for(source),
        )
        self._refresh()

    @property
    def job(self) -> EncodeJob | None:
        """The encode that runs; None if none does."""
        return self._encodes.job

    @property
    def _occupied(self) -> bool:
        """Whether the encoding thread has something to do already."""
        return self.job is not None or self._lessons.job is not None

    def _undecided(self, features: Features) -> bool:
        """Whether it is not known yet if the current session, of other features, has an object that must not be lost.

        A click that is still being answered counts like any other, and a commit may be waiting in line.
        """
        annotator = self.annotator
        return annotator is not None and annotator.session.features is not features and annotator.busy

    def _encode_asked(self) -> None:
        """Encode the planes on which clicks wait, though nobody pressed Encode (again)."""
        annotator, clicks = self.annotator, self.clicks
        if self._occupied:
            return
        if annotator is None or clicks is None or annotator.busy:
            return
        features, model, source = annotator.session.features, annotator.session.model, clicks.source
        assert self._loaded is not None
        asked = tuple(dict.fromkeys(c.plane for c in annotator.waiting if not features.ready(c.plane)))
        if asked:
            device = self._loaded.device
            self._encodes.go_on(source, features, model, device, asked, self._looked_for(source))
            self._refresh()

    def _looked_for(self, source: Source) -> Part | None:
        """Return what to encode next: what a click waits for, or else what is in the middle of the screen."""
        annotator, half = self.annotator, 0
        if annotator is not None and annotator.waiting:
            click: Click | None = annotator.waiting[0].middle
            half = annotator.session.model.config.click_window // 2
        else:
            click = self.screen.looked_at(source)
        if click is None:
            return None
        y, x = click.y, click.x
        return click.plane, Box(x - half, y - half, x + half + 1, y + half + 1)

    def _wanted(self, _: Any = None) -> None:
        """Have the part that is looked at encoded next."""
        if self.job is not None and (part := self._looked_for(self.job.source)) is not None:
            self.job.wanted = part

    def cancel(self) -> None:
        """Stop encoding at once, or within a tile; what is done is kept."""
        if self.job is not None:
            self._encodes.cancel()
            self.form.bar.setFormat("Stopping")

    def _progressed(self, step: Progress) -> None:
        self._show_ready()
        if self.annotator is not None:
            self.annotator.encoded(step.plane)
        self._wanted()

    def _ended(self, job: EncodeJob, error: Exception | None) -> None:
        if error is not None:
            self.form.show_setup()
        self._show_ready()
        annotator, clicks = self.annotator, self.clicks
        if annotator is not None and clicks is not None:
            annotator.encoded()
            stopped = error is not None or job.cancelled.is_set()
            if stopped and clicks.source.image is job.source.image:
                annotator.give_up(failed=error is not None)
        if error is not None:
            self._failed(error)
        self._refresh()

    def _show_ready(self) -> None:
        job = self.job
        nothing = job is None and (self._elsewhere or self.workspace.outdated)
        of = (
            "" if job is None or self.form.image.layer() is job.source.image else f"{job.source.image.name}: "
        )
        self.form.show_ready(None if nothing else self.features, None if job is None else job.step, of)
        self._show_planes()

    # ----------------------------------------------------------------------------------- session

    def _prepared(self, job: EncodeJob, loaded: Loaded, features: Features) -> None:
        """Let clicks begin: the model is loaded, and there is room for the features to come."""
        if any(layer not in self.viewer.layers for layer in job.source.layers):
            job.cancelled.set()
            return  # nobody can click on it any more
        if job.cancelled.is_set() and self.annotator is not None:
            return  # nothing was encoded for it, and what there is stays
        try:
            self._begin(job.source, loaded.model, features)
        except Exception as error:
            job.cancelled.set()
            self._failed(error)
            return
        self._use(loaded)
        if any(
            finest(layer) is not pixels for layer, pixels in zip(job.source.layers, job.pixels, strict=True)
        ):
            self.workspace.pixels_replaced()
        else:
            self._cache.keep(job.source.layers, features)
        self._show_ready()
        self._refresh()
        self.decoder.run(partial(warm_up, loaded.model), lambda _: None, self._failed)
        self._change_model()  # if another one was chosen meanwhile

    def _begin(self, source: Source, model: InterFormer, features: Features) -> None:
        """Make layers and a session for these features; keep the existing ones if they fit."""
        annotator, clicks = self.annotator, self.clicks
        known = annotator is not None and annotator.session.features is features
        # Two layers may hold the same pixels, and share their features.
        if not (known and clicks is not None and clicks.fits(source)):
            if annotator is not None and clicks is not None:
                self._check_committed(annotator, clicks, source)
            self._annotate(source, model, features, self._labels_for(source, features))
            self.features = features
        self.workspace.go_on()

    def _labels_for(self, source: Source, features: Features) -> Labels:
        """Return the Labels layer chosen for an image, or another one where the objects of these features do not fit in."""
        if self.form.image.layer() is source.image:
            chosen = self.form.labels.layer()
        else:  # another one was looked at meanwhile
            chosen = labels_of(source.image, self.viewer.layers)
        shape = source.whole(features.shape)
        if chosen is not None and belongs(chosen, source.image) and tuple(finest(chosen).shape) != shape:
            # Made before the image got data of another shape, or other channels.
            before, chosen = chosen, labels_of(source.image, self.viewer.layers, shape)
            into = "new labels" if chosen is None else chosen.name
            show_info(
                f"{source.image.name} has another shape now: what is in {before.name} stays there, and new objects go to "
                f"{into}."
            )
        return new_labels(source, features.shape) if chosen is None else chosen

    def _check_committed(self, annotator: Annotator, clicks: ClickLayer, source: Source) -> None:
        """Refuse to begin with an image or with other features while there is an object that would be lost."""
        if annotator.has_object or annotator.busy:
            why = (
                "other features would answer its clicks differently"
                if clicks.source.image is source.image
                else f"belongs to {clicks.source.image.name}"
            )
            raise ValueError(
                f"Object {annotator.session.label} is not committed, and {why}: commit [C] or clear [Shift+C] it, "
                "then encode again."
            )

    def _annotate(self, source: Source, model: InterFormer, features: Features, layer: Labels) -> None:
        """Start a session as the form says."""
        self.workspace.annotate(
            source,
            model,
            features,
            layer,
            overwrite=self.form.overwrite.isChecked(),
            object_size=self.form.size.value() or None,
        )

    def _begun(self) -> None:
        """Show which layer a new session writes to."""
        if self.labels is not None and not self._elsewhere:
            self.form.labels.choose(self.labels.layer)
        self._refresh()

    def _outdated(self) -> None:
        """Stop encoding pixels that the image no longer has."""
        job, clicks = self.job, self.clicks
        if job is not None and clicks is not None and set(job.source.layers) & set(clicks.source.layers):
            self.cancel()
        self._image_shown()

    def _labels_chosen(self) -> None:
        annotator, clicks, labels = self.annotator, self.clicks, self.labels
        if annotator is None or clicks is None or labels is None:
            return
        layer = self.form.labels.layer()
        if layer is labels.layer or self._elsewhere or self.workspace.outdated:
            return  # what is chosen counts at the next Encode
        if annotator.busy:
            # Only once everything is done is it known if there is an object that would be lost.
            annotator.act(lambda _: self.decoder.tell(partial(self._safely, self._labels_chosen)))
            return
        try:
            if annotator.has_object:
                raise ValueError(
                    f"Object {annotator.session.label} belongs to {labels.layer.name}: commit [C] or clear [Shift+C] it, then "
                    "choose another layer."
                )
            features = annotator.session.features
            layer = new_labels(clicks.source, features.shape) if layer is None else layer
            assert self._loaded is not None
            self._annotate(clicks.source, self._loaded.model, features, layer)
            self.activate()
        except Exception:
            self.form.labels.choose(labels.layer)
            raise

    # --------------------------------------------------------------------------------------- model

    def _model_names(self) -> list[str]:
        # In the decoding thread: this loads torch.
        from napari_interformer.checkpoint import models

        self.decoder.share(lambda cores: cores // 4)
        return list(models())

    def _model_chosen(self, _: Any = None) -> None:
        if self.form.model.currentData() is None:
            self.form.add_model(str(model_to_open(self) or self.form.model_name()))
        self._change_model()

    def _change_model(self) -> None:
        """Let the chosen model answer from the next click on, if it can use the features that are there."""
        annotator, before = self.annotator, self._loaded
        name, device = self.form.model_name(), self.form.device.currentText()
        if annotator is None or before is None or before.is_of(name, device):
            return

        def work() -> tuple[Loaded, bool]:
            loaded = Loaded.of(name, device, _load(name, device))
            return loaded, loaded.model.fingerprint == annotator.session.features.model_fingerprint

        def then(result: tuple[Loaded, bool]) -> None:
            loaded, fits = result
            if self.form.model_name() != name:
                return  # another one was chosen since
            if fits:
                self._use(loaded)
            else:
                show_info("This model needs features of its own: press Encode to continue with it.")

        def failed(error: Exception) -> None:
            if self.form.model_name() == name:
                self.form.add_model(before.name)
                self.form.device.setCurrentText(before.device)
                raise error

        annotator.act(then, work, failed)

    def _use(self, loaded: Loaded) -> None:
        """Let a model answer from the next click on."""
        self._loaded = loaded
        self.workspace.use(loaded.model)

    def adapt(self) -> None:
        """Ask for a name, and teach a copy of the model from the finished objects."""
        from napari_interformer.checkpoint import new_name

        annotator, clicks, labels = self._now()
        wanted, agreed = QInputDialog.getText(
            self,
            "Adapt to my images",
            f"The model will learn from the finished objects in {labels.layer.name} for a few minutes.\n"
            "Name of the new model:",
            text=new_name(clicks.source.image.name),
        )
        if agreed:

            def begin(_: None) -> None:
                self._check_still(annotator, "Adapting was not begun")
                self.adapt_as(wanted)

            # In line, so that an object that is just being committed is learnt from too.
            annotator.act(begin)

    def adapt_as(self, wanted: str) -> None:
        """Teach a copy of the model in the encoding thread; keep it under a name, and use it."""
        annotator, _, _ = self._now()
        if self._occupied:
            raise ValueError(
                "Adapting was not begun, because an image is being encoded: wait until that is done, or cancel it."
            )
        assert self._loaded is not None
        self.form.adapt_bar.setValue(0)
        self.form.adapt_bar.setFormat("Looking at objects")
        self._lessons.begin(self._loaded.model, annotator.session, wanted, self._loaded.name)
        self._refresh()

    def cancel_adapting(self) -> None:
        """Stop learning; everything stays as it was."""
        if self._lessons.job is not None:
            self._lessons.cancel()
            self.form.adapt_bar.setFormat("Stopping")

    def _learnt(self, job: Job, result: Learnt | Exception) -> None:
        if isinstance(result, Exception) and not job.cancelled.is_set():
            self._failed(result)
        self._refresh()
        if isinstance(result, Learnt):
            assert self._loaded is not None
            before = self._loaded
            self.form.fill_models(result.names)
            self.form.add_model(result.name)
            self._use(Loaded.of(result.name, before.device, result.model))
            show_info(
                f"{result.name} has learnt from your objects and is now in use; to go back, choose {Path(before.name).name}."
            )

    # --------------------------------------------------------------------------------------- planes

    def _plane_shown(self, _: Any = None) -> None:
        if self.clicks is not None:
            self.clicks.shapes.plane_changed()
        self._wanted()
        self._show_planes()

    def go_to(self, number: int) -> None:
        """Show a plane, by its number in C order."""
        if self.clicks is not None and self.features is not None:
            plane = plane_at(number, self.features.leading)
            self.screen.go_to(self.clicks.source, plane)

    def _show_planes(self) -> None:
        """Show the state of each plane in the strip."""
        annotator, clicks, labels = self.annotator, self.clicks, self.labels
        if annotator is None or clicks is None or labels is None or (self._elsewhere and self.job is None):
            self.form.planes.show_state(None)
            return
        features = annotator.session.features
        asked = np.zeros(features.leading, bool)
        for click in annotator.waiting:
            asked[click.plane] = True
        shown = self.workspace.plane if self.screen.upright(clicks.source) else None
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

    def _now(self) -> tuple[Annotator, ClickLayer, LayerLabels]:
        """Return the session and its layers; a ValueError if there is none."""
        annotator, clicks, labels = self.annotator, self.clicks, self.labels
        if annotator is None or clicks is None or labels is None:
            raise ValueError("Clicks need an encoded image: choose an image and press Encode.")
        return annotator, clicks, labels

    def _ready(self) -> Annotator:
        """Return what acts on the current object; the next click is no longer to choose another one."""
        self.canvas.give_up_picking()
        annotator, _, _ = self._now()
        return annotator

    def activate(self) -> None:
        """Make the click layer the one that the mouse and the keys go to, ready to add points."""
        self.canvas.activate()

    def toggle_sign(self) -> None:
        """Switch between positive and negative clicks."""
        self.canvas.give_up_picking()
        self.canvas.positive = not self.canvas.positive
        self.form.show_sign(self.canvas.positive)

    def flip(self) -> None:
        """Flip the selected points."""
        self.canvas.give_up_picking()
        _, clicks, _ = self._now()
        clicks.flip_selected()

    def draw_box(self) -> None:
        """Let the next drag draw a box around the object, with napari's own tool; called again, return to clicks."""
        self._now()
        self.canvas.draw_box()

    def draw_line(self) -> None:
        """Let the next drag draw a line through what belongs to the object, or does not; called again, return to clicks."""
        self._now()
        self.canvas.draw_line()

    def undo(self) -> None:
        """Take back the last change of the current object."""
        self._ready().undo(nothing=partial(show_info, NOTHING_TO_UNDO))

    def redo(self) -> None:
        """Make the change again that was undone."""
        self._ready().redo()

    def _undo_there(self) -> None:
        """Undo on the Labels layer: napari can undo what we wrote, but does not know the clicks behind it."""
        labels = self.labels  # without anything before it, an object would be forgotten for nothing
        self._ready().undo(self.workspace.undo_past if labels is not None and labels.can_undo else None)

    def _redo_there(self) -> None:
        """Redo on the Labels layer."""
        self._ready().redo(self.workspace.redo_past)

    def new_object(self) -> None:
        """Go to the next object."""
        self._ready().new()
        self.activate()

    def commit(self) -> None:
        """Write the object and go to the next one."""
        self._ready().commit()

    def clear(self) -> None:
        """Drop the current object's clicks."""
        self._ready().clear()

    def _set(self, name: str, value: Any) -> None:
        """Set something of the session, which may paint, after the clicks that are being answered as it was before."""
        if self.annotator is not None:
            session = self.annotator.session
            self.annotator.act(lambda _: setattr(session, name, value))

    def _focus(self) -> None:
        """Let keys be the canvas's again, once somebody has typed a number."""
        self.form.size.clearFocus()  # napari's window passes on to its canvas what nobody has the focus for

    def pick(self) -> None:
        """Let the next click on the canvas choose the object to continue; called again, choose none."""
        annotator, _, labels = self._now()
        self.canvas.pick(labels.layer, annotator.edit, EDIT, "E")

    def pick_to_delete(self) -> None:
        """Let the next click on the canvas choose an object to remove from the labels; called again, choose none."""
        annotator, _, labels = self._now()
        self.canvas.pick(labels.layer, annotator.delete, DELETE, "X")

    # --------------------------------------------------------------------------------- many at once

    def find_similar(self) -> None:
        """Find what looks like the finished objects in the part of the image on screen, in the decoding thread."""
        if self._carrying.job is not None:
            return  # the key is there though the button is not
        annotator, clicks, labels = self._now()
        source, plane = clicks.source, self.workspace.plane
        if not self.screen.upright(source):
            turned = (
                "roll its axes, or turn its layer, back" if self.screen.flat else "switch to the 2-D view"
            )
            raise ValueError(
                f"Find similar searches the part of a plane that is on screen; napari shows something across planes: {turned}."
            )
        if plane is None:
            raise ValueError(
                f"Find similar searches the plane on screen, which is none of {source.image.name}: move the slider to one."
            )
        box = self.screen.seen(source, labels.layer)
        progress, unwanted = self._begin_carrying("InterFormer finds", "Finding: {} of {} places")
        annotator.find_similar(
            plane, box, lambda count: show_info(found(count, stopped=unwanted())), progress, unwanted
        )
        self._refresh()

    def propagate(self) -> None:
        """Carry the current object through the stack, in the decoding thread."""
        if self._carrying.job is not None:
            return
        annotator, _, _ = self._now()
        told = self._begin_carrying("InterFormer propagates", "Propagating: {} planes")
        annotator.propagate(lambda ends: show_info(where_it_ends(ends)) if ends else None, *told)
        self._refresh()

    def _begin_carrying(self, what: str, text: str) -> tuple[Callable[[int, int], None], Callable[[], bool]]:
        """Return two functions for long work in the decoding thread: one takes its progress, one says whether to stop."""
        job = self._carrying.job = Job(self.decoder, what)

        def told(done: int, most: int) -> None:
            self._carrying.tell(job, partial(self._carried, job, text, done, most))

        return told, job.unwanted

    def stop(self) -> None:
        """Stop finding or propagating; what is done so far is kept."""
        self._carrying.cancel()

    def _carried(self, job: Job, text: str, done: int, most: int) -> None:
        self.form.object.setText(text.format(done, most))
        # Last: Qt handles events meanwhile, after which there may be something else to say.
        job.show(done, most)

    # --------------------------------------------------------------------------------------- files

    def browse_store(self) -> None:
        """Choose where features are kept."""
        path = features_folder(self)
        if path is not None:
            self.form.store.setText(str(path))

    def _check_still(self, annotator: Annotator, nothing_done: str) -> None:
        """Refuse what was asked of an image if another one was begun while a dialog was open."""
        if self.annotator is not annotator:
            raise ValueError(
                f"{nothing_done}, because another image was begun meanwhile: choose the image again and press Encode first."
            )

    def save_labels(self) -> None:
        """Write the label image as OME-TIFF or OME-Zarr with its pixel size."""
        annotator, clicks, labels = self._now()  # another image may be begun while the dialog is open
        path = labels_to_save(self, clicks.source.image)
        if path is not None:
            write = labels.writer(path, clicks.source, self.viewer.layers)
            annotator.make_sure(lambda saved: show_info(f"The labels were saved as {_where(saved)}."), write)

    def save_prompts(self) -> None:
        """Write every object's clicks, so that the work can be repeated."""
        annotator, clicks, _ = self._now()
        path = clicks_to_save(self, clicks.source.image)
        if path is not None:
            annotator.make_sure(
                lambda saved: show_info(f"The clicks were saved as {_where(saved)}."),
                partial(annotator.session.save_prompts, path),
            )

    def load_prompts(self) -> None:
        """Replay saved clicks."""
        annotator, clicks, labels = self._now()
        annotator.check_finished("Load clicks")
        path = clicks_to_load(self, clicks.source.image)
        if path is not None:
            self._check_still(annotator, "Clicks were not loaded")

            def loaded(numbers: set[int]) -> None:
                annotator.act(partial(_tell_hidden, numbers), lambda: labels.those_of(numbers))

            annotator.load(path, loaded)

    def restore(self) -> None:
        """Replay what another session recorded of this image."""
        annotator, _, _ = self._now()
        # To commit it would take a number of those that are restored.
        annotator.check_finished("Restore", "clear it first [Shift+C]")
        self.notes.restore()

    # -------------------------------------------------------------------------- layers come and go

    def _fill_layers(self, _: Any = None) -> None:
        before = self.form.image.layer()
        self.form.fill(
            [layer for layer in self.viewer.layers if isinstance(layer, Image)],
            [layer for layer in self.viewer.layers if isinstance(layer, Labels)],
        )
        now = self.form.image.layer()
        if before is None:
            self._image = now
        elif before is not now:
            self._chosen_by_hand = False
            # Or the next image would be offered the labels of the one that is gone. Not now: a progress bar has Qt draw,
            # while napari is still busy with its layers.
            QTimer.singleShot(0, self._image_chosen)
        self._refresh()

    def _inserted(self, event: Any) -> None:
        for emitter, told in self._of_layer(event.value):
            emitter.connect(told)
        self._fill_layers()

    def _removed(self, event: Any) -> None:
        for emitter, told in self._of_layer(event.value):
            emitter.disconnect(told)
        self._cache.drop(event.value)
        self._fill_layers()
        # Not now: a layer that is removed while another one is being removed leaves napari's canvas in disorder.
        QTimer.singleShot(0, self._look_for_layers)

    def _look_for_layers(self) -> None:
        """See which of the layers that the session needs are gone."""
        layers = self.viewer.layers
        if self.job is not None and any(layer not in layers for layer in self.job.source.layers):
            self.cancel()
        if self.workspace.look_for_layers():
            self.cancel_adapting()
            self.features = None
            self.form.show_setup()
            self._image_shown()

    def _layer_chosen(self, event: Any) -> None:
        self.canvas.layer_chosen(event)
        # Until there is a session, what somebody looks at, such as the image opened last, is what they want encoded.
        layer = event.value
        free = self.annotator is None and self.job is None and not self._chosen_by_hand
        if free and isinstance(layer, Image) and layer is not self.form.image.layer():
            self.form.image.choose(layer)
            self._image_chosen()
        # Not now: napari is busy with its layers.
        QTimer.singleShot(0, self._refresh)

    def _chose(self, _: Any = None) -> None:
        self._chosen_by_hand = True

    def _pixels_given(self, event: Any) -> None:
        """Forget the features of an image that was given other pixels."""
        self._cache.drop(event.source)
        self.form.show_rows()  # it may have other axes now

    def _image_picked(self, _: Any = None) -> None:
        if self.form.image.layer() is not self._image:  # or labels that were chosen for it would be dropped
            self._image_chosen()

    def _image_chosen(self) -> None:
        self.form.show_rows()
        self._image_shown()
        image = self._image = self.form.image.layer()
        if image is None:
            self.form.labels.choose(None)
        elif self.labels is not None and not self._elsewhere:
            self.form.labels.choose(self.labels.layer)
        else:  # what was begun before the panel was closed, or another image was chosen, is continued
            self.form.labels.choose(labels_of(image, self.viewer.layers))

    # --------------------------------------------------------------------------------------- showing

    @property
    def _elsewhere(self) -> bool:
        """Whether clicks go to another image than the one chosen."""
        return self.clicks is not None and self.form.image.layer() is not self.clicks.source.image

    def _image_shown(self) -> None:
        """Show the state of the chosen image."""
        if self.job is None or self.job.step is not None:
            self._show_ready()
        self._refresh()

    def _to_know(self) -> str:
        """Return what a person should know before the next click."""
        if self.annotator is None or self.clicks is None:
            return ""
        name = self.form.shortened(self.clicks.source.image.name)
        if self._elsewhere:
            return f"Clicks go to {name}{'.' if self._occupied else ' until you press Encode.'}"
        if self.job is not None:
            return ""
        used = None if self._loaded is None or self.annotator.busy else Path(self._loaded.name).stem
        if used not in (None, Path(self.form.model_name()).stem):
            return f"{used} answers clicks until you press Encode."
        return before_a_click(self.viewer, self.canvas, self.workspace, self.form.shortened)

    def _refresh(self) -> None:
        annotator = self.annotator
        if annotator is None or not annotator.busy:
            self._carrying.drop()  # it is over, or stopped, if the session has ended
        self.form.show_state(
            annotator,
            encoding=self.job is not None,
            adapting=self._lessons.job is not None,
            carrying=self._carrying.job is not None,
            picking=self.canvas.picking,
            before=self._to_know(),
        )
        self._show_planes()
        self._wanted()
        self._encode_asked()

    # --------------------------------------------------------------------------------------- the end

    def release(self) -> None:
        """Release the keys and stop the threads; the Labels layer stays, and so do clicks that are not committed."""
        self._encodes.drop()
        self._lessons.drop()
        self._carrying.drop()
        for emitter, told in self._of_viewer():
            emitter.disconnect(told)
        try:
            self.workspace.leave()
        finally:
            self.encoder.close()
            self.decoder.close()

    def closeEvent(self, event: QCloseEvent) -> None:
        """Release everything when closed as a separate window."""
        self.release()
        super().closeEvent(event)

    def event(self, event: QEvent) -> bool:
        """Release everything when napari takes the panel out of its dock; be as wide as its style needs."""
        if event.type() in (QEvent.Type.Show, QEvent.Type.StyleChange):
            QTimer.singleShot(0, self.fit)
        if event.type() == QEvent.Type.ParentChange:
            if self.parent() is not None:
                self._docked = True
            elif self._docked:
                self._docked = False
                self.release()
                self._refresh()  # a script may dock it again, though it works no more
        return bool(super().event(event))

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Keep the scroll area as wide as the form when the form's rows change, such as for channels."""
        if watched is self.form and event.type() == QEvent.Type.LayoutRequest:
            self.fit()
        return bool(super().eventFilter(watched, event))

    def fit(self) -> None:
        """Be wide enough for the form, which has its size once napari has given it its style."""
        bar = self.verticalScrollBar().sizeHint().width()
        self.setMinimumWidth(self.form.minimumSizeHint().width() + bar + 2 * self.frameWidth())


def warm_up(model: InterFormer) -> None:
    """Decode a black window, so that the first click finds torch's threads and kernels ready."""
    side = model.config.click_window
    sides = zip(model.channels, model.strides, strict=True)
    prepared = model.prepare_maps([np.zeros((c, side // s, side // s), np.float32) for c, s in sides])
    reference = draw_click(blank((side, side)), side // 2, side // 2, True, model.config.inner_radius)
    model.decode_logits(prepared, reference)


def _where(path: Path) -> str:
    """Return the name of a file and that of its folder."""
    return f"{path.name} in {path.absolute().parent.name or path.anchor}"


def _load(name: str, device: str) -> InterFormer:
    """Load a model to where it answers clicks; planes are encoded by a copy of it, if `device` is another."""
    from napari_interformer.checkpoint import load_model
    from napari_interformer.model import decoding_device

    return load_model(name, device=decoding_device(device))


def _version(name: str) -> tuple[int, int] | None:
    """Return what changes when a model's file is written anew; None if there is no such file."""
    from napari_interformer.checkpoint import models

    try:
        status = Path(models().get(name, name)).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _tell_hidden(loaded: set[int], there: set[int]) -> None:
    """Say if some of the objects that were loaded are not there."""
    if absent := loaded - there:
        show_info(hidden(len(absent), len(loaded)))
