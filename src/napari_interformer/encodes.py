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
    source : Source
        The image.
    only : tuple of tuple of int, optional
        The planes to encode; all if None.
    """

    def __init__(self, source: Source, only: tuple[tuple[int, ...], ...] | None = None) -> None:
        super().__init__()
        self.source, self.only = source, only
        self.pixels = [finest(layer) for layer in source.layers]  # layers may be given others meanwhile
        self.wanted: Part | None = None


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
        super().__init__()
        self._worker = worker
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
        first: Part | None = None,
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
        first : tuple of plane and box, optional
            What to begin with, if that is known.
        """
        job = EncodeJob(source)

        def work() -> None:
            self._worker.share(lambda cores: cores - max(1, cores // 4))
            model = load()
            planes, features = find(model)
            features.ready_planes()  # looks through a store, once: not in the window
            while undecided(features):
                if job.unwanted(self._worker):
                    planes.release()
                    return
                job.cancelled.wait(SOON)
            self._worker.tell(partial(self._prepared, job, prepared, model, features))
            self._encode(job, planes, features, model, device)

        self._start(job, work, first)

    def go_on(
        self,
        source: Source,
        features: Features,
        model: Any,
        device: str,
        planes: tuple[tuple[int, ...], ...],
        first: Part | None = None,
    ) -> None:
        """Encode some planes of an image that has features already; parameters as for `begin`."""
        job = EncodeJob(source, planes)

        def work() -> None:
            image = features.source or source.planes().with_contrast(features.contrast)
            self._encode(job, image, features, model, device)

        self._start(job, work, first)

    def _start(self, job: EncodeJob, work: Callable[[], None], first: Part | None) -> None:
        self.job, job.wanted = job, first
        self._worker.run(work, partial(self._ended, job), partial(self._ended, job))

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
                cancelled=partial(job.unwanted, self._worker),
            ):
                self._worker.tell(partial(self._progressed, job, step))
        finally:
            planes.release()

    def _prepared(
        self,
        job: EncodeJob,
        prepared: Callable[[EncodeJob, InterFormer, Features], None],
        model: InterFormer,
        features: Features,
    ) -> None:
        if job is self.job:
            prepared(job, model, features)

    def _progressed(self, job: EncodeJob, step: Progress) -> None:
        if job is self.job:
            job.show(step.done, step.total, "InterFormer encodes")
            self._tell_progressed(step)

    def _ended(self, job: EncodeJob, error: Exception | None) -> None:
        if self.over(job):
            self._tell_ended(job, error)

    def want(self, part: Part) -> None:
        """Encode this part next."""
        if self.job is not None:
            self.job.wanted = part
