"""Label files: what is written comes back, and nothing of anybody is lost for it."""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from napari_interformer.files import replacing, same_file, write_whole
from napari_interformer.image import Planes
from napari_interformer.image_files import read_image
from napari_interformer.label_files import write_labels, written_here


@pytest.mark.parametrize(
    ("shape", "axes", "scale"),
    [
        ((30, 40), "YX", (0.3, 0.2)),
        ((4, 30, 40), "ZYX", (1.5, 0.3, 0.2)),
        ((2, 4, 30, 40), "TZYX", (1, 1.5, 0.3, 0.2)),
        ((4, 30, 40), None, None),
        ((3, 30, 40), "PYX", None),
    ],
)
def test_labels_come_back_with_their_scale(tmp_path, rng, shape, axes, scale):
    labels = rng.integers(0, 300, shape).astype(np.int64)
    path = write_labels(tmp_path / "labels.tif", labels, axes=axes, scale=scale, unit="micrometer")
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome and tiff.series[0].dtype == np.uint16
        assert tiff.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        np.testing.assert_array_equal(tiff.asarray(), labels)
    planes = Planes.of(path)
    assert planes.shape == shape
    assert planes.scale == (None if scale is None else pytest.approx(scale))
    assert planes.axes == ("ZYX" if axes in (None, "PYX") else axes)
    assert [p.name for p in tmp_path.iterdir()] == ["labels.tif"]


@pytest.mark.parametrize("name", ["a.tif", "a.zarr"])
@pytest.mark.parametrize("scale", [(2.0, None, None), (None, 0.5, 0.5), (2.0, None, 0.5)])
def test_labels_of_which_some_axes_have_no_size_come_back_with_that_of_the_others(tmp_path, name, scale):
    write_labels(tmp_path / name, np.ones((3, 8, 8), int), axes="ZYX", scale=scale, unit="micrometer")
    found = read_image(tmp_path / name)
    assert (found.scale, found.unit) == (scale, "micrometer")


def test_labels_show_their_scale_to_readers_without_ome(tmp_path):
    path = write_labels(
        tmp_path / "labels.tif", np.ones((30, 40), np.uint8), scale=(0.25, 0.5), unit="micrometer"
    )
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        assert page.resolutionunit == tifffile.RESUNIT.CENTIMETER
        assert page.resolution == pytest.approx((2e4, 4e4))


@pytest.mark.parametrize("length", [1e-9, 1e15])
def test_pixel_sizes_beyond_what_tiff_can_say_are_kept_in_ome(tmp_path, length):
    path = write_labels(tmp_path / "a.tif", np.ones((5, 5), int), scale=(length, length), unit="micrometer")
    assert Planes.of(path).scale == pytest.approx((length, length))


@pytest.mark.parametrize(
    "unit",
    [
        "micrometer",
        "um",
        "nanometer",
        "angstrom",
        "\N{ANGSTROM SIGN}",
        "pm",
        "inch",
        "kilometer",
        "furlong",
        None,
    ],
)
def test_labels_name_units_as_ome_does(tmp_path, unit):
    path = write_labels(tmp_path / "a.tif", np.ones((4, 30, 40), int), axes="ZYX", scale=(2, 1, 1), unit=unit)
    with tifffile.TiffFile(path) as tiff:
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
    known = {"micrometer": "µm", "um": "µm", "nanometer": "nm", "pm": "pm", "inch": "in"}.get(unit, "pixel")
    known = "km" if unit == "kilometer" else known
    known = "Å" if unit in ("angstrom", "\N{ANGSTROM SIGN}") else known
    assert [pixels[f"PhysicalSize{axis}Unit"] for axis in "XYZ"] == [known] * 3
    assert pixels["DimensionOrder"].startswith("XY") and (pixels["SizeZ"], pixels["Type"]) == (4, "uint8")


@pytest.mark.parametrize(
    ("shape", "axes", "scale", "order"),
    [
        ((30, 40), "YX", (0.3, 0.2), "YX"),
        ((3, 30, 1100), "ZYX", (1.5, 0.3, 0.2), "ZYX"),
        ((2, 3, 30, 40), "TZYX", (1, 1.5, 0.3, 0.2), "TZYX"),
        ((3, 2, 30, 40), "ZTYX", (1.5, 1, 0.3, 0.2), "TZYX"),
        ((3, 30, 40), None, None, "ZYX"),
    ],
)
def test_labels_come_back_from_ome_zarr(tmp_path, rng, shape, axes, scale, order):
    labels = rng.integers(0, 300, shape)
    path = write_labels(tmp_path / "labels.ome.zarr", labels, axes=axes, scale=scale, unit="um")
    moved = np.swapaxes(labels, 0, 1) if axes == "ZTYX" else labels
    planes = Planes.of(path)
    assert (planes.axes, planes.shape, planes.dtype) == (order, moved.shape, np.uint16)
    wanted = (1,) * len(shape) if scale is None else scale
    assert planes.scale == pytest.approx((1, 1.5, 0.3, 0.2) if axes == "ZTYX" else wanted)
    assert planes.unit == (None if scale is None else "micrometer")
    np.testing.assert_array_equal(planes.data[...], moved)
    group = zarr.open_group(path, mode="r")
    assert group.metadata.zarr_format == 2
    for number, level in enumerate(group.attrs["multiscales"][0]["datasets"]):
        step = 2**number
        np.testing.assert_array_equal(group[level["path"]][...], moved[..., ::step, ::step])
        lengths = level["coordinateTransformations"][0]["scale"]
        assert lengths[-1] == pytest.approx(step * planes.scale[-1])
    assert number == (1 if shape[-1] > 1024 else 0)
    assert [p.name for p in tmp_path.iterdir()] == ["labels.ome.zarr"]


@pytest.mark.parametrize(
    "options",
    [
        {"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeX": 0.2, "PhysicalSizeY": 0.25}},
        {"imagej": True, "resolution": (5, 4), "metadata": {"axes": "ZYX", "unit": "um"}},
    ],
)
@pytest.mark.parametrize("ending", ["tif", "zarr"])
def test_labels_claim_no_pixel_size_that_the_image_does_not_tell(tmp_path, stack, options, ending):
    tifffile.imwrite(tmp_path / "image.tif", stack, **options)
    image = Planes.of(tmp_path / "image.tif")
    assert image.scale == pytest.approx((None, 0.25, 0.2))
    path = tmp_path / f"labels.{ending}"
    write_labels(path, np.ones(image.shape, int), axes="ZYX", scale=image.scale, unit=image.unit)
    found = Planes.of(path)
    assert found.scale == (None, *(pytest.approx(size) for size in (0.25, 0.2)))
    assert found.unit == "micrometer"
    if ending == "tif":
        with tifffile.TiffFile(path) as tiff:
            assert "PhysicalSizeX=" in tiff.ome_metadata and "PhysicalSizeZ" not in tiff.ome_metadata
    else:
        units = [axis.get("unit") for axis in zarr.open_group(path).attrs["multiscales"][0]["axes"]]
        assert units == [None, "micrometer", "micrometer"]


def ome_zarr(path, unit):
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("0", shape=(3, 4, 5), dtype=np.uint8)
    place = [{"type": "scale", "scale": [3, 0.5, 0.5]}]
    axes = [{"name": "t", "type": "time", "unit": unit}, {"name": "y"}, {"name": "x"}]
    group.attrs["multiscales"] = [
        {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": place}]}
    ]


@pytest.mark.parametrize("kind", ["ome", "ome minutes", "imagej", "zarr", "zarr milliseconds"])
@pytest.mark.parametrize("ending", ["tif", "zarr"])
def test_the_time_between_frames_is_kept_in_seconds(tmp_path, kind, ending):
    movie, path = np.zeros((3, 4, 5), np.uint8), tmp_path / ("m.zarr" if "zarr" in kind else "m.tif")
    seconds = {"ome minutes": 180, "zarr milliseconds": 0.003}.get(kind, 3)
    if kind == "imagej":  # which tells no pixel size here
        tifffile.imwrite(path, movie, imagej=True, metadata={"axes": "TYX", "finterval": 3.0})
    elif "ome" in kind:
        mark = "min" if "minutes" in kind else "s"
        told = {"axes": "TYX", "TimeIncrement": 3.0, "TimeIncrementUnit": mark, "PhysicalSizeX": 0.5}
        tifffile.imwrite(path, movie, ome=True, metadata=told)
    else:
        ome_zarr(path, "millisecond" if "milliseconds" in kind else "second")
    image = Planes.of(path)
    assert image.axes == "TYX" and image.scale[0] == pytest.approx(seconds)
    labels = tmp_path / f"labels.{ending}"
    write_labels(labels, np.ones(movie.shape, int), axes="TYX", scale=image.scale, unit=image.unit)
    found = Planes.of(labels)
    assert found.axes == "TYX" and found.scale[0] == pytest.approx(seconds)
    if ending == "tif":
        with tifffile.TiffFile(labels) as tiff:
            assert "TimeIncrementUnit=" in tiff.ome_metadata
    else:
        assert zarr.open_group(labels).attrs["multiscales"][0]["axes"][0]["unit"] == "second"


def test_what_nobody_calls_time_gets_no_seconds(tmp_path):
    write_labels(tmp_path / "l.tif", np.ones((2, 3, 4, 5), int), scale=(5, 2, 1, 1))
    with tifffile.TiffFile(tmp_path / "l.tif") as tiff:
        assert tiff.series[0].axes == "TZYX" and "TimeIncrement" not in tiff.ome_metadata


def test_labels_lie_where_the_image_lies(tmp_path):
    group = zarr.open_group(tmp_path / "i.zarr", mode="w", zarr_format=2)
    group.create_array("0", shape=(2, 3, 4, 1100), dtype=np.uint8)
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "unit": "micrometer"} for n in "zyx")]
    own = [
        {"type": "scale", "scale": [1, 2, 0.5, 0.25]},
        {"type": "translation", "translation": [0, 10, 20, 30]},
    ]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": own}]}
    all_levels = {"coordinateTransformations": [{"type": "scale", "scale": [1, 1, 2, 2]}]}
    for told, expected in ((image, (10, 20, 30)), (image | all_levels, (10, 40, 60))):
        group.attrs["multiscales"] = [told]
        planes = Planes.of(tmp_path / "i.zarr", channels=0)
        assert planes.translation == expected
        place = {"scale": planes.scale, "unit": planes.unit, "translation": planes.translation}
        path = write_labels(tmp_path / "l.zarr", np.ones(planes.shape, int), axes=planes.axes, **place)
        found = Planes.of(path)
        assert (found.scale, found.unit, found.translation) == (planes.scale, planes.unit, expected)
        levels = zarr.open_group(path).attrs["multiscales"][0]["datasets"]
        assert [one["coordinateTransformations"][1]["translation"] for one in levels] == [[*expected]] * 2


def test_a_folder_of_labels_takes_the_place_of_a_file(tmp_path):
    (tmp_path / "l.zarr").write_text("something else")
    write_labels(tmp_path / "l.zarr", np.ones((4, 5), np.uint8))
    assert read_image(tmp_path / "l.zarr").data.shape == (4, 5)
    assert [one.name for one in tmp_path.iterdir()] == ["l.zarr"]


def test_labels_in_ome_zarr_replace_labels_and_nothing_else(tmp_path):
    path = write_labels(tmp_path / "labels.zarr", np.ones((8, 8), int))
    write_labels(path, np.full((8, 8), 2))
    assert (Planes.of(path).data[...] == 2).all()
    zarr.create_array(tmp_path / "image.zarr", data=np.ones((8, 8)))
    (tmp_path / "folder").mkdir()
    for name in ("image.zarr", "folder"):
        with pytest.raises(ValueError, match=rf"{name} is a folder.*: give another name"):
            write_labels(tmp_path / name, np.ones((8, 8), int))
    assert (zarr.open_array(tmp_path / "image.zarr", mode="r")[...] == 1).all()


@pytest.mark.parametrize("stranger", ["measurements.csv", "tables/a.csv", "notes/zarr.json"])
def test_labels_in_ome_zarr_with_other_things_beside_them_are_not_replaced(tmp_path, stranger):
    path = write_labels(tmp_path / "l.zarr", np.ones((8, 8), int))
    assert written_here(path)
    (path / ".DS_Store").touch()
    assert written_here(path)
    (path / stranger).parent.mkdir(exist_ok=True)
    (path / stranger).write_text("{}")
    assert not written_here(path)  # warnings are errors here
    with pytest.raises(ValueError, match=r"l\.zarr is a folder with other things in it: give another name"):
        write_labels(path, np.full((8, 8), 2))
    assert (path / stranger).exists() and (Planes.of(path).data[...] == 1).all()


def test_labels_that_somebody_protected_are_not_replaced_and_permissions_stay(tmp_path):
    path = write_labels(tmp_path / "l.tif", np.ones((8, 8), int))
    path.chmod(0o444)
    with pytest.raises(OSError, match=r"l\.tif could not be written to .*Permission denied"):
        write_labels(path, np.full((8, 8), 2))
    assert tifffile.imread(path).max() == 1
    path.chmod(0o640)
    write_labels(path, np.full((8, 8), 2))
    assert tifffile.imread(path).max() == 2
    assert os.name == "nt" or path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("when", ["before", "after"])
def test_labels_in_ome_zarr_come_back_however_their_replacement_was_ended(tmp_path, monkeypatch, when):
    path = write_labels(tmp_path / "l.zarr", np.ones((8, 8), int))
    rename = os.rename

    def pressed(source, target):
        if source == path and when == "before":
            raise KeyboardInterrupt
        rename(source, target)
        if source == path:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "rename", pressed)
        write_labels(path, np.full((8, 8), 2))
    assert (Planes.of(path).data[...] == 1).all()
    assert [one.name for one in tmp_path.iterdir()] == ["l.zarr"]


@pytest.mark.parametrize("done", [False, True])
def test_labels_in_ome_zarr_whose_replacement_was_killed_are_found_by_the_next(tmp_path, done):
    path = write_labels(tmp_path / "l.zarr", np.ones((8, 8), int))
    path.rename(tmp_path / ".saving-l.zarr-before")
    if done:
        write_labels(tmp_path / "new.zarr", np.full((8, 8), 2)).rename(path)
    whole = np.full((8, 8), 3)
    whole[0] = -1
    with pytest.raises(ValueError, match="labels from 0"):
        write_labels(path, whole)
    with pytest.raises(RuntimeError), replacing(path):
        assert path.exists()
        raise RuntimeError
    assert (Planes.of(path).data[...] == (2 if done else 1)).all()
    write_labels(path, abs(whole))
    assert Planes.of(path).data[1, 1] == 3
    assert [one.name for one in tmp_path.iterdir()] == ["l.zarr"]


@pytest.mark.parametrize("name", ["l.tif", "l.zarr"])
def test_what_killed_processes_have_left_beside_labels_is_removed_after_a_day(tmp_path, name):
    for left, days in ((".saving-old", 2), (".saving-new", 0)):
        (tmp_path / left).mkdir()
        (tmp_path / left / "in use").touch()
        os.utime(tmp_path / left / "in use", 2 * (time.time() - days * 86400,))
    waiting = write_labels(tmp_path / "other.zarr", np.ones((8, 8), int)).rename(
        tmp_path / ".saving-other.zarr-before"
    )
    os.utime(waiting, (0, 0))  # somebody's labels, however old
    write_labels(tmp_path / name, np.full((8, 8), 2))
    assert sorted(one.name for one in tmp_path.iterdir()) == [".saving-new", waiting.name, name]


@pytest.mark.parametrize("name", ["l.tif", "l.zarr"])
def test_labels_that_change_while_they_are_written_are_not_cut(tmp_path, name):
    class Growing:
        shape, dtype, asked = (2, 8, 8), np.dtype("i4"), 0

        def __getitem__(self, _):
            self.asked += 1
            return np.full((8, 8), 1 if self.asked <= 2 else 256, "i4")

    with pytest.raises(ValueError, match="changed while they were written: write them again"):
        write_labels(tmp_path / name, Growing())
    assert not list(tmp_path.iterdir())


def test_the_home_folder_may_be_a_tilde(tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = write_labels("~/l.tif", np.ones((8, 8), int))
    assert path == tmp_path / "l.tif" and write_whole(Path("~/a.json"), b"{}") == tmp_path / "a.json"
    assert read_image("~/l.tif").data.shape == (8, 8)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.json", "l.tif"]


@pytest.mark.parametrize(("most", "dtype"), [(0, "u1"), (255, "u1"), (256, "u2"), (70000, "u4")])
def test_labels_take_the_smallest_type(tmp_path, most, dtype):
    labels = np.zeros((8, 8), np.int32)
    labels[2, 2] = most
    assert tifffile.imread(write_labels(tmp_path / "a.tif", labels)).dtype == dtype


def test_labels_are_written_plane_by_plane(tmp_path, stack):
    lazy = zarr.array(stack, chunks=(1, 48, 70))
    np.testing.assert_array_equal(tifffile.imread(write_labels(tmp_path / "a.tif", lazy)), stack)


@pytest.mark.parametrize(
    ("labels", "error", "told"),
    [
        (np.zeros((5, 5)), TypeError, "integers; got float64"),
        (np.full((5, 5), -1), ValueError, "got -1"),
        (np.zeros(5, int), ValueError, r"got shape \(5,\)"),
        (np.zeros((0, 5), int), ValueError, r"got shape \(0, 5\)"),
        ([[1, 2], [3, 4]], TypeError, "got list"),
    ],
)
def test_what_is_no_label_image_is_refused(tmp_path, labels, error, told):
    with pytest.raises(error, match=told):
        write_labels(tmp_path / "a.tif", labels)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.tif", "a.zarr"])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"axes": "YX"}, r"axes takes one letter per axis of labels of shape \(2, 5, 5\); got 'YX'"),
        ({"axes": "TCZYX"}, "axes takes one letter"),
        ({"scale": (1.0, 1.0)}, r"scale takes one length above 0 .* got \(1.0, 1.0\)"),
        ({"scale": 0.3}, "got 0.3"),
        ({"scale": (1, 0, 1)}, "above 0"),
        ({"scale": (1, -0.3, 1)}, "above 0"),
        ({"scale": (1, math.nan, 1)}, "above 0"),
        ({"scale": (1, 1, math.inf)}, "above 0"),
        ({"scale": ("1", "1", "1")}, "above 0"),
        ({"scale": (None, -1, 1)}, "above 0"),
        ({"axes": "ZXY"}, r"axes must end with Y and X; got 'ZXY'"),
        ({"translation": (1, 1)}, r"translation takes one number per axis .* got \(1, 1\)"),
        ({"translation": (1, 1, math.nan)}, "translation takes"),
    ],
)
def test_axes_and_pixel_sizes_that_do_not_fit_the_labels_are_refused(tmp_path, name, options, told):
    with pytest.raises(ValueError, match=told):
        write_labels(tmp_path / name, np.ones((2, 5, 5), int), **options)
    assert not list(tmp_path.iterdir())


def test_labels_that_cannot_be_written_leave_the_old_file(tmp_path, monkeypatch):
    path = write_labels(tmp_path / "a.tif", np.ones((8, 8), np.uint8))
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", full)
    with pytest.raises(
        OSError, match=r"a\.tif could not be written .*No space left on device.*free some space"
    ):
        write_labels(path, np.zeros((8, 8), np.uint8))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]


def test_labels_in_ome_zarr_that_cannot_be_put_in_place_leave_the_old_ones(tmp_path, monkeypatch):
    path = write_labels(tmp_path / "a.zarr", np.ones((8, 8), np.uint8))
    replace = os.replace

    def refused(source, target):
        if target == path:  # as where a virus scanner still has one of the new files open
            raise PermissionError(errno.EACCES, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(OSError, match=r"a\.zarr could not be written .*that you can write to"):
        write_labels(path, np.zeros((8, 8), np.uint8))
    assert (Planes.of(path).data[...] == 1).all()
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]
    monkeypatch.undo()
    write_labels(path, np.zeros((8, 8), np.uint8))
    assert (Planes.of(path).data[...] == 0).all()
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


@pytest.mark.skipif(sys.platform == "win32", reason="not everybody may make links there")
@pytest.mark.parametrize("name", ["l.tif", "l.zarr"])
def test_labels_under_the_name_of_a_link_go_where_it_points(tmp_path, name):
    (tmp_path / "disk").mkdir()
    link, target = tmp_path / name, tmp_path / "disk" / name
    link.symlink_to(target)
    for value in (1, 2):  # at first there is nothing yet
        write_labels(link, np.full((8, 8), value))
        assert link.is_symlink() and not target.is_symlink()
        assert (read_image(target).data[...] == value).all()
    assert sorted(one.name for one in tmp_path.rglob("l.*")) == [name, name]
    assert not list(tmp_path.rglob(".saving-*"))


@pytest.mark.parametrize("name", ["labels.png", "labels"])
def test_labels_are_not_written_under_the_name_of_something_else(name, tmp_path):
    with pytest.raises(ValueError, match=r"\.tif or \.tiff or \.zarr; got"):
        write_labels(tmp_path / name, np.ones((8, 8), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_labels_need_a_folder(tmp_path):
    with pytest.raises(OSError, match="make that folder first"):
        write_labels(tmp_path / "none" / "a.tif", np.ones((8, 8), np.uint8))


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_full_disk_leaves_the_old_file(tmp_path):
    # The system itself refuses to write more than 4 kB.
    program = f"""
import resource, numpy as np
from pathlib import Path
from napari_interformer import load_model, save_model
from napari_interformer.files import write_whole
from napari_interformer.label_files import write_labels
folder = Path(r"{tmp_path}")
write_labels(folder / "a.tif", np.ones((8, 8), np.uint8))
for name in ("clicks.json", "m.safetensors"):
    write_whole(folder / name, b"before")
model = load_model()
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for write in (
    lambda: write_labels(folder / "a.tif", np.random.default_rng(0).integers(0, 9, (300, 300))),
    lambda: write_whole(folder / "clicks.json", bytes(5000)),
    lambda: save_model(model, folder / "m.safetensors"),
):
    try:
        write()
    except OSError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    told = run.stdout.splitlines()
    assert len(told) == 3 and all("(File too large): free some space" in line for line in told), run.stdout
    assert tifffile.imread(tmp_path / "a.tif").sum() == 64
    assert {p.name for p in tmp_path.iterdir()} == {"a.tif", "clicks.json", "m.safetensors"}
    assert {(tmp_path / name).read_bytes() for name in ("clicks.json", "m.safetensors")} == {b"before"}


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", "._.zattrs", ".nfs0001"])
def test_what_systems_leave_in_any_folder_keeps_no_labels_from_being_replaced(tmp_path, name):
    path = tmp_path / "l.zarr"
    write_labels(path, np.zeros((8, 8), np.int32))
    (path / name).write_text("")
    assert written_here(path)
    write_labels(path, np.ones((8, 8), np.int32))
    assert not (path / name).exists()


@pytest.mark.parametrize("ending", [".tif", ".zarr"])
def test_names_as_long_as_a_system_allows_are_written_twice(tmp_path, ending):
    path = tmp_path / ("あ" * 80 + ending)
    for number in (1, 2):
        write_labels(path, np.full((8, 9), number))
    assert list(tmp_path.iterdir()) == [path]
    np.testing.assert_array_equal(read_image(path).data[...], np.full((8, 9), 2))
    with pytest.raises(OSError, match="choose a shorter name"):
        write_whole(tmp_path / ("a" * 300 + ending), b"")


def test_links_that_lead_to_each_other_are_told_as_such(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match="symbolic links"):
        same_file(tmp_path / "a", tmp_path / "c")
