"""Labels layers to label arrays: no window, no Qt."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from napari.layers import Image, Labels

from napari_interformer.geometry import Box
from napari_interformer.image_files import read_image
from napari_interformer.label_files import write_labels
from napari_interformer.labels import LayerLabels, Stroke, copied, lay_over, made_for, new_labels
from napari_interformer.layers import Source, finest


def test_labels_that_nobody_placed_are_laid_over_the_image():
    image = Image(
        np.zeros((3, 31, 41), np.uint8), scale=(2, 0.5, 0.5), translate=(0, 10, 20), units=("um",) * 3
    )
    source = Source((image,))
    opened = Labels(np.zeros((3, 31, 41), int))
    assert lay_over(opened, source) and not lay_over(opened, source)
    assert opened.data_to_world((1, 2, 3)) == image.data_to_world((1, 2, 3)) and opened.units == image.units
    assert made_for(opened, image)  # and goes where the image goes
    there = {"scale": (2000, 500.1, 499.9), "translate": (0, 1e4, 2e4), "units": ("nm",) * 3}
    assert not lay_over(Labels(np.zeros((3, 31, 41), int), **there), source)
    moved = Labels(np.zeros((3, 31, 41), int), name="moved", translate=(0, 0, 9))
    with pytest.raises(ValueError, match=r"moved lies elsewhere than Image"):
        lay_over(moved, source)
    assert moved.translate.tolist() == [0, 0, 9]


@pytest.mark.parametrize("axis", [0, 1])
def test_labels_are_laid_over_an_image_with_channels_if_napari_can(axis):
    image = Image(np.zeros((2, 2, 31, 41), np.uint8), scale=(3, 2, 0.5, 0.5))
    source = Source((image,), axis, (0,))
    flat = Labels(np.zeros((2, 31, 41), int), name="flat")
    if axis:
        with pytest.raises(ValueError, match=r"axis of length 1.*flat has shape \(2, 31, 41\)"):
            lay_over(flat, source)
        flat = Labels(np.expand_dims(flat.data, axis))
    assert lay_over(flat, source)
    ours = new_labels(source, (2, 31, 41))
    assert flat.data_to_world((1, 0, 2, 3)) == ours.data_to_world((1, 0, 2, 3))


@pytest.mark.parametrize("kind", ["numpy", "zarr"])
def test_only_changed_pixels_are_written_and_the_layer_can_undo_it(kind):
    there = np.zeros((3, 20, 20), np.uint16)
    there[1, 2:4, 2:4] = 5
    layer = Labels(there.copy() if kind == "numpy" else zarr.array(there))
    labels = LayerLabels(layer)
    assert labels.shape == (3, 20, 20) and labels.dtype == np.uint16
    told = []
    layer.events.paint.connect(lambda event: told.append(event.value))
    box = (1, slice(0, 6), slice(0, 6))
    wanted = np.asarray(labels[box]).copy()
    wanted[3:, 3:] = 9
    labels[box] = wanted
    np.testing.assert_array_equal(np.asarray(layer.data)[1, :6, :6], wanted)
    indices, before, after = told[0][0]
    assert len(indices[0]) == 9 and set(np.unique(before)) == {0, 5} and np.all(np.asarray(after) == 9)
    labels[box] = wanted
    assert len(told) == 1  # nothing changed, nothing written
    layer.undo()
    np.testing.assert_array_equal(np.asarray(layer.data), there)


def test_labels_of_a_huge_plane_have_coarser_levels_that_change_with_it(monkeypatch):
    monkeypatch.setattr("napari_interformer.labels._TEXTURE", 500)
    layer = new_labels(Source((Image(np.zeros((600, 600))),)), (600, 600))
    labels = LayerLabels(layer)
    labels[slice(256, 260), slice(250, 254)] = np.full((4, 4), 3)
    assert layer.multiscale and labels.shape == (600, 600) and labels.annotated
    assert [int((np.asarray(level) == 3).sum()) for level in layer.data] == [16, 1, 0, 0, 0]


@pytest.mark.parametrize("visible", [True, False])
def test_a_layer_that_is_nearly_full_is_made_wider_and_one_on_disk_is_left(visible, tmp_path, monkeypatch):
    there = np.full((20, 20), 255, np.uint8)
    layer = Labels(there, visible=visible)
    labels = LayerLabels(layer)
    labels.take(labels.wider(255))
    labels[slice(2, 4), slice(2, 4)] = np.full((2, 2), 256)
    assert labels.dtype == np.int32 and layer.visible == visible and labels.array is layer.data
    assert (np.asarray(layer.data) == 256).sum() == 4 and (np.asarray(layer.data) == 255).sum() == 396
    on_disk = tifffile.memmap(tmp_path / "labels.tif", shape=(20, 20), dtype=np.uint8)
    for data, highest in ((on_disk, 255), (there.astype(np.uint16), 255)):
        assert LayerLabels(Labels(data)).wider(highest) is None
    monkeypatch.setattr("napari_interformer.labels._COPY", 20 * 20 * 4 - 1)
    assert LayerLabels(Labels(there)).wider(255) is None


@pytest.mark.parametrize(("shown", "drawn"), [((0,), 1), (None, 3)])
def test_what_is_not_on_screen_is_written_and_not_drawn(shown, drawn):
    layer, updates = Labels(np.zeros((3, 20, 20), np.int32)), []
    layer.events.labels_update.connect(updates.append)
    labels = LayerLabels(layer, shown=lambda: shown)
    for plane in (1, 0, 2):
        labels[plane, slice(2, 4), slice(2, 4)] = np.full((2, 2), plane + 1)
    assert len(updates) == drawn
    assert [int(part.sum()) for part in layer.data] == [4, 8, 12] and labels.annotated.all()


@pytest.mark.parametrize(("shown", "drawn"), [((0,), 1), (None, 3)])
def test_what_is_written_whole_is_drawn_where_it_is_on_screen_and_only_if_it_changes(
    shown, drawn, monkeypatch
):
    monkeypatch.setattr("napari_interformer.labels._MANY", 3)
    layer, draws = Labels(np.zeros((3, 20, 20), np.int32)), []
    layer.events.set_data.connect(draws.append)
    labels = LayerLabels(layer, shown=lambda: shown)
    for plane in (1, 0, 2, 0):
        labels[plane, slice(2, 4), slice(2, 4)] = np.full((2, 2), plane + 1)
    assert len(draws) == drawn
    assert [int(part.sum()) for part in layer.data] == [4, 8, 12] and labels.annotated.all()


@pytest.mark.parametrize("axis", [None, 1])
def test_a_large_object_is_written_whole_and_nothing_before_it_is_undone_in_its_place(axis, monkeypatch):
    monkeypatch.setattr("napari_interformer.labels._MANY", 50)
    layer = Labels(np.zeros((3, 1, 20, 20) if axis else (3, 20, 20), np.int32))
    labels = LayerLabels(layer, axis)
    painted = []
    layer.events.paint.connect(painted.append)
    labels[1, slice(0, 5), slice(0, 10)] = np.full((5, 10), 2)
    assert len(painted) == 1
    layer.undo()
    assert not layer.data.any()
    labels[1, slice(0, 5), slice(0, 10)] = np.full((5, 10), 2)
    layer.mode = "paint"
    labels[1, slice(0, 17), slice(0, 4)] = np.full((17, 4), 3)
    before = np.array(layer.data)
    assert (
        (before == 3).sum() == 68
        and (before == 2).sum() == 30
        and labels.annotated.tolist() == [False, True, False]
    )
    layer.undo()
    np.testing.assert_array_equal(layer.data, before)
    assert layer.mode == "paint" and layer.editable and not labels.writing


@pytest.mark.parametrize(
    ("units", "scale", "unit"),
    [
        (("s", "nm", "um", "um"), [5, 0.002, 0.5, 0.5], "micrometer"),
        (("ms", "pixel", "um", "mm"), [0.005, 2, 0.0005, 0.5], "millimeter"),
        (None, [5, 2, 0.5, 0.5], None),
    ],
)
def test_pixel_sizes_have_the_unit_of_x(units, scale, unit):
    layer = Labels(np.zeros((2, 3, 4, 5), int), scale=(5, 2, -0.5, 0.5), units=units)
    sizes, name = LayerLabels(layer).pixel_size
    assert sizes == pytest.approx(scale) and name == unit
    layer.axis_labels = ("t", "z", "y", "x")
    sizes, _ = LayerLabels(layer).pixel_size
    assert sizes == [pytest.approx(scale[0]) if units else None, *map(pytest.approx, scale[1:])]


def test_an_affine_counts_for_the_pixel_size():
    placed = {"affine": np.diag([1, 2, 2, 1]), "scale": (2, 0.3, 0.3), "units": ("um",) * 3}
    labels = LayerLabels(Labels(np.zeros((3, 4, 5), int), translate=(0, 5, 5), **placed))
    sizes, unit = labels.pixel_size
    assert sizes == pytest.approx([2, 0.6, 0.6]) and unit == "micrometer"
    assert labels.translation == pytest.approx([0, 10, 10])


@pytest.mark.parametrize(
    ("placed", "scale", "unit"),
    [
        ({}, (5, 0.25, 0.25), "micrometer"),
        ({"scale": (1, 0.5, 0.5), "units": ("um",) * 3}, (None, 0.5, 0.5), "micrometer"),
        ({"scale": (7, 0.5, 0.5), "units": ("s", "um", "um")}, (7, 0.5, 0.5), "micrometer"),
        ({"scale": (5000, 0.5, 0.5), "units": ("ms", "um", "um")}, (5, 0.5, 0.5), "micrometer"),
    ],
)
@pytest.mark.parametrize("ending", [".ome.tif", ".zarr"])
def test_time_in_the_image_s_file_stays_time(tmp_path, monkeypatch, placed, scale, unit, ending):
    told = {"axes": "TYX", "finterval": 5, "unit": "um"}
    pixels = np.zeros((3, 31, 41), np.uint8)
    tifffile.imwrite(tmp_path / "film.tif", pixels, imagej=True, metadata=told, resolution=(4, 4))
    image = Image(pixels, **placed)
    # As napari has it of files that it opened, for which it takes a window.
    monkeypatch.setattr(Image, "source", SimpleNamespace(path=str(tmp_path / "film.tif")))
    labels = LayerLabels(Labels(pixels.astype(int), **placed))
    saved = read_image(labels.writer(tmp_path / f"labels{ending}", Source((image,)), ())())
    assert saved.axes == "TYX" and saved.scale == scale and saved.unit == unit


@pytest.mark.parametrize("in_file", [False, True])
def test_labels_in_ome_zarr_lie_where_their_image_lies(tmp_path, monkeypatch, in_file):
    pixels, place = np.zeros((3, 31, 41), np.uint8), {}
    if in_file:
        write_labels(
            tmp_path / "i.zarr",
            pixels,
            axes="ZYX",
            scale=(2, 0.5, 0.5),
            unit="micrometer",
            translation=(0, 10, 20),
        )
        # As napari has it of files that it opened, for which it takes a window.
        monkeypatch.setattr(Image, "source", SimpleNamespace(path=str(tmp_path / "i.zarr")))
    else:
        place = {"scale": (2, 0.5, 500), "translate": (0, 10, 20_000), "units": ("um", "um", "nm")}
    image, layer = Image(pixels, **place), Labels(pixels.astype(int), **place)
    saved = read_image(LayerLabels(layer).writer(tmp_path / "labels.zarr", Source((image,)), ())())
    per = 1 if in_file else 1000
    assert saved.scale == pytest.approx((2 * per, 0.5 * per, 0.5 * per))
    assert saved.translation == pytest.approx((0, 10 * per, 20 * per))
    if not in_file:
        layer.rotate = 30
        turned = read_image(LayerLabels(layer).writer(tmp_path / "turned.zarr", Source((image,)), ())())
        assert turned.translation is None


def test_axes_in_seconds_are_time_without_a_file_too(tmp_path):
    placed = {"scale": (5, 0.5, 0.5), "units": ("s", "um", "um"), "axis_labels": ("time", "y", "x")}
    labels = LayerLabels(Labels(np.zeros((3, 31, 41), int), **placed))
    saved = read_image(labels.writer(tmp_path / "labels.tif", Source((Image(np.zeros((3, 31, 41))),)), ())())
    assert saved.axes == "TYX" and saved.scale == (5, 0.5, 0.5)


@pytest.mark.parametrize("kind", ["tiff", "zarr"])
def test_labels_on_disk_are_written_in_place_and_only_where_they_change(kind, tmp_path):
    path = tmp_path / f"labels.{kind}"
    if kind == "tiff":
        data = tifffile.memmap(path, shape=(3, 600, 700), dtype=np.uint16, photometric="minisblack")
    else:
        data = zarr.create_array(
            path, shape=(3, 600, 700), chunks=(1, 100, 100), dtype=np.uint16, fill_value=0
        )
    labels = LayerLabels(Labels(data))
    labels[1, slice(210, 230), slice(620, 640)] = np.full((20, 20), 7)
    if kind == "tiff":
        data.flush()
        there = tifffile.imread(path)
    else:
        there = zarr.open_array(path, mode="r")[:]
        files = [one for one in path.rglob("*") if one.is_file() and one.name != "zarr.json"]
        assert [one.relative_to(path / "c").as_posix() for one in files] == ["1/2/6"]
    assert there.sum() == 7 * 400 and (there[1, 210:230, 620:640] == 7).all()


@pytest.mark.parametrize("kind", ["dask", "read-only", "multiscale", "other byte order"])
def test_labels_that_cannot_be_written_are_copied(kind):
    data = np.zeros((20, 20), int)
    frozen = data.copy()
    frozen.flags.writeable = False
    layer = {
        "dask": lambda: Labels(da.zeros((20, 20), dtype=int, chunks=10)),
        "read-only": lambda: Labels(frozen),
        "other byte order": lambda: Labels(np.zeros((20, 20), ">u2" if sys.byteorder == "little" else "<u2")),
        "multiscale": lambda: Labels([data, data[::2, ::2].copy()], multiscale=True),
    }[kind]()
    with pytest.raises(AssertionError):
        LayerLabels(layer)
    layer.affine, layer.translate = [[0, 2, 3], [-1, 0, 4], [0, 0, 1]], (5, 6)
    copy = copied(layer)
    LayerLabels(copy)[slice(2, 4), slice(2, 4)] = np.full((2, 2), 9)
    assert (copy.data == 9).sum() == 4 and not np.asarray(finest(layer)).any()
    assert copy.data_to_world((2, 3)) == layer.data_to_world((2, 3))


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_strokes_are_counted_on_their_plane_wherever_the_channels_are(axis):
    shape = [3, 20, 20]
    shape.insert(axis, 1)
    layer = Labels(np.zeros(shape, np.int32))
    labels, edits = LayerLabels(layer, axis), []
    layer.events.paint.connect(lambda event: edits.append(event.value))
    indices = [np.array([1, 1, 2]), np.array([3, 4, 5]), np.array([6, 7, 8])]
    indices.insert(axis, np.zeros(3, int))
    layer.data_setitem(tuple(indices), 5)
    labels.survey()
    assert labels.annotated.tolist() == [False, True, True]
    stroke = Stroke(labels, edits[0])
    parts = [(plane, box, np.argwhere(mask).tolist()) for plane, box, mask in stroke.parts()]
    assert parts == [((1,), Box(6, 3, 8, 5), [[0, 0], [1, 1]]), ((2,), Box(8, 5, 9, 6), [[0, 0]])]
    stroke.take_back()
    assert not layer.data.any() and not labels.annotated.any()
    stroke.make()
    assert np.count_nonzero(layer.data) == 3


def test_labels_are_copied_around_what_somebody_has_painted(rng, monkeypatch):
    monkeypatch.setattr("napari_interformer.labels._AT_ONCE", 1000)
    there = rng.integers(0, 9, (5, 1, 20, 20), dtype=np.uint8)
    layer = Labels(da.from_array(there, chunks=(2, 1, 20, 20)))
    labels = LayerLabels(copied(layer), axis=1)
    assert labels.array.dtype == np.uint8 and labels.survey() == (0, 0)
    labels[3, slice(2, 4), slice(2, 4)] = np.full((2, 2), 12)
    labels.copy(layer)
    there[3, 0, 2:4, 2:4] = 12
    np.testing.assert_array_equal(labels.layer.data, there)
    assert labels.survey() == (0, 12) and labels.annotated.all()


def test_labels_that_are_too_large_to_be_copied_are_refused(monkeypatch):
    monkeypatch.setattr("napari_interformer.labels._COPY", 20 * 20 * 4 - 1)
    with pytest.raises(ValueError, match="too large to be copied"):
        copied(Labels(da.zeros((20, 20), dtype=np.int32)))


def test_a_large_stroke_is_taken_back_and_made_again_in_one_piece(monkeypatch):
    monkeypatch.setattr("napari_interformer.labels._MANY", 50)
    data = np.zeros((2, 20, 30), np.int32)
    data[1, 3, 3] = 5
    layer = Labels(data)
    labels, edits = LayerLabels(layer), []
    labels.survey()
    layer.events.paint.connect(lambda event: edits.append(event.value))
    layer.selected_label = 7
    layer.fill((1, 10, 10), 7)
    stroke = Stroke(labels, edits[0])
    assert (stroke.highest, stroke.planes) == (7, {(1,)} if layer.n_edit_dimensions == 2 else {(0,), (1,)})
    painted, covered = layer.data.copy(), np.zeros(layer.data.shape, bool)
    assert (painted == 7).sum() > 50
    for plane, box, mask in stroke.parts():
        covered[plane][box.slices] |= mask
    np.testing.assert_array_equal(covered, painted == 7)
    labels.survey()
    for _ in range(2):
        stroke.take_back()
        assert layer.data[1, 3, 3] == 5 and np.count_nonzero(layer.data) == 1
        assert labels.annotated.tolist() == [False, True]
        stroke.make()
        np.testing.assert_array_equal(layer.data, painted)
        assert labels.annotated.tolist() == (painted.any(axis=(1, 2))).tolist()


def test_napari_takes_back_what_was_written_of_an_object_at_once():
    layer = Labels(np.zeros((40, 40), np.int32))
    labels = LayerLabels(layer)
    box = np.s_[5:25, 5:25]
    labels[box] = np.ones((20, 20))  # an object that is undone
    labels[box] = np.zeros((20, 20))
    for last in (10, 20, 15):  # one that grows and shrinks
        mask = np.zeros((20, 20), int)
        mask[:last] = 2
        labels[box] = mask
    labels.one_step()
    layer.undo()
    assert not layer.data.any()
    layer.redo()
    assert np.count_nonzero(layer.data == 2) == 300 and np.count_nonzero(layer.data) == 300
    labels[box] = np.full((20, 20), 3)
    layer.data_setitem((np.array([0]), np.array([0])), 9)  # somebody else's
    labels[box] = np.zeros((20, 20))
    labels.one_step()
    layer.undo()
    layer.undo()
    assert layer.data[0, 0] == 0 and np.count_nonzero(layer.data == 3) == 400


def test_nothing_is_left_to_take_back_of_what_came_to_nothing():
    layer = Labels(np.zeros((40, 40), np.int32))
    labels = LayerLabels(layer)
    labels[np.s_[5:25, 5:25]] = np.ones((20, 20))
    labels[np.s_[5:25, 5:25]] = np.zeros((20, 20))
    labels.one_step()
    assert not layer._undo_history


def test_labels_for_which_there_is_no_room_are_told():
    image = Image(da.zeros((2**21, 2**14, 2**14), chunks=(1, 512, 512), dtype=np.uint8), name="huge")
    with pytest.raises(MemoryError, match=r"Labels of shape .* need 2097152\.0 GiB .*Zarr"):
        new_labels(Source((image,)), image.data.shape)


def test_what_napari_takes_back_at_once_may_be_more_steps_than_it_keeps():
    layer = Labels(np.zeros((130, 8, 8), np.int32))
    labels = LayerLabels(layer)
    for z in range(130):
        labels[z, 2:6, 2:6] = np.ones((4, 4))
    labels.one_step()
    assert labels.undo().planes == {(z,) for z in range(130)} and not layer.data.any()
    assert labels.redo().planes == {(z,) for z in range(130)} and np.count_nonzero(layer.data) == 130 * 16


def test_a_large_fill_that_is_taken_back_leaves_its_planes_without_labels():
    layer = Labels(np.zeros((3, 900, 900), np.int32))
    labels, edits = LayerLabels(layer), []
    layer.events.paint.connect(lambda event: edits.append(event.value))
    layer.n_edit_dimensions = 3
    layer.fill((1, 5, 5), 4)
    labels.survey()
    assert labels.annotated.all()
    stroke = Stroke(labels, edits[0])
    stroke.take_back()
    assert not layer.data.any() and not labels.annotated.any()
    stroke.make()
    assert (layer.data == 4).all() and labels.annotated.all()
