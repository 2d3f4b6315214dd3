"""The command line as a person types it: right use, and one sentence with an exit code for wrong use."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from conftest import blobs
from napari_interformer import cli, segmenting, terminal, units
from napari_interformer.geometry import Box
from napari_interformer.label_files import write_labels
from napari_interformer.options import options_of
from napari_interformer.prompts import NotEncodedError
from napari_interformer.session import Session


def run(*arguments: object) -> int:
    """Run the command line in this process and return its exit code."""
    try:
        cli.main([str(a) for a in arguments])
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code
    return 0


@pytest.fixture
def cell(tmp_path: Path) -> tuple[Path, tuple[int, int], np.ndarray]:
    """Return an image file, a pixel deep inside one of its cells, and that cell's mask."""
    from napari_interformer.samples import cells
    from napari_interformer.simulate import next_click

    image, truth = cells((256, 256), seed=3)
    tifffile.imwrite(tmp_path / "cells.tif", image)
    target = truth == np.argmax(np.bincount(truth[truth > 0]))
    y, x, _ = next_click(np.zeros_like(target), target)
    return tmp_path / "cells.tif", (y, x), target


@pytest.fixture
def blob_model(blob_model, monkeypatch: pytest.MonkeyPatch):
    """Let every command have this model, whichever it asks for."""
    monkeypatch.setattr("napari_interformer.load_model", lambda _: blob_model)
    return blob_model


def test_help_lists_the_six_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    told = capsys.readouterr().out
    assert all(name in told for name in ("encode", "segment", "train", "benchmark", "convert", "demo"))


@pytest.mark.parametrize("command", ["encode", "segment", "train", "benchmark", "convert", "demo"])
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    told = capsys.readouterr().out
    assert "Usage" in told and "\n  " in told


def test_train_help_has_a_sentence_for_each_setting(capsys: pytest.CaptureFixture[str]) -> None:
    from dataclasses import fields

    from napari_interformer.train import TrainConfig

    assert run("train", "--help") == 0
    told = capsys.readouterr().out
    assert "--objects INTEGER With --adapt: Largest number of objects to learn from" in " ".join(told.split())
    assert "[default: 10000; 600 with --adapt]" in " ".join(told.split())
    for field in fields(TrainConfig):
        flag = "--" + field.name.replace("_", "-")
        assert re.search(rf"{flag}\b.*\n?\s+\w+", told), flag
        options = {option.name: option for option in options_of(TrainConfig)}
        assert options[field.name].help, f"TrainConfig's docstring says nothing about {field.name}"
        assert options[field.name].default == field.default


def test_segment_writes_labels_and_a_picture(
    cell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, (y, x), target = cell
    labels, overlay = tmp_path / "labels.tif", tmp_path / "overlay.png"
    assert run("segment", path, "--click", f"{y},{x}", "-o", labels, "--overlay", overlay) == 0
    got = tifffile.imread(labels)
    assert got.shape == target.shape
    assert got[y, x] == 1
    assert overlay.stat().st_size > 1000
    told = capsys.readouterr().out
    assert f"object 1: {np.count_nonzero(got)} pixels" in told and str(labels) in told


def test_the_picture_is_written_though_nobody_listens_to_what_is_printed(
    blob_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object, **__: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")  # as after ``| head -1``

    tifffile.imwrite(tmp_path / "blobs.tif", blobs()[0])
    monkeypatch.setattr(segmenting, "report", closed)
    labels, overlay = tmp_path / "l.tif", tmp_path / "o.png"
    arguments = ("--click", "30,30", "--device", "cpu", "-o", labels, "--overlay", overlay)
    assert run("segment", tmp_path / "blobs.tif", *arguments) == 1
    assert labels.exists() and overlay.exists()


def test_segment_takes_several_objects_and_negative_clicks(tmp_path: Path) -> None:
    from napari_interformer.samples import nuclei_stack

    image, truth = nuclei_stack((6, 128, 128), seed=1)
    tifffile.imwrite(tmp_path / "stack.tif", image, metadata={"axes": "ZYX"})
    first, second = (
        "3," + ",".join(map(str, np.argwhere(truth[3] == n)[0])) for n in np.unique(truth[3])[1:3]
    )
    code = run(
        *("segment", tmp_path / "stack.tif", "--object", f"{first} 3,0,0,-", "--object", second),
        *("-o", tmp_path / "labels.tif", "--features", tmp_path / "stack.zarr"),
    )
    assert code == 0
    got = tifffile.imread(tmp_path / "labels.tif")
    assert got.shape == image.shape
    assert set(np.unique(got)) <= {0, 1, 2} and got.max() == 2
    assert not got[[0, 1, 2, 4, 5]].any(), "other planes were not asked for"


@pytest.mark.parametrize("fails", [False, True])
def test_labels_larger_than_memory_wait_on_disk(
    fails: bool, blob_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, truth = blobs()
    monkeypatch.setattr(segmenting, "_IN_MEMORY", truth.size * 12 - 1)
    kept = []
    report = segmenting.report

    def reported(session: Session, without: dict[int, str]) -> None:
        kept.append(session.labels)
        report(session, without)
        if fails:
            raise ValueError("no.")

    monkeypatch.setattr(segmenting, "report", reported)
    tifffile.imwrite(tmp_path / "blobs.tif", np.stack([image] * 3), photometric="minisblack")
    arguments = (
        "--object",
        "1,32,32",
        "--propagate",
        "-o",
        tmp_path / "l.tif",
        "--overlay",
        tmp_path / "o.png",
    )
    assert run("segment", tmp_path / "blobs.tif", *arguments, "--axes", "ZYX") == int(fails)
    assert isinstance(kept[0], zarr.Array)
    got = tifffile.imread(tmp_path / "l.tif")
    assert got.shape == (3, *truth.shape) and got[:, 32, 32].tolist() == [1, 1, 1]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["blobs.tif", "l.tif", "o.png"]


def test_labels_that_fit_nowhere_are_told_before_anything_is_encoded(
    blob_model, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError("no room.")

    monkeypatch.setattr("napari_interformer.Session", full)
    monkeypatch.setattr(segmenting, "encode_shown", lambda *_: pytest.fail("it was encoded"))
    tifffile.imwrite(tmp_path / "blobs.tif", np.stack([blobs()[0]] * 3), photometric="minisblack")
    arguments = ("--object", "1,32,32", "--propagate", "-o", tmp_path / "l.tif", "--axes", "ZYX")
    assert run("segment", tmp_path / "blobs.tif", *arguments) == 1
    assert "no room" in capsys.readouterr().err


def test_an_axis_along_which_nothing_is_carried_is_told_before_anything_is_encoded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_interformer.load_model", lambda _: pytest.fail("it was begun"))
    tifffile.imwrite(tmp_path / "t.tif", np.stack([[blobs()[0]] * 2] * 3), photometric="minisblack")
    arguments = ("--object", "1,0,32,32", "--propagate", "-o", tmp_path / "l.tif", "--axes", "ZTYX")
    assert run("segment", tmp_path / "t.tif", *arguments) == 1
    assert "got ZTYX: swap T and Z" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["nan", "inf", "0", "large"])
def test_a_size_that_is_no_length_is_wrong_use(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("segment", "a.tif", "--click", "1,1", "-o", "l.tif", "--object-size", size) == 2
    assert f"expected a number of pixels above 0; got '{size}'" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only some systems have it")
def test_what_cannot_be_printed_is_told(
    blob_model, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "blobs.tif", blobs()[0])
    full = open("/dev/full", "w")
    with contextlib.suppress(OSError), full, monkeypatch.context() as patch:  # of closing it
        patch.setattr(sys, "stdout", full)
        command = (
            "segment",
            tmp_path / "blobs.tif",
            "--click",
            "32,32",
            "--similar",
            "-o",
            tmp_path / "l.tif",
        )
        assert run(*command) == 1
    assert "Standard output could not be written to (No space left on device)" in capsys.readouterr().err
    assert (tmp_path / "l.tif").exists()


@pytest.mark.parametrize("propagate", [False, True])
def test_segment_finds_similar_objects_and_carries_them_if_asked_to(
    propagate: bool,
    blob_model,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image, truth = blobs()
    stack = np.stack([image] * 4)
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack", metadata={"axes": "ZYX"})
    flags = ["--propagate"] if propagate else []
    command = ("segment", tmp_path / "stack.tif", "--object", "1,32,32", "--similar", *flags)
    assert run(*command, "-o", tmp_path / "labels.tif") == 0
    got = tifffile.imread(tmp_path / "labels.tif")
    assert "5 similar objects found on plane 1" in capsys.readouterr().out
    np.testing.assert_array_equal(got[1] > 0, truth > 0)
    assert sorted(np.unique(got)) == list(range(7))
    np.testing.assert_array_equal(got[0], got[1] if propagate else 0 * got[1])


def test_segment_writes_what_was_clicked_on_though_nothing_similar_can_be_looked_for(
    blob_model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tifffile.imwrite(tmp_path / "dark.tif", np.zeros((64, 64), np.uint8))  # one like the other
    command = ("segment", tmp_path / "dark.tif", "--click", "20,20", "--similar")
    assert run(*command, "-o", tmp_path / "labels.tif") == 1
    assert "needs objects that look different from" in capsys.readouterr().err
    assert tifffile.imread(tmp_path / "labels.tif")[20, 20] == 1


def test_planes_too_large_to_search_are_refused_before_they_are_encoded(
    blob_model, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_interformer.segmenting.MOST_PIXELS", 2_000_000)
    tifffile.imwrite(tmp_path / "wide.tif", np.zeros((1500, 2000), np.uint8))
    command = ("segment", tmp_path / "wide.tif", "--click", "20,20", "--similar")
    assert run(*command, "-o", tmp_path / "l.tif", "--features", tmp_path / "f.zarr") == 1
    assert (
        "at most 2.00 megapixels; those of wide.tif have 3.00: leave --similar out" in capsys.readouterr().err
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wide.tif"]


def test_saved_clicks_are_carried_through_the_stack_if_asked_for(
    blob_model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import napari_interformer as ni

    image, truth = blobs()
    tifffile.imwrite(
        tmp_path / "s.tif", np.stack([image] * 3), photometric="minisblack", metadata={"axes": "ZYX"}
    )
    session = ni.Session(ni.encode(tmp_path / "s.tif", blob_model, contrast="auto"), blob_model)
    for y, x in ((32, 32), (32, 96)):
        session.click((1, y, x))
        session.commit()
    session.click((1, 32, 160))  # not committed
    session.save_prompts(tmp_path / "c.json")
    command = ("segment", tmp_path / "s.tif", "--prompts", tmp_path / "c.json", "-o", tmp_path / "l.tif")
    assert run(*command) == 0
    assert not tifffile.imread(tmp_path / "l.tif")[[0, 2]].any()
    assert run(*command, "--propagate") == 0
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "l.tif"), [np.where(truth < 4, truth, 0)] * 3)
    session.commit()
    session.edit(1)
    session.set_prompts([])  # as it was saved, it is an object that is being edited, and nothing else
    session.save_prompts(tmp_path / "c.json")
    assert run(*command, "--object", "1,112,32") == 0
    labels = tifffile.imread(tmp_path / "l.tif")
    np.testing.assert_array_equal(labels[1], np.where(truth < 5, truth, 0))
    session = ni.Session(session.features, blob_model)
    session.save_prompts(tmp_path / "c.json")
    capsys.readouterr()
    assert run(*command, "--similar") == 1
    assert (
        "--similar needs an object that was clicked on as an example; there is none"
        in capsys.readouterr().err
    )


def test_a_picture_that_somebody_else_wrote_is_not_replaced(
    blob_model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import imageio.v3 as iio

    tifffile.imwrite(tmp_path / "blobs.tif", blobs()[0])
    arguments = ("segment", tmp_path / "blobs.tif", "--click", "30,30", "-o")
    for _ in range(2):  # its own it replaces
        assert run(*arguments, tmp_path / "l.tif", "--overlay", tmp_path / "o.png") == 0
        assert run(*arguments, tmp_path / "l.zarr") == 0
    tifffile.imwrite(tmp_path / "raw.tif", np.zeros((9, 9), np.uint16))
    iio.imwrite(tmp_path / "photo.png", np.zeros((9, 9, 3), np.uint8))
    for name in ("notes.tif", "notes.zarr"):
        (tmp_path / name).write_text("of value")
    theirs = zarr.open_group(tmp_path / "theirs.zarr", mode="w")
    theirs.attrs["image-label"] = {"version": "0.4"}
    theirs.create_array("0", data=np.ones((9, 9), int))
    shutil.copytree(tmp_path / "l.zarr", tmp_path / "both.zarr")
    zarr.open_group(tmp_path / "both.zarr").create_array("measured", data=np.ones(3))

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    names = ("raw.tif", "notes.tif", "notes.zarr", "theirs.zarr", "both.zarr")
    for output, overlay in (*((name, "o.png") for name in names), ("l.tif", "photo.png")):
        before = files()
        assert run(*arguments, tmp_path / output, "--overlay", tmp_path / overlay) == 1
        assert "already exists, and napari-interformer did not write it" in capsys.readouterr().err
        assert files() == before


@pytest.mark.parametrize(("typed", "core"), [("192", 128), ("whole", 0)])
def test_encode_takes_a_tile_as_typed(typed: str, core: int, tmp_path: Path) -> None:
    from napari_interformer import Features

    tifffile.imwrite(tmp_path / "a.tif", np.arange(200 * 200, dtype=np.uint16).reshape(200, 200))
    halo = ["--halo", "32"] if core else []
    assert run("encode", tmp_path / "a.tif", "-o", tmp_path / "a.zarr", "--tile", typed, *halo) == 0
    assert Features.open(tmp_path / "a.zarr").origin.core == core
    assert run("encode", tmp_path / "a.tif", "-o", tmp_path / "b.zarr", "--tile", "half") == 2


def test_encode_hands_the_work_to_several_devices(
    cell, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_interformer import cluster, encode, load_model

    def encode_with(devices, image, store, *, model, progress, **options):
        assert [str(one) for one in devices] == ["cpu", "cpu"] and options["contrast"] == (0, 20_000)
        return encode(image, load_model(model), store=store, progress=progress, planes=[], **options)

    monkeypatch.setattr(cluster, "encode_with", encode_with)
    assert (
        run("encode", cell[0], "-o", tmp_path / "a.zarr", "--device", "cpu,cpu", "--contrast", "0,20000") == 0
    )
    assert "1 plane of 256 x 256 pixels" in capsys.readouterr().out


def test_segment_takes_boxes_and_corrects_them_by_clicks(blob_model, tmp_path: Path) -> None:
    import imageio.v3 as iio

    image, expected = blobs()
    tifffile.imwrite(tmp_path / "blobs.tif", image)
    labels, overlay = tmp_path / "labels.tif", tmp_path / "overlay.png"
    arguments = ("segment", tmp_path / "blobs.tif", "-o", labels, "--device", "cpu")
    assert run(*arguments, "--overlay", overlay, "--box", "16,80,47,111") == 0
    np.testing.assert_array_equal(tifffile.imread(labels), expected == 2)
    picture = iio.imread(overlay)
    assert (picture[15, 79:113] == (0, 160, 60)).all() and (picture[14, 79:113] == 255).all()
    assert (picture[15:49, 112] == (0, 160, 60)).all() and (picture[16:48, 80:112, 2] != 60).all()
    # What lies in the middle of this box is no object; a click of the same object tells where it is, in any order.
    assert run(*arguments, "--click", "30,30", "--box", "50,120,10,10") == 0
    np.testing.assert_array_equal(tifffile.imread(labels), expected == 1)
    objects = ("--object", "30,30 box:10,10,50,120", "--object", "box:96,16,127,47")
    assert run(*arguments, "--box", "16,144,47,175", *objects) == 0
    np.testing.assert_array_equal(tifffile.imread(labels), np.array([0, 2, 0, 1, 3, 0, 0])[expected])


def test_a_box_starts_an_object_on_each_of_its_planes(blob_model, tmp_path: Path) -> None:
    image, expected = blobs()
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([image] * 5), metadata={"axes": "ZYX"})
    boxes = ("--box", "0,16,80,47,111", "--box", "2,16,80,47,111")
    labels = tmp_path / "labels.tif"
    assert run("segment", tmp_path / "stack.tif", *boxes, "-o", labels, "--device", "cpu") == 0
    got = tifffile.imread(labels)
    for plane in range(5):
        np.testing.assert_array_equal(got[plane], (expected == 2) * (plane in (0, 2)))


def test_an_object_that_others_cover_is_told(
    cell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, (y, x), _ = cell
    one, labels = f"{y},{x}", tmp_path / "labels.tif"
    assert run("segment", path, "--object", one, "--object", one, "-o", labels) == 0
    assert "object 2: 0 pixels: all of it belongs to earlier objects" in capsys.readouterr().out


def test_an_object_without_pixels_takes_none_of_the_others_away(
    blob_model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, expected = blobs()
    tifffile.imwrite(tmp_path / "blobs.tif", image)
    objects = ("--object", "60,60 60,60,-", "--object", "30,30")
    assert run("segment", tmp_path / "blobs.tif", *objects, "-o", tmp_path / "l.tif", "--device", "cpu") == 0
    assert "object 1: 0 pixels: nothing was found at its clicks" in capsys.readouterr().out
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "l.tif"), 2 * (expected == 1))


def test_encode_then_segment_from_the_store(cell, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, (y, x), _ = cell
    assert run("encode", path, "-o", tmp_path / "kept.zarr", "--tile", 256) == 0
    assert "encoded in" in capsys.readouterr().out
    assert run("encode", path, "-o", tmp_path / "kept.zarr") == 0
    assert "were encoded before: " in capsys.readouterr().out
    for store in ("kept.zarr", "new.zarr"):
        labels = tmp_path / f"{store}.tif"
        code = run("segment", path, "--click", f"{y},{x}", "--features", tmp_path / store, "-o", labels)
        assert code == 0
        assert ("making a new store" in capsys.readouterr().err) == (store == "new.zarr")
    kept, new = (tifffile.imread(tmp_path / f"{store}.zarr.tif") for store in ("kept", "new"))
    np.testing.assert_array_equal(kept, new)
    assert run("encode", path, "-o", tmp_path / "small.zarr", "--tile", 64, "--halo", 0) == 0
    arguments = ("--click", f"{y},{x}", "--features", tmp_path / "small.zarr", "-o", tmp_path / "small.tif")
    assert run("segment", path, *arguments) == 0  # in the tiles that are there
    assert tifffile.imread(tmp_path / "small.tif")[y, x] == 1


def test_a_store_behind_a_url_is_read_and_never_made(
    cell, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import napari_interformer as ni

    path, (y, x), _ = cell
    monkeypatch.chdir(tmp_path)
    kept = "memory://cli/kept.zarr"
    ni.encode(path, ni.load_model(), store=kept)
    ni.encode(path, ni.load_model(), store="memory://cli/part.zarr", planes=[])
    arguments = ("segment", path, "--click", f"{y},{x}", "-o", "labels.tif", "--features")
    monkeypatch.setattr("napari_interformer.encoding.encode_tiles", None)
    assert run(*arguments, kept) == 0
    assert tifffile.imread("labels.tif")[y, x] == 1
    for store, told, more in (
        ("memory://cli/part.zarr", "does not hold all that is needed", ()),
        ("memory://cli/none.zarr", "does not exist", ()),
        (kept, "another contrast", ("--contrast", "0,9")),
    ):
        assert run(*arguments, store, *more) == 1
        assert told in capsys.readouterr().err
    assert sorted(one.name for one in tmp_path.iterdir()) == ["cells.tif", "labels.tif"]


def test_what_is_lacking_again_after_it_was_encoded_ends_the_command() -> None:
    encoded: list[object] = []

    class Session:
        prompts = ()

        def set_prompts(self, _: object) -> None:
            raise NotEncodedError((3,), Box(0, 0, 32, 32))

    def encode_part(parts: list[object]) -> None:
        assert not encoded, "encoded for ever"
        encoded.extend(parts)

    with pytest.raises(NotEncodedError):
        segmenting.give(Session(), None, encode_part)
    assert encoded == [((3,), Box(0, 0, 32, 32))]


@pytest.mark.parametrize("how", ["--click", "--box"])
def test_segment_encodes_no_more_of_a_large_plane_than_its_clicks_need(how: str, tmp_path: Path) -> None:
    from napari_interformer import Features
    from napari_interformer.samples import cells
    from napari_interformer.simulate import next_click

    image, truth = cells((256, 256), seed=3)
    large = np.zeros((2000, 2000), image.dtype)
    large[1000:1256, 700:956] = image
    tifffile.imwrite(tmp_path / "large.tif", large)
    target = truth == np.argmax(np.bincount(truth[truth > 0]))
    y, x, _ = next_click(np.zeros_like(target), target)
    rows, columns = np.nonzero(target)
    corners = rows.min() + 1000, columns.min() + 700, rows.max() + 1000, columns.max() + 700
    given = {"--click": f"{y + 1000},{x + 700}", "--box": ",".join(map(str, corners))}[how]
    arguments = ("segment", tmp_path / "large.tif", how, given)
    for _ in range(2):  # the second time nothing is missing
        assert run(*arguments, "--features", tmp_path / "f.zarr", "-o", tmp_path / "labels.tif") == 0
        got = tifffile.imread(tmp_path / "labels.tif")[1000:1256, 700:956] > 0
        assert (got & target).sum() / (got | target).sum() > 0.5
        features = Features.open(tmp_path / "f.zarr")
        assert len(features.tiles) == 121 and len(features.waiting()) >= 121 - 12
        assert features.ready((), Box(x + 700, y + 1000, x + 701, y + 1001))


def test_where_no_labels_can_be_written_is_told_before_anything_is_encoded(
    cell, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, (y, x), _ = cell
    (tmp_path / "features.zarr").mkdir()
    monkeypatch.setattr("napari_interformer.checkpoint.load_model", None)
    assert run("segment", path, "--click", f"{y},{x}", "-o", tmp_path / "features.zarr") == 1
    assert "features.zarr already exists, and napari-interformer did not write it" in capsys.readouterr().err


def test_labels_that_somebody_protected_or_put_files_beside_are_left_before_anything_is_encoded(
    cell, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, (y, x), _ = cell
    monkeypatch.setattr("napari_interformer.checkpoint.load_model", None)
    write_labels(tmp_path / "l.tif", np.ones((8, 8), int)).chmod(0o444)
    write_labels(tmp_path / "l.zarr", np.ones((8, 8), int))
    (tmp_path / "l.zarr" / "measurements.csv").touch()
    for name, told in (("l.tif", "could not be written"), ("l.zarr", "did not write it, or not all of it")):
        assert run("segment", path, "--click", f"{y},{x}", "-o", tmp_path / name) == 1
        said = capsys.readouterr().err
        assert told in said and said.count("\n") == 1


def test_the_home_folder_may_be_a_tilde_in_the_shell_too(
    blob_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("blobs.tif", blobs()[0])
    arguments = ("--click", "32,32", "--features", "~/f.zarr", "-o", "~/l.tif")
    assert run("segment", "~/blobs.tif", *arguments) == run("encode", "~/blobs.tif", "-o", "~/g.zarr") == 0
    assert sorted(one.name for one in tmp_path.iterdir()) == ["blobs.tif", "f.zarr", "g.zarr", "l.tif"]


@pytest.mark.parametrize(
    ("image", "arguments", "told"),
    [
        ("cells.tif", ("-o", "f.zarr", "--features", "f.zarr"), "f.zarr is the store of features itself"),
        (
            "cells.tif",
            ("-o", "a.zarr", "--features", "a.zarr/f.zarr"),
            "a.zarr holds the store of features, which",
        ),
        ("par.zarr/0", ("-o", "par.zarr"), "par.zarr holds the image, which would be lost"),
    ],
)
def test_what_is_read_is_not_written_to_and_that_is_told_before_anything_is_encoded(
    image: str,
    arguments: tuple[str, ...],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from napari_interformer.label_files import write_labels

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("napari_interformer.checkpoint.load_model", None)
    tifffile.imwrite("cells.tif", np.zeros((64, 64), np.uint8))
    write_labels("par.zarr", np.ones((64, 64), int))
    assert run("segment", image, "--click", "3,3", *arguments) == 1
    assert told in capsys.readouterr().err
    assert not Path("f.zarr").exists() and (tifffile.imread("cells.tif") == 0).all()


def test_labels_with_an_ending_in_capitals_are_replaced_too(blob_model, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "blobs.tif", blobs()[0])
    arguments = ("--click", "30,30", "--device", "cpu", "-o", tmp_path / "L.ZARR")
    for _ in range(2):
        assert run("segment", tmp_path / "blobs.tif", *arguments) == 0


def test_a_store_says_with_which_contrast_it_was_made(
    cell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, (y, x), _ = cell
    store = tmp_path / "f.zarr"
    arguments = ("segment", path, "--click", f"{y},{x}", "--features", store, "-o", tmp_path / "l.tif")
    assert run(*arguments, "--contrast", "0,9000") == 0
    first = tifffile.imread(tmp_path / "l.tif")
    capsys.readouterr()
    assert run(*arguments, "--contrast", "0,900") == 1
    told = capsys.readouterr().err
    assert "leave --contrast out" in told and "delete" not in told
    assert run(*arguments) == 0
    assert np.array_equal(tifffile.imread(tmp_path / "l.tif"), first)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("8,9", "A click needs pixels with a value; the image is NaN at 8,9 of object 3"),
        ("2,2/8,9", "the image is NaN at 2,2/8,9 of object 3"),
        ("30,30 8,9,-", "the image is NaN at 8,9,- of object 3"),
        (
            "box:6,7,10,11",
            "A box needs pixels with a value; the image is NaN in the middle of 6,7,10,11 of object 3",
        ),
    ],
)
def test_a_click_where_the_image_has_no_value_is_told_before_anything_is_encoded(
    wrong: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.ones((64, 64), np.float32)
    image[8, 9] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", image)
    monkeypatch.setattr("napari_interformer.checkpoint.load_model", None)
    objects = ("--object", "1,1", "--object", "9,8", "--object", wrong)
    assert run("segment", tmp_path / "a.tif", *objects, "-o", tmp_path / "l.tif") == 1
    assert told in capsys.readouterr().err


def test_saved_clicks_of_another_image_are_refused_before_anything_is_encoded(
    cell, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _, _ = cell
    saved_clicks(path, tmp_path / "clicks.json")
    tifffile.imwrite(tmp_path / "other.tif", tifffile.imread(path)[::-1])
    monkeypatch.setattr("napari_interformer.encoding.encode_tiles", None)
    arguments = ("--prompts", tmp_path / "clicks.json", "-o", tmp_path / "l.tif")
    assert run("segment", tmp_path / "other.tif", *arguments) == 1
    assert "clicks.json was saved with another image than other.tif" in capsys.readouterr().err


def test_saved_clicks_of_another_model_are_replayed_and_it_is_said_in_one_line(
    cell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _, _ = cell
    saved_clicks(path, tmp_path / "clicks.json", model="another")
    assert run("segment", path, "--prompts", tmp_path / "clicks.json", "-o", tmp_path / "l.tif") == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line and "encoding" not in line]
    assert told == ["clicks.json was made with another model; this one may answer its clicks differently."]


def saved_clicks(image: Path, path: Path, model: str = "") -> None:
    """Write a file of clicks on an image, of which none is an object yet."""
    from napari_interformer.image import Planes
    from napari_interformer.records import Record, Saved

    Saved(
        Planes.of(image).fingerprint, model, (), Record(1, (), size=None, overwrite=False, edited=False)
    ).write(path)


@pytest.mark.parametrize("kind", ["hyperstack.tif", "series.ome.tif", "colour16.tif", "stack.ome.zarr"])
def test_files_of_microscopes_are_encoded_and_segmented_with_their_pixel_size(
    kind: str, tmp_path: Path
) -> None:
    import zarr

    from napari_interformer.samples import cells
    from napari_interformer.simulate import next_click

    image, truth = cells((96, 128), seed=3)
    target = truth == np.argmax(np.bincount(truth[truth > 0]))
    y, x, _ = next_click(np.zeros_like(target), target)
    path, channels = tmp_path / kind, ["--channels", "1"]
    series = np.stack([np.stack([np.stack([image[::-1], image])] * 2)] * 2)  # (T, Z, C, Y, X)
    expected: dict[str, object] = {"SizeT": 2, "SizeZ": 2, "PhysicalSizeZ": 2.0, "PhysicalSizeX": 0.2}
    plane: tuple[int, ...] = (1, 0)
    if kind == "hyperstack.tif":
        metadata = {"axes": "TZCYX", "spacing": 2, "unit": "um"}
        tifffile.imwrite(path, series, imagej=True, metadata=metadata, resolution=(5, 4))
    elif kind == "series.ome.tif":
        metadata = {"axes": "TZCYX", "PhysicalSizeX": 0.2, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 2}
        tifffile.imwrite(path, series, ome=True, bigtiff=True, compression="zlib", metadata=metadata)
    elif kind == "colour16.tif":
        tifffile.imwrite(path, np.stack([image, image // 2, image // 3], -1), photometric="rgb")
        expected, plane, channels = {"SizeT": 1, "SizeZ": 1, "PhysicalSizeX": None}, (), []
    else:
        group = zarr.open_group(path, mode="w", zarr_format=3)
        for level in (0, 1):
            group.create_array(str(level), data=np.moveaxis(series[0], 1, 0)[..., :: 2**level, :: 2**level])
        axes = [{"name": "c", "type": "channel"}]
        axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
        sizes = [[{"type": "scale", "scale": [1, 2, 0.25 * n, 0.2 * n]}] for n in (1, 2)]
        levels = [{"path": str(n), "coordinateTransformations": sizes[n]} for n in (0, 1)]
        group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}
        expected, plane = {**expected, "SizeT": 1}, (1,)
    place = ",".join(map(str, (*plane, y, x)))
    labels, store = tmp_path / "labels.tif", tmp_path / "features.zarr"
    assert run("encode", path, "-o", store, *channels) == 0
    assert run("segment", path, "--features", store, "--click", place, "-o", labels, *channels) == 0
    with tifffile.TiffFile(labels) as tiff:
        got, told = tiff.asarray(), tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
    assert {name: told.get(name) for name in expected} == expected
    assert got[plane][y, x] == 1 and got.sum() == got[plane].sum() > 100


def test_convert_says_what_it_found(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from napari_interformer import load_model

    assert run("convert", shared / "parity" / "square.pth", tmp_path / "model.safetensors") == 0
    told = capsys.readouterr().out
    assert "million parameters" in told and "prefix" in told
    assert load_model(tmp_path / "model.safetensors").config.window > 0
    capsys.readouterr()
    before = (tmp_path / "model.safetensors").read_bytes()
    assert run("convert", shared / "parity" / "square.pth", tmp_path / "model.safetensors") == 1
    assert "already exists" in capsys.readouterr().err
    assert run("convert", tmp_path / "model.safetensors", tmp_path / "model.safetensors") == 1
    assert "is the checkpoint itself" in capsys.readouterr().err
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_demo_runs_headless_and_says_where_the_picture_lies(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    command = [sys.executable, "-m", "napari_interformer.cli", "demo", "-o", "out"]
    if not sys.platform.startswith("linux"):
        command.append("--headless")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mean = re.search(r"IoU ([\d.]+) on average", done.stdout)
    assert mean is not None and float(mean[1]) > 0.75, done.stdout
    picture = re.search(r"picture: (\S+)", done.stdout)
    assert picture is not None and (tmp_path / picture[1]).stat().st_size > 10_000
    assert (tmp_path / "out" / "labels.tif").exists()


def test_the_demo_replaces_nothing_but_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tifffile.imwrite(tmp_path / "labels.tif", np.ones((9, 9), np.uint8))
    assert run("demo", "--headless", "-o", tmp_path) == 1
    assert "labels.tif already exists" in capsys.readouterr().err
    assert run("demo", "--headless", "-o", tmp_path / "labels.tif") == 1
    assert "labels.tif is a file: give the name of a folder" in capsys.readouterr().err
    assert tifffile.imread(tmp_path / "labels.tif").shape == (9, 9)


def test_axes_can_be_told_where_the_file_has_them_wrong(
    blob_model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = np.stack([blobs()[0]] * 5)
    tifffile.imwrite(tmp_path / "s.tif", stack, imagej=True)  # which marks the planes as channels
    command = (
        "segment",
        tmp_path / "s.tif",
        "--click",
        "2,32,32",
        "--device",
        "cpu",
        "-o",
        tmp_path / "l.tif",
    )
    assert run(*command) == 1
    assert "say what the axes are with axes (--axes), such as ZYX" in capsys.readouterr().err
    assert run(*command, "--axes", "ZYX") == 0
    assert tifffile.imread(tmp_path / "l.tif")[2].any()
    assert (
        run("encode", tmp_path / "s.tif", "--axes", "ZYX", "--device", "cpu", "-o", tmp_path / "f.zarr") == 0
    )
    assert "5 planes" in capsys.readouterr().out


# One line each: what is wrong, the arguments, the exit code, and a word that the sentence must have.
WRONG = {
    "no such image": (["segment", "nothing.tif", "--click", "1,1", "-o", "l.tif"], 1, "nothing.tif"),
    "cut TIFF": (["segment", "cut.tif", "--click", "1,1", "-o", "l.tif"], 1, "cut.tif"),
    "text as image": (["segment", "text.tif", "--click", "1,1", "-o", "l.tif"], 1, "text.tif"),
    "click outside": (["segment", "ok.tif", "--click", "64,3", "-o", "l.tif"], 1, "64 x 96"),
    "click with three numbers": (["segment", "ok.tif", "--click", "0,6,3", "-o", "l.tif"], 1, "2 numbers"),
    "click without its plane's axis": (["segment", "ok.tif", "--click", "6", "-o", "l.tif"], 2, "Y,X"),
    "a click's axes": (
        ["segment", "ok.tif", "--click", "0,6,3", "-o", "l.tif"],
        1,
        "2 numbers, Y,X; got 0,6,3",
    ),
    "a contrast that is no rule": (
        ["encode", "ok.tif", "--contrast", "best"],
        2,
        "auto, volume, plane or two",
    ),
    "saved clicks that are not there": (
        ["segment", "ok.tif", "--prompts", "no.json", "-o", "l.tif"],
        1,
        "'no.json', which does not exist",
    ),
    "saved clicks that are none": (
        ["segment", "ok.tif", "--prompts", "text.tif", "-o", "l.tif"],
        1,
        "text.tif is something else",
    ),
    "click that is no number": (["segment", "ok.tif", "--click", "a,3", "-o", "l.tif"], 2, "--click"),
    "an object without a click on it": (
        ["segment", "ok.tif", "--object", "1,1", "--object", "5,5,- 6,6,-", "-o", "l.tif"],
        1,
        "object 2 has only negative ones (5,5,- 6,6,-)",
    ),
    "a single plane as a stack": (
        ["segment", "ok.tif", "--click", "1,1", "--propagate", "-o", "l.tif"],
        1,
        "--propagate needs a stack; ok.tif has a single plane",
    ),
    "a box with a number too few": (
        ["segment", "ok.tif", "--box", "6,3,9", "-o", "l.tif"],
        2,
        "two opposite corners; got '6,3,9'",
    ),
    "a box that is off the object": (["segment", "ok.tif", "--box", "6,3,9,9,-", "-o", "l.tif"], 2, "--box"),
    "a box with a click's axes": (
        ["segment", "ok.tif", "--box", "0,6,3,9,9", "-o", "l.tif"],
        1,
        "A box on this image needs 4 numbers, Y,X,Y,X; got 0,6,3,9,9",
    ),
    "a box over the edge": (
        ["segment", "ok.tif", "--box", "6,3,64,9", "-o", "l.tif"],
        1,
        "A box must lie within the image, 64 x 96 (YX); got 6,3,64,9",
    ),
    "two boxes of one object": (
        ["segment", "ok.tif", "--box", "1,1,5,5", "--box", "9,9,12,12", "-o", "l.tif"],
        1,
        'object 1 has 1,1,5,5 and 9,9,12,12: give each object its own --object "box:..."',
    ),
    "no clicks": (["segment", "ok.tif", "-o", "l.tif"], 2, "--click"),
    "no folder to write to": (["segment", "ok.tif", "--click", "1,1", "-o", "no/l.tif"], 1, "folder"),
    "labels over the image": (["segment", "ok.tif", "--click", "1,1", "-o", "ok.tif"], 1, "the image itself"),
    "labels as PNG": (["segment", "ok.tif", "--click", "1,1", "-o", "l.png"], 2, ".tif"),
    "a picture of a strange kind": (
        ["segment", "ok.tif", "--click", "1,1", "-o", "l.tif", "--overlay", "o.xyz"],
        2,
        ".png",
    ),
    "a folder of planes": (["encode", "."], 1, " is a folder, but not a zarr: give a single file"),
    "a tile that is no number": (["encode", "ok.tif", "--tile", "big"], 2, "whole"),
    "a tile of an odd size": (["encode", "ok.tif", "--tile", "100"], 1, "multiples of 32"),
    "a model over a folder": (["train", ".", "-o", "a.safetensors"], 1, "a.safetensors is a folder"),
    "a model of a strange kind": (["train", ".", "-o", "m.pth"], 2, "safetensors"),
    "no such model": (["segment", "ok.tif", "--click", "1,1", "-o", "l.tif", "-m", "nope"], 1, "nope"),
    "text as model": (
        ["segment", "ok.tif", "--click", "1,1", "-o", "l.tif", "-m", "text.tif"],
        1,
        "text.tif",
    ),
    "no such device": (["encode", "ok.tif", "--device", "abacus"], 1, "abacus"),
    "no such channel": (["encode", "ok.tif", "--channels", "5"], 1, "(in the shell, --channels)"),
    "no such command": (["segmnet"], 2, "segmnet"),
    "no such option": (["encode", "ok.tif", "--hurry"], 2, "--hurry"),
    "no checkpoint": (["convert", "text.tif", "m.safetensors"], 1, "text.tif"),
    "no checkpoint there": (["convert", "nothing.pth", "m.safetensors"], 1, "nothing.pth"),
    "converted into what": (["convert", "text.tif", "m.pth"], 2, "safetensors"),
    "no data to train on": (["train", "nowhere", "-o", "m.safetensors"], 1, "nowhere"),
    "no such preset": (["train", ".", "-o", "m.safetensors", "--preset", "huge"], 1, "huge"),
    "a store behind a URL": (["encode", "ok.tif", "-o", "s3://a/b.zarr"], 2, "encode writes to a disk"),
    "workers of what": (["encode", "ok.tif", "--workers", "4"], 2, "--jobqueue"),
    "no workers": (["encode", "ok.tif", "--jobqueue", "slurm", "--workers", "0"], 2, "--workers"),
    "a report where a file lies": (["benchmark", ".", "-o", "ok.tif"], 1, "ok.tif is a file"),
    "a report below a file": (["benchmark", ".", "-o", "ok.tif/a/b"], 1, "ok.tif is a file"),
    "clicks that are none": (["benchmark", ".", "--max-clicks", "0"], 1, "max_clicks takes 1 or more; got 0"),
    "less than no images": (["benchmark", ".", "--images", "-1"], 1, "images takes 0 or more; got -1"),
    "a share of more than all": (["benchmark", ".", "--validation", "2"], 1, "from 0 to 1; got 2"),
    "overlaps in percent": (["benchmark", ".", "--thresholds", "85,90"], 1, "up to 1; got 85.0, 90.0"),
    "boxes drawn in percent": (["benchmark", ".", "--box", "4"], 1, "extent, from 0 (exact) to 1; got 4.0"),
    "a split of nothing": (["benchmark", ".", "--split", "test"], 1, "all, training, validation"),
    "crop sizes that are no numbers": (
        ["train", ".", "-o", "m.safetensors", "--crop-sizes", "a"],
        2,
        "crop-sizes",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_ends_with_one_sentence(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, code, word = WRONG[name]
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    tifffile.imwrite("ok.tif", rng.integers(0, 255, (64, 96), dtype=np.uint8))
    Path("cut.tif").write_bytes(Path("ok.tif").read_bytes()[:2000])
    Path("text.tif").write_text("this is not an image\n")
    Path("a.safetensors").mkdir()
    before = {path.name for path in tmp_path.iterdir()}
    assert run(*arguments) == code
    told = capsys.readouterr().err
    lines = [line for line in told.splitlines() if line and "encoding" not in line]
    assert word in told and "Traceback" not in told
    if code == 1:
        assert len(lines) == 1 and lines[0].startswith("napari-interformer: "), told
    assert {path.name for path in tmp_path.iterdir()} == before, "nothing may be left behind"


def test_a_benchmark_asks_for_no_window_where_plots_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run("benchmark", tmp_path, "-o", tmp_path / "report") == 1
    told = capsys.readouterr().err
    assert (
        'matplotlib is not installed: python -m pip install ".[train]" in your clone of the repository.'
        in told
    )


def test_a_report_that_cannot_be_written_is_refused_before_the_clicking(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert run("benchmark", tmp_path, "-o", tmp_path / "a" / "report") == 1
    assert "report could not be written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_report_takes_no_other_one_s_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "benchmark.md").write_text("of an hour ago")
    assert run("benchmark", tmp_path, "-o", tmp_path) == 1
    assert "already holds benchmark.md, of an earlier report or of something else" in capsys.readouterr().err
    assert (tmp_path / "benchmark.md").read_text() == "of an hour ago"


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ("encode a.tif", True),
        ("segment a.tif --click 1,1 -o l.tif --features f.zarr", True),
        ("segment a.tif --click 1,1 -o l.tif --features=f.zarr", True),
        ("segment a.tif --click 1,1 -o l.tif", False),
        ("--debug train data -o m.safetensors", True),
        ("train data --adapt -o m.safetensors", False),
        ("benchmark data", False),
    ],
)
def test_who_interrupts_is_told_what_is_kept(
    arguments: str, kept: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.app, "main", pressed)
    assert run(*arguments.split()) == 130
    told = capsys.readouterr().err
    assert ("what was finished is kept" in told) == kept and ("nothing was kept" in told) != kept


def test_a_batch_system_that_ends_it_is_told_what_is_kept_and_nothing_half_done_stays(
    blob_model, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"half of it")
        signal.raise_signal(signal.SIGTERM)

    tifffile.imwrite(tmp_path / "blobs.tif", blobs()[0])
    monkeypatch.setattr(tifffile, "imwrite", ended)
    before = signal.getsignal(signal.SIGTERM)
    arguments = ("segment", tmp_path / "blobs.tif", "--click", "30,30", "-o", tmp_path / "l.tif")
    assert run(*arguments, "--device", "cpu", "--features", tmp_path / "f.zarr") == 143
    assert "interrupted; what was finished is kept" in capsys.readouterr().err
    assert sorted(one.name for one in tmp_path.iterdir()) == ["blobs.tif", "f.zarr"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_ends_a_command_is_told_even_if_torch_makes_another_error_of_it(
    blob_model, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def swallowed(_: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise TypeError("could not determine the shape of object type") from None

    tifffile.imwrite(tmp_path / "blobs.tif", blobs()[0])
    monkeypatch.setattr("napari_interformer.load_model", swallowed)
    arguments = ("encode", tmp_path / "blobs.tif", "-o", tmp_path / "f.zarr", "--device", "cpu")
    assert run(*arguments) == 143
    assert "interrupted; what was finished is kept" in capsys.readouterr().err


@pytest.mark.parametrize("name", [".", ""])
def test_a_store_has_a_folder_of_its_own(
    blob_model, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tifffile.imwrite(tmp_path / "blobs.tif", blobs()[0])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run("encode", tmp_path / "blobs.tif", "-o", name, "--device", "cpu") != 0
    told = capsys.readouterr().err
    assert ("folder of its own" if name else "got none") in told
    assert Path.cwd() == tmp_path / "here" and not list(Path.cwd().iterdir())


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has none")
def test_a_terminal_that_is_closed_ends_it_as_tidily_unless_that_is_ignored() -> None:
    def asked(number: int, _: object) -> None:
        raise AssertionError(number)

    with terminal.handled(asked, signal.SIGHUP):
        with pytest.raises(KeyboardInterrupt), terminal.as_interrupt() as ended:
            signal.raise_signal(signal.SIGHUP)
        assert ended() == signal.SIGHUP and signal.getsignal(signal.SIGHUP) is asked
        with terminal.between_steps() as interrupted:
            signal.raise_signal(signal.SIGHUP)
        assert interrupted() == signal.SIGHUP
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
        with terminal.as_interrupt() as ended:
            signal.raise_signal(signal.SIGHUP)
        assert not ended()


def test_a_second_sigterm_does_not_end_the_cleaning_up() -> None:
    with terminal.as_interrupt() as ended:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert ended()
        with terminal.between_steps() as asked:  # training asks for itself
            signal.raise_signal(signal.SIGTERM)
            assert asked()


def test_other_threads_than_the_main_one_leave_signals_alone() -> None:
    from concurrent.futures import ThreadPoolExecutor

    def stopped() -> int | bool:
        with terminal.as_interrupt() as ended, terminal.between_steps() as asked:
            return asked() or ended()

    with ThreadPoolExecutor(1) as threads:
        assert not threads.submit(stopped).result()


def test_cuda_where_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    tifffile.imwrite(tmp_path / "ok.tif", np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
    assert run("encode", tmp_path / "ok.tif", "--device", "cuda") == 1
    assert "cuda" in capsys.readouterr().err.lower()


def test_a_package_that_is_missing_is_told_without_pythons_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    tifffile.imwrite(tmp_path / "ok.tif", np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
    assert run("encode", tmp_path / "ok.tif", "--scheduler", "tcp://127.0.0.1:9") == 1
    told = capsys.readouterr().err
    assert told.startswith(
        "napari-interformer: Encoding on a cluster needs distributed: python -m pip install"
    )
    assert "--debug" not in told


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_that_goes_to_a_file_takes_few_lines(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import time
    from types import SimpleNamespace

    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    now = {"loss": 1.0, "first_iou": 0.1, "last_iou": 0.2, "seconds_left": 9.0, "steps": 4}
    with cli.training_bar("training") as told:
        for step in range(1, 5):
            time.sleep(0.12)  # a terminal is told every tenth of a second
            told(SimpleNamespace(step=step, **now))
    states = capsys.readouterr().err.count("training: ")
    assert states >= 4 if terminal else states <= 1


def test_durations_read_as_people_say_them() -> None:
    assert units.duration(9) == "9 s"
    assert units.duration(61) == "1 min 01 s"
    assert units.duration(3 * 3600 + 120) == "3 h 02 min"
    assert units.duration(float("inf")) == "unknown time"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_training_that_is_interrupted_keeps_its_state_and_says_so(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: int,
) -> None:
    from napari_interformer import train as training
    from napari_interformer.samples import synthetic

    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    image, labels = synthetic(np.random.default_rng(0), (64, 80), "nuclei")
    tifffile.imwrite(tmp_path / "images" / "0.tif", image)
    tifffile.imwrite(tmp_path / "labels" / "0.tif", labels.astype(np.uint16))
    click_loss = training.click_loss

    def pressed(*arguments: object) -> object:
        signal.raise_signal(number)  # in the midst of a step
        return click_loss(*arguments)

    monkeypatch.setattr(training, "click_loss", pressed)
    before = signal.getsignal(number)
    settings = ("--workers", 0, "--crop-sizes", 64, "--pixels-per-step", 4096, "--max-clicks", 0)
    model = tmp_path / "m.safetensors"
    assert run("train", tmp_path, "-o", model, "--validation", 0, *settings) == code
    assert "interrupted; what was finished is kept" in capsys.readouterr().err
    assert not model.exists() and (tmp_path / "m.state.pt").exists()
    assert signal.getsignal(number) is before


def test_asking_twice_ends_work_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt), terminal.between_steps() as asked:
        assert not asked()
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):  # at one go: they mean the same
            signal.raise_signal(number)
        assert asked() == signal.SIGTERM
        monkeypatch.setattr(terminal, "ONE_WISH", 0)
        signal.raise_signal(signal.SIGTERM)  # as torchrun, which passes it on
        signal.raise_signal(signal.SIGINT)


def test_a_model_that_was_finished_when_somebody_asked_to_stop_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_interformer import train as training

    def late(_: Any, output: Path, *__: Any, **___: Any) -> Path:
        signal.raise_signal(signal.SIGINT)
        output.write_bytes(b"")
        return output

    monkeypatch.setattr(training, "train", late)
    monkeypatch.setattr(
        "napari_interformer.checkpoint.read_checkpoint", lambda _: SimpleNamespace(notes={"kept": "0"})
    )
    assert run("train", tmp_path, "-o", tmp_path / "m.safetensors") == 0
    assert "model: " in capsys.readouterr().out


def test_a_device_that_there_is_not_leaves_no_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, store = tmp_path / "a.tif", tmp_path / "a.zarr"
    tifffile.imwrite(image, np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
    given = ("--click", "3,3", "--features", store, "-o", tmp_path / "l.tif", "--device", "abacus")
    assert run("segment", image, *given) == 1
    assert "device takes" in capsys.readouterr().err and not store.exists()


def test_train_adapts_the_model_in_the_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from napari_interformer import load_model
    from napari_interformer.samples import synthetic

    for name in ("images", "labels"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for i in range(2):
        image, labels = synthetic(np.random.default_rng(i), (64, 80), "nuclei")
        tifffile.imwrite(tmp_path / "data" / "images" / f"{i}.tif", image)
        tifffile.imwrite(tmp_path / "data" / "labels" / f"{i}.tif", labels.astype(np.uint16))
    model = tmp_path / "mine.safetensors"
    assert run("train", tmp_path / "data", "--adapt", "-o", model, "--steps", "1", "--crop-sizes", "64") == 2
    assert "--adapt takes" in capsys.readouterr().err
    assert run("train", tmp_path / "data", "-o", model, "--objects", "5") == 2
    assert "--objects needs --adapt" in capsys.readouterr().err
    only = ("--steps", "1", "--max-clicks", "0", "--seed", "1", "--objects", "3", "--passes", "2")
    assert run("train", tmp_path / "data", "--adapt", "-o", model, "--validation", "1") == 1
    assert "keeps all 2 from it" in capsys.readouterr().err
    assert run("train", tmp_path / "data", "--adapt", "-o", model, "--synthetic", "1") == 2
    assert "--adapt needs --synthetic below 1" in capsys.readouterr().err
    assert run("train", tmp_path / "data", "--adapt", "-o", model, "--exclude", "wool") == 1
    assert "got wool" in capsys.readouterr().err
    half = ("--validation", "0.5", "--synthetic", "0.5")
    assert run("train", tmp_path / "data", "--adapt", "-o", model, *only, *half) == 0
    told = capsys.readouterr().out
    assert "adapted on 1 image and 1 synthetic\n" in told
    assert "kept for validation: 1 image; to measure the model there: " in told
    assert f"--model {model} --split validation --validation 0.5\n" in told
    assert load_model(model).fingerprint == load_model().fingerprint
    assert run("train", tmp_path / "data", "--adapt", "-o", tmp_path / "all.safetensors", *only) == 0
    told = capsys.readouterr().out
    assert "adapted on 2 images\n" in told and "any good" not in told  # none of two is kept
    assert run("train", tmp_path / "data", "--adapt", "-o", model, "--steps", "1") == 1
    assert "mine.safetensors already exists: name another output" in capsys.readouterr().err
