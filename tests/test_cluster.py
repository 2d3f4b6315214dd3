"""Encoding on a cluster: nothing is lost with a worker, nothing is done twice."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack

import numpy as np
import pytest
import tifffile
import torch

from napari_interformer import cluster as cluster_room
from napari_interformer import cluster as clusters
from napari_interformer.checkpoint import save_model
from napari_interformer.cli import main
from napari_interformer.cluster import cluster, encode_on, encode_with
from napari_interformer.encoding import encode, room_for
from napari_interformer.image import Planes

distributed = pytest.importorskip("distributed", reason="Dask's distributed is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # Dask's own, as it starts and ends processes

PLANES = 20  # of six tiles each; enough that some are left when a worker is killed


def made(folder, small_model, rng, shape):
    image, model = folder / "stack.tif", folder / "small.safetensors"
    tifffile.imwrite(image, rng.integers(0, 4000, shape, np.uint16), photometric="minisblack")
    save_model(small_model, model, {})
    return image, model, folder / "features.zarr"


@pytest.fixture
def files(tmp_path, small_model, rng):
    return made(tmp_path, small_model, rng, (PLANES, 96, 160))


@pytest.fixture
def few_files(tmp_path, small_model, rng):
    return made(tmp_path, small_model, rng, (3, 48, 64))


@pytest.fixture(scope="module")
def workers():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, worker_dashboard_address=None
    ) as local:
        yield local


def written(store):
    return {path.relative_to(store): path.stat().st_mtime_ns for path in (store / "maps" / "c").rglob("*/*")}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_worker_that_is_killed_half_way_loses_nothing_and_nothing_is_done_twice(
    files, workers, small_model
):
    image, model, store = files
    kept, told = {}, []
    with cluster(scheduler=workers.scheduler_address) as client:
        victim = min(client.run(os.getpid).values())

        def progress(now):
            told.append(now)
            if len(told) == PLANES // 2:
                kept.update(written(store))
                os.kill(victim, signal.SIGKILL)

        features = encode_on(client, image, store, model=model, progress=progress)
    assert len(kept) >= PLANES // 2
    after = written(store)
    assert len(after) == PLANES and {path: after[path] for path in kept} == kept
    assert [now.done for now in told] == sorted(now.done for now in told) and told[-1].done == told[-1].total
    check_planes(features, image, small_model)


def check_planes(features, image, model):
    planes = [(0,), (7,), (PLANES - 1,)]
    alone = encode(image, model, device="cpu", planes=planes)
    for plane in planes:
        for ours, theirs in zip(
            features.window(plane, features.tiles[0]), alone.window(plane, features.tiles[0]), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-3 * np.abs(theirs).max())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_devices_share_the_work_and_go_on_without_those_that_are_lost(files, small_model):
    image, model, store = files
    room, told = room_for(Planes.of(image), small_model, store=store), []

    def lose(count, then=lambda: None):
        def progress(now):
            told.append(now)
            if len(told) == 1:
                workers = [one for one in multiprocessing.active_children() if one.name.startswith("encode ")]
                assert len(workers) == 2
                for process in workers[:count]:
                    os.kill(process.pid, signal.SIGKILL)
                then()

        return progress

    held = ExitStack()  # while this tile is taken, nobody gets to the end
    held.enter_context(room.claim((PLANES - 1,), [5], 1))
    with pytest.raises(
        RuntimeError, match=r"on cpu, cpu ended before everything was encoded.* continues from there"
    ):
        encode_with(["cpu", "cpu"], image, store, model=model, progress=lose(2))
    kept, left = written(store), sum(len(room.waiting((z,))) for z in range(PLANES))
    assert 1 <= left < PLANES * 6
    told.clear()
    features = encode_with(["cpu", "cpu"], image, store, model=model, progress=lose(1, held.close))
    # Each tile once; whoever was killed may have written one more than it said.
    assert left - torch.get_num_threads() <= len(told) <= left and told[0].total == PLANES * 6
    after = written(store)
    assert len(after) == PLANES and {path: after[path] for path in kept} == kept
    check_planes(features, image, small_model)
    assert told[-1].done >= PLANES * 6 - torch.get_num_threads()
    encode_with(["cpu", "cpu"], image, store, model=model, progress=lose(2))  # nothing is left to begin with
    assert written(store) == after


def test_a_script_that_runs_again_in_each_process_is_told_what_it_lacks(few_files):
    image, model, store = few_files
    script = image.with_name("script.py")
    script.write_text(f"""
from napari_interformer.cluster import encode_with
encode_with(["cpu"], {str(image)!r}, {str(store)!r}, model={str(model)!r})
""")
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert ended.stderr.splitlines()[-1].endswith(
        'they could not begin: in a script, call encode_with under `if __name__ == "__main__":`.'
    )


@pytest.mark.parametrize("devices", ["cpu", []])
def test_devices_are_a_list(devices, files):
    with pytest.raises(ValueError, match="devices takes a list"):
        encode_with(devices, *files[:1], files[2])
    assert not files[2].exists()


def test_channels_come_as_a_list_and_a_model_by_name_though_a_folder_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default").mkdir()
    tifffile.imwrite("a.tif", np.zeros((2, 3, 40, 50), np.uint8), photometric="minisblack")
    job = cluster_room.Job("a.tif", "x.zarr", "default", 0, [0, 1], "auto", None)
    job, *_ = cluster_room._begin(job, None, None)
    assert hash(job) and job.channels == (0, 1) and job.model == "default"


def test_an_image_that_other_processes_cannot_open_is_told_as_it_was_given(tmp_path):
    for image, error, told in [
        (np.zeros((9, 9)), TypeError, "from a path; got ndarray: save it, or use encode"),
        ("https://host/x.tif", FileNotFoundError, "got https://host/x.tif: download it"),
    ]:
        with pytest.raises(error, match=told):
            encode_with(["cpu"], image, tmp_path / "x.zarr")
    assert not list(tmp_path.iterdir())


def test_a_device_that_is_not_there_is_told(files):
    image, model, store = files
    with pytest.raises(ValueError, match="CUDA was asked for"):
        encode_with(["cuda:99"], image, store, model=model)


def test_the_shell_hands_planes_to_a_scheduler_and_goes_on_where_it_stopped(
    files, workers, small_model, capsys
):
    image, model, store = files
    encode(image, small_model, store=store, device="cpu", planes=[(3,), (7,)])
    there = written(store)
    given = [
        "encode",
        str(image),
        "-o",
        str(store),
        "-m",
        str(model),
        "--scheduler",
        workers.scheduler_address,
    ]
    main(given)
    assert f"{PLANES} planes of 96 x 160 pixels" in capsys.readouterr().out
    after = written(store)
    assert len(there) == 2 and {path: after[path] for path in there} == there and len(after) == PLANES


@pytest.fixture
def here():
    """A cluster within this process, without workers yet; `scale(1)` starts one."""
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as local,
        distributed.Client(local) as client,
    ):
        yield client


def test_a_store_that_was_deleted_between_two_runs_is_made_again(few_files, here):
    image, model, store = few_files
    here.cluster.scale(1)
    for _ in range(2):  # the second time the worker remembers the first
        features = encode_on(here, image, store, model=model, device="cpu")
        assert features.ready_planes().all() and len(written(store)) == 3
        shutil.rmtree(store)


def test_a_store_that_is_deleted_meanwhile_is_told(few_files, here, monkeypatch):
    image, model, store = few_files
    monkeypatch.setattr(clusters, "SHOWN", 0)
    here.cluster.scale(1)

    def progress(now):
        if now.done == now.total:
            shutil.rmtree(store / "maps")

    with pytest.raises(RuntimeError, match=r"missing in .*features\.zarr: .*the same command"):
        encode_on(here, image, store, model=model, device="cpu", progress=progress)


def test_who_waits_for_workers_is_told_so(few_files, here, monkeypatch):
    image, model, store = few_files
    told = []

    def warning(text, *given):
        told.append(text % given)
        here.cluster.scale(1)

    monkeypatch.setattr(clusters, "ALONE", 0.1)
    monkeypatch.setattr(clusters.log, "warning", warning)
    assert encode_on(here, image, store, model=model, device="cpu").ready_planes().all()
    address = here.scheduler.address
    # Again, should the worker be lost for a moment on a busy machine.
    assert told and f"none is connected to {address}; start some with `dask worker {address}`" in told[0]


def test_no_scheduler_no_such_queue(monkeypatch):
    monkeypatch.setattr("napari_interformer.cluster.TIMEOUT", 1)
    with pytest.raises(ConnectionError, match="dask scheduler"), cluster(scheduler="tcp://127.0.0.1:9"):
        pass
    with pytest.raises(ValueError, match="slurm, pbs"), cluster(jobqueue="cron"):
        pass
    pytest.importorskip("dask_jobqueue")
    with pytest.raises(ValueError, match=r"jobqueue\.yaml"), cluster(jobqueue="slurm"):
        pass


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(ImportError, match=r"pip install \"\.\[cluster\]"),
        cluster(scheduler="tcp://127.0.0.1:9"),
    ):
        pass
