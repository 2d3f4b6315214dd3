"""Adapting a model beside the window: one at a time, in a thread that shows how far it is and can be stopped.

Enters: a model, and the finished objects of a session. Leaves: calls in the main thread, while it learns and at the end.
Whether the adapted model is used is decided elsewhere.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from napari_interformer.worker import Job, OneJob

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_interformer.model import InterFormer
    from napari_interformer.session import Session
    from napari_interformer.train import Progress
    from napari_interformer.worker import WorkerThread


class Learnt(NamedTuple):
    """An adapted model, the name under which it was saved, and those of all models that there are now."""

    name: str
    model: InterFormer
    names: list[str]


class Lessons(OneJob[Job]):
    """What a model is learning, if it is. All methods are the main thread's.

    Parameters
    ----------
    worker : WorkerThread
        Adapts.
    progressed : callable
        Told from time to time which part is done, from 0 to 1, and how many seconds are left.
    ended : callable
        Called at the end, with the job and what was learnt or the error; `job.cancelled` says whether it was stopped.
    """

    def __init__(
        self,
        worker: WorkerThread,
        *,
        progressed: Callable[[float, float], None],
        ended: Callable[[Job, Learnt | Exception], None],
    ) -> None:
        super().__init__(worker)
        self._tell_progressed, self._tell_ended = progressed, ended

    def begin(self, model: InterFormer, session: Session, name: str, base: str) -> None:
        """Teach a copy of a model what a session's finished objects look like, and save it.

        Parameters
        ----------
        model : InterFormer
            Stays as it is.
        session : Session
            Its current object is not learnt from.
        name : str
            Of the new model.
        base : str
            That of `model`.
        """
        job = Job(self._worker, "InterFormer adapts")
        began: float | None = None

        def told(now: Progress) -> None:
            nonlocal began
            began = time.monotonic() if began is None else began
            seconds, left = time.monotonic() - began, now.seconds_left
            done = seconds / (seconds + left) if left else 1
            self.tell(job, partial(self._progressed, job, done, left))

        def work() -> Learnt:
            from napari_interformer.adapting import adapt_and_save
            from napari_interformer.checkpoint import models

            kept, adapted = adapt_and_save(
                model, session.features, session.finished, name, base, progress=told, cancelled=job.unwanted
            )
            return Learnt(kept, adapted, list(models()))

        self._run(job, work, self._tell_ended)

    def _progressed(self, job: Job, done: float, seconds_left: float) -> None:
        if not job.cancelled.is_set():
            job.show(round(100 * done), 100)
            self._tell_progressed(done, seconds_left)
