"""Layers to clicks, planes and labels: no window, no Qt."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from napari.layers import Image, Labels

from napari_interformer.clicks import ClickLayer
from napari_interformer.layers import (
    LayerLabels,
    Source,
    copied,
    finest,
    lay_over,
    made_for,
    new_labels,
)
from napari_interformer.prompts import Click

# napari shows such layers without the rotation; clicks must be right all the same
pytestmark = pytest.mark.filterwarnings("ignore:Non-orthogonal slicing:UserWarning")

# ------------------------------------------------------------------------------------------------ coordinates

numbers = st.floats(-50, 50).map(lambda x: round(x, 2))
sizes = st.floats(0.1, 8).map(lambda x: round(x, 2))


@given(
    scale=st.tuples(sizes, sizes, sizes),
    translate=st.tuples(numbers, numbers, numbers),
    angles=st.tuples(*[st.integers(-180, 180)] * 3),
    pixel=st.tuples(st.integers(0, 4), st.integers(0, 30), st.integers(0, 40)),
)
def test_a_click_goes_to_the_world_and_back(scale, translate, angles, pixel):
    image = Image(np.zeros((5, 31, 41), np.uint8), scale=scale, translate=translate, rotate=angles)
    source = Source((image,))
    click = Click.at(pixel)
    assert source.click(source.world(pixel)) == click
    layer = ClickLayer(source)
    layer.write([click])
    np.testing.assert_allclose(layer.layer.data, [pixel], atol=1e-6)
    assert layer.read() == (click,)


@pytest.mark.parametrize(
    "place",
    [
        {},
        {"scale": (3, 0.5, 0.5), "translate": (1, 2, 3)},
        {"rotate": (10, 20, 30), "shear": (0.1, 0.2, 0.3)},
        {"affine": np.diag([2.0, 3, 4, 1])},
        {"units": ("um", "um", "um"), "axis_labels": ("z", "y", "x")},
    ],
)
def test_our_layers_lie_where_the_image_does(place):
    image = Image(np.zeros((5, 31, 41), np.uint8), **place)
    source = Source((image,))
    for layer in (ClickLayer(source).layer, new_labels(source, (5, 31, 41))):
        for point in ((0, 0, 0), (4, 30, 40), (1.5, 2, 3)):
            np.testing.assert_allclose(layer.data_to_world(point), image.data_to_world(point))
        assert layer.units == image.units and layer.axis_labels == image.axis_labels


@pytest.mark.parametrize("axis", [0, 1, 3])
def test_our_layers_leave_the_channels_out(axis):
    shape = [6, 31, 41]
    shape.insert(axis, 3)
    scale = [3, 2, 0.5, 0.25]
    image = Image(np.zeros(shape, np.uint8), rgb=False, scale=scale, translate=(1, 2, 3, 4))
    source = Source((image,), axis, (0,))
    assert source.planes().shape == (6, 31, 41)
    labels = new_labels(source, (6, 31, 41))
    clicks = ClickLayer(source)
    assert LayerLabels(labels, source.axis).shape == (6, 31, 41)
    assert labels.ndim == clicks.layer.ndim == (3 if axis == 0 else 4)
    click = Click((4,), 20, 30)
    clicks.write([click])
    assert clicks.read() == (click,)
    for channel in range(3):  # on each channel, one looks at the same label
        world = image.data_to_world((*[4, 20, 30][:axis], channel, *[4, 20, 30][axis:]))
        at = tuple(np.round(labels.world_to_data(world)).astype(int))
        assert at == ((4, 20, 30) if axis == 0 else (*[4, 20, 30][:axis], 0, *[4, 20, 30][axis:]))


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


# ------------------------------------------------------------------------------------------------ planes


def test_contrast_is_the_layers_or_percentiles():
    data = np.arange(5 * 40 * 40, dtype=np.uint16).reshape(5, 40, 40)
    image = Image(data, contrast_limits=(100, 1000))
    assert Source((image,)).planes().contrast == ((100.0, 1000.0),)
    low, high = Source((image,), contrast="volume").planes().contrast[0]
    assert 0 <= low < 100 and 7900 < high <= 7999
    assert Source((image,), contrast="plane").planes().contrast == "plane"


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr", "multiscale"])
def test_any_kind_of_array_is_read_plane_by_plane(kind, rng):
    data = rng.integers(0, 255, (3, 40, 48), dtype=np.uint8)
    given = {
        "numpy": data,
        "dask": da.from_array(data, chunks=(1, 20, 20)),
        "zarr": zarr.array(data, chunks=(1, 20, 20)),
        "multiscale": [data, data[:, ::2, ::2]],
    }[kind]
    image = Image(given, multiscale=kind == "multiscale", contrast_limits=(0, 255))
    planes = Source((image,)).planes()
    assert planes.shape == (3, 40, 48)
    np.testing.assert_array_equal(planes.read((1,))[..., 0], data[1])


def test_rgb_and_channels_become_colours(rng):
    data = rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Source((Image(data, rgb=True),)).planes().read(), data)
    layers = tuple(Image(data[..., i], contrast_limits=(0, 255)) for i in range(3))
    np.testing.assert_array_equal(Source(layers).planes().read(), data)
    channels = Image(np.moveaxis(data, 2, 0), contrast_limits=(0, 255))
    np.testing.assert_array_equal(Source((channels,), 0, (2, 0)).planes().read()[..., :2], data[..., [2, 0]])


def test_layers_that_do_not_fit_together_are_refused():
    small, large = (Image(np.zeros((n, n), np.uint8), name=f"{n} wide") for n in (20, 30))
    with pytest.raises(ValueError, match=r"20 wide.*30 wide"):
        Source((small, large)).planes()


# ------------------------------------------------------------------------------------------------ labels


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
    monkeypatch.setattr("napari_interformer.layers._TEXTURE", 500)
    layer = new_labels(Source((Image(np.zeros((600, 600))),)), (600, 600))
    labels = LayerLabels(layer)
    labels[slice(256, 260), slice(250, 254)] = np.full((4, 4), 3)
    assert layer.multiscale and labels.shape == (600, 600) and labels.annotated
    assert [int((np.asarray(level) == 3).sum()) for level in layer.data] == [16, 1, 0, 0, 0]


@pytest.mark.parametrize("visible", [True, False])
def test_a_layer_that_is_nearly_full_is_made_wider_and_one_on_disk_is_left(visible, tmp_path):
    there = np.full((20, 20), 255, np.uint8)
    layer = Labels(there, visible=visible)
    labels = LayerLabels(layer)
    labels.make_room(255)
    labels[slice(2, 4), slice(2, 4)] = np.full((2, 2), 256)
    assert labels.dtype == np.int32 and layer.visible == visible and labels.array is layer.data
    assert (np.asarray(layer.data) == 256).sum() == 4 and (np.asarray(layer.data) == 255).sum() == 396
    on_disk = tifffile.memmap(tmp_path / "labels.tif", shape=(20, 20), dtype=np.uint8)
    for data, highest in ((on_disk, 255), (there.astype(np.uint16), 255)):
        labels = LayerLabels(Labels(data))
        labels.make_room(highest)
        assert labels.layer.data is data and labels.dtype == data.dtype


@pytest.mark.parametrize(
    ("units", "scale", "unit"),
    [
        (("s", "nm", "um", "um"), [5, 0.002, 0.5, 0.5], "micrometer"),
        (("s", "pixel", "um", "mm"), [5, 2, 0.0005, 0.5], "millimeter"),
        (None, [5, 2, 0.5, 0.5], None),
    ],
)
def test_pixel_sizes_have_the_unit_of_x(units, scale, unit):
    layer = Labels(np.zeros((2, 3, 4, 5), int), scale=(5, 2, -0.5, 0.5), units=units)
    sizes, name = LayerLabels(layer).pixel_size
    assert sizes == pytest.approx(scale) and name == unit


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


@pytest.mark.parametrize("kind", ["dask", "read-only", "multiscale"])
def test_labels_that_cannot_be_written_are_refused(kind):
    data = np.zeros((20, 20), int)
    frozen = data.copy()
    frozen.flags.writeable = False
    layer = {
        "dask": lambda: Labels(da.zeros((20, 20), dtype=int, chunks=10)),
        "read-only": lambda: Labels(frozen),
        "multiscale": lambda: Labels([data, data[::2, ::2].copy()], multiscale=True),
    }[kind]()
    with pytest.raises(ValueError, match="choose a new layer"):
        LayerLabels(layer)
    layer.affine, layer.translate = [[0, 2, 3], [-1, 0, 4], [0, 0, 1]], (5, 6)
    copy = copied(layer)
    LayerLabels(copy)[slice(2, 4), slice(2, 4)] = np.full((2, 2), 9)
    assert (copy.data == 9).sum() == 4 and not np.asarray(finest(layer)).any()
    assert copy.data_to_world((2, 3)) == layer.data_to_world((2, 3))


def test_labels_are_copied_around_what_somebody_has_painted(rng, monkeypatch):
    monkeypatch.setattr("napari_interformer.layers._AT_ONCE", 1000)
    there = rng.integers(0, 9, (5, 1, 20, 20), dtype=np.uint8)
    layer = Labels(da.from_array(there, chunks=(2, 1, 20, 20)))
    labels = LayerLabels(copied(layer), axis=1)
    assert labels.array.dtype == np.uint8 and labels.survey() == 0
    labels[3, slice(2, 4), slice(2, 4)] = np.full((2, 2), 12)
    labels.copy(layer)
    there[3, 0, 2:4, 2:4] = 12
    np.testing.assert_array_equal(labels.layer.data, there)
    assert labels.survey() == 12 and labels.annotated.all()


def test_labels_that_are_too_large_to_be_copied_are_refused(monkeypatch):
    monkeypatch.setattr("napari_interformer.layers._COPY", 20 * 20 * 4 - 1)
    with pytest.raises(ValueError, match="too large to be copied"):
        copied(Labels(da.zeros((20, 20), dtype=np.int32)))
