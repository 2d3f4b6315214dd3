"""Image layers to planes, and where everything lies: no window, no Qt."""

from __future__ import annotations

from types import SimpleNamespace

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from napari.layers import Image

from napari_interformer.clicks import ClickLayer
from napari_interformer.geometry import Box
from napari_interformer.labels import LayerLabels, new_labels
from napari_interformer.layers import Source
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


# ------------------------------------------------------------------------------------------------ planes


def test_contrast_is_the_layers_or_percentiles():
    data = np.arange(5 * 40 * 40, dtype=np.uint16).reshape(5, 40, 40)
    image = Image(data, contrast_limits=(100, 1000))
    assert Source((image,), contrast="layer").planes().contrast == ((100.0, 1000.0),)
    low, high = Source((image,), contrast="volume").planes().contrast[0]
    assert 0 <= low < 100 and 7900 < high <= 7999
    assert Source((image,), contrast="plane").planes().contrast == "plane"


def test_limits_that_nobody_chose_give_way_to_percentiles(rng):
    data = rng.integers(100, 1000, (5, 40, 40)).astype(np.uint16)
    data[2, 7, 7] = 60_000  # a hot pixel, by which napari has all else dark
    image = Image(data)
    assert image.contrast_limits[1] == 60_000
    percentiles = Source((image,), contrast="volume").planes().contrast
    assert percentiles[0][1] < 1001
    assert Source((image,)).planes().contrast == percentiles
    image.contrast_limits = (100, 60_000)  # as dark as it may be
    assert Source((image,)).planes().contrast == percentiles
    for chosen in ((300, 60_000), (100, 700), (200, 800)):  # each cuts something off
        image.contrast_limits = chosen
        assert Source((image,)).planes().contrast == (tuple(map(float, chosen)),)


def test_each_channel_has_limits_of_its_own(rng):
    bright, dim = rng.integers(100, 1000, (2, 40, 40)).astype(np.uint16) // np.array(
        [[[1]], [[10]]], np.uint16
    )
    (low, high), (low_dim, high_dim) = Source((Image(np.stack([bright, dim])),), 0).planes().contrast
    assert (
        low_dim < 20 < low < 150 and high_dim < 101 < 900 < high
    )  # of one layer, whose limits are those of the brighter channel
    layers = Image(bright), Image(dim, contrast_limits=(20, 60))
    assert Source(layers).planes().contrast == ((low, high), (20.0, 60.0))


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
    planes = Source((image,), contrast="layer").planes()
    assert planes.shape == (3, 40, 48)
    np.testing.assert_array_equal(planes.read((1,))[..., 0], data[1])


def test_rgb_and_channels_become_colours(rng):
    data = rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Source((Image(data, rgb=True),)).planes().read(), data)
    layers = tuple(Image(data[..., i], contrast_limits=(0, 255)) for i in range(3))
    np.testing.assert_array_equal(Source(layers, contrast="layer").planes().read(), data)
    channels = Image(np.moveaxis(data, 2, 0), contrast_limits=(0, 255))
    chosen = Source((channels,), 0, (2, 0), "layer").planes()
    np.testing.assert_array_equal(chosen.read()[..., :2], data[..., [2, 0]])


def test_chunks_of_layers_as_channels_are_read_once_for_all_their_boxes(rng):
    read = []

    class Deep(np.ndarray):
        chunks = (4, 64, 64)

        def __getitem__(self, key):
            read.append(key)
            return np.asarray(super().__getitem__(key))

    data = [rng.integers(0, 255, (4, 64, 64), np.uint8) for _ in range(2)]
    layers = [Image(one, contrast_limits=(0, 255)) for one in data]
    for layer in layers:
        layer._data = layer.data.view(Deep)
    planes = Source(tuple(layers), contrast="layer").planes()
    read.clear()
    for z, x in np.ndindex(4, 4):
        box = Box(16 * x, 8, 16 * x + 16, 24)
        np.testing.assert_array_equal(planes.read((z,), box)[..., 1], data[1][z][box.slices])
    assert len(read) == 2, "one for each layer"


def test_layers_that_do_not_fit_together_are_refused():
    small, large = (Image(np.zeros((n, n), np.uint8), name=f"{n} wide") for n in (20, 30))
    with pytest.raises(ValueError, match=r"20 wide.*30 wide"):
        Source((small, large)).planes()


@pytest.mark.parametrize(("more", "expected"), [({"PhysicalSizeZ": 1.0}, 1.0), ({}, None)])
def test_a_file_tells_the_pixel_sizes_that_it_knows_and_no_others(tmp_path, monkeypatch, more, expected):
    pixels = np.zeros((3, 31, 41), np.uint8)
    told = {"axes": "ZYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25, **more}
    tifffile.imwrite(tmp_path / "stack.ome.tif", pixels, metadata=told)
    image = Image(pixels)
    # As napari has it of files that it opened, for which it takes a window.
    monkeypatch.setattr(Image, "source", SimpleNamespace(path=str(tmp_path / "stack.ome.tif")))
    assert Source((image,)).told_by_file() == ("ZYX", [expected, 0.25, 0.25], "micrometer", None)


def test_channels_lie_over_each_other():
    grey = np.zeros((4, 9, 9), np.uint8)
    first = Image(grey, name="first", scale=(2, 0.5, 0.5), translate=(0, 3, 3))
    unplaced = Image(grey, name="unplaced")
    assert Source((first, unplaced)).planes().size == (9, 9)
    sheared = Image(grey, name="sheared", scale=(2, 0.5, 0.5), translate=(0, 3, 3), shear=np.eye(3))
    assert Source((first, sheared)).planes().size == (9, 9)
    moved = Image(grey, name="moved", scale=(2, 0.5, 0.5), translate=(0, 3, 5))
    with pytest.raises(ValueError, match="moved lies elsewhere than first"):
        Source((first, moved)).planes()
