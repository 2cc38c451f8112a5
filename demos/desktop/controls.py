"""Controls: what is picked in the toolbar: a bundle, an engine, a precision, and how strongly a style paints."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QSignalBlocker, Qt, QTimer, Signal
from PySide6.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QLabel, QSizePolicy, QSlider, QWidget

from edgekit import registry
from edgekit.demos.desktop.making import Wish, offered
from edgekit.opening import runtime

FOLDER, ZIP = "A bundle's folder …", "A bundle's .zip …"
PRECISIONS = ("auto", "int8", "fp32")
PATIENCE_MS = 250  # without a move of the strength before it is heeded


class Controls(QWidget):
    """A row of labelled boxes; `changed` is sent when the user, and nobody else, picked something."""

    changed = Signal()

    def __init__(self, bundle: str | None = None, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._shipped = offered()
        self.bundle = _box("Bundle", 15)
        for name, does in self._shipped.items():
            self.bundle.addItem(f"{name}   {does}", name)
        self.bundle.insertSeparator(self.bundle.count())
        self.bundle.addItem(FOLDER)
        self.bundle.addItem(ZIP)
        self.engine = _box("Engine", 9)
        installed = [name for name in registry.device_runtimes() if runtime(name).installed()]
        self.engine.addItems(["auto", *installed])
        self.precision = _box("Precision", 4)
        self.precision.addItems(list(PRECISIONS))
        self.strength = QSlider(Qt.Orientation.Horizontal)
        self.strength.setRange(0, 100)
        self.strength.setValue(100)
        self.strength.setAccessibleName("Strength of the style, in percent")
        self.strength.setToolTip("Strength of the style: left is the photo, right the painting")
        self.strength.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self._painting = _labelled("S&trength", self.strength)  # upscalers have none
        room = self._painting.sizePolicy()
        room.setRetainSizeWhenHidden(True)
        self._painting.setSizePolicy(room)
        self._rest = QTimer(self, singleShot=True, interval=PATIENCE_MS)
        self._lay_out()
        self._connect()
        self.pick(bundle or next(iter(self._shipped), ""))

    def wish(self) -> Wish:
        """What is picked now."""
        picked = str(self.bundle.currentData() or "")
        return Wish(
            picked, self.engine.currentText(), self.precision.currentText(),
            self.strength.value() / 100 if not self._painting.isHidden() else 1.0,
        )  # fmt: skip

    def pick(self, bundle: str) -> None:
        """Select a bundle by name or path; a path that is new to the list joins it."""
        with QSignalBlocker(self.bundle):
            found = self.bundle.findData(bundle)
            if found < 0 and bundle:
                found = len(self._shipped)
                self.bundle.insertItem(found, Path(bundle).name, bundle)
                self.bundle.setItemData(found, bundle, Qt.ItemDataRole.ToolTipRole)
                self._shipped[bundle] = ""
            self.bundle.setCurrentIndex(found)
        self._last = bundle
        does = self._shipped.get(bundle, "")
        self._painting.setHidden(does.startswith("×"))
        self.bundle.setToolTip(f"{bundle}   {does}")

    def _lay_out(self) -> None:
        row = QHBoxLayout(self)
        row.setContentsMargins(8, 0, 8, 0)
        row.setSpacing(12)
        row.addWidget(_labelled("&Bundle", self.bundle))
        row.addWidget(_labelled("&Engine", self.engine))
        row.addWidget(_labelled("P&recision", self.precision))
        row.addWidget(self._painting)
        row.addStretch()

    def _connect(self) -> None:
        self.bundle.activated.connect(self._picked)
        self.engine.activated.connect(lambda _: self.changed.emit())
        self.precision.activated.connect(lambda _: self.changed.emit())
        self.strength.valueChanged.connect(lambda _: self._rest.start())
        self._rest.timeout.connect(self.changed)

    def _picked(self, index: int) -> None:
        """A bundle of the list, or one that is looked for on the disk."""
        text, picked = self.bundle.itemText(index), self.bundle.itemData(index)
        if text == FOLDER:
            picked = QFileDialog.getExistingDirectory(self.window(), "A folder with bundle.json")
        elif text == ZIP:
            picked, _ = QFileDialog.getOpenFileName(self.window(), "A bundle", filter="Bundles (*.zip)")
        chosen = picked and picked != self._last
        self.pick(picked or self._last)
        if chosen:
            self.changed.emit()


def _labelled(text: str, field: QWidget) -> QWidget:
    """A field behind its label, whose letter with & before it goes there with Alt."""
    pair, label = QWidget(), QLabel(text)
    label.setBuddy(field)
    row = QHBoxLayout(pair)
    row.setContentsMargins(0, 0, 0, 0)
    row.addWidget(label)
    row.addWidget(field)
    return pair


def _box(name: str, letters: int) -> QComboBox:
    box = QComboBox()
    box.setAccessibleName(name)
    box.setMinimumContentsLength(letters)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.view().setMinimumWidth(box.fontMetrics().horizontalAdvance("m") * 30 if letters > 12 else 0)
    return box
