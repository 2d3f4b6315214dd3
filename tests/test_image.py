"""Any image becomes planes: the same pixels however they are stored, and never more of them than asked for."""

from __future__ import annotations

import copy
import pickle
import shutil
import threading
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask.array as da
import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st

from napari_interformer.geometry import Box
from napari_interformer.image import Planes, percentiles, stretch


class Watched:
    """An array that remembers how many pixels each reading took, and cannot be read as a whole."""

    def __init__(self, shape: tuple[int, ...], dtype: str = "uint16") -> None:
        self.shape, self.dtype, self.ndim = shape, np.dtype(dtype), len(shape)
        self.read: list[int] = []

    def __getitem__(self, index):
        lengths = [
            len(range(*i.indices(n))) for i, n in zip(index, self.shape, strict=True) if isinstance(i, slice)
        ]
        self.read.append(int(np.prod(lengths)))
        return np.zeros(lengths, self.dtype)

    def __array__(self, *_, **__):
        raise AssertionError("the whole array was read")


def test_the_one_channel_of_a_grey_image_may_be_named_three_times(rng):
    pixels = rng.integers(0, 255, (8, 8)).astype(np.uint8)
    named = Planes.of(pixels, channels=(0, 0, 0), contrast=(0, 255))
    np.testing.assert_array_equal(named.read(), Planes.of(pixels, contrast=(0, 255)).read())


def test_a_grey_image_fills_all_three_colours(rng):
    image = rng.integers(0, 4000, (40, 50)).astype(np.uint16)
    planes = Planes.of(image, contrast=(0, 4000))
    pixels = planes.read()
    assert (planes.leading, planes.size, planes.shape, len(planes), planes.axes) == (
        (),
        (40, 50),
        (40, 50),
        1,
        "YX",
    )
    assert pixels.dtype == np.float32 and pixels.shape == (40, 50, 3)
    np.testing.assert_allclose(pixels, np.repeat(image[..., None] / 4000 * 255, 3, axis=2), rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "options", "leading", "channels"),
    [
        ((40, 50, 3), {}, (), (0, 1, 2)),
        ((40, 50, 4), {}, (), (0, 1, 2)),  # the fourth is transparency
        ((2, 40, 50, 3), {}, (2,), (0, 1, 2)),
        ((2, 5, 40, 50, 3), {}, (2, 5), (0, 1, 2)),
        ((40, 50, 3), {"rgb": False}, (40,), (0,)),
        ((3, 40, 50), {}, (3,), (0,)),
        ((3, 40, 50), {"channel_axis": 0}, (), (0, 1, 2)),
        ((5, 3, 40, 50), {"channel_axis": -3, "channels": (2, 0)}, (5,), (2, 0)),
        ((7, 40, 50), {"channel_axis": 0, "channels": 4}, (), (4,)),
        ((2, 5, 40, 50), {}, (2, 5), (0,)),
        ((2, 5, 40, 50), {"axes": "CZYX"}, (5,), (0, 1)),
        ((40, 50, 5), {"axes": "YXC", "channels": (4,)}, (), (4,)),
        ((1, 1), {}, (), (0,)),
        ((40, 50, 1), {}, (), (0,)),
        ((40, 50, 2), {}, (), (0, 1)),
        ((7, 40, 50, 1), {}, (7,), (0,)),
        ((40, 50, 1), {"rgb": False}, (40,), (0,)),
    ],
)
def test_axes_and_channels(shape, options, leading, channels):
    planes = Planes.of(np.zeros(shape, np.uint8), **options)
    assert (planes.leading, planes.channels) == (leading, channels)
    plane = tuple(n - 1 for n in leading)
    assert planes.read(plane).shape == (*planes.size, 3)


class Named(np.ndarray):
    """An array with `dims`, as xarray's DataArray has them."""

    dims: tuple[str, ...] = ()


def named(shape, dims):
    array = np.zeros(shape, np.uint8).view(Named)
    array.dims = dims
    return array


def test_named_axes_are_taken_by_their_names():
    planes = Planes.of(named((3, 2, 4, 20, 30), tuple("TCZYX")))
    assert (planes.axes, planes.leading, planes.channel_axis) == ("TZYX", (3, 4), 1)
    colour = Planes.of(named((4, 20, 30, 3), tuple("zyxs")))
    assert (colour.axes, colour.leading, colour.colour) == ("ZYX", (4,), True)
    worded = Planes.of(named((2, 20, 30), ("channel", "row", "column")))
    assert (worded.axes, worded.channel_axis) == ("ZYX", None)
    # A viewer's sliders are planes, whatever they are called.
    assert Planes.of(named((2, 20, 30), tuple("cyx")), rgb=False).leading == (2,)
    with pytest.raises(ValueError, match="axes must end with Y and X, except for channels; got 'XYZ'"):
        Planes.of(named((8, 20, 30), tuple("xyz")))


def test_channels_are_colours_in_the_order_asked_for(rng):
    image = rng.integers(0, 256, (4, 6, 20, 30)).astype(np.uint8)  # Z, C
    planes = Planes.of(image, channel_axis=1, channels=(5, 2), contrast=[(0, 255), (0, 127.5)])
    pixels = planes.read((3,), Box(4, 6, 14, 10))
    np.testing.assert_allclose(pixels[..., 0], image[3, 5, 6:10, 4:14], rtol=1e-6)
    np.testing.assert_allclose(pixels[..., 1], np.minimum(2.0 * image[3, 2, 6:10, 4:14], 255), rtol=1e-6)
    assert not pixels[..., 2].any()


def test_colour_photographs_keep_their_colours():
    dark = np.full((10, 10, 3), 7, np.uint8)
    assert (Planes.of(dark).read() == 7).all()
    assert (Planes.of(dark / 255.0).read().round(3) == 7).all()
    assert Planes.of(dark.astype(np.uint16)).contrast == ((7, 7),) * 3


def test_rules_of_contrast(rng):
    stack = rng.normal(100, 10, (5, 60, 60)).astype(np.float32)
    stack[3] *= 10
    whole = Planes.of(stack)
    assert whole.contrast == (tuple(np.percentile(stack, [0.5, 99.8])),)
    each = Planes.of(stack, contrast="plane")
    assert each.contrast == "plane"
    for z in range(5):
        expected = stretch(stack[z], *np.percentile(stack[z], [0.5, 99.8]))
        np.testing.assert_allclose(each.read((z,))[..., 0], expected, atol=1e-3)
        np.testing.assert_allclose(each.read((z,), Box(0, 0, 8, 4))[..., 0], expected[:4, :8], atol=1e-3)


def test_missing_values_become_black():
    image = np.arange(400, dtype=float).reshape(20, 20)
    image[3, 4] = np.nan
    planes = Planes.of(image)
    assert planes.read()[3, 4].tolist() == [0, 0, 0]
    assert np.isfinite(planes.contrast).all()
    assert not Planes.of(np.full((8, 8), np.nan)).read().any()


def test_planes_can_be_sent_to_other_processes():
    planes = Planes.of(np.arange(3 * 64, dtype=np.uint16).reshape(3, 8, 8))
    for again in (pickle.loads(pickle.dumps(planes)), copy.deepcopy(planes)):
        np.testing.assert_array_equal(again.raw((2,)), planes.raw((2,)))
        assert again.fingerprint == planes.fingerprint


def test_what_is_masked_has_no_value():
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)
    planes = Planes.of(np.ma.masked_greater(pixels, 60))
    np.testing.assert_array_equal(planes.raw()[..., 0], np.where(pixels > 60, np.nan, pixels))
    nothing = Planes.of(np.ma.masked_greater(pixels, 100))
    assert nothing.fingerprint == Planes.of(pixels).fingerprint


def test_constant_images_become_black():
    planes = Planes.of(np.full((8, 8), 77, np.uint16))
    assert not planes.read().any()
    assert (
        planes.with_contrast(planes.contrast).contrast == planes.contrast
    )  # as a store of features hands it back


def test_few_bright_specks_are_seen():
    image = np.zeros((100, 100), np.uint8)
    image[50, 50] = 9
    assert Planes.of(image).read()[50, 50, 0] == 255


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int32", "uint32", "int64", "uint64", "float16", "float64", ">u2"]
)
def test_every_real_type_is_read(dtype):
    image = (np.arange(64 * 64).reshape(64, 64) % 2).astype(dtype)
    pixels = Planes.of(image).read()
    assert set(np.unique(pixels)) == {0, 255}


def test_small_differences_of_large_numbers_survive():
    image = (2**31 + np.arange(256, dtype=np.int64)).reshape(16, 16)
    assert (stretch(image, 2**31, 2**31 + 255).ravel() == np.arange(256)).all()


@given(
    st.floats(allow_nan=False),
    st.floats(allow_nan=False),
    st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_stretch_stays_in_range_whatever_the_limits(low, high, dtype):
    info = np.finfo(dtype)
    pixels = np.array([info.min, -1, 0, info.tiny, 1, info.max, np.inf, -np.inf, np.nan], dtype)
    out = stretch(pixels, low, high)
    assert out.dtype == np.float32 and (out >= 0).all() and (out <= 255).all() and out[-1] == 0


def test_stretch_leaves_its_input_alone():
    pixels = np.array([1.0, np.nan, 3.0], np.float32)
    stretch(pixels, 0, 2)
    assert np.isnan(pixels[1]) and pixels[2] == 3


def test_percentiles_of_nothing():
    assert percentiles(np.array([np.nan, np.inf])) == (0, 0)
    assert percentiles(np.zeros(0)) == (0, 0)


# ---------------------------------------------------------------------------------------------- laziness


def test_only_what_is_asked_for_is_read():
    data = Watched((500, 64, 64))
    planes = Planes.of(data, contrast=(0, 1))
    assert data.read == []
    planes.read((3,))
    planes.read((499,), Box(0, 0, 32, 16))
    assert data.read == [64 * 64, 32 * 16]


def test_contrast_and_fingerprint_share_one_bounded_sample():
    data = Watched((1000, 64, 64))
    planes = Planes.of(data)
    planes.fingerprint, planes.with_contrast("volume")
    assert sum(data.read) == 16 * 64 * 64


def test_a_huge_plane_is_sampled_in_bounded_memory():
    data = Watched((2, 100_000, 100_000), "uint8")
    planes = Planes.of(data, contrast="plane")
    planes.fingerprint  # noqa: B018 - read for its cost
    planes.read((1,), Box(5000, 7000, 5032, 7032))
    assert max(data.read) <= 2_000_000
    assert sum(data.read) <= 5 * 16_000_000


class Chunked(Watched):
    """One that can only be read in large pieces, as a compressed TIFF of one strip a page, or a lazy stack of files."""

    def __init__(self, shape: tuple[int, ...], chunks: tuple[int, ...], pixels: np.ndarray) -> None:
        super().__init__(shape)
        self.chunks, self.pixels = chunks, pixels

    def __getitem__(self, index):
        super().__getitem__(index)
        return self.pixels[index]


def test_a_plane_in_one_piece_is_read_once_for_all_its_boxes(rng):
    pixels = rng.integers(0, 60000, (3, 2, 64, 64)).astype(np.uint16)
    data = Chunked(pixels.shape, (1, 1, 64, 64), pixels)
    planes = Planes.of(data, channel_axis=1, contrast=(0, 1))
    boxes = [(z, Box(x, y, x + 16, y + 16)) for z in range(3) for y in (0, 20, 48) for x in (0, 48)]
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda asked: planes.raw((asked[0],), asked[1]), boxes))
    for (z, box), got in zip(boxes, found, strict=True):
        np.testing.assert_array_equal(got, np.moveaxis(pixels[z], 0, -1)[box.slices])
    planes.release()
    data.read.clear()
    for _, box in boxes:
        for z in (1, 2):  # in turns, as when a person clicks on one while the other is encoded
            planes.raw((z,), box)[:] = 0  # whoever asks may write to what they get
            planes.with_contrast((0, 5)).read((z,), box)
    assert data.read == [64 * 64] * 4, "two planes of two channels"
    planes.raw((0,), boxes[0][1])
    planes.raw((1,), boxes[0][1])
    assert len(data.read) == 8, "a third plane takes the place of the first"
    np.testing.assert_array_equal(planes.raw((2,), Box(0, 0, 16, 16))[..., 1], pixels[2, 1, :16, :16])


@pytest.mark.parametrize(
    "chunks",
    [(8, 64, 32), ((8, 3, 1), (64, 32), (16, 40, 40)), (4, 1, 96), (12, 96, 96)],
    ids=["even", "uneven", "flat", "one"],
)
def test_chunks_of_many_planes_are_read_once_for_all_of_them(rng, chunks):
    pixels = rng.integers(0, 60000, (12, 96, 96)).astype(np.uint16)
    data = Chunked(pixels.shape, chunks, pixels)
    planes = Planes.of(data, contrast=(0, 1))
    for z in range(12):
        for y, x in np.ndindex(6, 6):
            box = Box(16 * x, 16 * y, 16 * x + 16, 16 * y + 16).grown(3, 1).intersect(Box.of((96, 96)))
            np.testing.assert_array_equal(planes.raw((z,), box)[..., 0], pixels[z][box.slices])
    if chunks != (4, 1, 96):  # as small as a box
        assert sum(data.read) == pixels.size


def test_a_chunk_that_is_kept_does_not_wait_for_another_one_that_is_read(rng):
    pixels = rng.integers(0, 60000, (2, 64, 64)).astype(np.uint16)
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Chunked):
        def __getitem__(self, index):
            if index[0].start == 1:
                begun.set()
                assert go_on.wait(20)
            return super().__getitem__(index)

    data = Slow(pixels.shape, (1, 64, 64), pixels)
    planes, box = Planes.of(data, contrast=(0, 1)), Box(0, 0, 8, 8)
    planes.raw((0,), box)
    with ThreadPoolExecutor(3) as threads:
        both = [threads.submit(planes.raw, (1,), box) for _ in range(2)]
        assert begun.wait(20)
        kept = threads.submit(planes.raw, (0,), box)
        np.testing.assert_array_equal(kept.result(20)[..., 0], pixels[0, :8, :8])
        assert not any(one.done() for one in both)
        go_on.set()
        for one in both:
            np.testing.assert_array_equal(one.result(20)[..., 0], pixels[1, :8, :8])
    assert data.read == [64 * 64] * 2, "whoever wants the same chunk waits for it"


def test_of_chunks_only_so_much_is_kept(rng, monkeypatch):
    monkeypatch.setattr("napari_interformer.image._KEPT_BYTES", 3 * 4 * 32 * 32 * 2)
    pixels = rng.integers(0, 60000, (8, 96, 96)).astype(np.uint16)
    planes = Planes.of(Chunked(pixels.shape, (4, 32, 32), pixels), contrast=(0, 1))
    tracemalloc.start()
    for z, y, x in np.ndindex(8, 6, 6):
        box = Box(16 * x, 16 * y, 16 * x + 16, 16 * y + 16)
        np.testing.assert_array_equal(planes.raw((z,), box)[..., 0], pixels[z][box.slices])
    kept, _ = tracemalloc.get_traced_memory()
    planes.release()
    released, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 2 * 4 * 32 * 32 * 2 < kept - released < 3.5 * 4 * 32 * 32 * 2, "with the one that was read last"


def test_two_large_pieces_are_not_read_by_turns(monkeypatch):
    pixels = np.zeros((2, 64, 64), np.uint16)
    monkeypatch.setattr(
        "napari_interformer.image._KEPT_BYTES", 6 * pixels[0].nbytes
    )  # one, and a half, of a plane
    data = Chunked(pixels.shape, (1, 64, 64), pixels)
    planes = Planes.of(data, contrast=(0, 1))
    for z in (0, 1, 0, 1, 0, 1):
        planes.raw((z,), Box(0, 0, 8, 8))
    assert len(data.read) == 2


def test_a_plane_in_one_piece_larger_than_what_is_kept_is_read_all_the_same(rng, monkeypatch):
    pixels = rng.integers(0, 60000, (2, 64, 64)).astype(np.uint16)
    monkeypatch.setattr("napari_interformer.image._KEPT_BYTES", 2 * pixels[0].nbytes)  # a quarter is less
    planes = Planes.of(Chunked(pixels.shape, (1, 64, 64), pixels), contrast=(0, 1))
    for z in (0, 1, 0):
        np.testing.assert_array_equal(planes.raw((z,), Box(0, 0, 8, 8))[..., 0], pixels[z, :8, :8])


@pytest.mark.parametrize(("chunks", "side"), [((1, 64, 64), 40), ((1, 16, 16), 9), ((1, 30, 30), 16)])
def test_boxes_that_cost_little_are_read_alone(chunks, side, monkeypatch):
    data = Chunked((2, 64, 64), chunks, np.zeros((2, 64, 64), np.uint16))
    planes = Planes.of(data, contrast=(0, 1))
    planes.raw((1,), Box(0, 0, side, side))
    assert data.read == [side**2]
    monkeypatch.setattr("napari_interformer.image._KEPT_BYTES", 8000)  # a plane has 8192
    data.chunks = (1, 64, 64)
    planes.raw((1,), Box(0, 0, 4, 4))
    assert data.read == [side**2, 16]


@pytest.mark.parametrize(("chunk", "read"), [(1, 64 * 64), (100, 64 * 64)])
def test_one_of_many_channels_that_come_last_is_read_alone(chunk, read):
    data = Chunked((64, 64, 100), (64, 64, chunk), np.zeros((64, 64, 100), np.uint16))
    Planes.of(data, channel_axis=2, channels=(7,), contrast=(0, 1)).read()
    assert data.read == [read]


def test_one_channel_of_many_is_read_alone():
    data = Watched((60, 64, 64))
    Planes.of(data, channel_axis=0, channels=(7,), contrast=(0, 1)).read()
    assert data.read == [64 * 64]


# -------------------------------------------------------------------------------- the same image, stored otherwise


@pytest.fixture(
    params=[
        "dask",
        "zarr",
        "multiscale",
        "big-endian",
        "tiff",
        "zlib",
        "imagej",
        "ome",
        "bigtiff",
        "pyramid",
        "zarr path",
    ]
)
def stored(request, stack, tmp_path):
    """Return the stack as people have it."""
    path = tmp_path / "stack.tif"
    match request.param:
        case "dask":
            return da.from_array(stack, chunks=(1, 20, 70))
        case "zarr":
            return zarr.array(stack, chunks=(2, 32, 32))
        case "multiscale":
            return [stack, stack[:, ::2, ::2], stack[:, ::4, ::4]]
        case "big-endian":
            return stack.astype(">u2")
        case "tiff":
            tifffile.imwrite(path, stack)
        case "zlib":
            tifffile.imwrite(path, stack, compression="zlib", tile=(32, 32))
        case "imagej":
            tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "ZYX"})
        case "ome":
            tifffile.imwrite(path, stack, ome=True, compression="zlib", metadata={"axes": "ZYX"})
        case "bigtiff":
            tifffile.imwrite(path, stack, bigtiff=True)
        case "pyramid":
            with tifffile.TiffWriter(path, ome=True) as tiff:
                tiff.write(stack, subifds=1, tile=(16, 16), metadata={"axes": "ZYX"})
                tiff.write(stack[:, ::2, ::2], subfiletype=1, tile=(16, 16))
        case "zarr path":
            path = tmp_path / "stack.zarr"
            zarr.create_array(path, data=stack, chunks=(1, 32, 32))
    return path


def test_planes_are_the_same_however_stored(stored, stack):
    expected, planes = Planes.of(stack), Planes.of(stored)
    assert (planes.shape, planes.axes, planes.dtype) == ((5, 48, 70), "ZYX", np.uint16)
    assert planes.contrast == expected.contrast
    assert planes.fingerprint == expected.fingerprint
    box = Box(10, 4, 50, 40)
    np.testing.assert_array_equal(planes.read((3,), box), expected.read((3,), box))
    assert (
        not isinstance(planes.data, np.ndarray)
        or isinstance(planes.data, np.memmap)
        or not isinstance(stored, Path)
    )


def test_fingerprint_tells_images_apart(stack):
    changed = stack.copy()
    changed[2, 5, 5] += 1
    prints = {
        Planes.of(image, **options).fingerprint
        for image, options in [
            (stack, {}),
            (changed, {}),
            (stack[:, :, :-1], {}),
            (stack.astype(np.int32), {}),
            (stack, {"channel_axis": 0, "channels": (0,)}),
            (stack, {"channel_axis": 0, "channels": (1,)}),
        ]
    }
    assert len(prints) == 6


def test_fingerprint_of_one_channel_is_that_of_a_layer_showing_it(stack):
    assert Planes.of(stack, channel_axis=0, channels=(1,)).fingerprint == Planes.of(stack[1]).fingerprint
    assert Planes.of(stack, contrast="plane").fingerprint == Planes.of(stack).fingerprint


def test_napari_multiscale_data_is_its_finest_level(stack):
    multiscale = pytest.importorskip("napari.layers._multiscale_data").MultiScaleData(
        [stack, stack[:, ::2, ::2]]
    )
    assert Planes.of(multiscale).fingerprint == Planes.of(stack).fingerprint


def test_planes_pass_through(stack):
    planes = Planes.of(stack)
    assert Planes.of(planes) is planes


# -------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("image", "options", "error", "told"),
    [
        (np.zeros((0, 5)), {}, ValueError, "empty array"),
        (np.zeros(5), {}, ValueError, r"at least the axes \(Y, X\)"),
        (np.zeros((5, 5), complex), {}, ValueError, "real numbers; got complex128"),
        (np.zeros((5, 5), "M8[s]"), {}, ValueError, "real numbers"),
        ([[1, 2], [3]], {}, TypeError, "array or a path; got list"),
        (None, {}, TypeError, "array or a path; got NoneType"),
        (["a.tif", Path("b.tif")], {}, TypeError, "array or one path; got 2 paths: read them into one array"),
        ([np.zeros((5, 5)), np.zeros((5, 5))], {}, ValueError, "numpy.stack"),
        (np.zeros((9, 8, 8)), {"channel_axis": 0}, ValueError, "one to three of the image's 9"),
        (np.zeros((9, 8, 8)), {"channel_axis": 3}, ValueError, "channel_axis takes"),
        (np.zeros((8, 8)), {"channel_axis": 0}, ValueError, r"axes \(Y, X\) in addition to channels"),
        (np.zeros((9, 8, 8)), {"channel_axis": 0.5}, ValueError, "channel_axis takes .* got 0.5"),
        (np.zeros((9, 8, 8)), {"channel_axis": "C"}, ValueError, "channel_axis takes .* got 'C'"),
        (np.zeros((8, 8)), {"channels": (1,)}, ValueError, "channels takes"),
        (np.zeros((3, 8, 8)), {"channel_axis": 0, "channels": 1.5}, ValueError, "channels takes .* got 1.5"),
        (
            np.zeros((3, 8, 8)),
            {"channel_axis": 0, "channels": "red"},
            ValueError,
            "channels takes .* got 'red'",
        ),
        (np.zeros((3, 8, 8)), {"channel_axis": 0, "channels": [True, False]}, ValueError, "channels takes"),
        (np.zeros((8, 8, 9)), {"rgb": True}, ValueError, "rgb takes 3 or 4 colours; got 9"),
        (np.zeros((8, 8)), {"axes": "ZYX"}, ValueError, "axes takes one letter"),
        (np.zeros((8, 8, 8)), {"axes": "YXZ"}, ValueError, "end with Y and X"),
        (np.zeros((8, 8)), {"contrast": "best"}, ValueError, "auto, volume, plane"),
        (np.zeros((8, 8)), {"contrast": (5, 4)}, ValueError, "low not above high"),
        (np.zeros((8, 8)), {"contrast": (0, np.nan)}, ValueError, "low not above high"),
        (np.zeros((8, 8)), {"contrast": (1, 2, 3)}, ValueError, "low not above high"),
        (np.zeros((8, 8)), {"contrast": 3}, ValueError, "low not above high"),
        (Planes.of(np.zeros((8, 8))), {"channels": 0, "rgb": False}, ValueError, "got channels and rgb"),
        ("no/such.tif", {}, FileNotFoundError, "does not exist"),
        (np.zeros((1,) * 6 + (8, 8)), {}, ValueError, "up to 7 axes in addition to channels"),
    ],
)
def test_nonsense_gets_one_sentence(image, options, error, told):
    with pytest.raises(error, match=told) as raised:
        Planes.of(image, **options)
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")


def test_numbers_of_numpy_are_numbers(stack):
    image = np.stack([stack, stack[::-1]])
    one = Planes.of(image, channel_axis=np.int8(0), channels=np.int64(1))
    assert (one.channel_axis, one.channels) == (0, (1,)) and type(one.channels[0]) is int
    np.testing.assert_array_equal(one.raw((np.int64(4),))[..., 0], stack[0])
    np.testing.assert_array_equal(one.raw(np.uint8(4)), one.raw((4,)))


def test_planes_and_boxes_outside_are_refused(stack):
    planes = Planes.of(stack)
    with pytest.raises(ValueError, match=r"\(\) in an image of one plane; got \(0,\)"):
        Planes.of(stack[0]).read((0,))
    with pytest.raises(ValueError, match=r"index into \(5,\); got \(5,\)"):
        planes.read((5,))
    with pytest.raises(ValueError, match="plane takes"):
        planes.read(())
    with pytest.raises(ValueError, match="box must"):
        planes.read((0,), Box(0, 0, 71, 10))


def test_pixels_that_fail_to_load_are_named(stack):
    def fail(block):
        raise RuntimeError("disk on fire\nmore")

    lazy = da.from_array(stack, chunks=(1, -1, -1)).map_blocks(
        fail, dtype=stack.dtype, meta=np.zeros((0, 0, 0), "u2")
    )
    planes = Planes.of(lazy, contrast=(0, 1))
    with pytest.raises(OSError, match=r"Plane \(2,\) of the image could not be read \(disk on fire\)"):
        planes.read((2,))


def test_a_tensor_is_an_image_if_numpy_knows_its_numbers():
    import torch

    tensor = torch.arange(64.0).reshape(8, 8)
    for image in (tensor, [tensor, tensor[::2, ::2]]):
        planes = Planes.of(image)
        assert planes.dtype == np.float32 and planes.raw()[7, 7] == 63
    with pytest.raises(TypeError, match="got Tensor"):
        Planes.of(torch.zeros(8, 8, dtype=torch.bfloat16))


@pytest.mark.parametrize(
    "opened",
    [
        str,
        lambda path: zarr.open(path, mode="r"),
        da.from_zarr,  # as napari's readers of OME-Zarr do
        lambda path: da.stack([da.from_array(zarr.open(path, mode="r"))[n] for n in range(3)]).rechunk(64),
    ],
)
def test_a_zarr_that_is_gone_is_not_taken_for_black(tmp_path, stack, opened):
    for name, version in (("2.zarr", 2), ("3.zarr", 3)):
        zarr.create_array(tmp_path / name, data=stack, chunks=(1, 48, 70), zarr_format=version)
        planes = Planes.of(opened(tmp_path / name), contrast=(0, 60000))
        np.testing.assert_array_equal(planes.raw((1,))[..., 0], stack[1])
        (tmp_path / name).rename(tmp_path / "elsewhere")
        for box in (None, Box(0, 0, 8, 8)):  # a small one reads a whole chunk, which must not be kept
            with pytest.raises(OSError, match=rf"{name} is not there any more\); check that its disk"):
                planes.raw((2,), box)
        (tmp_path / "elsewhere").rename(tmp_path / name)
        np.testing.assert_array_equal(planes.raw((2,), Box(0, 0, 8, 8))[..., 0], stack[2, :8, :8])


def test_a_zarr_stays_the_same_after_the_working_directory_has_changed(tmp_path, stack, monkeypatch):
    zarr.create_array(tmp_path / "a.zarr", data=stack, chunks=(1, 48, 70))
    monkeypatch.chdir(tmp_path)
    planes = Planes.of("a.zarr", contrast=(0, 60000))
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(planes.raw((1,))[..., 0], stack[1])


def test_what_is_masked_in_lazy_and_multiscale_images_has_no_value_either():
    pixels = np.arange(64.0, dtype=np.float32).reshape(8, 8)
    masked = np.ma.masked_greater(pixels, 60)
    expected = np.where(pixels > 60, np.nan, pixels)
    for image in (da.from_array(masked, chunks=4), [masked, masked[::2, ::2]]):
        np.testing.assert_array_equal(Planes.of(image).raw()[..., 0], expected)
    whole = np.ma.masked_greater(pixels.astype(np.uint16), 60)
    for image in (whole, da.from_array(whole, chunks=4)):
        np.testing.assert_array_equal(Planes.of(image).raw()[..., 0], expected)
    # One that does not say beforehand that something in it may be masked.
    hidden = da.from_array(whole.filled(), chunks=4).map_blocks(
        np.ma.masked_greater, 60, meta=np.empty((0, 0), np.uint16)
    )
    with pytest.raises(
        OSError, match="some pixels are masked, for which uint16 has no value: fill them first"
    ):
        Planes.of(hidden)


@pytest.mark.parametrize("given", [None, "TYX", "ZYX"])
@pytest.mark.parametrize("axes", ["TYX", "ZYX"])
def test_seconds_do_not_become_lengths_when_somebody_renames_an_axis(axes, given, tmp_path):
    metadata = {"axes": axes, "unit": "um", "spacing": 3.0, "finterval": 30.0}
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((3, 8, 9), np.uint8), imagej=True, resolution=(4, 4), metadata=metadata
    )
    planes = Planes.of(tmp_path / "a.tif", axes=given)
    known = {"TYX": 30.0, "ZYX": 3.0}[axes]
    assert planes.scale == (known if given in (None, axes) else None, 0.25, 0.25)


def test_seconds_do_not_become_lengths_beside_an_axis_of_an_unknown_kind(tmp_path):
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="w", zarr_format=2)
    group.create_array("0", shape=(2, 3, 8, 9), dtype=np.uint8)
    length = {"type": "space", "unit": "micrometer"}
    axes = [{"name": "angle"}, {"name": "t", "type": "time", "unit": "second"}]
    axes += [{"name": "y", **length}, {"name": "x", **length}]
    transform = {"type": "scale", "scale": [1, 30, 0.2, 0.2]}
    dataset = {"path": "0", "coordinateTransformations": [transform]}
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [dataset]}]
    planes = Planes.of(tmp_path / "a.ome.zarr")
    assert (planes.axes, planes.scale) == ("TZYX", (None, None, 0.2, 0.2))


def test_a_tensor_with_a_gradient_is_refused_with_what_helps():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"got Tensor: convert it with \.detach\(\)\.cpu\(\)\.numpy\(\)"):
        Planes.of(torch.zeros(64, 64, requires_grad=True))


def test_the_axes_that_a_zarr_names_are_its_axes(tmp_path):
    path = tmp_path / "a.zarr"
    array = zarr.create_array(path, shape=(3, 16, 20), dtype=np.uint8, dimension_names=("c", "y", "x"))
    for image in (path, array):
        planes = Planes.of(image)
        assert (planes.shape, planes.channel_axis, planes.channels) == ((16, 20), 0, (0, 1, 2))
    unnamed = zarr.create_array(path, shape=(3, 16, 20), dtype=np.uint8, overwrite=True)
    for image in (path, unnamed):
        assert Planes.of(image).shape == (3, 16, 20)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_planes_of_a_file_are_sent_as_its_path(tmp_path, stack, compression):
    tifffile.imwrite(tmp_path / "a.tif", stack, compression=compression)
    planes = Planes.of(tmp_path / "a.tif")
    sent = pickle.dumps(planes)
    assert len(sent) < 4096 < stack.nbytes
    again = pickle.loads(sent)
    assert again.fingerprint == planes.fingerprint and again.contrast == planes.contrast
    np.testing.assert_array_equal(again.raw((3,)), planes.raw((3,)))


@pytest.mark.parametrize("names", [("y", "x", "b"), ("x", "y", "z"), ("x", "y", "c")])
def test_names_of_a_zarr_that_make_no_sense_are_passed_over_by_path_and_as_an_array(tmp_path, names):
    array = zarr.create_array(
        str(tmp_path / "a.zarr"), shape=(64, 48, 3), dtype="uint8", dimension_names=names
    )
    for image in (array, tmp_path / "a.zarr"):
        planes = Planes.of(image)
        assert (planes.leading, planes.size) == ((), (64, 48))


def test_planes_of_a_file_that_changed_say_so_where_they_arrive(tmp_path):
    path = tmp_path / "a.png"
    iio.imwrite(path, np.full((32, 40), 7, np.uint8))
    planes = Planes.of(path)
    sent = pickle.dumps(planes)
    known = planes.fingerprint
    assert pickle.loads(sent).fingerprint == known
    iio.imwrite(path, np.full((32, 40), 8, np.uint8))
    assert pickle.loads(sent).fingerprint != known
    iio.imwrite(path, np.full((32, 48), 7, np.uint8))
    arrived = pickle.loads(sent)
    assert arrived.absent and arrived.size == (32, 40)
    with pytest.raises(OSError, match="is not there, or is another image"):
        arrived.read()
    path.unlink()
    assert pickle.loads(sent).absent and copy.deepcopy(planes).absent


@pytest.mark.parametrize("version", [2, 3])
def test_a_group_may_tell_of_its_arrays_itself(tmp_path, version):
    group = zarr.create_group(str(tmp_path / "g.zarr"), zarr_format=version)
    group.create_array("a", shape=(32, 32), dtype="uint8")[:] = 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that version 3 does not specify it
        zarr.consolidate_metadata(str(tmp_path / "g.zarr"))
    for mark in (tmp_path / "g.zarr" / "a").glob("*.json"):
        mark.unlink()
    for mark in (".zarray", ".zattrs"):
        (tmp_path / "g.zarr" / "a" / mark).unlink(missing_ok=True)
    assert (Planes.of(zarr.open_group(str(tmp_path / "g.zarr"), mode="r")["a"]).raw() == 3).all()
    shutil.rmtree(tmp_path / "g.zarr" / "a")
    with pytest.raises(OSError, match="not there any more"):
        Planes.of(zarr.open_group(str(tmp_path / "g.zarr"), mode="r")["a"]).raw()


def test_axes_and_a_channel_axis_that_contradict_each_other_are_refused():
    image = np.zeros((2, 3, 8, 8), np.uint8)
    with pytest.raises(ValueError, match="must name the same channels; got 'CZYX' and 1"):
        Planes.of(image, axes="CZYX", channel_axis=1)
    assert Planes.of(image, axes="ZCYX", channel_axis=1).axes == "ZYX"


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64, np.uint64])
def test_a_jump_that_its_own_type_cannot_hold_has_contrast(dtype):
    """Two values, as in a saturated image, or padding far below all others."""
    low, high = np.iinfo(dtype).min * 3 // 4, np.iinfo(dtype).max // 4 * 3
    pixels = np.full((100, 100), low, dtype)
    pixels.ravel()[-20:] = high
    planes = Planes.of(pixels)
    ((black, white),) = planes.contrast
    assert low <= black < white <= high
    assert planes.read().max() == 255 and planes.with_contrast(planes.contrast).contrast == planes.contrast
