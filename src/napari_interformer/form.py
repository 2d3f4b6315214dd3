"""What the panel looks like: its controls and their texts, and layer choosers. What the buttons do is not known here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QObject, QSignalBlocker, QSize, Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QGridLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QSpinBox,
    QStackedWidget,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QVBoxLayout,
    QWidget,
)

from napari_interformer import DEFAULT_MODEL
from napari_interformer.image import HIGH, LOW
from napari_interformer.keys import COMMAND
from napari_interformer.layers import GREEN, RED, Source, finest
from napari_interformer.prompts import planes_are
from napari_interformer.strip import PlaneStrip
from napari_interformer.units import duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qtpy.QtGui import QPaintEvent, QResizeEvent
    from qtpy.QtWidgets import QLayout

    from napari_interformer.annotator import Annotator
    from napari_interformer.encoding import Progress
    from napari_interformer.features import Features
    from napari_interformer.journal import Offer

_CONTRAST = {
    "Automatic": "auto",
    "Layer's limits": "layer",
    "Percentiles of the volume": "volume",
    "Percentiles per plane": "plane",
}
_DEVICES = ("auto", "cpu", "cuda", "mps")
EDIT, DELETE = "Edit", "Delete"  # what an object is chosen for
_LETTERS = 6  # that a chooser shows at least
_LINES = 3  # for which there is room above the buttons, whatever is told there


class LayerChoice(QComboBox):
    """Choose a layer; the choice survives renaming, and other layers that come and go."""

    def __init__(self, nothing: str | None = None) -> None:
        super().__init__()
        self._nothing = nothing
        self._layers: list[Any] = []
        self.view().setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.fill([])

    def paintEvent(self, _: QPaintEvent) -> None:
        """Leave out the middle of a name that is too long, as channels' names differ at their ends; Qt cuts the end off."""
        painter, shown = QStylePainter(self), QStyleOptionComboBox()
        self.initStyleOption(shown)
        kind, part = QStyle.ComplexControl.CC_ComboBox, QStyle.SubControl.SC_ComboBoxEditField
        room = self.style().subControlRect(kind, shown, part, self).width()
        shown.currentText = _elided(self, shown.currentText, room)
        painter.drawComplexControl(kind, shown)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, shown)

    def fill(self, layers: Sequence[Any]) -> None:
        """Offer these layers."""
        chosen = self.layer()
        self._layers = ([None] if self._nothing is not None else []) + list(layers)
        self.clear()
        self.addItems([self._nothing if layer is None else layer.name for layer in self._layers])
        self.choose(chosen)

    def layer(self) -> Any:
        """Return the layer chosen, or None."""
        index = self.currentIndex()
        return self._layers[index] if 0 <= index < len(self._layers) else None

    def choose(self, layer: Any) -> None:
        """Choose a layer; if it is not offered, choose nothing, or else the topmost one."""
        found = [i for i, other in enumerate(self._layers) if other is layer]
        self.setCurrentIndex(found[0] if found else 0 if self._nothing is not None else len(self._layers) - 1)

    def choose_id(self, unique_id: Any) -> None:
        """Choose the layer of this `unique_id`, as `choose` does."""
        named = (layer for layer in self._layers if layer is not None and layer.unique_id == unique_id)
        self.choose(next(named, None))


class SizeBox(QSpinBox):
    """A number of pixels, or "automatic": a click selects that word, because no digit can be typed into it."""

    def __init__(self) -> None:
        super().__init__()
        self.setRange(0, 100_000)
        self.setSpecialValueText("automatic")
        self.setSuffix(" px")
        self.lineEdit().installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Select the words once Qt has put its cursor into them."""
        if event.type() == QEvent.Type.MouseButtonRelease and self.value() == 0:
            self.selectAll()
        return bool(super().eventFilter(watched, event))


class _Still(QObject):
    """Keeps the wheel from a control: it scrolls the panel, and must not change what happens to pass under the mouse."""

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Wheel:
            event.ignore()  # so that Qt offers it to the panel
            return True
        return bool(super().eventFilter(watched, event))


class Fold(QWidget):
    """A part of the panel under a button that folds it away and then shows in one line what is chosen in it."""

    def __init__(self, title: str, part: QLayout) -> None:
        super().__init__()
        self._title, self._chosen = title, ("", "")
        self.body = QWidget()
        self.body.setLayout(part)
        self.header = _button("", "")
        self.header.setStyleSheet("text-align: left; padding-left: 8px;")
        self.header.setMinimumWidth(1)  # its text is cut to its width
        self.header.clicked.connect(lambda: self.show_open(not self.open))
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self.header)
        column.addWidget(self.body)
        self.show_open(True)

    @property
    def open(self) -> bool:
        """Whether the part is open."""
        return not self.body.isHidden()

    def show_open(self, on: bool) -> None:
        """Open the part, or fold it away."""
        inside = self.body.focusWidget()
        if not on and inside is not None and inside.hasFocus():
            self.header.setFocus()  # or Qt would look for another place, such as a button that nobody chose
        self.body.setVisible(on)
        self._write()

    def show_chosen(self, first: str, second: str) -> None:
        """Show what is chosen, for when the part is folded."""
        self._chosen = first, second
        self._write()

    def _write(self) -> None:
        room = self.header.width() - 16
        if self.open:
            text = f"▾ {self._title}"
        else:
            first, second = self._chosen
            start, end = f"▸ {self._title}: ", f", {_elided(self.header, second, room // 3)}"
            room -= self.header.fontMetrics().horizontalAdvance(f"{start}{end}")
            text = f"{start}{_elided(self.header, first, room)}{end}"
        self.header.setText(text.replace("&", "&&"))  # which would underline a letter

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Show as much as there is room for."""
        super().resizeEvent(event)
        self._write()

    def minimumSizeHint(self) -> QSize:
        """Return the smallest size, as wide when folded as when open."""
        size = super().minimumSizeHint()
        return QSize(max(size.width(), self.body.minimumSizeHint().width()), size.height())


class Form(QWidget):
    """All controls of the panel, from the image down to the stack."""

    def __init__(self) -> None:
        super().__init__()
        # What is chosen of the channels of which image. By unique_id: layers that are gone must not live on here.
        self._rows_of: Any = None
        self._chosen: dict[Any, tuple[int | None, str, list[Any]]] = {}
        self._folds = False  # as soon as there is something to click on
        column = QVBoxLayout(self)
        column.setContentsMargins(6, 4, 6, 4)
        column.setSpacing(5)
        column.addWidget(self._setup())
        for title, part in (
            ("Encode", self._encode()),
            ("Clicks", self._clicks()),
            ("Object", self._object()),
            ("Many at once", self._many()),
            ("Files", self._files()),
        ):
            box = QGroupBox(title)
            box.setLayout(part)
            _tighten(part)
            column.addWidget(box)
        column.addStretch(1)
        self.show_sign(True)
        self.show_rows()

    # ------------------------------------------------------------------------------------------ parts

    def _setup(self) -> Fold:
        rows = QFormLayout()
        _tighten(rows)
        rows.setContentsMargins(10, 6, 10, 0)  # in line with the other parts, which have a frame
        self._image(rows)
        self._model(rows)
        self._store(rows)
        rows.addRow(self._adapting)
        self.setup = Fold("Setup", rows)
        self.image.currentTextChanged.connect(self._show_chosen)
        self.model.currentTextChanged.connect(self._show_chosen)
        self.setup.header.clicked.connect(self._stay)
        self._show_chosen()
        return self.setup

    def _image(self, rows: QFormLayout) -> None:
        self.image = _hint(
            LayerChoice(), "The image layer to annotate. Of a multiscale image, the finest level is used."
        )
        self.green = _hint(
            LayerChoice("none"), "A second grey layer of the same image, shown to the model as green."
        )
        self.blue = _hint(
            LayerChoice("none"), "A third grey layer of the same image, shown to the model as blue."
        )
        self.channel_axis = _hint(
            QComboBox(),
            "The axis that holds channels, if the layer has one. Its channels become red, green and blue.",
        )
        self.channels = _hint(
            QLineEdit(),
            "Up to three channels, counted from 0, such as 0,2. If empty, the first three are used.",
        )
        self.channels.setPlaceholderText("the first three")
        self.contrast = _hint(
            QComboBox(),
            "What the model sees as black and white: the layer's contrast limits as they are when you press Encode, or "
            f"percentiles {LOW:g} and {HIGH:g} of the volume or of each plane. Automatic takes the limits if they cut "
            "something off, and otherwise the percentiles of the volume.",
        )
        self.contrast.addItems(list(_CONTRAST))
        rows.addRow("Layer", self.image)
        self._also = _row(self.green, self.blue)
        for choice in (self.green, self.blue):
            choice.setMinimumWidth(60)  # as there are two in a row
        rows.addRow("With", self._also)
        rows.addRow("Channel axis", self.channel_axis)
        rows.addRow("Channels", self.channels)
        rows.addRow("Contrast", self.contrast)
        self._image_rows = rows
        self.channel_axis.currentIndexChanged.connect(self._axis_chosen)

    def _model(self, rows: QFormLayout) -> None:
        self.model = _hint(
            QComboBox(),
            "The model in the package, one of your own, or a file (.safetensors, or a .pth of the reference).",
        )
        self._model_name = DEFAULT_MODEL
        self.model.currentIndexChanged.connect(self._name_model)
        self.fill_models([DEFAULT_MODEL])
        self.device = _hint(
            QComboBox(), "Where to compute: auto uses a GPU if there is one. Clicks are fast on a CPU, too."
        )
        self.device.addItems(_DEVICES)
        self.adapt_model = _button(
            "Adapt to my images…",
            "Teach a copy of the model with the finished objects in the Labels layer. This takes minutes, and you can continue "
            "to click; nothing is encoded again. The original model stays in the list.",
        )
        self.adapt_bar = _bar("Progress of the learning.")
        self.adapt_cancel = _button("Cancel", "Stop learning; everything stays as it was.")
        self._adapting = QStackedWidget()  # the button, or how far it is
        self._adapting.addWidget(self.adapt_model)
        self._adapting.addWidget(_row(self.adapt_bar, self.adapt_cancel))
        rows.addRow("Model", self.model)
        rows.addRow("Device", self.device)

    def _store(self, rows: QFormLayout) -> None:
        self.store = _hint(
            QLineEdit(),
            "Leave empty to keep features in memory or, from a gigabyte on, in a temporary folder. A folder keeps them "
            "on disk; if it holds those of this image already, from here or from a cluster, they are used at once.",
        )
        self.store.setPlaceholderText("keep features in memory")
        self.browse = _button("…", "Choose a folder for the features.")
        self.browse.setFixedWidth(28)
        rows.addRow("Features", _row(self.store, self.browse))

    def _encode(self) -> QVBoxLayout:
        part = QVBoxLayout()
        self.encode = _button(
            "Encode",
            "Prepare the image for clicks, the plane on screen first. You can click as soon as a plane is ready.",
        )
        self.cancel = _button(
            "Cancel", "Stop encoding; what is done is kept, and Encode continues from there."
        )
        self.bar = _bar("Planes that are ready for clicks.")
        part.addWidget(_row(self.encode, self.cancel))
        self.planes = PlaneStrip()
        part.addWidget(self.bar)
        part.addWidget(self.planes)
        self.restore = _button(
            "", "Replay what was clicked on this image before napari was closed or crashed."
        )
        self.restore.hide()
        part.addWidget(self.restore)
        return part

    def _clicks(self) -> QVBoxLayout:
        part = QVBoxLayout()
        self.sign = _button(
            "",
            "What the next click means: part of the object (green) or not (red). T switches; a right click is always red.",
        )
        self.flip = _button(
            "Flip selected [F]", "Turn the selected points from positive to negative or back."
        )
        self.box = _button(
            "Draw a box [B]",
            "Then drag from corner to corner, tightly around an object: often a better start than a click. Clicks correct it.",
        )
        self.line = _button(
            "Draw a line [L]",
            "Then drag through what belongs to the object (green) or does not (red): a line corrects more than a click.",
        )
        hint = QLabel("Right click: negative\n3: select and drag · Del: remove · 2: add")
        hint.setToolTip("These are napari's own keys for a Points layer; the mask follows the points.")
        part.addLayout(_grid((self.sign, self.flip), (self.box, self.line)))
        part.addWidget(hint)
        return part

    def _object(self) -> QVBoxLayout:
        part = QVBoxLayout()
        self.object = QLabel("")
        self.object.setWordWrap(True)
        self.object.setTextFormat(Qt.TextFormat.PlainText)  # a layer's name may hold what looks like a tag
        self.object.setMinimumWidth(1)  # no word may widen the panel
        told = QGridLayout()
        told.addWidget(QLabel("\n" * (_LINES - 1)), 0, 0)  # keeps room, or buttons would move under the mouse
        told.addWidget(self.object, 0, 0, Qt.AlignmentFlag.AlignTop)
        self.labels = _hint(
            LayerChoice("new layer"),
            "The Labels layer that objects are written to. You can continue an existing one: nothing in it is erased.",
        )
        self.undo = _button(
            f"Undo [{COMMAND}+Z]", "Take back the last click or brush stroke; any number of times."
        )
        self.redo = _button(f"Redo [{COMMAND}+Shift+Z]", "Make a change again that was undone.")
        self.new = _button(
            "New object [M]", "Keep this object, if its mask has any pixels, and start the next one."
        )
        self.commit = _button("Commit [C]", "Keep this object in the Labels layer and start the next one.")
        self.clear = _button(
            "Clear [Shift+C]",
            "Remove this object's clicks; an object that was being edited becomes what it was before.",
        )
        self.edit = _button(
            "Edit object [E]", "Then click on an object in the image to continue it from its mask."
        )
        self.delete = _button(
            "Delete [X]",
            "Then click on an object in the image to remove it from the Labels layer. Undo brings it back.",
        )
        for button in (self.edit, self.delete):
            button.setCheckable(True)
        self.overwrite = _hint(
            QCheckBox("Overwrite other objects"),
            "Let the object take pixels from other objects; by default, these are protected.",
        )
        self.size = _hint(
            SizeBox(),
            "How large your objects are across, in pixels. Small ones are magnified and large ones shrunk for the model; "
            "if automatic, their size follows from the first answer and the objects that you finished before.",
        )
        rows = QFormLayout()
        rows.setVerticalSpacing(4)
        rows.addRow("Labels", self.labels)
        rows.addRow("Size", self.size)
        part.addLayout(told)
        part.addLayout(_grid((self.commit, self.new), (self.undo, self.redo), (self.clear, self.edit)))
        part.addLayout(rows)
        part.addWidget(_row(self.overwrite, self.delete))
        return part

    def _many(self) -> QVBoxLayout:
        part = QVBoxLayout()
        self.similar = _button(
            "Find similar [G]",
            "Find objects that look like the finished ones in the part of the image on screen, and finish them, too. Undo "
            "takes them back; press again to use what was found as examples, too.",
        )
        self.propagate = _button(
            "Propagate [Shift+S]",
            "Carry the object from the planes that you clicked on through the neighbouring ones.",
        )
        self.stop = _button("Stop", "Stop finding or propagating; what is done so far is kept.")
        self._carrying = QStackedWidget()  # the buttons, or how to stop what they began
        self._carrying.addWidget(_row(self.similar, self.propagate))
        self._carrying.addWidget(self.stop)
        part.addWidget(self._carrying)
        return part

    def _files(self) -> QGridLayout:
        self.save_labels = _button(
            "Save labels…",
            "Write the label image as compressed OME-TIFF or OME-Zarr (a name ending in .zarr), with its pixel size.",
        )
        self.save_prompts = _button(
            "Save clicks…",
            "Write the clicks of all objects as JSON, and what was painted by hand; they reproduce the labels.",
        )
        self.load_prompts = _button("Load clicks…", "Replay saved clicks on the same image.")
        return _grid((self.save_labels,), (self.save_prompts, self.load_prompts))

    # ---------------------------------------------------------------------------------------- reading

    def source(self) -> Source:
        """Return the image as chosen.

        Raises
        ------
        ValueError
            If no image is chosen, or the channels are not numbers.
        """
        first = self.image.layer()
        if first is None:
            raise ValueError("Encode needs an image layer; there is none: open an image first.")
        others = [] if first.rgb else [c.layer() for c in (self.green, self.blue) if c.layer() is not None]
        axis = None if first.rgb or others else self.channel_axis.currentData()
        channels = None
        if axis is not None:
            text = self.channels.text().strip()
            try:
                channels = tuple(int(part) for part in text.replace(" ", ",").split(",") if part)
            except ValueError:
                raise ValueError(f"Channels must be numbers such as 0,2; got {text!r}.") from None
            count = finest(first).shape[axis]
            channels = channels or tuple(range(min(3, count)))
        contrast: Any = _CONTRAST[self.contrast.currentText()]
        return Source((first, *others), axis, channels, contrast)

    def model_name(self) -> str:
        """Return the name or path of the model chosen, though a file is just being looked for."""
        return self._model_name

    def shortened(self, name: str) -> str:
        """Return a name without its middle, if it is too long for a line of the panel."""
        return _elided(self.object, name, max(2 * self.object.width() // 3, 100))

    def store_path(self) -> str | None:
        """Return where features are to be kept; None for memory."""
        path = self.store.text().strip()
        return os.path.expanduser(path) or None

    # ---------------------------------------------------------------------------------------- filling

    def fill(self, images: Sequence[Any], labels: Sequence[Any]) -> None:
        """Offer these layers."""
        self.image.fill(images)
        for choice in (self.green, self.blue):
            choice.fill([layer for layer in images if not layer.rgb])
        self.labels.fill(labels)
        self.show_rows()

    def show_rows(self) -> None:
        """Show only the rows that make sense for the image chosen, with what was chosen for this image before."""
        image = self.image.layer()
        grey = image is not None and not image.rgb
        axes = image.ndim if grey else 0
        others = (self.green, self.blue)
        ids = [None if choice.layer() is None else choice.layer().unique_id for choice in others]
        self._chosen[self._rows_of] = self.channel_axis.currentData(), self.channels.text(), ids
        self._rows_of = None if image is None else image.unique_id
        chosen, channels, ids = self._chosen.get(self._rows_of, (None, "", [None, None]))
        self.channels.setText(channels)
        for choice, known in zip(others, ids, strict=True):
            choice.choose_id(known)
        self.channel_axis.blockSignals(True)
        self.channel_axis.clear()
        self.channel_axis.addItem("none", None)
        for axis in range(axes) if axes > 2 else ():
            length = finest(image).shape[axis]
            self.channel_axis.addItem(f"{axis} ({length} long)", axis)
        self.channel_axis.setCurrentIndex(max(self.channel_axis.findData(chosen), 0))
        self.channel_axis.blockSignals(False)
        several = grey and self.green.count() > 2
        self._show_row(self._also, several)
        if not several:
            self.green.setCurrentIndex(0)
            self.blue.setCurrentIndex(0)
        self._show_row(self.channel_axis, axes > 2)
        self._axis_chosen()

    def _axis_chosen(self, _: int = 0) -> None:
        self._show_row(self.channels, self.channel_axis.currentData() is not None)

    def _show_row(self, field: QWidget, visible: bool) -> None:
        self._image_rows.labelForField(field).setVisible(visible)
        field.setVisible(visible)

    def fill_models(self, names: Sequence[str]) -> None:
        """Offer these models, the files that were chosen before, and another file."""
        offered = [self.model.itemData(i) for i in range(self.model.count())]
        chosen = self._model_name
        files = [name for name in offered if name not in (None, *names) and Path(name).suffix]
        self.model.clear()
        for name in [*(names or [DEFAULT_MODEL]), *files]:
            self.model.addItem(Path(name).name, name)
        self.model.addItem("from a file…", None)
        self.model.setCurrentIndex(max(self.model.findData(chosen), 0))

    def _name_model(self, _: int) -> None:
        self._model_name = str(self.model.currentData() or self._model_name)

    def add_model(self, path: str) -> None:
        """Offer a model file, unless it is offered, and choose it."""
        if self.model.findData(path) < 0:
            self.model.insertItem(self.model.count() - 1, Path(path).name, path)
        self.model.setCurrentIndex(self.model.findData(path))

    # ---------------------------------------------------------------------------------------- showing

    def _show_chosen(self, _: str = "") -> None:
        image, model = self.image.currentText() or "no image", self.model.currentText()
        self.setup.show_chosen(image, model)
        self.setup.header.setToolTip(
            f"Image: {image}\nModel: {model}\nPress to open or fold the choices for Encode, and Adapt to my images. "
            "They fold by themselves once there is something to click on."
        )

    def _stay(self) -> None:
        self._folds = False  # what a person has opened stays open

    def show_setup(self) -> None:
        """Open the setup, because there is nothing to click on or the choice did not work."""
        self._folds = False
        self.setup.show_open(True)

    def show_loading(self) -> None:
        """Show that an encode has begun."""
        self._folds = True
        self.bar.setRange(0, 0)
        self.bar.setFormat("Loading the model")

    def show_ready(self, features: Features | None, step: Progress | None, of: str) -> None:
        """Show how much of an image is ready for clicks, and the time left if it is being encoded; None shows nothing.

        `of` comes before it, where that is not the image chosen.
        """
        if features is None:
            self.bar.setRange(0, 1)
            self.bar.setValue(0)
            self.bar.setFormat("")
            return
        ready = features.ready_planes()
        total, count = max(int(ready.size), 1), int(ready.sum())
        if self._folds and count:
            self._folds = False
            self.setup.show_open(False)
        tiles = len(features.tiles)
        self.bar.setRange(0, total * tiles)
        self.bar.setValue(max(count * tiles, 0 if step is None else step.done))
        text = (
            f"{count} of {total} plane{'s' * (total != 1)}"
            if features.leading
            else ("encoded" if count else "encoding")
        )
        if step is not None and step.done < step.total:
            text += f", {duration(step.seconds_left)} left"
        self.bar.setFormat(f"{of}{text}")

    def show_learnt(self, done: float, seconds_left: float) -> None:
        """Show how much a model has learnt, from 0 to 1."""
        self.adapt_bar.setValue(round(100 * done))
        self.adapt_bar.setFormat(f"{duration(seconds_left)} left")

    def show_sign(self, positive: bool) -> None:
        """Show what the next click means."""
        self.sign.setText("+ Positive [T]" if positive else "- Negative [T]")
        colour = GREEN if positive else RED
        self.sign.setStyleSheet(f"background-color: {colour}; color: black; font-weight: bold;")

    def show_offer(self, offer: Offer | None) -> None:
        """Offer to restore objects, or no longer."""
        self.restore.setVisible(offer is not None)
        self.restore.setText("" if offer is None else f"Restore {offer}")

    def show_state(
        self,
        annotator: Annotator | None,
        *,
        encoding: bool,
        adapting: bool,
        carrying: bool,
        picking: str,
        before: str,
    ) -> None:
        """Show the state of the current object, and enable only the buttons that can do something.

        `before` says what one should know before the next click; it may be empty.
        """
        focused = self.window().focusWidget()
        self._folds = self._folds and encoding
        self.encode.setEnabled(not encoding and not adapting and self.image.layer() is not None)
        self.cancel.setEnabled(encoding)
        self.adapt_model.setEnabled(
            annotator is not None and annotator.can_adapt and not encoding and not carrying
        )
        if adapting and not self._adapting.currentIndex():
            self.show_setup()  # how far it is stands there
        self._adapting.setCurrentIndex(int(adapting))
        for choice in (self.model, self.device):
            choice.setEnabled(not adapting)
        for button in (
            *(self.box, self.line, self.flip, self.new, self.clear, self.edit, self.delete),
            *(self.save_labels, self.save_prompts, self.load_prompts),
        ):
            button.setEnabled(annotator is not None)
        self.undo.setEnabled(annotator is not None and annotator.can_undo)
        self.redo.setEnabled(annotator is not None and annotator.can_redo)
        self.commit.setEnabled(annotator is not None and annotator.can_commit)
        self.similar.setEnabled(annotator is not None and annotator.can_find_similar)
        self.propagate.setEnabled(
            annotator is not None and max(annotator.session.features.leading, default=1) > 1
        )
        self._carrying.setCurrentIndex(int(carrying))
        if annotator is not None and not annotator.busy:  # saved clicks bring theirs
            with QSignalBlocker(self.overwrite):
                self.overwrite.setChecked(annotator.session.overwrite)
        self.edit.setChecked(picking == EDIT)
        self.delete.setChecked(picking == DELETE)
        told = _told(annotator, picking, adapting, self.image.layer() is not None)
        self.object.setText(f"{before} {told}".strip())
        if focused is not None and self.isAncestorOf(focused) and not focused.isEnabled():
            self.setup.header.setFocus()  # or Qt would look for another button, which somebody may press unawares


def _told(annotator: Annotator | None, picking: str, adapting: bool, image: bool) -> str:
    if annotator is None and image and adapting:
        return "The model is learning: press Encode when it has finished."
    if annotator is None:
        return "Press Encode, then click on an object." if image else "Open an image first."
    if picking:
        return f"Click on the object to {'continue' if picking == EDIT else 'delete'}."
    session, count = annotator.session, len(annotator.session.clicks)
    boxes = {0: "", 1: "a box, "}.get(len(session.boxes), f"{len(session.boxes)} boxes, ")
    lines = {0: "", 1: ", a line"}.get(len(session.scribbles), f", {len(session.scribbles)} lines")
    text = f"Object {session.label}: {boxes}{count} click{'s' * (count != 1)}{lines}"
    if not (session.given or annotator.waiting):
        text = f"Object {session.label}: click {'to correct' if session.prompts else 'on'} it"
    if len(session.planes) > 1:
        text += f", {len(session.planes)} planes"
    if rival := session.rival:
        text += f"; object {rival} is already here: press Edit object and click on it to correct it"
    if annotator.waiting:
        more = len(annotator.waiting)
        text += f"; {more} more wait{'s' * (more == 1)} until {planes_are(annotator.waiting)} encoded"
        text += ", once the model has finished learning" * adapting
    elif annotator.busy:
        text += " …"
    return text


def _elided(widget: QWidget, text: str, width: int) -> str:
    """Return a text without its middle, if it is wider than `width` pixels in the font of a widget."""
    return str(widget.fontMetrics().elidedText(text, Qt.TextElideMode.ElideMiddle, width))


def _hint(control: Any, tip: str) -> Any:
    control.setToolTip(tip)
    if isinstance(control, QComboBox):
        control.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        # No name may widen the panel.
        control.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        control.setMinimumContentsLength(_LETTERS)
    if isinstance(control, QComboBox | QSpinBox):
        control.installEventFilter(_Still(control))
        # Nor must the wheel take the focus from the canvas.
        control.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    return control


def _button(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    # A button that took the focus would take keys such as Space from the canvas.
    button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    return button


def _bar(tip: str) -> QProgressBar:
    bar = QProgressBar()
    bar.setTextVisible(True)
    bar.setFormat("")
    bar.setToolTip(tip)
    return bar


def _tighten(part: QLayout) -> None:
    """Leave as little space between rows as looks good: the whole panel should fit on a small screen."""
    part.setContentsMargins(8, 4, 8, 6)
    part.setSpacing(4)


def _row(*parts: QWidget) -> QWidget:
    row = QWidget()
    line = QHBoxLayout(row)
    line.setContentsMargins(0, 0, 0, 0)
    for part in parts:
        line.addWidget(part)
    return row


def _grid(*rows: tuple[QWidget, ...]) -> QGridLayout:
    grid = QGridLayout()
    grid.setSpacing(4)
    for y, row in enumerate(rows):
        for x, part in enumerate(row):
            grid.addWidget(part, y, x, 1, 2 // len(row))
    return grid
