"""Features know what they were made from, can be half there, and are read the same from memory and from disk."""

from __future__ import annotations

import copy
import errno
import gc
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import fsspec
import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
import zarr
from fsspec.spec import AbstractFileSystem

from napari_interformer import Session, encode
from napari_interformer import features as room
from napari_interformer import store as stores
from napari_interformer.features import Features, Origin, fitting
from napari_interformer.geometry import Box
from napari_interformer.image import Planes
from napari_interformer.prompts import NotEncodedError

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


@pytest.mark.parametrize("again", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_or_another_process_has_the_same_features(store, again):
    features = fill(made(store), [(0,), (2,)])
    copied = again(features)
    assert copied.ready_planes().tolist() == [True, False, True] and copied.path == features.path
    box = Box(32, 0, 128, 96)
    for here, there in zip(features.window((2,), box), copied.window((2,), box), strict=True):
        np.testing.assert_array_equal(here, there)
    fill(copied, [(1,)])
    assert features.ready((1,)) == (store is not None), "memory is copied, a store is the same one"


def test_what_is_not_encoded_is_refused_and_the_rest_served(store):
    features = made(store)
    features.write((1,), 0, maps_of(features, (1,), 0))
    assert features.ready((1,), Box(0, 0, 64, 64)) and not features.ready((1,), Box(0, 0, 96, 64))
    assert not features.ready((1,)) and features.ready_planes().tolist() == [False] * 3
    assert features.waiting((1,)) == [1, 2, 3, 4, 5] and len(features.waiting((0,))) == 6
    features.window((1,), Box(32, 32, 64, 64))
    with pytest.raises(NotEncodedError, match=r"Plane 1 is not encoded at \(32, 32, 96, 64\) yet: encode it"):
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
    assert made().touched((0, 0, 65, 1)) == [0, 1]
    features = made(core=64)
    rng = np.random.default_rng(0)
    for _ in range(200):
        left, right = np.sort(rng.integers(-50, 220, 2))
        top, bottom = np.sort(rng.integers(-50, 220, 2))
        box = Box(int(left), int(top), int(right), int(bottom))
        expected = [i for i, core in enumerate(features.tiles) if not core.intersect(box).empty]
        assert features.touched(box) == expected


def test_planes_that_are_not_there_are_refused():
    features = made()
    for plane in [(), (3,), (-1,), (0, 0)]:
        with pytest.raises(ValueError, match="plane takes an index"):
            features.ready(plane)


def test_values_beyond_float16_are_cut_not_infinite():
    features = made(pixels=np.zeros((32, 32)), core=0)
    features.write((), 0, [level + 1e9 for level in maps_of(features, (), 0)])
    assert np.isfinite(features.window((), Box(0, 0, 32, 32))[0]).all()


def test_what_fits_no_tile_is_not_written(store):
    features = made(store)
    maps = maps_of(features, (0,), 0)
    for tile, levels, told in [
        (0, maps[:3], "maps takes"),
        (0, [level[:, :1] for level in maps], "maps takes"),
        (6, maps, "tile takes a number below 6; got 6"),
        (-1, maps, "tile takes"),
    ]:
        with pytest.raises(ValueError, match=told):
            features.write((0,), tile, levels)
    assert len(features.waiting((0,))) == 6


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
    planes = replace(Planes.of(image()), axes="TYX")
    first = Features.create(planes, MODEL, core=64, halo=32, store=tmp_path / "x.zarr")
    fill(first, [(0,)])
    features = Features.open(tmp_path / "x.zarr")
    assert features.origin == first.origin == Origin.of(planes, MODEL, core=64, halo=32)
    assert (features.leading, features.size, features.shape) == ((3,), (100, 150), (3, 100, 150))
    assert features.origin.axes == "TYX"
    assert features.contrast == planes.contrast and features.image_fingerprint == planes.fingerprint
    assert features.ready_planes().tolist() == [True, False, False]
    assert "1 of 3 planes" in repr(features)
    with pytest.raises(ValueError, match="opened for reading"):
        features.write((1,), 0, maps_of(features, (1,), 0))


def test_what_another_version_noted_of_the_image_does_not_matter(tmp_path):
    first = fill(made(tmp_path / "x.zarr"), [(0,)])
    group = zarr.open_group(tmp_path / "x.zarr", mode="r+")
    more = {"scale": [2.0, 0.3, 0.2], "unit": "micrometer"}
    group.attrs["origin"] = {**group.attrs["origin"], **more}
    features = Features.open(tmp_path / "x.zarr")
    assert features.origin == first.origin and features.ready((0,))
    assert fill(made(tmp_path / "x.zarr"), [(1,), (2,)]).finish()


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
    remedy = "another store, or delete"
    if named == "contrast":
        remedy = "the contrast they were"
    elif named == "image":
        named, remedy = r"image \(or of other channels of it\)", "the matching image and channels"
    with pytest.raises(ValueError, match=f"holds features of another {named}: give {remedy}"):
        made(tmp_path / "x.zarr", **{"contrast": (0, 255), **options})
    assert Features.open(tmp_path / "x.zarr").ready((0,))


def test_a_store_is_opened_for_reading_or_to_go_on(tmp_path):
    made(tmp_path / "x.zarr")
    with pytest.raises(ValueError, match=r"mode takes r or r\+; got 'w'"):
        Features.open(tmp_path / "x.zarr", mode="w")


def test_what_is_no_store_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    zarr.open_group(tmp_path / "group", mode="w")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "zarr.json").write_text('{"zarr_format": 3, "node_')
    for name in ("notes", "file", "group", "cut"):
        for attempt in (lambda path: Features.open(path), made):
            with pytest.raises(ValueError, match=f"{name} is not a store of features: give"):
                attempt(tmp_path / name)
    assert (tmp_path / "notes" / "a.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Features.open(tmp_path / "none.zarr")


@pytest.mark.parametrize(
    ("number", "told"), [(99, "newer version .*: update"), (1, "older version .*: encode again")]
)
def test_a_store_of_another_version_is_refused(tmp_path, number, told):
    made(tmp_path / "x.zarr")
    meta = tmp_path / "x.zarr" / "zarr.json"
    content = json.loads(meta.read_text())
    content["attributes"] = {"interformer": number, "origin": "?"}
    meta.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=told):
        Features.open(tmp_path / "x.zarr")


def test_an_empty_folder_becomes_a_store_with_nothing_beside_it(tmp_path):
    (tmp_path / "x.zarr").mkdir()
    made(tmp_path / "x.zarr")
    (tmp_path / "deep").mkdir()
    made(tmp_path / "deep" / "y.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "x.zarr"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["y.zarr"]


def test_a_damaged_tile_is_named(tmp_path):
    features = fill(made(tmp_path / "x.zarr"), [(0,)])
    features.write((1,), 0, maps_of(features, (1,), 0))
    features.write((1,), 5, maps_of(features, (1,), 5))
    for file in ("maps/c/0/0", "tiles/c/1/0"):
        (tmp_path / "x.zarr" / file).write_bytes(b"\0" * 30)
    features = Features.open(tmp_path / "x.zarr")
    for plane, file in [((0,), "maps/c/0/0"), ((1,), "tiles/c/1/0")]:
        told = (
            rf"could not be read from .*x\.zarr at tile 0 of plane \({plane[0]},\) .*: the store is damaged: copy it again, or "
            rf"delete {file} in it"
        )
        with pytest.raises(OSError, match=told):
            features.window(plane, Box(0, 0, 32, 32))
    features.window((1,), Box(128, 64, 160, 96))
    writer = Features.open(tmp_path / "x.zarr", mode="r+")
    for tile in range(1, 5):  # with a tile that is damaged, a plane is not packed
        writer.write((1,), tile, maps_of(writer, (1,), tile))
    assert "tiles/c/1/5" in files_of(tmp_path / "x.zarr") and Features.open(tmp_path / "x.zarr").ready((1,))
    features.window((1,), Box(128, 64, 160, 96))


def test_no_flipped_byte_goes_unnoticed(tmp_path):
    pixels = image((100, 150), np.float32)
    features = made(tmp_path / "x.zarr", pixels=pixels)
    features.write((), 0, maps_of(features, (), 0), np.eye(64, dtype=bool))
    fill(features)
    missing = "missing/c/0/0/0"
    assert files_of(tmp_path / "x.zarr") == ["maps/c/0/0", missing]
    for name, read in [
        ("maps/c/0/0", lambda store: store.window((), Box(0, 0, 160, 128))),
        (missing, lambda store: store.valid((), 3, 4)),
    ]:
        file = tmp_path / "x.zarr" / name
        whole = file.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 25)):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
            with pytest.raises(
                OSError, match=r"the store is damaged: copy it again, or delete .* and encode"
            ):
                read(Features.open(tmp_path / "x.zarr"))
        file.write_bytes(whole)
        read(Features.open(tmp_path / "x.zarr"))


def test_stores_without_checksums_are_read_and_gone_on_with(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(stores, "_CHECKSUM", ())  # as they were made at first
        fill(made(tmp_path / "x.zarr"), [(0,)])
    assert "crc32c" not in (tmp_path / "x.zarr" / "tiles" / "zarr.json").read_text()
    features = fill(made(tmp_path / "x.zarr"), [(1,)])
    for plane in [(0,), (1,)]:
        for got, wrote in zip(
            features.window(plane, features.tiles[1]), maps_of(features, plane, 1), strict=True
        ):
            np.testing.assert_allclose(got, wrote, rtol=1e-3)


def test_a_drive_that_is_gone_is_not_taken_for_a_damaged_store(tmp_path, monkeypatch):
    features = fill(made(tmp_path / "x.zarr"), [(0,)])

    def gone(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(zarr.Array, "__getitem__", gone)
    with pytest.raises(OSError, match=r"tile 0 of plane \(0,\) .*Input/output error.*: check that the disk"):
        features.window((0,), Box(0, 0, 32, 32))


def files_of(store) -> list[str]:
    return sorted(
        path.relative_to(store).as_posix()
        for path in store.rglob("*")
        if path.is_file() and path.name not in ("zarr.json", "claims")
    )


def test_a_tile_is_a_file_at_first_and_a_complete_plane_one(tmp_path):
    features = made(tmp_path / "x.zarr")
    for tile in (3, 0):
        features.write((1,), tile, maps_of(features, (1,), tile))
    assert files_of(tmp_path / "x.zarr") == ["tiles/c/1/0", "tiles/c/1/3"]
    fill(features)
    assert files_of(tmp_path / "x.zarr") == ["maps/c/0/0", "maps/c/1/0", "maps/c/2/0"]


def test_a_large_plane_is_kept_in_groups_of_tiles(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "SHARD_TILES", 4)
    features = fill(made(tmp_path / "x.zarr"), [(0,)])
    assert files_of(tmp_path / "x.zarr") == ["maps/c/0/0", "maps/c/0/1"]
    for tile in range(4):
        features.write((1,), tile, maps_of(features, (1,), tile))
    assert Features.open(tmp_path / "x.zarr").waiting((1,)) == [4, 5]
    assert files_of(tmp_path / "x.zarr") == ["maps/c/0/0", "maps/c/0/1", "maps/c/1/0"]
    for tile, core in enumerate(features.tiles):
        for got, wrote in zip(
            Features.open(tmp_path / "x.zarr").window((0,), core),
            maps_of(features, (0,), tile),
            strict=True,
        ):
            np.testing.assert_allclose(got, wrote, rtol=1e-3)


def test_a_reader_finds_a_tile_that_is_packed_meanwhile(tmp_path):
    writer = made(tmp_path / "x.zarr")
    for tile in range(5):
        writer.write((0,), tile, maps_of(writer, (0,), tile))
    reader = Features.open(tmp_path / "x.zarr")
    assert reader.ready((0,), Box(0, 0, 32, 32))  # it lies in a file of its own
    writer.write((0,), 5, maps_of(writer, (0,), 5))
    reader.window((0,), Box(0, 0, 32, 32))


def test_what_was_killed_while_it_packed_is_packed_by_the_next(tmp_path, monkeypatch):
    features = made(tmp_path / "x.zarr")
    with monkeypatch.context() as patch:
        patch.setattr(stores.Store, "pack", lambda *_: None)
        fill(features)
    assert len(files_of(tmp_path / "x.zarr")) == 18 and Features.open(tmp_path / "x.zarr").ready((2,))
    made(tmp_path / "x.zarr").finish()
    assert files_of(tmp_path / "x.zarr") == ["maps/c/0/0", "maps/c/1/0", "maps/c/2/0"]


@pytest.mark.parametrize("damaged", [False, True])
def test_tiles_that_are_not_packed_yet_stay_when_the_rest_of_their_plane_is(tmp_path, monkeypatch, damaged):
    """A plane of more than 64 tiles ends up in several files."""
    monkeypatch.setattr(stores, "SHARD_TILES", 2)
    features = made(tmp_path / "x.zarr")
    with monkeypatch.context() as patch:  # killed while it packs the first two
        patch.setattr(stores.Store, "pack", lambda *_: None)
        for tile in (0, 1):
            features.write((1,), tile, maps_of(features, (1,), tile))
    lost = tmp_path / "x.zarr/tiles/c/1/0"
    if damaged:
        lost.write_bytes(lost.read_bytes()[:-9])
    for tile in (5, 2, 4, 3):
        features.write((1,), tile, maps_of(features, (1,), tile))
    assert files_of(tmp_path / "x.zarr") == ["maps/c/1/1", "maps/c/1/2", "tiles/c/1/0", "tiles/c/1/1"]
    if damaged:
        lost.unlink()
        features.write((1,), 0, maps_of(features, (1,), 0))
    fill(features, [(0,), (2,)]).finish()
    assert files_of(tmp_path / "x.zarr") == [
        f"maps/c/{row}/{group}" for row in range(3) for group in range(3)
    ]
    reader = Features.open(tmp_path / "x.zarr")
    for tile, core in enumerate(reader.tiles):
        expected = maps_of(reader, (1,), tile)
        for one, other in zip(reader.window((1,), core), expected, strict=True):
            assert np.array_equal(one, other.astype(np.float16))
    assert not (tmp_path / "x.zarr/tiles/c/1").exists()


def test_what_is_no_longer_there_is_not_noted_as_done(tmp_path):
    features = fill(made(tmp_path / "x.zarr"))
    (tmp_path / "x.zarr/maps/c/1/0").unlink()
    assert not features.finish() and not Features.open(tmp_path / "x.zarr").ready((1,))
    assert fill(features, [(1,)]).finish()


def test_a_file_that_was_lost_is_made_anew_though_all_were_noted_as_done(tmp_path):
    assert fill(made(tmp_path / "x.zarr")).finish()
    (tmp_path / "x.zarr/maps/c/1/0").unlink()
    reader = Features.open(tmp_path / "x.zarr")
    with pytest.raises(NotEncodedError):
        reader.window((1,), Box(0, 0, 32, 32))
    assert not reader.ready((1,), Box(0, 0, 32, 32)) and reader.ready((0,))
    writer = Features.open(tmp_path / "x.zarr", mode="r+")
    assert writer.ready_planes().tolist() == [True, False, True]
    assert fill(writer, [(1,)]).finish()
    assert reader.window((1,), Box(0, 0, 32, 32))[0].shape == (2, 8, 8)


def test_an_empty_file_that_a_power_cut_left_is_made_anew(tmp_path):
    assert fill(made(tmp_path / "x.zarr")).finish()
    (tmp_path / "x.zarr/maps/c/1/0").write_bytes(b"")
    with pytest.raises(NotEncodedError):
        Features.open(tmp_path / "x.zarr").window((1,), Box(0, 0, 32, 32))
    writer = Features.open(tmp_path / "x.zarr", mode="r+")
    assert writer.ready_planes().tolist() == [True, False, True]
    assert fill(writer, [(1,)]).finish()
    assert writer.window((1,), Box(0, 0, 32, 32))[0].shape == (2, 8, 8)


def test_tiles_are_on_disk_together_before_their_single_files_are_removed(tmp_path, monkeypatch):
    there: list[list[str]] = []
    monkeypatch.setattr(stores.os, "fsync", lambda _: there.append(files_of(tmp_path / "x.zarr")))
    fill(made(tmp_path / "x.zarr"), [(1,)])
    assert there == [["maps/c/1/0", *(f"tiles/c/1/{tile}" for tile in range(6))]]
    assert files_of(tmp_path / "x.zarr") == ["maps/c/1/0"]
    with monkeypatch.context() as patch:  # where the power is cut before that
        patch.setattr(stores.Store, "pack", lambda *_: None)
        fill(made(tmp_path / "x.zarr"), [(1,)])
    (tmp_path / "x.zarr/maps/c/1/0").write_bytes(b"")
    fill(made(tmp_path / "x.zarr"), [(0,), (2,)]).finish()
    assert files_of(tmp_path / "x.zarr") == ["maps/c/0/0", "maps/c/1/0", "maps/c/2/0"]
    assert Features.open(tmp_path / "x.zarr").window((1,), Box(0, 0, 32, 32))[0].shape == (2, 8, 8)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which file is open")
def test_which_pixels_have_no_value_is_on_disk_before_the_tile_is(tmp_path, monkeypatch):
    pixels = image(dtype=np.float32)
    pixels[1, 70, 140] = np.nan
    features, there = made(tmp_path / "x.zarr", pixels=pixels), []
    monkeypatch.setattr(stores.os, "fsync", lambda file: there.append(os.readlink(f"/proc/self/fd/{file}")))
    for tile, core in enumerate(features.tiles):
        inside = core.intersect(Box.of(features.size))
        features.write((1,), tile, maps_of(features, (1,), tile), np.isnan(pixels[1][inside.slices]))
    named = [str(Path(file).relative_to(tmp_path / "x.zarr")) for file in there]
    assert files_of(tmp_path / "x.zarr") == sorted(named) == ["maps/c/1/0", "missing/c/1/1/2"]
    assert named[0].startswith("missing")


def test_what_is_done_is_done_where_that_cannot_be_noted(tmp_path, monkeypatch, caplog):
    features = fill(made(tmp_path / "x.zarr"))

    def refused(*_):
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(stores.Store, "pack_all", refused)
    assert (
        features.finish()
        and "could not be noted" in caplog.text
        and "can be used all the same" in caplog.text
    )


def test_a_store_is_the_same_after_the_working_directory_has_changed(tmp_path, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    features = fill(made("x.zarr"), [(0,)])
    monkeypatch.chdir(tmp_path / "there")
    fill(features, [(1,)])
    features.window((1,), Box(0, 0, 32, 32))
    assert not list((tmp_path / "there").iterdir())


def test_a_link_leads_to_where_a_store_is_made(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "x.zarr").symlink_to(tmp_path / "disk", target_is_directory=True)
    fill(made(tmp_path / "x.zarr"))
    assert Features.open(tmp_path / "disk").ready_planes().all() and (tmp_path / "x.zarr").is_symlink()


def test_features_know_when_another_store_lies_in_the_place_of_theirs(tmp_path):
    features = made(tmp_path / "x.zarr")
    assert not features.replaced and not made().replaced
    shutil.rmtree(tmp_path / "x.zarr")
    assert features.replaced
    made(tmp_path / "x.zarr")
    assert features.replaced


@pytest.mark.parametrize("then", ["deleted", "replaced"])
def test_a_store_that_is_no_longer_the_same_is_neither_written_to_nor_read(tmp_path, monkeypatch, then):
    monkeypatch.setattr("napari_interformer.store._LOOK", 0)
    place = tmp_path / "x.zarr"
    features = fill(made(place), [(0,)])
    reader = Features.open(place)
    shutil.rmtree(place)
    if then == "replaced":
        fill(made(place, pixels=255 - image())).finish()
    after = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    for act in (
        lambda: fill(features, [(1,)]),
        features.finish,
        lambda: reader.window((0,), Box(0, 0, 64, 64)),
    ):
        with pytest.raises(OSError, match=r"x\.zarr was deleted, or replaced"):
            act()
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == after
    if then == "replaced":
        assert Features.open(place, image=255 - image()).ready_planes().all()


def test_a_tile_of_another_store_is_not_kept_however_soon_it_came(tmp_path, monkeypatch):
    place = tmp_path / "x.zarr"
    reader = fill(made(place))
    read = stores.Store.read

    def swapped(self, row, tile):
        monkeypatch.setattr(stores.Store, "read", read)  # which filling a store does, too
        shutil.rmtree(place)
        fill(made(place, pixels=255 - image()))
        return read(self, row, tile)

    monkeypatch.setattr(stores.Store, "read", swapped)
    with pytest.raises(OSError, match=r"x\.zarr was deleted, or replaced"):
        reader.window((0,), Box(0, 0, 32, 32))
    assert not reader._cache


def test_finished_features_need_no_look_at_each_plane(tmp_path, monkeypatch):
    features = fill(made(tmp_path / "x.zarr"), [(0,), (1,)])
    assert not features.finish()
    assert fill(features, [(2,)]).finish()
    monkeypatch.setattr(stores.Store, "done", None)
    assert Features.open(tmp_path / "x.zarr").ready_planes().all()


def test_the_size_of_features_is_told(tmp_path, default_model):
    assert Origin.of(Planes.of(image()), default_model, core=0, halo=0).channels == default_model.channels
    features = made(pixels=np.zeros((992, 1056), np.uint8), model=default_model, core=0)
    assert features.nbytes == pytest.approx(7.5 * 992 * 1056)


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_features_of_another_image_or_model_are_refused_when_opened(tmp_path, mode):
    made(tmp_path / "x.zarr")
    same, other = Planes.of(image()), Planes.of(image(seed=1))
    changed = SimpleNamespace(**{**vars(MODEL), "fingerprint": "n"})
    Features.open(tmp_path / "x.zarr", mode=mode, image=same, model=MODEL)
    for options, named in [
        (
            {"image": other},
            r"image \(or of other channels of it\): give the matching image and channels, or another store",
        ),
        ({"model": changed}, "model: give another store, or delete this one"),
        ({"image": other, "model": changed}, r"image and model \(or of other channels of it\): give"),
    ]:
        with pytest.raises(ValueError, match=f"of another {named}"):
            Features.open(tmp_path / "x.zarr", mode=mode, **options)
    with pytest.raises(TypeError, match="model takes what load_model returns; got str"):
        Features.open(tmp_path / "x.zarr", mode=mode, model="default")


def test_the_image_of_a_store_is_given_as_anything_that_is_an_image(tmp_path):
    made(tmp_path / "x.zarr")
    tifffile.imwrite(tmp_path / "x.tif", image(), photometric="minisblack")
    for same in (image(), tmp_path / "x.tif", Planes.of(image(), contrast=(0, 9))):
        Features.open(tmp_path / "x.zarr", image=same)
    with pytest.raises(ValueError, match="of another image"):
        Features.open(tmp_path / "x.zarr", image=image(seed=1))
    with pytest.raises(TypeError, match=r"got .*object"):
        Features.open(tmp_path / "x.zarr", image=object())


def test_a_store_has_a_name(tmp_path, monkeypatch):
    (tmp_path / "else").touch()
    monkeypatch.chdir(tmp_path)
    for call in (made, Features.open):
        with pytest.raises(ValueError, match="needs a path or a URL; got an empty one: name it"):
            call("")
        with pytest.raises(ValueError, match="is not a store of features"):
            call(".")


# ----------------------------------------------------------------------------------------------- elsewhere


@contextmanager
def served(folder, *, parts=True):
    """Serve a folder as web servers do: files and parts of files, no lists of folders."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            content, status = path.read_bytes(), 200
            if parts and "Range" in self.headers:
                first, last = self.headers["Range"].removeprefix("bytes=").split("-")
                start = int(first) if first else len(content) - int(last)
                stop = int(last) + 1 if first and last else len(content)
                content, status = content[start:stop], 206
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_features_are_read_from_a_web_server_while_they_are_written(tmp_path):
    pytest.importorskip("aiohttp", reason="fsspec reads http with it")
    writer = fill(made(tmp_path / "x.zarr"), [(0,)])
    with served(tmp_path) as address:
        reader = Features.open(f"{address}/x.zarr")
        assert reader.origin == writer.origin and reader.ready_planes().tolist() == [True, False, False]
        writer.write((1,), 2, maps_of(writer, (1,), 2))
        assert reader.ready((1,), writer.tiles[2]) and reader.waiting((1,)) == [0, 1, 3, 4, 5]
        for plane, tile in [((0,), 4), ((1,), 2)]:
            for got, wrote in zip(
                reader.window(plane, writer.tiles[tile]), maps_of(writer, plane, tile), strict=True
            ):
                np.testing.assert_allclose(got, wrote, rtol=1e-3)
        with pytest.raises(FileNotFoundError, match="does not exist: encode first"):
            Features.open(f"{address}/y.zarr")
        with pytest.raises(ValueError, match="of another model"):
            Features.open(f"{address}/x.zarr", model=SimpleNamespace(**{**vars(MODEL), "fingerprint": "n"}))


def test_a_web_server_that_serves_no_parts_of_files_is_named(tmp_path):
    pytest.importorskip("aiohttp", reason="fsspec reads http with it")
    writer = fill(made(tmp_path / "x.zarr"), [(0,)])
    with served(tmp_path, parts=False) as address:
        reader = Features.open(f"{address}/x.zarr")
        with pytest.raises(OSError, match="check that the server serves parts of files"):
            reader.window((0,), writer.tiles[0])


def test_features_behind_a_url_are_written_and_read():
    url = "memory://features/x.zarr"
    writer = made(url)
    reader = Features.open(url)
    assert not reader.ready((0,))
    fill(writer, [(0,)])
    assert reader.ready_planes().tolist() == [True, False, False] and url in repr(reader)
    reader.window((0,), Box(0, 0, 160, 128))
    again = fill(made(url))
    assert again.finish() and Features.open(url).ready_planes().all()
    with pytest.raises(ValueError, match="opened for reading"):
        reader.write((1,), 0, maps_of(reader, (1,), 0))
    with pytest.raises(ValueError, match=r"memory://features/x\.zarr holds features of another image"):
        made(url, pixels=image(seed=1), contrast=writer.contrast)
    with pytest.raises(FileNotFoundError, match="encode first"):
        Features.open("memory://features/y.zarr")


def test_who_makes_a_store_behind_a_url_second_deletes_nothing(monkeypatch):
    url, pixels = "memory://features/race.zarr", image(dtype=np.float32)
    first = fill(made(url, pixels=pixels), [(0,)])
    monkeypatch.setattr(room, "is_there", lambda _: False)  # the second looked before the first had made it
    second = made(url, pixels=pixels)
    assert second.ready_planes().tolist() == [True, False, False]
    assert fill(first, [(1,), (2,)]).finish()
    again = made(url, pixels=pixels)
    assert again.ready_planes().all() and zarr.open_group(url, mode="r").attrs["complete"]
    again.window((2,), Box(0, 0, 160, 128))


class Unlisted(AbstractFileSystem):
    """Files of which one may read each but see no list: of what is not there, S3 then says that it is forbidden."""

    protocol = "unlisted"
    shut = False

    def info(self, path, **_):
        if self.shut or not Path(path).is_file():
            raise PermissionError(errno.EACCES, "Forbidden", path)
        return {"name": path, "size": Path(path).stat().st_size, "type": "file"}

    def cat_file(self, path, start=None, end=None, **_):
        self.info(path)
        return Path(path).read_bytes()[start:end]

    def ls(self, path, detail=True, **_):
        raise PermissionError(errno.EACCES, "Forbidden", path)

    def exists(self, path, **_):  # as s3fs does
        return bool(self.info(path))


def test_features_are_read_where_what_is_not_there_is_forbidden(tmp_path, monkeypatch):
    fsspec.register_implementation("unlisted", Unlisted, clobber=True)
    monkeypatch.setattr(stores, "_LOOK", 0)
    writer = fill(made(tmp_path / "x.zarr"), [(0,)])
    writer.write((1,), 2, maps_of(writer, (1,), 2))
    reader = Features.open(f"unlisted://{tmp_path}/x.zarr")
    assert reader.ready_planes().tolist() == [True, False, False] and reader.waiting((1,)) == [0, 1, 3, 4, 5]
    for plane, tile in [((0,), 4), ((1,), 2)]:
        reader.window(plane, writer.tiles[tile])
    with pytest.raises(OSError, match=r"y\.zarr cannot be read \(Forbidden\): check your permissions"):
        Features.open(f"unlisted://{tmp_path}/y.zarr")
    monkeypatch.setattr(Unlisted, "shut", True)  # as where a token has expired
    with pytest.raises(OSError, match=r"could not be reached \(.*Forbidden"):
        reader.window((0,), writer.tiles[1])


def test_features_are_read_from_within_an_archive(tmp_path):
    writer = fill(made(tmp_path / "x.zarr"), [(0,)])
    archive = shutil.make_archive(str(tmp_path / "kept"), "zip", tmp_path, "x.zarr")
    reader = Features.open(f"zip://x.zarr::{archive}")
    assert reader.ready_planes().tolist() == [True, False, False]
    for got, wrote in zip(reader.window((0,), writer.tiles[4]), maps_of(writer, (0,), 4), strict=True):
        np.testing.assert_allclose(got, wrote, rtol=1e-3)


def test_a_store_is_made_where_it_was_meant_to_be(tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert made("~/x.zarr").path == tmp_path / "x.zarr"
    with pytest.raises(ValueError, match=r"must have two slashes; got 'memory:.x': give it as text"):
        made(Path("memory://x"))
    with pytest.raises(OSError, match=r"y\.zarr could not be written .*: make that folder first"):
        made(tmp_path / "typo" / "x" / "y.zarr")
    assert [one.name for one in tmp_path.iterdir()] == ["x.zarr"]


def test_a_url_of_a_file_is_its_path(tmp_path):
    fill(made(tmp_path / "x.zarr"), [(0,)])
    assert Features.open((tmp_path / "x.zarr").as_uri()).path == tmp_path / "x.zarr"
    (tmp_path / "run#1.zarr").mkdir()
    assert fill(made(f"file://localhost{tmp_path}/run#1.zarr")).path == tmp_path / "run#1.zarr"
    with pytest.raises(ValueError, match="three slashes"):
        made("file://data/x.zarr")


@pytest.mark.parametrize(
    ("scheme", "remedy"),
    [("s3", "install it with pip"), ("https", r'python -m pip install "\.\[web\]"')],
)
def test_a_url_that_needs_another_package_says_so(scheme, remedy, monkeypatch):
    def missing(*_, **__):
        raise ImportError("Install afs to access it", name="afs")

    monkeypatch.setattr(stores.zarr, "open_group", missing)
    with pytest.raises(
        ImportError, match=rf"behind {scheme}:// need another package \(Install afs .*\): {remedy}"
    ):
        Features.open(f"{scheme}://bucket/x.zarr")


def test_what_a_url_to_write_to_lacks_is_said_so(monkeypatch):
    with pytest.raises(ValueError, match=r"foo://a/x.zarr cannot be opened \(Protocol not known: foo\)"):
        made("foo://a/x.zarr")

    def missing(*_, **__):
        raise ImportError("Install afs to access it", name="afs")

    monkeypatch.setattr(stores.zarr, "open_group", missing)
    with pytest.raises(ImportError, match="install it with pip"):
        made("s3://bucket/x.zarr")


def test_a_server_that_stops_to_answer_has_not_lost_the_store(monkeypatch):
    features = fill(made("memory://hiccup.zarr"), [(0,)])

    def silent(*_, **__):
        raise TimeoutError("Connection timeout to host")

    with monkeypatch.context() as patch:
        patch.setattr(stores, "open_group", silent)
        patch.setattr(stores, "_LOOK", 0)
        with pytest.raises(
            OSError, match=r"could not be reached \(Connection timeout to host\): check the address"
        ):
            features.window((0,), Box(0, 0, 32, 32))
    assert features.window((0,), Box(0, 0, 32, 32))[0].shape == (2, 8, 8)


def test_a_store_behind_a_url_whose_making_was_interrupted_is_made_up(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(stores, "BloscCodec", lambda **_: 1 / 0)  # the group is there by then
        with pytest.raises(OSError, match="could not be written to"):
            made("memory://begun.zarr")
    assert fill(made("memory://begun.zarr")).finish()
    zarr.open_group("memory://another.zarr", mode="w").attrs["of"] = "somebody"
    with pytest.raises(ValueError, match="is not a store of features"):
        made("memory://another.zarr")


def test_a_server_that_does_not_answer_is_not_taken_for_a_damaged_store(monkeypatch):
    class EndpointConnectionError(Exception):  # as botocore's, which is no OSError
        pass

    def unreachable(*_, **__):
        raise EndpointConnectionError("Could not connect to the endpoint URL")

    monkeypatch.setattr(stores.zarr, "open_group", unreachable)
    with pytest.raises(OSError, match=r"could not be reached .*check the address and the network"):
        Features.open("memory://bucket/x.zarr")


# ------------------------------------------------------------------------------------------- two processes


def test_a_second_reader_sees_what_is_written(tmp_path):
    writer = made(tmp_path / "x.zarr")
    reader = Features.open(tmp_path / "x.zarr")
    assert not reader.ready((1,))
    fill(writer, [(1,)])
    assert reader.ready((1,)) and reader.ready_planes().tolist() == [False, True, False]
    reader.window((1,), Box(0, 0, 160, 128))


def test_tiles_are_read_here_as_soon_as_another_process_has_written_them(tmp_path):
    program = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_features import made, maps_of
features = made({str(tmp_path / "x.zarr")!r})
for line in sys.stdin:
    tile = int(line)
    features.write((1,), tile, maps_of(features, (1,), tile))
    print(tile, flush=True)
"""
    mine = made(tmp_path / "x.zarr")
    reader = Features.open(tmp_path / "x.zarr")
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        for tile in (4, 0, 5, 1, 2, 3):  # with the last one the plane is packed
            assert not reader.ready((1,), reader.tiles[tile])
            print(tile, file=writer.stdin, flush=True)
            assert writer.stdout.readline() == f"{tile}\n"
            for one in (reader, Features.open(tmp_path / "x.zarr"), mine):
                for got, wrote in zip(
                    one.window((1,), reader.tiles[tile]), maps_of(mine, (1,), tile), strict=True
                ):
                    np.testing.assert_allclose(got, wrote, rtol=1e-3)
    assert reader.ready_planes().tolist() == [False, True, False]


@pytest.mark.skipif(os.name == "nt", reason="permissions are POSIX")
def test_a_store_that_may_not_be_written_is_read_and_says_so():
    # Root may do everything, so the process becomes somebody else.
    program = f"""
import os, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_features import Features, fill, made
features = fill(made("x.zarr"), [(0,)])
features.window((0,), features.tiles[0])
fill(made("complete.zarr"), [(0,), (1,), (2,)]).finish()
for name in ("x.zarr", "complete.zarr"):
    for folder, folders, files in os.walk(name):
        os.chmod(folder, 0o555)
if os.geteuid() == 0:
    os.setuid(65534)
reader = Features.open("x.zarr")
print(reader.ready_planes().tolist(), reader.window((0,), reader.tiles[3])[0].mean())
with reader.claim((1,), [0], 1) as mine:
    print(mine)
for attempt in (lambda: fill(Features.open("x.zarr", mode="r+"), [(1,)]), lambda: made("y.zarr")):
    try:
        attempt()
    except OSError as error:
        print(error)
print(Features.open("x.zarr").ready_planes().tolist())
print(made("complete.zarr").finish())  # as encode does
"""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        run = subprocess.run(
            [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
        )
    assert run.returncode == 0, run.stderr
    before, claimed, packed, new, after, complete = run.stdout.splitlines()
    assert before.startswith("[True, False, False] ") and after == "[True, False, False]" and claimed == "[0]"
    for said, name in ((packed, "x.zarr"), (new, "y.zarr")):
        assert said.startswith(f"{name} could not be written to ")
    assert "encode the rest where you can write" in packed and "choose a place that you can write to" in new
    assert complete == "True"


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


def test_a_tile_that_is_written_while_another_thread_looks_stays_done(tmp_path, monkeypatch):
    features = made(tmp_path / "x.zarr")
    look = stores.Store.done

    def done(store, row, tiles):
        found = look(store, row, tiles)
        monkeypatch.setattr(stores.Store, "done", look)
        fill(features, [(0,)])
        return found

    monkeypatch.setattr(stores.Store, "done", done)
    features.ready((0,))
    assert features._done[0].all()


def test_the_cache_is_bounded_in_bytes(tmp_path, monkeypatch):
    features = fill(made(tmp_path / "x.zarr"), [(0,)])
    size = sum(level.nbytes for level in features._tile(0, 0))
    monkeypatch.setattr(room, "_CACHE_BYTES", 3 * size)
    features.window((0,), Box(0, 0, 160, 128))
    assert len(features._cache) <= 3
    monkeypatch.setattr(room, "_CACHE_BYTES", 1)
    features.window((0,), Box(0, 0, 160, 128))
    assert len(features._cache) == 1


def test_features_too_large_for_memory_go_to_a_folder_that_goes_with_them(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(room, "_MEMORY_BYTES", made().nbytes - 1)
    features = fill(made())
    assert features.path is None and "3 of 3 planes encoded, in a temporary folder" in repr(features)
    (folder,) = tmp_path.iterdir()
    assert files_of(folder / "features.zarr") == ["maps/c/0/0", "maps/c/1/0", "maps/c/2/0"]
    sent = pickle.loads(pickle.dumps(features))
    assert sent.path is None
    for one in (features, sent):
        for got, wrote in zip(one.window((2,), one.tiles[1]), maps_of(one, (2,), 1), strict=True):
            np.testing.assert_allclose(got, wrote, rtol=1e-3)
    del features, one
    gc.collect()
    assert not folder.exists()


def test_a_temporary_folder_goes_though_its_process_was_killed_or_it_was_not_filled(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(room, "_MEMORY_BYTES", 1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(room, "make_store", full)
        with pytest.raises(OSError, match="No space"):
            made()
    assert not list(tmp_path.iterdir())
    for name, days in (("interformer-old", 2), ("interformer-new", 0), ("others-old", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "in use").touch()
        os.utime(tmp_path / name / "in use", 2 * (time.time() - days * 86400,))
    mine = made()
    (own,) = [one for one in tmp_path.iterdir() if one.name not in ("interformer-new", "others-old")]
    os.utime(own / "in use", 2 * (time.time() - 2 * 86400,))
    other = made()  # this process has the first one still
    assert own.exists() and len(list(tmp_path.iterdir())) == 4
    del mine, other


def test_of_several_features_those_used_last_stay_as_far_as_they_fit_in_memory(tmp_path, monkeypatch):
    one, two, three = made(), made(), made()
    monkeypatch.setattr(room, "_MEMORY_BYTES", 2 * one.nbytes)
    assert list(fitting({"a": one, "b": two, "c": three})) == ["b", "c"]
    assert list(fitting({"a": one, "b": two, "c": one})) == ["a", "b", "c"]  # two images of the same pixels
    monkeypatch.setattr(room, "_MEMORY_BYTES", 1)
    assert list(fitting({"a": one, "b": two})) == ["b"]
    assert not fitting({"a": made(tmp_path / "x.zarr")}) and fitting({}) == {}


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
    assert said.startswith("x.zarr could not be written") and "free some space there" in said
    assert state == "True False 4"
    features = Features.open(tmp_path / "x.zarr")
    assert features.ready_planes().tolist() == [True, False, False]


def test_a_store_where_nothing_can_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not be written to"):
        made(tmp_path / "file" / "x.zarr")


def test_features_go_where_their_image_is_not(tmp_path, small_model):
    path = tmp_path / "a.png"
    iio.imwrite(path, np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
    features = encode(path, small_model)
    sent = pickle.dumps(features)
    path.unlink()
    arrived = pickle.loads(sent)
    assert arrived.source is None and arrived.ready(())
    assert Session(arrived, small_model).click((30, 30)).shape == (64, 64)
