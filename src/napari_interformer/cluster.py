"""Encode on a Dask cluster: one task per plane, and every worker writes its own tiles into the store.

Only names and numbers travel: a worker opens the image, the store and the model itself, once, so all of them must lie where
all workers see them. What a lost worker had finished lies in the store; its other planes go to those that remain.
"""

from __future__ import annotations

import functools
import importlib
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_interformer.checkpoint import load_model
from napari_interformer.encoding import Progress, encode_tiles, room_for
from napari_interformer.features import Features
from napari_interformer.image import Planes
from napari_interformer.model import resolve_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_interformer.encoding import Tile
    from napari_interformer.image import Contrast
    from napari_interformer.model import InterFormer

TIMEOUT = 20  # seconds to wait for a scheduler
RETRIES = 3  # of a plane whose encoding raised; that workers are lost is no error
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
    image, store : str
        Where they lie for all workers; the store may be a URL.
    model : str or None
        As `load_model` takes it.
    channel_axis, channels, contrast
        See `Planes.of`.
    device : str
        As `encode` takes it; "auto" is each worker's own choice.
    """

    image: str
    store: str
    model: str | None
    channel_axis: int | None
    channels: tuple[int, ...] | None
    contrast: Contrast
    device: str = "auto"


def encode_on(
    client: Any,
    image: str | Path,
    store: str | Path,
    *,
    model: str | Path | None = None,
    channel_axis: int | None = None,
    channels: tuple[int, ...] | None = None,
    contrast: Contrast = "auto",
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
        As `load_model` takes it; a file must lie where all workers see it.
    channel_axis, channels, contrast, device, tile, halo
        As for `encode`.
    progress : callable, optional
        Called with a `Progress` after each plane.

    Returns
    -------
    Features
        With all planes; those that were there already are not made again.

    Raises
    ------
    ValueError, OSError
        As `encode` does, here or on a worker.
    RuntimeError
        If workers are lost again and again.
    """
    planes = Planes.of(image, channel_axis=channel_axis, channels=channels, contrast=contrast)
    network = load_model(model)
    features = room_for(planes, network, store=store, tile=tile, halo=halo)
    where = str(store) if "://" in str(store) else str(Path(store).absolute())
    # The limits, not the rule: no worker need look through the volume again.
    job = Job(
        str(Path(image).absolute()),
        where,
        None if model is None else _absolute(model),
        channel_axis,
        channels,
        planes.contrast,
        device,
    )
    waiting = {plane: len(tiles) for plane in planes.plane_indices() if (tiles := features.waiting(plane))}
    total = len(planes) * len(features.tiles)
    before = left = sum(waiting.values())
    began = time.monotonic()
    distributed = _needed("distributed")
    tasks = {
        client.submit(_encode_plane, job, plane, retries=RETRIES, pure=False): plane for plane in waiting
    }
    try:
        for task in distributed.as_completed(tasks):
            try:
                task.result()
            except distributed.KilledWorker as error:
                raise RuntimeError(
                    f"Workers were lost whenever they encoded plane {tasks[task]}; see their logs: they may need more memory."
                ) from error
            left -= waiting[tasks[task]]
            if progress is not None:
                spent = time.monotonic() - began
                progress(Progress(total - left, total, tasks[task], spent / max(before - left, 1) * left))
    finally:
        client.cancel(list(tasks))
    features.finish()
    return features


def _absolute(model: str | Path) -> str:
    return str(Path(model).absolute()) if Path(model).exists() else str(model)


def _encode_plane(job: Job, plane: tuple[int, ...]) -> int:
    """Encode what is left of a plane; return how many tiles that were."""
    planes, features, model = _opened(job)
    return sum(1 for _ in encode_tiles(planes, features, model, device=model.device, only=[plane]))


@functools.lru_cache(maxsize=1)
def _opened(job: Job) -> tuple[Planes, Features, InterFormer]:
    """Open what a job names, once per worker."""
    planes = Planes.of(job.image, channel_axis=job.channel_axis, channels=job.channels, contrast=job.contrast)
    model = load_model(job.model, resolve_device(job.device))
    return planes, Features.open(job.store, mode="r+", image=planes, model=model), model


@contextmanager
def cluster(*, scheduler: str | None = None, jobqueue: str | None = None, workers: int = 1) -> Iterator[Any]:
    """Connect to a scheduler, or start workers through a batch system; give them back in the end.

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
        If the batch system is not known or has no configuration, or nothing answers at the address.
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
            f"The {jobqueue} jobs need cores and memory ({error}): set them in dask-jobqueue's jobqueue.yaml."
        ) from error
    with started, distributed.Client(started) as client:
        started.scale(jobs=workers)
        yield client


def _needed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"Encoding on a cluster needs {package.replace('_', '-')}: pip install 'napari-interformer[cluster]'."
        ) from error
