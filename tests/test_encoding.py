"""Encoding: every tile once, on from where it stopped, and no more of the image at a time than a tile."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_interformer import encoding
from napari_interformer.encoding import encode, encode_tiles, room_for, tile_box
from napari_interformer.features import Features
from napari_interformer.geometry import Box, iou
from napari_interformer.image import Planes
from napari_interformer.prompts import NotEncodedError
from napari_interformer.samples import cells
from napari_interformer.session import Session
from napari_interformer.simulate import next_click

STRIDES = (4, 8, 16, 32)


class FakeModel:
    """Features are the block means of the pixels: local, quick, and known."""

    config = SimpleNamespace(window=128)
    channels, strides = (1, 2, 3, 4), STRIDES
    fingerprint, training = "fake", False

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.seen: list[tuple[int, ...]] = []

    @property
    def tiles(self) -> int:
        return sum(shape[0] for shape in self.seen)

    def encode_pixels(self, pixels, before_layer=None):
        self.seen.append(pixels.shape)
        assert pixels.dtype == np.float32 and pixels.shape[3] == 3
        height, width = pixels.shape[1:3]
        grey = np.pad(pixels.mean(axis=3), ((0, 0), (0, -height % 32), (0, -width % 32)))
        maps = []
        for channels, s in zip(self.channels, STRIDES, strict=True):
            means = grey.reshape(len(grey), grey.shape[1] // s, s, grey.shape[2] // s, s).mean(axis=(2, 4))
            maps.append(np.repeat(means[:, None], channels, axis=1))
        return maps


@pytest.fixture(autouse=True)
def threads_are():
    """Let torch have so many threads, until the test is over."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch.set_num_threads
    torch.set_num_threads(before)


def everything(features: Features, plane=()):
    return features.window(plane, Box.of(features.padded))


def same(one: Features, two: Features) -> bool:
    return one.origin == two.origin and all(
        np.array_equal(a, b)
        for plane in np.ndindex(*one.leading)
        for a, b in zip(everything(one, plane), everything(two, plane), strict=True)
    )


@pytest.mark.parametrize("size", [(1, 1), (20, 300), (130, 128), (250, 333), (128, 128)])
def test_tiles_give_what_the_whole_gives(rng, size):
    image = rng.integers(0, 255, size).astype(np.uint8)
    model = FakeModel()
    tiled, whole = encode(image, model), encode(image, FakeModel(), tile="whole")
    for a, b in zip(everything(tiled), everything(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=0.1)
    assert len(whole.tiles) == 1
    assert all(height * width <= 1.25 * 128**2 for _, height, width, _ in model.seen)


@pytest.mark.parametrize(
    ("size", "tiles"), [((128, 160), 1), ((100, 129), 1), ((129, 129), 9), ((60, 161), 3), ((1, 128), 1)]
)
def test_a_plane_hardly_larger_than_a_tile_is_one(size, tiles):
    planes = Planes.of(np.zeros(size, np.uint8), contrast=(0, 1))
    assert len(room_for(planes, FakeModel()).tiles) == tiles
    # Whoever asks for tiles gets them.
    asked = room_for(planes, FakeModel(), tile=128)
    assert len(asked.tiles) == math.prod(-(-length // 64) for length in size) or max(size) <= 128


def test_a_store_goes_on_with_its_own_tiles_unless_others_are_asked_for(rng, tmp_path):
    image, store = rng.integers(0, 9, (2, 130, 128)), tmp_path / "x.zarr"
    encode(image, FakeModel(), store=store, tile=64, halo=0, planes=[0])
    model = FakeModel()
    features = encode(image, model, store=store)
    assert features.origin.core == 64 and model.tiles == 6 and features.ready_planes().all()
    with pytest.raises(ValueError, match="another tiling"):
        encode(image, model, store=store, tile=128)
    with pytest.raises(ValueError, match="another contrast and image"):
        encode(image + 1, model, store=store)


@given(st.integers(1, 700), st.integers(1, 700), st.sampled_from([(64, 0), (96, 32), (128, 32), (256, 64)]))
def test_every_tile_has_its_halo_and_is_not_narrow(height, width, tiling):
    tile, halo = tiling
    planes = Planes.of(np.zeros((height, width), np.uint8), contrast=(0, 1))
    features = room_for(planes, FakeModel(), tile=tile, halo=halo)
    for core in features.tiles:
        box = tile_box(core, features)
        assert not box.left % 32 and not box.top % 32
        assert Box.of(features.size).holds(box) and box.holds(core.intersect(Box.of(features.size)))
        if len(features.tiles) > 1:
            wanted = Box(core.left - halo, core.top - halo, core.right + halo, core.bottom + halo)
            wanted = wanted.intersect(Box.of(features.size))
            assert box.holds(wanted) and max(box.height, box.width) <= tile
            for length, needed, there in zip(box.shape, wanted.shape, features.size, strict=True):
                assert length == needed or tile // 2 <= length < tile // 2 + 32
                assert length >= min(tile // 2, there)


def test_a_real_model_sees_what_it_would_see_alone(small_model, rng):
    image = rng.integers(0, 4000, (100, 150)).astype(np.uint16)
    planes = Planes.of(image)
    features = encode(image, small_model, tile=64, halo=0, device="cpu")
    for core in features.tiles:
        expected = small_model.encode_pixels(planes.read((), tile_box(core, features))[None])
        for got, want, stride in zip(features.window((), core), expected, small_model.strides, strict=True):
            box = tile_box(core, features)
            top, left = (core.top - box.top) // stride, (core.left - box.left) // stride
            np.testing.assert_allclose(
                got, want[0][:, top : top + got.shape[1], left : left + got.shape[2]], rtol=2e-3, atol=2e-3
            )


def test_a_stack_of_odd_planes_is_encoded(small_model, tmp_path):
    stack = np.zeros((3, 40, 70), np.float32)
    stack[1] = np.nan
    stack[2] = np.arange(70)
    stack[2, 5, 6] = np.nan
    features = encode(stack, small_model, store=tmp_path / "x.zarr", device="cpu")
    assert features.ready_planes().all()
    assert all(np.isfinite(level).all() for plane in range(3) for level in everything(features, (plane,)))
    assert features.valid((0,), 5, 6) and not features.valid((1,), 5, 6) and not features.valid((2,), 5, 6)


def test_pixels_that_may_have_no_value_are_read_once_for_each_tile(small_model, monkeypatch):
    image = np.zeros((96, 96), np.float32)
    image[5, 60] = np.nan
    planes = Planes.of(image, contrast=(0, 1))
    features = room_for(planes, small_model, tile=32, halo=0)
    boxes, raw = [], Planes.raw
    monkeypatch.setattr(Planes, "raw", lambda self, plane, box: boxes.append(box) or raw(self, plane, box))
    for _ in encode_tiles(planes, features, small_model, device="cpu"):
        pass
    assert sorted(boxes) == sorted(features.tiles) and len(boxes) == 9
    assert not features.valid((), 5, 60) and features.valid((), 5, 61)


def test_a_model_in_training_encodes_as_in_use(small_model, rng):
    image = rng.integers(0, 255, (64, 64)).astype(np.uint8)
    training = copy.deepcopy(small_model).train()
    features = encode(image, training, device="cpu")
    assert training.training
    for a, b in zip(everything(features), everything(encode(image, small_model, device="cpu")), strict=True):
        np.testing.assert_array_equal(a, b)


# ----------------------------------------------------------------------------------- progress, cancel, resume


def test_progress_counts_tiles(rng):
    told = []
    features = encode(rng.integers(0, 9, (3, 200, 200)), FakeModel(), progress=told.append, device="cpu")
    assert len(features.tiles) == 16
    assert [step.done for step in told] == list(range(1, 49)) and {step.total for step in told} == {48}
    assert [step.plane for step in told] == [(z,) for z in range(3) for _ in range(16)]
    assert told[-1].seconds_left == 0 and told[0].seconds_left > 0


@pytest.mark.parametrize("kept", ["memory", "zarr"])
def test_cancel_keeps_what_is_done_and_the_next_run_goes_on(rng, tmp_path, kept):
    image = rng.integers(0, 9, (2, 200, 200))
    store = tmp_path / "x.zarr" if kept == "zarr" else None
    told = []
    features = encode(
        image, FakeModel(), store=store, progress=told.append, cancelled=lambda: len(told) >= 21, device="cpu"
    )
    assert len(told) == 21
    assert features.ready_planes().tolist() == [True, False] and len(features.waiting((1,))) == 11
    model, planes = FakeModel(), Planes.of(image)
    again = features if store is None else room_for(planes, model, store=store)
    steps = list(encode_tiles(planes, again, model, device="cpu"))
    assert [step.done for step in steps] == list(range(22, 33)) and model.tiles == 11
    assert same(again, encode(image, FakeModel()))


def test_cancel_leaves_a_tile_between_two_layers(rng, small_model):
    image, asked = rng.integers(0, 9, (200, 200), np.uint8), []

    def cancelled() -> bool:
        asked.append(len(asked))
        return len(asked) > 2  # once before anything, once before the first layer

    features = encode(image, small_model, cancelled=cancelled, device="cpu")
    assert len(asked) == 3 and len(small_model.backbone.layers) == 2
    assert not features.ready() and len(features.waiting(())) == len(features.tiles)
    assert encode(image, small_model, cancelled=lambda: False, device="cpu").ready()


def test_cancelled_beforehand_encodes_nothing(rng):
    model = FakeModel()
    features = encode(rng.integers(0, 9, (200, 200)), model, cancelled=lambda: True, device="cpu")
    assert not model.seen and not features.ready()


def test_nothing_is_done_twice(rng, tmp_path):
    image = rng.integers(0, 9, (200, 200))
    encode(image, FakeModel(), store=tmp_path / "x.zarr")
    model = FakeModel()
    assert encode(image, model, store=tmp_path / "x.zarr").ready()
    assert not model.seen


def test_the_plane_that_somebody_waits_for_comes_next(rng):
    planes = Planes.of(rng.integers(0, 9, (4, 200, 200)))
    model = FakeModel()
    features = room_for(planes, model)
    shown: list[tuple[int, ...] | None] = [None]
    order = []
    for step in encode_tiles(planes, features, model, device="cpu", first=lambda: shown[0]):
        order.append(step.plane[0])
        if len(order) == 5:
            shown[0] = (2,)  # in the middle of plane 0
        if len(order) == 30:
            shown[0] = (9,)  # a plane that is not there changes nothing
    # Plane 2 is done, then the rest in order, from there.
    assert order == [0] * 5 + [2] * 16 + [0] * 11 + [1] * 16 + [3] * 16


def test_the_tiles_under_what_somebody_looks_at_come_next(rng):
    planes = Planes.of(rng.integers(0, 9, (2, 400, 400)))
    features = room_for(planes, FakeModel())
    looked = Box(150, 210, 200, 260)
    touched = features.touched(looked)
    assert len(touched) == 4
    model = FakeModel()
    steps = encode_tiles(planes, features, model, device="cpu", first=lambda: ((1,), looked))
    for _ in touched:
        assert next(steps).plane == (1,)
    assert model.tiles == len(touched) and features.ready((1,), looked)
    features.window((1,), Box(128, 192, 192, 288))  # what a click needs
    next(steps)
    extra = set(range(49)) - set(features.waiting((1,))) - set(touched)
    around = Box(looked.left - 64, looked.top - 64, looked.right + 64, looked.bottom + 64)
    assert extra and all(not features.tiles[i].intersect(around).empty for i in extra)
    assert [step.plane for step in steps] == [(1,)] * (49 - len(touched) - 1) + [(0,)] * 49


@given(st.integers(-90, 500), st.integers(-90, 500), st.integers(1, 200), st.integers(1, 200))
def test_nearest_tiles_come_first(left, top, width, height):
    planes = Planes.of(np.zeros((400, 350), np.uint8), contrast=(0, 1))
    features, box = room_for(planes, FakeModel()), Box(left, top, left + width, top + height)

    def far(tile: int) -> tuple[int, int]:
        core = features.tiles[tile]
        y = max(core.top - box.bottom, 0, box.top - core.bottom)
        x = max(core.left - box.right, 0, box.left - core.right)
        centres = [(c.left + c.right, c.top + c.bottom) for c in (core, box)]
        return y * y + x * x, sum((a - b) ** 2 for a, b in zip(*centres, strict=True))

    left = encoding._Left(planes, features, None)
    left.take(tuple(((), tile) for tile in range(3)))
    for _ in range(3):
        left.made()
    due = [tile for _, tiles in left.due(((), box)) for tile in tiles]
    assert sorted(due) == list(range(3, len(features.tiles))) and len(left) == len(due)
    assert [far(tile) for tile in due] == sorted(map(far, due))


def test_tiles_that_others_made_are_not_due(rng, monkeypatch):
    monkeypatch.setattr(encoding, "_AT_A_LOOK", 3)
    planes = Planes.of(np.zeros((2, 400, 350), np.uint8), contrast=(0, 1))
    features = room_for(planes, FakeModel())
    left, many = encoding._Left(planes, features, None), len(features.tiles)
    monkeypatch.setattr(
        features, "unfinished", lambda plane, tiles: [t for t in tiles if plane == (1,) and t > 3]
    )
    assert next(left.due(None)) == ((1,), [4, 5])
    assert len(left) == left.total - many - 4 == many - 4
    left.take((((1,), 4),))
    left.made()
    assert next(left.due(None)) == ((1,), [5, 6, 7]) and len(left) == many - 5


def test_only_the_tiles_of_a_box(rng):
    image, box = rng.integers(0, 9, (2, 400, 400)), Box(150, 210, 200, 260)
    told, model = [], FakeModel()
    features = encode(
        image, model, planes=[((1,), box), ((1,), Box(0, 0, 9, 9)), (0,)], progress=told.append, device="cpu"
    )
    assert model.tiles == told[-1].total == told[-1].done == 5 + 49
    assert features.ready((1,), box) and features.ready((1,), Box(0, 0, 64, 64)) and features.ready((0,))
    assert len(features.waiting((1,))) == 44


@pytest.mark.parametrize("wanted", [(2,), ((2,), None)])
def test_a_plane_without_a_box_is_waited_for_as_well(rng, wanted):
    planes = Planes.of(rng.integers(0, 9, (3, 40, 40)))
    steps = encode_tiles(planes, room_for(planes, FakeModel()), FakeModel(), first=lambda: wanted)
    assert [step.plane for step in steps] == [(2,), (0,), (1,)]


def test_only_some_planes(rng):
    image = rng.integers(0, 9, (2, 3, 40, 40))
    told = []
    features = encode(image, FakeModel(), planes=[(1, 2), (0, 0), (1, 2)], progress=told.append, device="cpu")
    assert [step.plane for step in told] == [(1, 2), (0, 0)] and told[-1].total == 2
    assert features.ready_planes().tolist() == [[True, False, False], [False, False, True]]
    with pytest.raises(ValueError, match="plane takes an index"):
        encode(image, FakeModel(), planes=[(2, 0)])


def test_two_encoders_share_a_store(rng, tmp_path):
    planes = Planes.of(rng.integers(0, 9, (3, 200, 200)))
    models = FakeModel(), FakeModel()
    runs = [
        encode_tiles(planes, room_for(planes, model, store=tmp_path / "x.zarr"), model, device="cpu")
        for model in models
    ]
    while runs:  # in turns
        runs = [run for run in runs if next(run, None) is not None]
    assert models[0].tiles + models[1].tiles == 48
    assert same(Features.open(tmp_path / "x.zarr"), encode(planes, FakeModel()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a fork for each kill; a fresh process takes seconds")
def test_killed_ten_times_at_random_the_next_run_goes_on(rng, tmp_path):
    np.save(tmp_path / "image.npy", rng.integers(0, 9, (12, 280, 280)).astype(np.uint8))
    # One process loads the packages and forks those that are killed; each says a tile before it is written.
    program = f"""
import os, random, signal, sys, time
sys.path.insert(0, {os.path.dirname(__file__)!r})
import numpy as np, torch
from test_encoding import FakeModel, encode
torch.set_num_threads(1)
class Slow(FakeModel):
    def encode_pixels(self, pixels, before_layer=None):
        os.write(told, b"." * len(pixels))
        return super().encode_pixels(pixels)
image, chance = np.load({str(tmp_path / "image.npy")!r}), random.Random(0)
made = 0
for _ in range(10):
    heard, told = os.pipe()
    child = os.fork()
    if not child:
        encode(image, Slow(), store={str(tmp_path / "x.zarr")!r}, device="cpu")
        os._exit(0)
    os.close(told)
    for _ in range(chance.randint(2, 9)):  # and some while it sleeps
        made += len(os.read(heard, 1))
    time.sleep(chance.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    while more := os.read(heard, 100):
        made += len(more)
    os.close(heard)
print(made)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    made, store = int(run.stdout), tmp_path / "x.zarr"
    left, most = sum(len(Features.open(store).waiting((z,))) for z in range(12)), 12 * 25
    # A kill loses what is at hand, and no more.
    assert 0 < left < most and made - 10 * torch.get_num_threads() <= most - left
    model = FakeModel()
    image = np.load(tmp_path / "image.npy")
    features = encode(image, model, store=store)
    assert model.tiles == left
    undisturbed = encode(image, FakeModel(), store=tmp_path / "y.zarr")
    assert same(features, undisturbed)
    kept = [
        {path.relative_to(one): path.read_bytes() for path in one.rglob("c/*/*") if path.suffix != ".partial"}
        for one in (store, tmp_path / "y.zarr")
    ]
    assert kept[0] == kept[1] and len(kept[0]) == 12


@pytest.mark.skipif(not hasattr(os, "fork"), reason="two processes from one that has loaded the packages")
def test_two_processes_share_the_work_and_make_each_tile_once(rng, tmp_path):
    np.save(tmp_path / "image.npy", rng.integers(0, 9, (3, 280, 280)).astype(np.uint8))
    program = f"""
import os, sys, time
sys.path.insert(0, {os.path.dirname(__file__)!r})
import numpy as np, torch
from test_encoding import FakeModel, encode
torch.set_num_threads(1)
class Slow(FakeModel):
    def encode_pixels(self, pixels, before_layer=None):
        time.sleep(0.005)
        return super().encode_pixels(pixels)
image = np.load({str(tmp_path / "image.npy")!r})
children = []
for _ in range(2):
    children.append(os.fork())
    if not children[-1]:
        model = Slow()
        features = encode(image, model, store={str(tmp_path / "x.zarr")!r}, device="cpu")
        assert features.ready_planes().all()
        os.write(1, b"%d\\n" % model.tiles)
        os._exit(0)
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    first, second = map(int, run.stdout.split())
    assert first + second == 3 * 25 and min(first, second) > 10
    assert same(Features.open(tmp_path / "x.zarr"), encode(np.load(tmp_path / "image.npy"), FakeModel()))


def test_a_tile_that_another_process_never_finishes_is_made_here(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "_PATIENCE", 0.1)
    planes, model = Planes.of(rng.integers(0, 9, (2, 200, 200))), FakeModel()
    features = room_for(planes, model, store=tmp_path / "x.zarr")
    with features.claim((0,), [3, 4], 2) as taken:
        assert taken == [3, 4]
        order = [step.plane[0] for step in encode_tiles(planes, features, model, device="cpu")]
    assert order == [0] * 14 + [1] * 16 + [0] * 2 and features.ready_planes().all()


# ------------------------------------------------------------------------------------------- memory and devices


def test_a_huge_lazy_plane_is_encoded_a_tile_at_a_time():
    class Lazy:
        shape, dtype, ndim = (14_000, 14_000), np.dtype(np.uint16), 2

        def __getitem__(self, index):
            rows, columns = (len(range(*i.indices(14_000))) for i in index)
            assert rows * columns <= 2_000_000
            return np.ones((rows, columns), np.uint16)

    planes = Planes.of(Lazy(), contrast=(0, 2))
    model = FakeModel()
    features = room_for(planes, model)
    tracemalloc.start()
    steps = list(islice(encode_tiles(planes, features, model, device="cpu"), 6))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert steps[-1].done == 6 and steps[-1].total == len(features.tiles) > 40_000
    assert peak < 100e6
    calls: list[str] = []
    sys.setprofile(lambda frame, event, _: calls.append(frame.f_code.co_name))
    try:
        features.window((), Box(0, 0, 128, 64))
    finally:
        sys.setprofile(None)
    assert 10 < len(calls) < 2000  # a click does not look through all tiles


def test_short_memory_halves_the_batch(rng, monkeypatch):
    model = FakeModel("cuda")
    monkeypatch.setattr(encoding, "resolve_device", lambda device: torch.device("cuda"))
    real = model.encode_pixels

    def small(pixels, _):
        if len(pixels) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(pixels)

    model.encode_pixels = small
    image = rng.integers(0, 9, (250, 333))
    features = encode(image, model, device="cuda")
    assert 2 <= max(shape[0] for shape in model.seen) <= 3
    monkeypatch.undo()
    assert same(features, encode(image, FakeModel()))


def test_a_tile_too_large_for_the_device_says_so(rng):
    model = FakeModel()

    def none(pixels, _):
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 byte.")

    model.encode_pixels = none
    with pytest.raises(
        MemoryError, match="96 x 96 pixels is too large for the memory of cpu: encode with a smaller"
    ):
        encode(rng.integers(0, 9, (200, 200)), model, device="cpu")


def test_other_errors_of_the_model_pass(rng):
    model = FakeModel()

    def broken(pixels, _):
        raise RuntimeError("shapes differ")

    model.encode_pixels = broken
    with pytest.raises(RuntimeError, match="shapes differ"):
        encode(rng.integers(0, 9, (20, 20)), model, device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_leaves_no_store(rng, tmp_path):
    with pytest.raises(ValueError, match="CUDA was asked for"):
        encode(rng.integers(0, 9, (20, 20)), FakeModel(), device="cuda", store=tmp_path / "x.zarr")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tile": 100}, "multiples of 32"),
        ({"tile": 64, "halo": 32}, "more than twice halo"),
        ({"tile": 0}, "more than twice halo"),
        ({"halo": -32}, "more than twice halo"),
        ({"tile": "whole", "halo": 32}, "leave one of them out"),
        ({"tile": "all"}, "\"whole\" or None; got 'all'"),
        ({"device": "tpu"}, "device takes"),
        ({"contrast": "best"}, "contrast takes"),
        ({"tile": 80.5}, "multiples of 32"),
        ({"tile": [64]}, "multiples of 32"),
        ({"planes": [0]}, "one plane; got 0"),
        ({"planes": 0}, r"a list of planes, such as \[\(0,\), \(1,\)\]; got 0"),
        ({"model": "default"}, "got str for the model: load it with load_model"),
    ],
)
def test_nonsense_leaves_no_store(rng, tmp_path, options, told):
    options = {"model": FakeModel(), **options}
    with pytest.raises((ValueError, TypeError), match=told):
        encode(rng.integers(0, 9, (20, 20)), store=tmp_path / "x.zarr", **options)
    assert not list(tmp_path.iterdir())


def test_a_model_before_the_image_is_told(rng):
    with pytest.raises(TypeError, match="an image and a model, in this order; got ndarray for the model"):
        encode(FakeModel(), rng.integers(0, 9, (20, 20)))


@pytest.mark.parametrize(
    "planes", [[2, 0], np.array([0, 2]), ((2,), (np.int64(0),)), [(0, None), (2, Box(0, 0, 20, 20))]]
)
def test_planes_of_a_stack_are_asked_for_by_number(rng, planes):
    features = encode(rng.integers(0, 9, (3, 20, 20)), FakeModel(), planes=planes)
    assert features.ready_planes().tolist() == [True, False, True]
    assert features.ready(2)
    with pytest.raises(NotEncodedError, match=r"Plane 1 is"):
        features.window(1, Box(0, 0, 32, 32))


def test_planes_are_encoded_with_another_contrast_if_one_is_asked_for(rng):
    planes = Planes.of(rng.integers(0, 9, (20, 20)), contrast=(1, 5))
    assert encode(planes, FakeModel()).contrast == ((1, 5),)
    assert encode(planes, FakeModel(), contrast=(0, 7)).contrast == ((0, 7),)
    with pytest.raises(ValueError, match="got channel_axis"):
        encode(planes, FakeModel(), channel_axis=0)


def test_features_of_another_image_are_not_mixed(rng):
    features = encode(rng.integers(0, 9, (20, 20)), FakeModel())
    other = Planes.of(rng.integers(0, 9, (20, 20)))
    with pytest.raises(ValueError, match="made for another image"):
        next(encode_tiles(other, features, FakeModel()))


def test_masks_show_no_seam(default_model):
    """Cells are slid across a seam; what they are without tiles is the measure."""
    image, truth = cells((320, 640))
    model, contrast = default_model, (float(image.min()), float(np.percentile(image, 99.8)))
    seam, agreement = 192, []
    for offset in (0, 100, 200, 300):
        part, objects = image[:, offset : offset + 320], truth[:, offset : offset + 320]
        whole, tiled = (
            encode(part, model, contrast=contrast, tile=tile, device="cpu") for tile in ("whole", None)
        )
        assert [tiled.tiles[0].right, len(tiled.tiles), len(whole.tiles)] == [seam, 4, 1]
        for label in np.unique(objects[objects > 0]):
            rows, columns = np.nonzero(objects == label)
            if len(rows) < max(400, (truth == label).sum()) or not any(
                across.min() < seam - 3 and seam + 3 < across.max() for across in (rows, columns)
            ):
                continue
            place = next_click(np.zeros(objects.shape, bool), objects == label)
            masks = []
            for features in (whole, tiled):
                session = Session(features, model)
                session.click(place[:2])
                masks.append(session.mask)
            agreement.append(iou(*masks))
    assert len(agreement) > 10
    print(
        f"IoU with and without tiles, {len(agreement)} objects: {np.mean(agreement):.4f}, {min(agreement):.4f} at least"
    )
    # Of cells that lie on no seam nearly as many differ by more than 0.02 (docs/performance.md, Tiles).
    assert np.mean(agreement) > 0.99 and min(agreement) > 0.95 and np.mean(np.array(agreement) < 0.98) < 0.15


class Watched(FakeModel):
    """Tells how many tiles were encoded at the same time."""

    def __init__(self, expected: int = 1) -> None:
        super().__init__()
        self.now = self.most = 0
        self.expected, self.changed = expected, threading.Condition()

    def encode_pixels(self, pixels, before_layer=None):
        with self.changed:
            self.now += 1
            self.most = max(self.most, self.now)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.most >= self.expected, 10)  # however slow the machine is
        time.sleep(0.02)  # for one more, which there must not be
        with self.changed:
            self.now -= 1
        return super().encode_pixels(pixels)


@pytest.mark.parametrize(
    ("size", "threads", "most"), [((60, 70), 1, 1), ((60, 70), 2, 2), ((60, 70), 4, 4), ((500, 500), 4, 2)]
)
def test_planes_are_encoded_side_by_side_one_on_each_thread(rng, threads_are, size, threads, most):
    threads_are(threads)
    model, told = Watched(most), []
    image = rng.integers(0, 9, (9, *size))
    features = encode(image, model, tile="whole", progress=told.append, device="cpu")
    assert model.most == most and features.ready_planes().all()
    assert [step.done for step in told] == list(range(1, 10))
    assert sorted(step.plane for step in told) == [(z,) for z in range(9)]


def test_what_is_made_is_kept_when_somebody_cancels(rng, threads_are):
    threads_are(3)
    model, told = Watched(), []
    features = encode(
        *(rng.integers(0, 9, (2, 200, 200)), model),
        progress=told.append,
        cancelled=lambda: len(told) >= 9,
        device="cpu",
    )
    assert len(told) == 9 and 32 - sum(len(features.waiting((z,))) for z in range(2)) == 9
    assert model.tiles <= 9 + 3


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint64])
def test_a_part_may_be_told_in_numpy_s_numbers(rng, kind):
    model, box = FakeModel(), Box(*np.array([0, 0, 30, 30], kind))
    features = encode(rng.integers(0, 9, (2, 200, 200)), model, planes=[((1,), box)], device="cpu")
    assert model.tiles == 1 and features.ready((1,), Box(0, 0, 30, 30))


@pytest.mark.parametrize(("side", "at_once"), [(512, 8), (2048, 2), (4096, 1)])
def test_a_gpu_gets_no_more_pixels_at_once_than_it_may_have_room_for(monkeypatch, side, at_once):
    monkeypatch.setattr(encoding, "resolve_device", lambda device: torch.device("cuda"))
    planes = Planes.of(np.broadcast_to(np.uint8(3), (9, side, side)), contrast=(0, 9))
    model = FakeModel("cuda")
    features = room_for(planes, model, tile="whole")
    next(encode_tiles(planes, features, model, device="cuda"))
    assert model.seen[0][0] == at_once


def test_a_gpu_gets_tiles_of_one_size_at_once_from_all_planes(rng, monkeypatch):
    monkeypatch.setattr(encoding, "resolve_device", lambda device: torch.device("cuda"))
    image, model = rng.integers(0, 9, (8, 300, 300)), FakeModel("cuda")
    features = encode(image, model, device="cuda")
    assert len(features.tiles) == 25 and [shape[0] for shape in model.seen] == [8] * 25
    monkeypatch.undo()
    assert same(features, encode(image, FakeModel()))


def test_a_gpu_makes_what_somebody_waits_for_before_other_planes(rng, monkeypatch):
    monkeypatch.setattr(encoding, "resolve_device", lambda device: torch.device("cuda"))
    planes, model = Planes.of(rng.integers(0, 9, (8, 300, 300))), FakeModel("cuda")
    features = room_for(planes, model)
    steps = encode_tiles(
        planes, features, model, device="cuda", first=lambda: ((5,), Box(130, 130, 140, 140))
    )
    assert next(steps).plane == (5,) and model.tiles <= 8
    for _ in range(24):
        assert next(steps).plane == (5,)
    assert features.ready((5,))
    assert len(list(steps)) == 7 * 25 and max(shape[0] for shape in model.seen) == 8


def test_a_gpu_takes_tiles_of_another_size_while_others_have_those_of_the_first(rng, monkeypatch, tmp_path):
    monkeypatch.setattr(encoding, "resolve_device", lambda device: torch.device("cuda"))
    planes, model = Planes.of(rng.integers(0, 9, (300, 300))), FakeModel("cuda")
    features = room_for(planes, model, store=tmp_path / "x.zarr")
    with features.claim((), [0], 1):
        steps = list(islice(encode_tiles(planes, features, model, device="cuda"), 24))
    assert len(steps) == 24 and features.waiting() == [0]


def test_tiles_of_any_size_are_encoded_side_by_side_as_each_alone(small_model, rng, threads_are):
    image = rng.integers(0, 9, (150, 170))
    made = []
    for threads in (1, 3):
        threads_are(threads)
        made.append(encode(image, small_model, tile=96, halo=32, device="cpu"))
    assert same(*made)


class Single:
    """An image of which no two threads may read at the same time, and whose memory may be short."""

    shape, dtype, ndim = (12, 60, 70), np.dtype(np.uint8), 3

    def __init__(self, pixels, short=()):
        self.pixels, self.reads, self.short = pixels, 0, short
        self.lock = threading.Lock()

    def __getitem__(self, index):
        assert self.lock.acquire(blocking=False), "read by two threads"
        try:
            self.reads += 1
            if self.reads in self.short:
                raise MemoryError("no room")
            time.sleep(0.002)
            return self.pixels[index]
        finally:
            self.lock.release()


@pytest.mark.parametrize("contrast", ["plane", (0, 200)])
def test_an_image_is_read_by_one_thread_at_a_time(rng, threads_are, contrast):
    threads_are(4)
    pixels = rng.integers(0, 200, (12, 60, 70), np.uint8)
    features = encode(Single(pixels), FakeModel(), contrast=contrast, device="cpu")
    for plane in range(12):
        for ours, theirs in zip(
            everything(features, (plane,)),
            everything(encode(pixels, FakeModel(), contrast=contrast), (plane,)),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_memory_that_is_short_while_pixels_are_read_is_waited_for(rng, threads_are):
    threads_are(4)
    pixels = rng.integers(0, 200, (12, 60, 70), np.uint8)
    planes = Planes.of(Single(pixels), contrast=(0, 200))
    features, other, model = room_for(planes, FakeModel()), room_for(planes, FakeModel()), FakeModel()
    planes.data.short = {planes.data.reads + 3, planes.data.reads + 6}
    assert (
        len(list(encode_tiles(planes, features, model, device="cpu"))) == 12 and features.ready_planes().all()
    )
    planes.data.short = range(9999)
    with pytest.raises(MemoryError, match="A tile of the image is too large"):
        list(encode_tiles(planes, other, model, device="cpu"))


def test_what_is_done_when_a_plane_cannot_be_read_is_kept(rng, threads_are):
    threads_are(4)

    class Broken(Single):
        damaged = False

        def __getitem__(self, index):
            if self.damaged and index[0] == 5:
                raise OSError("damaged")
            return super().__getitem__(index)

    planes = Planes.of(Broken(rng.integers(0, 200, (12, 60, 70), np.uint8)), contrast=(0, 200))
    features, model = room_for(planes, FakeModel()), Watched()
    planes.data.damaged = True
    with pytest.raises(OSError, match="damaged"):
        list(encode_tiles(planes, features, model, device="cpu"))
    assert features.ready_planes().tolist() == [True] * 5 + [False] * 7 and model.tiles == 5
