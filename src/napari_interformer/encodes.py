"""Encoding beside the window: one image, or some of its planes, at a time, in a thread; the window says what comes first.

Enters: how to get a model and features, or existing ones. Leaves: calls in the main thread, when there is room for the
features, after each tile, and at the end. Which image, and what happens then, is decided elsewhere.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from napari_interformer.layers import finest
from napari_interformer.worker import Job, OneJob

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_interformer.encoding import Part, Progress
    from napari_interformer.features import Features
    from napari_interformer.image import Planes
    from napari_interformer.layers import Source
    from napari_interformer.model import InterFormer
    from napari_interformer.worker import WorkerThread

SOON = 0.02  # seconds after which the thread looks again


class EncodeJob(Job):
    """An encode in progress: of which image, and which part of it is waited for.

    Parameters
    ----------
    worker : WorkerThread
        Encodes.
    source : Source
        The image.
    wanted : tuple of plane and box, or None
        What to encode next, if that is known.
    only : tuple of tuple of int, optional
        The planes to encode; all if None.
    """

    def __init__(
        self,
        worker: WorkerThread,
        source: Source,
        wanted: Part | None,
        only: tuple[tuple[int, ...], ...] | None = None,
    ) -> None:
        super().__init__(worker, "InterFormer encodes")
        self.source, self.wanted, self.only = source, wanted, only
        self.pixels = [finest(layer) for layer in source.layers]  # layers may be given others meanwhile
        self.step: Progress | None = None  # how far it is, once it is anywhere


class Encodes(OneJob[EncodeJob]):
    """What is being encoded, if anything is. All methods are the main thread's.

    Parameters
    ----------
    worker : WorkerThread
        Encodes.
    progressed : callable
        Told after each tile.
    ended : callable
        Called at the end, with the job and the error if there was one; `job.cancelled` says whether it was stopped.
    """

    def __init__(
        self,
        worker: WorkerThread,
        *,
        progressed: Callable[[Progress], None],
        ended: Callable[[EncodeJob, Exception | None], None],
    ) -> None:
        super().__init__(worker)
        self._tell_progressed, self._tell_ended = progressed, ended

    def begin(
        self,
        source: Source,
        device: str,
        *,
        load: Callable[[], InterFormer],
        find: Callable[[InterFormer], tuple[Planes, Features]],
        undecided: Callable[[Features], bool],
        prepared: Callable[[EncodeJob, InterFormer, Features], None],
        first: Part | None,
    ) -> None:
        """Encode what is not encoded yet of an image.

        Parameters
        ----------
        source : Source
            The image.
        device : str
            Where to compute.
        load, find : callable
            In the thread: return the model, and the image's planes with the features to fill.
        undecided : callable
            Called in the thread, again and again: whether it is not known yet if clicks may begin on these features.
        prepared : callable
            Called before anything is encoded, when clicks may begin; it can cancel the job.
        first : tuple of plane and box, or None
            What to begin with, if that is known.
        """
        job = EncodeJob(self._worker, source, first)

        def work() -> None:
            self._worker.share(lambda cores: cores - max(1, cores // 4))
            model = load()
            planes, features = find(model)
            features.ready_planes()  # looks through a store, once: not in the window
            while undecided(features):
                if job.unwanted():
                    planes.release()
                    return
                job.cancelled.wait(SOON)
            self.tell(job, partial(prepared, job, model, features))
            self._encode(job, planes, features, model, device)

        self._run(job, work, self._tell_ended)

    def go_on(
        self,
        source: Source,
        features: Features,
        model: Any,
        device: str,
        planes: tuple[tuple[int, ...], ...],
        first: Part | None,
    ) -> None:
        """Encode some planes of an image that has features already; parameters as for `begin`."""
        job = EncodeJob(self._worker, source, first, planes)

        def work() -> None:
            image = features.source or source.planes().with_contrast(features.contrast)
            self._encode(job, image, features, model, device)

        self._run(job, work, self._tell_ended)

    def _encode(self, job: EncodeJob, planes: Planes, features: Features, model: Any, device: str) -> None:
        """In the thread: encode what a job asks for, and report."""
        from napari_interformer.encoding import encode_tiles

        try:
            for step in encode_tiles(
                planes,
                features,
                model,
                device=device,
                first=lambda: job.wanted,
                only=job.only,
                cancelled=job.unwanted,
            ):
                self.tell(job, partial(self._progressed, job, step))
        finally:
            planes.release()

    def _progressed(self, job: EncodeJob, step: Progress) -> None:
        job.step = step
        job.show(step.done, step.total)
        self._tell_progressed(step)
