"""Features know what they were made from, can be half there, and are read the same from memory and from disk."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import zarr

from napari_interformer import features as room
from napari_interformer.features import Features, NotEncodedError, Origin
from napari_interformer.image import Planes
from napari_interformer.prompts import Box

MODEL = SimpleNamespace(fingerprint="m", channels=(2, 3, 4, 5), strides=(4, 8, 16, 32))


def image(shape=(3, 100, 150), dtype=np.uint16, seed=0):
    return np.random.default_rng(seed).integers(0, 255, shape).astype(dtype)


def made(store=None, *, pixels=None, model=MODEL, core=64, halo=32, contrast="auto") -> Features:
    planes = Planes.of(image() if pixels is None else pixels, contrast=contrast)
    return Features.create(planes, model, core=core, halo=halo, store=store)


def maps_of(features: Features, plane, tile):
    """Return maps that say where they belong: unequal for every plane, channel and cell."""
    core, row = features.tiles[tile], features.flat(plane)
    levels = []
    for channels, stride in zip(features.origin.channels, features.origin.strides, strict=True):
        y, x = np.mgrid[
            core.top // stride : core.bottom // stride, core.left // stride : core.right // stride
        ]
        levels.append((row * 500 + np.arange(channels)[:, None, None] * 100 + y + x / 64).astype(np.float32))
    return levels


def fill(features: Features, planes=None) -> Features:
    for plane in np.ndindex(*features.leading) if planes is None else planes:
        for tile in range(len(features.tiles)):
            features.write(plane, tile, maps_of(features, plane, tile))
    return features


@pytest.fixture(params=["memory", "zarr"])
def store(request, tmp_path):
    return None if request.param == "memory" else tmp_path / "x.zarr"


def test_cores_cover_the_padded_plane_once():
    for size in [(1, 1), (32, 32), (100, 150), (64, 640), (33, 700)]:
        features = made(pixels=np.zeros(size, np.uint8))
        seen = np.zeros(features.padded, int)
        for core in features.tiles:
            seen[core.slices] += 1
            assert not any(edge % 32 for edge in core)
        assert (seen == 1).all()


@pytest.mark.parametrize("core", [0, 64])
def test_any_window_shows_what_was_written(store, core):
    features = fill(made(store, core=core))
    rng = np.random.default_rng(0)
    for plane in [(0,), (2,)]:
        whole = [
            np.zeros((c, 128 // s, 160 // s)) for c, s in zip(MODEL.channels, MODEL.strides, strict=True)
        ]
        for tile, box in enumerate(features.tiles):
            for out, level, s in zip(whole, maps_of(features, plane, tile), MODEL.strides, strict=True):
                out[:, box.top // s : box.bottom // s, box.left // s : box.right // s] = level
        for _ in range(10):
            top, left = rng.integers(0, 4) * 32, rng.integers(0, 5) * 32
            box = Box(
                left, top, int(rng.integers(left // 32 + 1, 6)) * 32, int(rng.integers(top // 32 + 1, 5)) * 32
            )
            for level, out, s in zip(features.window(plane, box), whole, MODEL.strides, strict=True):
                assert level.dtype == np.float32
                expected = out[:, box.top // s : box.bottom // s, box.left // s : box.right // s]
                np.testing.assert_allclose(level, expected, rtol=1e-3)


def test_what_is_not_encoded_is_refused_and_the_rest_served(store):
    features = made(store)
    features.write((1,), 0, maps_of(features, (1,), 0))
    assert features.ready((1,), Box(0, 0, 64, 64)) and not features.ready((1,), Box(0, 0, 96, 64))
    assert not features.ready((1,)) and features.ready_planes().tolist() == [False] * 3
    assert features.waiting((1,)) == [1, 2, 3, 4, 5] and len(features.waiting((0,))) == 6
    features.window((1,), Box(32, 32, 64, 64))
    with pytest.raises(
        NotEncodedError, match=r"Plane \(1,\) is not encoded at \(32, 32, 96, 64\) yet; encode it"
    ):
        features.window((1,), Box(32, 32, 96, 64))
    fill(features, [(1,)])
    assert features.ready((1,)) and features.ready_planes().tolist() == [False, True, False]


@pytest.mark.parametrize(
    "box", [Box(0, 0, 31, 32), Box(0, 0, 192, 32), Box(-32, 0, 32, 32), Box(32, 0, 32, 32)]
)
def test_windows_off_the_grid_are_refused(box):
    with pytest.raises(ValueError, match="multiples of 32 inside the padded plane"):
        fill(made()).window((0,), box)


def test_touched_tiles_are_those_that_overlap():
    features = made(core=64)
    rng = np.random.default_rng(0)
    for _ in range(200):
        left, right = np.sort(rng.integers(-50, 220, 2))
        top, bottom = np.sort(rng.integers(-50, 220, 2))
        box = Box(int(left), int(top), int(right), int(bottom))
        expected = [i for i, core in enumerate(features.tiles) if not core.intersect(box).empty]
        assert features._touched(box) == expected


def test_planes_that_are_not_there_are_refused():
    features = made()
    for plane in [(), (3,), (-1,), (0, 0)]:
        with pytest.raises(ValueError, match="plane takes an index"):
            features.ready(plane)


def test_values_beyond_float16_are_cut_not_infinite():
    features = made(pixels=np.zeros((32, 32)), core=0)
    features.write((), 0, [level + 1e9 for level in maps_of(features, (), 0)])
    assert np.isfinite(features.window((), Box(0, 0, 32, 32))[0]).all()


def test_missing_pixels_are_known(store):
    pixels = image(dtype=np.float32)
    pixels[1, 70, 140] = np.nan
    features = made(store, pixels=pixels)
    for tile, core in enumerate(features.tiles):
        inside = core.intersect(Box.of(features.size))
        features.write((1,), tile, maps_of(features, (1,), tile), np.isnan(pixels[1][inside.slices]))
    assert (
        not features.valid((1,), 70, 140) and features.valid((1,), 70, 139) and features.valid((0,), 70, 140)
    )


# ------------------------------------------------------------------------------------------------ on disk


def test_an_opened_store_says_what_it_is(tmp_path):
    planes = replace(Planes.of(image()), axes="TYX", scale=(2.0, 0.3, 0.2), unit="micrometer")
    first = Features.create(planes, MODEL, core=64, halo=32, store=tmp_path / "x.zarr")
    fill(first, [(0,)])
    features = Features.open(tmp_path / "x.zarr")
    assert features.origin == first.origin == Origin.of(planes, MODEL, core=64, halo=32)
    assert (features.leading, features.size, features.shape) == ((3,), (100, 150), (3, 100, 150))
    assert (features.origin.axes, features.origin.scale, features.origin.unit) == (
        "TYX",
        (2.0, 0.3, 0.2),
        "micrometer",
    )
    assert features.contrast == planes.contrast and features.image_fingerprint == planes.fingerprint
    assert features.ready_planes().tolist() == [True, False, False]
    assert "1 of 3 planes" in repr(features)
    with pytest.raises(ValueError, match="opened for reading"):
        features.write((1,), 0, maps_of(features, (1,), 0))


def test_a_store_is_gone_on_with(tmp_path):
    fill(made(tmp_path / "x.zarr"), [(0,)])
    again = made(tmp_path / "x.zarr")
    assert again.ready((0,)) and not again.ready((1,))
    fill(again, [(1,)])
    assert made(tmp_path / "x.zarr").ready_planes().tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"pixels": image(seed=1), "contrast": (0, 255)}, "image"),
        ({"model": SimpleNamespace(**{**vars(MODEL), "fingerprint": "n"})}, "model"),
        ({"contrast": (0, 9)}, "contrast"),
        ({"core": 32}, "tiling"),
        ({"halo": 0, "contrast": "plane"}, "contrast and tiling"),
    ],
)
def test_a_store_of_something_else_is_refused_by_name(tmp_path, options, named):
    fill(made(tmp_path / "x.zarr", contrast=(0, 255)), [(0,)])
    with pytest.raises(ValueError, match=f"holds features of another {named}; give another store, or delete"):
        made(tmp_path / "x.zarr", **{"contrast": (0, 255), **options})
    assert Features.open(tmp_path / "x.zarr").ready((0,))


def test_what_is_no_store_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    zarr.open_group(tmp_path / "group", mode="w")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "zarr.json").write_text('{"zarr_format": 3, "node_')
    for name in ("notes", "file", "group", "cut"):
        for attempt in (lambda path: Features.open(path), made):
            with pytest.raises(ValueError, match=f"{name} is not a store of features; give"):
                attempt(tmp_path / name)
    assert (tmp_path / "notes" / "a.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    with pytest.raises(FileNotFoundError, match="not there"):
        Features.open(tmp_path / "none.zarr")


def test_a_store_of_a_newer_version_is_refused(tmp_path):
    made(tmp_path / "x.zarr")
    meta = tmp_path / "x.zarr" / "zarr.json"
    content = json.loads(meta.read_text())
    content["attributes"] = {"interformer": 99, "origin": "?"}
    meta.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="newer version"):
        Features.open(tmp_path / "x.zarr")


def test_an_empty_folder_becomes_a_store_with_nothing_beside_it(tmp_path):
    (tmp_path / "x.zarr").mkdir()
    made(tmp_path / "x.zarr")
    made(tmp_path / "deep" / "y.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "x.zarr"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["y.zarr"]


def test_a_damaged_chunk_is_named(tmp_path):
    fill(made(tmp_path / "x.zarr"), [(0,)])
    (tmp_path / "x.zarr" / "level1" / "c" / "0" / "0" / "0" / "0").write_bytes(b"\0" * 30)
    features = Features.open(tmp_path / "x.zarr")
    with pytest.raises(OSError, match=r"could not be read from .*x\.zarr .*; the store is damaged"):
        features.window((0,), Box(0, 0, 32, 32))
    features.window((0,), Box(64, 64, 96, 96))


def test_a_second_reader_sees_what_is_written(tmp_path):
    writer = made(tmp_path / "x.zarr")
    reader = Features.open(tmp_path / "x.zarr")
    assert not reader.ready((1,))
    fill(writer, [(1,)])
    assert reader.ready((1,)) and reader.ready_planes().tolist() == [False, True, False]
    reader.window((1,), Box(0, 0, 160, 128))


def test_two_writers_of_one_plane_lose_nothing(tmp_path):
    one, two = made(tmp_path / "x.zarr"), made(tmp_path / "x.zarr")
    for tile in range(6):
        writer = (one, two)[tile % 2]
        writer.write((0,), tile, maps_of(one, (0,), tile))
    assert Features.open(tmp_path / "x.zarr").ready((0,))


def test_reading_while_another_thread_writes(store):
    features = made(store, pixels=image((8, 100, 150)))
    wrong: list[str] = []
    finished = threading.Event()

    def look():
        rng = np.random.default_rng(1)
        while not finished.is_set():
            plane, tile = (int(rng.integers(8)),), int(rng.integers(6))
            box = features.tiles[tile]
            try:
                levels = features.window(plane, box)
            except NotEncodedError:
                continue
            for level, expected in zip(levels, maps_of(features, plane, tile), strict=True):
                if not np.allclose(level, expected, rtol=1e-3):
                    wrong.append(f"{plane} {tile}")

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    fill(features)
    finished.set()
    for reader in readers:
        reader.join()
    assert not wrong


def test_the_cache_is_bounded_in_bytes(tmp_path, monkeypatch):
    features = fill(made(tmp_path / "x.zarr"), [(0,)])
    size = sum(level.nbytes for level in features._tile(0, 0))
    monkeypatch.setattr(room, "_CACHE_BYTES", 3 * size)
    features.window((0,), Box(0, 0, 160, 128))
    assert len(features._cache) <= 3
    monkeypatch.setattr(room, "_CACHE_BYTES", 1)
    features.window((0,), Box(0, 0, 160, 128))
    assert len(features._cache) == 1


def test_features_beyond_memory_are_sent_to_disk(monkeypatch):
    monkeypatch.setattr(room.os, "sysconf", lambda name: 100, raising=False)
    with pytest.raises(ValueError, match=r'keep them on disk with store="name.zarr"'):
        made()


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_full_disk_leaves_what_was_written(tmp_path):
    # The system itself refuses to write a file of more than 100 bytes.
    program = f"""
import resource, sys
sys.path.insert(0, {str(__file__).rsplit("/", 1)[0]!r})
from test_features import fill, made, image
features = fill(made({str(tmp_path / "x.zarr")!r}, core=0), [(0,)])
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    fill(features, [(1,)])
except OSError as error:
    print(error)
print(features.ready((0,)), features.ready((1,)), len(features.window((0,), features.tiles[0])))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    said, state = run.stdout.splitlines()
    assert said.startswith("x.zarr could not be written") and "free some room there" in said
    assert state == "True False 4"
    features = Features.open(tmp_path / "x.zarr")
    assert features.ready_planes().tolist() == [True, False, False]


def test_a_store_where_nothing_can_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not be written to"):
        made(tmp_path / "file" / "x.zarr")
