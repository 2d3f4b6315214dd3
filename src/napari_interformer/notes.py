"""The journal of the session in the window: written soon after each change, and restored where another session ended.

Enters: an annotator, and a call after each change. Leaves: a file (see `journal`), an offer to restore another session's
objects, and these objects, restored. Knows of no layer.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NoReturn

from napari.utils.notifications import show_info, show_warning
from qtpy.QtCore import QTimer

from napari_interformer.annotator import sentence
from napari_interformer.journal import Journal
from napari_interformer.journal import offer as find_offer

if TYPE_CHECKING:
    from collections.abc import Callable

    from qtpy.QtCore import QObject

    from napari_interformer.annotator import Annotator
    from napari_interformer.journal import Offer
    from napari_interformer.replay import Replay

NOTED = 1000  # milliseconds after a change within which it is on disk


class Notes:
    """What is recorded of one session after another.

    Parameters
    ----------
    parent : QObject
        The owner of the timer.
    later : callable
        From any thread: calls something in the main thread.
    offered : callable
        Called with what there is to restore, or with None if there is nothing (any more).
    """

    def __init__(
        self,
        parent: QObject,
        later: Callable[[Callable[[], None]], None],
        offered: Callable[[Offer | None], None],
    ) -> None:
        self.journal: Journal | None = None
        self.offer: Offer | None = None
        self.timer = QTimer(parent)
        self.timer.setSingleShot(True)
        self.timer.setInterval(NOTED)
        self.timer.timeout.connect(self._write)
        self._annotator: Annotator | None = None
        self._noted = True  # whether the journal has what is so
        self._later, self._offered = later, offered

    def open(self, annotator: Annotator) -> None:
        """Record on disk what is clicked from now on."""

        def failed(error: OSError) -> None:
            self._later(
                partial(show_warning, f"Clicks cannot be saved for recovery after a crash: {sentence(error)}")
            )

        self._annotator = annotator
        self.journal = Journal(annotator.session.features.image_fingerprint, failed)

    def look(self) -> None:
        """Look for what another session recorded of this image, once all before is done: the labels are surveyed first."""
        annotator = self._annotator
        assert annotator is not None
        session = annotator.session
        image = session.features.image_fingerprint

        def found(offer: Offer | None) -> None:
            if offer is not None and not session.records:
                self._offer(offer)
                them = "it" if offer.objects == 1 else "them"
                show_info(f"Not in these labels: {offer}. Press Restore in the panel to bring {them} back.")

        annotator.act(found, lambda: find_offer(image, annotator.highest))

    def changed(self) -> None:
        """Note that something changed."""
        self._noted = False
        if not self.timer.isActive():
            self.timer.start()

    def flush(self) -> None:
        """Write at once what would be written within a second; this needs no window."""
        if self._annotator is not None and self.journal is not None and not self._noted:
            self._noted = True
            self.journal.write(self._annotator.noted)

    def gone(self) -> None:
        """Note that the window is gone, and the objects with it, although the panel was not closed."""
        self.flush()
        if self.journal is not None:
            self.journal.close()

    def _write(self) -> None:
        self.flush()
        records = () if self._annotator is None else self._annotator.session.records
        # Whoever corrects or deletes what was there before takes no number.
        if self.offer is not None and any(not record.edited for record in records):
            show_info(
                f"You began new objects here, so {self.offer} can only be restored into a layer of their own: choose new layer "
                "under Labels and press Encode."
            )
            self._offer(None)

    def _offer(self, offer: Offer | None) -> None:
        self.offer = offer
        self._offered(offer)

    def restore(self) -> None:
        """Replay what another session recorded of this image."""
        annotator, offer, journal = self._annotator, self.offer, self.journal
        if annotator is None or offer is None or journal is None:
            return
        session = annotator.session

        def failed(error: Exception) -> NoReturn:
            self._offer(offer)
            raise error

        def then(replay: Replay) -> None:
            try:
                session.adopt_saved(replay)
            except Exception as error:
                failed(error)
            journal.supersede(offer.path)

        self._offer(None)  # or it could be asked for again meanwhile
        annotator.act(then, lambda: session.compute_saved(offer.path), failed)

    def close(self, shown: Callable[[], bool] | None = None) -> None:
        """Write what is not written yet, and record no more of this session; for `shown`, see `Journal.close`."""
        self.timer.stop()
        self.flush()
        if self.journal is not None:
            self.journal.close(shown)
        self.journal = self._annotator = None
        self._offer(None)
