"""Encode with many processes, each of which writes its own tiles into the store: on a Dask cluster, or on several devices.

Only names and numbers are sent: a worker opens the image, the store and the model itself, once, so they must be where all
workers can see them. What a lost worker had finished is in the store; the rest goes to the remaining workers. A cluster gets
one task per plane; on one machine, the devices share the tiles of each plane, too.
"""

from __future__ import annotations

import functools
import importlib
import logging
import multiprocessing
import os
import signal
import threading
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

import torch

from napari_interformer import GET_EXTRA
from napari_interformer.checkpoint import load_model, models
from napari_interformer.encoding import Progress, encode_tiles, room_for
from napari_interformer.features import Features
from napari_interformer.files import at_home, is_url
from napari_interformer.image import Planes
from napari_interformer.model import resolve_device
from napari_interformer.store import located

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

    from napari_interformer.encoding import Tile
    from napari_interformer.image import Contrast
    from napari_interformer.model import InterFormer

log = logging.getLogger(__name__)

TIMEOUT = 20  # seconds to wait for a scheduler
LAST_WORDS = 5  # seconds that a process has for its tile when nobody waits for it any more
RETRIES = 3  # of a plane whose encoding raised; that workers are lost is no error
ALONE = 5  # seconds without a worker until that is told
LOOK = 0.1  # seconds between two looks at what the workers have done
# Seconds until a file server must show what others wrote: NFS remembers for up to a minute which files a folder had.
SHOWN = 60
# Name of the scheduler -> the class of dask-jobqueue that starts workers through it.
QUEUES = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "htcondor": "HTCondorCluster",
    "oar": "OARCluster",
    "moab": "MoabCluster",
}


@dataclass(frozen=True)
class Job:
    """What a worker needs to know.

    Attributes
    ----------
    image, store : str or Path
        Where all workers find them; the store may be a URL.
    model : str, Path or None
        As `load_model` takes it.
    channel_axis, channels, contrast, axes
        See `Planes.of`.
    device : str
        As `encode` takes it; "auto" is each worker's own choice.
    run : str
        Different for each run, because what a worker opened for one may be deleted or replaced before the next.
    """

    image: str | Path
    store: str | Path
    model: str | Path | None
    channel_axis: int | None
    channels: tuple[int, ...] | None
    contrast: Contrast
    axes: str | None
    device: str = "auto"
    run: str = ""


def encode_on(
    client: Any,
    image: str | Path,
    store: str | Path,
    *,
    model: str | Path | None = None,
    channel_axis: int | None = None,
    channels: tuple[int, ...] | None = None,
    contrast: Contrast = "auto",
    axes: str | None = None,
    device: str = "auto",
    tile: Tile = None,
    halo: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Features:
    """Encode an image that all workers can read, into a store that all can write.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster.
    image, store : path
        As for `encode`; the image is a file or a zarr, not an array.
    model : str or path, optional
        As `load_model` takes it; a file must be where all workers can see it.
    channel_axis, channels, contrast, axes, device, tile, halo
        As for `encode`.
    progress : callable, optional
        Called with a `Progress` after each plane.

    Returns
    -------
    Features
        With all planes; existing ones are not made again.

    Raises
    ------
    ValueError, OSError
        As `encode` does, here or on a worker.
    RuntimeError
        If workers are lost again and again, or if, in the end, the store lacks what they report to have written.
    """
    job = Job(image, store, model, channel_axis, channels, contrast, axes, device)
    job, features, waiting, count = _begin(job, tile, halo)
    distributed = _needed("distributed")
    tasks = {
        client.submit(_encode_plane, job, plane, retries=RETRIES, pure=False): plane for plane in waiting
    }
    try:
        for task in _as_done(client, tasks):
            try:
                task.result()
            except distributed.KilledWorker as error:
                raise RuntimeError(
                    f"Workers were lost whenever they encoded plane {tasks[task]}: see their logs; they may need more memory."
                ) from error
            now = count.more(waiting[tasks[task]], tasks[task])
            if progress is not None:
                progress(now)
    finally:
        client.cancel([task for task in tasks if not task.done()])
    until = time.monotonic() + SHOWN
    while not features.finish():
        if time.monotonic() > until:
            raise RuntimeError(
                f"The workers report that everything is encoded, but some of it is missing in {store}: check that it was not "
                "deleted meanwhile, and that they see the same folder as you; the same command encodes what is missing."
            )
        time.sleep(LOOK)
    return features


def _as_done(client: Any, tasks: Iterable[Any]) -> Iterator[Any]:
    """Yield tasks as they are done, and warn when there are no workers to do them."""
    coming = _needed("distributed").as_completed(tasks)
    seen, alone = time.monotonic(), False
    while not coming.is_empty():
        if coming.has_ready():
            yield next(coming)
            seen = time.monotonic()
        elif time.monotonic() < seen + ALONE:
            time.sleep(LOOK)
        else:
            seen = time.monotonic()
            if client.scheduler_info()["workers"]:
                alone = False
            elif not alone:
                alone = True
                address = client.scheduler.address
                log.warning(
                    "Waiting for workers: none is connected to %s; start some with `dask worker %s`, or wait for the batch "
                    "system to run their jobs.",
                    *(address, address),
                )


def encode_with(
    devices: Sequence[str | torch.device],
    image: str | Path,
    store: str | Path,
    *,
    model: str | Path | None = None,
    channel_axis: int | None = None,
    channels: tuple[int, ...] | None = None,
    contrast: Contrast = "auto",
    axes: str | None = None,
    tile: Tile = None,
    halo: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Features:
    """Encode an image file on several devices of this machine, with a process for each.

    Parameters
    ----------
    devices : sequence of str
        Such as "cuda:0", "cuda:1"; "cpu" several times shares the cores.
    image, store, model, channel_axis, channels, contrast, axes, tile, halo
        As for `encode_on`.
    progress : callable, optional
        Called with a `Progress` after each tile.

    Returns
    -------
    Features
        With all planes; existing ones are not made again.

    Raises
    ------
    ValueError, OSError, MemoryError
        As `encode` does, if no other device could do what one failed at.
    RuntimeError
        If processes ended before all was done.
    """
    if isinstance(devices, str) or not devices:
        raise ValueError(
            f"devices takes a list of at least one device, such as ['cuda:0', 'cuda:1']; got {devices!r}."
        )
    job = Job(image, store, model, channel_axis, channels, contrast, axes)
    job, features, waiting, count = _begin(job, tile, halo)
    todo = list(waiting)
    cores = max(1, torch.get_num_threads() // len(devices))
    context = multiprocessing.get_context("spawn")  # CUDA does not outlive a fork
    working: dict[Any, Any] = {}  # what each process says -> the process
    raised = 0  # processes that an error ended before they could tell of it
    failed: list[Exception] = []
    try:
        for number, device in enumerate(devices if todo else ()):
            # Each begins in a part of its own and then helps the others, so that they seldom meet.
            start = len(todo) * number // len(devices)
            heard, told = context.Pipe(duplex=False)
            given = (replace(job, device=str(device)), todo[start:] + todo[:start], cores, told)
            working[heard] = context.Process(
                target=_encode_share, args=given, name=f"encode on {device}", daemon=True
            )
            working[heard].start()
            told.close()
        while working:
            speaking: list[Any] = wait(list(working))
            for one in speaking:
                try:
                    said = one.recv()
                except (EOFError, OSError):  # it has ended, perhaps within a word
                    ended = working.pop(one)
                    ended.join()
                    raised += ended.exitcode == 1
                    continue
                if isinstance(said, Exception):
                    log.warning("Continuing with one device less: %s", said)
                    failed.append(said)
                elif progress is not None:
                    progress(count.more(1, said))
    finally:
        for heard in working:
            heard.close()  # who speaks then ends
        for process in working.values():
            process.join(LAST_WORDS)
            process.terminate()
            process.join()
    if features.finish():
        return features
    if failed:
        raise failed[0]
    remedy = "perhaps for lack of memory: the same command continues from there"
    if raised:  # each runs the script that started it
        remedy = 'as they could not begin: in a script, call encode_with under `if __name__ == "__main__":`'
    raise RuntimeError(
        f"The processes on {', '.join(map(str, devices))} ended before everything was encoded, {remedy}."
    )


def _encode_share(job: Job, planes: Sequence[tuple[int, ...]], cores: int, told: Connection) -> None:
    """Encode, in a separate process, what no other process does, and send the plane of each tile, or an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asked for it hears it too, and ends this
    torch.set_num_threads(cores)
    try:
        image, features, model = _opened(job)
        for step in encode_tiles(image, features, model, device=model.device, only=planes):
            told.send(step.plane)
    except BrokenPipeError:
        pass  # nobody is waiting any more
    except (ValueError, OSError, MemoryError) as error:
        told.send(error)
    except Exception as error:  # some cannot travel
        told.send(RuntimeError(f"{job.device}: {type(error).__name__}: {error}"))


class _Count:
    """The progress of many processes together: tiles in all, and tiles left."""

    def __init__(self, total: int, left: int) -> None:
        self.total, self.before, self.left = total, left, left
        self.began = time.monotonic()

    def more(self, tiles: int, plane: tuple[int, ...]) -> Progress:
        """Count tiles of a plane as done."""
        self.left = max(0, self.left - tiles)  # where nothing can be locked, two may have made the same one
        return Progress.after(time.monotonic() - self.began, self.total, self.before, self.left, plane)


def _begin(
    job: Job, tile: Tile, halo: int | None
) -> tuple[Job, Features, dict[tuple[int, ...], int], _Count]:
    """Make room for the features; return the job for workers, the room, the tiles missing on each plane, and a count."""
    if not isinstance(job.image, str | os.PathLike):
        raise TypeError(
            f"Other processes read the image themselves, from a path; got {type(job.image).__name__}: save it, or use encode."
        )
    job = replace(
        job,
        image=str(job.image if is_url(job.image) else at_home(job.image)),
        store=str(located(job.store)),
        model=None if job.model is None else _absolute(job.model),
    )
    planes = _planes(job)
    features = room_for(planes, load_model(job.model), store=job.store, tile=tile, halo=halo)
    waiting = {plane: len(tiles) for plane in planes.plane_indices() if (tiles := features.waiting(plane))}
    count = _Count(len(planes) * len(features.tiles), sum(waiting.values()))
    # The limits, not the rule: no worker need look through the volume again.
    job = replace(job, channels=planes.channels, contrast=planes.contrast, run=uuid.uuid4().hex)
    return job, features, waiting, count


def _planes(job: Job) -> Planes:
    return Planes.of(
        job.image,
        channel_axis=job.channel_axis,
        channels=job.channels,
        contrast=job.contrast,
        axes=job.axes,
    )


def _absolute(model: str | Path) -> str:
    """Return what a model is called on every worker: an absolute path, or a name as it is."""
    path = at_home(model)
    return str(path) if path.is_file() and str(model) not in models() else str(model)


def _encode_plane(job: Job, plane: tuple[int, ...]) -> None:
    """Encode what is left of a plane."""
    with _OPENING:  # a worker of Dask may have several threads
        planes, features, model = _opened(job)
    for _ in encode_tiles(planes, features, model, device=model.device, only=[plane]):
        pass


_OPENING = threading.Lock()


@functools.lru_cache(maxsize=1)
def _opened(job: Job) -> tuple[Planes, Features, InterFormer]:
    """Open what a job names, once per worker and run."""
    planes = _planes(job)
    model = load_model(job.model, resolve_device(job.device))
    return planes, Features.open(job.store, mode="r+", image=planes, model=model), model


@contextmanager
def cluster(*, scheduler: str | None = None, jobqueue: str | None = None, workers: int = 1) -> Iterator[Any]:
    """Connect to a scheduler, or start workers through a batch system; release them in the end.

    Parameters
    ----------
    scheduler : str, optional
        Address of a Dask scheduler, such as ``tcp://10.0.0.1:8786``.
    jobqueue : str, optional
        A key of `QUEUES`; cores, memory and queue of a job come from the user's dask-jobqueue configuration.
    workers : int
        Jobs to ask the batch system for.

    Yields
    ------
    distributed.Client

    Raises
    ------
    ImportError
        If Dask's packages are not installed.
    ValueError, ConnectionError
        If the batch system is unknown or not configured, or nothing answers at the address.
    """
    distributed = _needed("distributed")
    if jobqueue is None:
        try:
            client = distributed.Client(scheduler, timeout=TIMEOUT)
        except (OSError, ValueError) as error:
            raise ConnectionError(
                f"No Dask scheduler answers at {scheduler}: start one with `dask scheduler`, and give the address it prints."
            ) from error
        with client:
            yield client
        return
    if jobqueue not in QUEUES:
        raise ValueError(f"jobqueue takes one of {', '.join(QUEUES)}; got {jobqueue!r}.")
    queue = getattr(_needed("dask_jobqueue"), QUEUES[jobqueue])
    try:
        started = queue()
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"Jobs for {jobqueue} need cores and memory ({error}): set them in dask-jobqueue's jobqueue.yaml."
        ) from error
    with started, distributed.Client(started) as client:
        started.scale(jobs=workers)
        yield client


def _needed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"Encoding on a cluster needs {package.replace('_', '-')}: {GET_EXTRA.format('cluster')}."
        ) from error
