"""Image files: axes, pixel sizes, damage, and what is told of what cannot be read."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_interformer.image import Planes
from napari_interformer.image_files import read_image

MICRON = {"PhysicalSizeX": 0.2, "PhysicalSizeY": 0.3, "PhysicalSizeZ": 1.5, "PhysicalSizeXUnit": "µm"}


@pytest.mark.parametrize(
    ("options", "axes", "scale", "unit"),
    [
        ({}, "ZYX", None, None),
        ({"ome": True, "metadata": {"axes": "ZYX", **MICRON}}, "ZYX", (1.5, 0.3, 0.2), "micrometer"),
        ({"ome": True, "metadata": {"axes": "TYX", **MICRON}}, "TYX", (None, 0.3, 0.2), "micrometer"),
        (
            {
                "ome": True,
                "metadata": {"axes": "ZYX", **MICRON, "PhysicalSizeZUnit": "nm", "PhysicalSizeZ": 900},
            },
            "ZYX",
            (0.9, 0.3, 0.2),
            "micrometer",
        ),
        (
            {"imagej": True, "resolution": (5, 4), "metadata": {"axes": "ZYX", "unit": "um", "spacing": 2}},
            "ZYX",
            (2, 0.25, 0.2),
            "micrometer",
        ),
        ({"imagej": True, "metadata": {"axes": "ZYX", "unit": "pixel"}}, "ZYX", None, None),
        ({"resolution": (2e4, 4e4), "resolutionunit": "CENTIMETER"}, "ZYX", (None, 0.25, 0.5), "micrometer"),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, "ZYX", None, None),
    ],
)
def test_tiff_tells_axes_and_pixel_size(tmp_path, stack, options, axes, scale, unit):
    tifffile.imwrite(tmp_path / "a.tif", stack, **options)
    planes = Planes.of(tmp_path / "a.tif")
    assert (planes.axes, planes.unit) == (axes, unit)
    expected = scale and tuple(size and pytest.approx(size, rel=1e-4) for size in scale)
    assert planes.scale == expected


def test_tiff_with_channels(tmp_path, rng):
    image = rng.integers(0, 255, (4, 2, 30, 40)).astype(np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif",
        image,
        imagej=True,
        resolution=(5, 5),
        metadata={"axes": "ZCYX", "unit": "um", "spacing": 2},
    )
    planes = Planes.of(tmp_path / "a.tif", contrast=(0, 255))
    assert (planes.shape, planes.axes, planes.channel_axis, planes.channels) == (
        (4, 30, 40),
        "ZYX",
        1,
        (0, 1),
    )
    assert planes.scale == pytest.approx((2, 0.2, 0.2))
    np.testing.assert_allclose(planes.read((3,))[..., 1], image[3, 1], rtol=1e-6)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_in_colour(tmp_path, rng, planar):
    image = rng.integers(0, 255, (3, 30, 40) if planar == "separate" else (30, 40, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", planarconfig=planar)
    planes = Planes.of(tmp_path / "a.tif")
    expected = np.moveaxis(image, 0, -1) if planar == "separate" else image
    np.testing.assert_array_equal(planes.read(), expected)


@pytest.mark.parametrize(
    ("shape", "expected"), [((30, 40), 1), ((30, 40, 2), 1), ((30, 40, 3), 3), ((30, 40, 4), 3)]
)
def test_png_with_and_without_colour_and_alpha(tmp_path, rng, shape, expected):
    image = rng.integers(0, 255, shape).astype(np.uint8)
    iio.imwrite(tmp_path / "a.png", image)
    planes = Planes.of(tmp_path / "a.png", contrast=(0, 255))
    assert (planes.shape, len(planes.channels)) == ((30, 40), expected)
    np.testing.assert_allclose(planes.read()[..., 0], image if image.ndim == 2 else image[..., 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("hyperstack.tif", (2, 3, 4, 48, 70)),
        ("big.tif", (5, 48, 70)),
        ("other-order.tif", (5, 48, 70)),
        ("pyramid.ome.tif", (5, 48, 70)),
        ("pages.tif", (5, 48, 70)),
    ],
)
def test_tiffs_of_many_kinds(tmp_path, rng, name, pixels):
    image, path = rng.integers(0, 60000, pixels).astype(np.uint16), tmp_path / name
    metadata = {"axes": "TZCYX", "spacing": 2, "unit": "um"}
    if name == "hyperstack.tif":
        tifffile.imwrite(path, image, imagej=True, metadata=metadata, resolution=(5, 4))
    elif name == "pyramid.ome.tif":
        with tifffile.TiffWriter(path) as tiff:
            tiff.write(image, subifds=1, tile=(16, 16), compression="lzw", metadata={"axes": "ZYX"})
            tiff.write(image[:, ::2, ::2], subfiletype=1, tile=(16, 16))
    elif name == "pages.tif":
        with tifffile.TiffWriter(path) as tiff:
            for plane in image:
                tiff.write(plane, contiguous=False, metadata=None)
    else:
        tifffile.imwrite(path, image, bigtiff=name == "big.tif", byteorder=">")
    planes = Planes.of(path, channels=1 if name == "hyperstack.tif" else None)
    assert planes.axes == ("TZYX" if name == "hyperstack.tif" else "ZYX")
    last = planes.raw((1, 2) if name == "hyperstack.tif" else (4,))
    np.testing.assert_array_equal(last[..., 0], image[1, 2, 1] if name == "hyperstack.tif" else image[4])
    if name == "hyperstack.tif":
        assert planes.scale == pytest.approx((None, 2, 0.25, 0.2)) and planes.unit == "micrometer"


def test_jpeg_and_one_bit_png(tmp_path, rng):
    from PIL import Image

    photograph = np.full((48, 70, 3), (200, 100, 50), np.uint8)
    Image.fromarray(photograph).save(tmp_path / "a.jpg")
    Image.fromarray(photograph).convert("CMYK").save(tmp_path / "printed.jpg")
    for name in ("a.jpg", "printed.jpg"):
        np.testing.assert_allclose(Planes.of(tmp_path / name).read()[0, 0], (200, 100, 50), atol=3)
    bits = rng.random((48, 70)) > 0.5
    Image.fromarray(bits).save(tmp_path / "a.png")
    np.testing.assert_array_equal(Planes.of(tmp_path / "a.png").read()[..., 0], bits * np.float32(255))


@pytest.mark.parametrize("version", ["0.4", "0.5", "bioformats2raw"])
def test_ome_zarr(tmp_path, stack, version):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3 if version == "0.5" else 2)
    group = root
    if version == "bioformats2raw":
        root.attrs["bioformats2raw.layout"] = 3
        group = root.create_group("0")
    group.create_array("s0", data=stack, chunks=(1, 32, 32))
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    scale = [{"type": "scale", "scale": [1.5, 0.3, 0.2]}]
    meta = {"multiscales": [{"axes": axes, "datasets": [{"path": "s0", "coordinateTransformations": scale}]}]}
    group.attrs.update({"ome": meta} if version == "0.5" else meta)
    planes = Planes.of(tmp_path / "a.zarr")
    assert (planes.axes, planes.scale, planes.unit) == ("ZYX", (1.5, 0.3, 0.2), "micrometer")
    np.testing.assert_array_equal(planes.raw((4,))[..., 0], stack[4])
    scale[0]["scale"] = [1.5, 0.0, 0.2]  # no pixel is that small: the file does not know
    group.attrs.update({"ome": meta} if version == "0.5" else meta)
    assert Planes.of(tmp_path / "a.zarr").scale == (1.5, None, 0.2)
    scale[0]["scale"] = [-1, 0, float("nan")]
    group.attrs.update({"ome": meta} if version == "0.5" else meta)
    assert Planes.of(tmp_path / "a.zarr").scale is None


WRITERS = {
    "plain": {},
    "zlib": {"compression": "zlib"},
    "bare": {"metadata": None},
    "bare zlib": {"metadata": None, "compression": "zlib"},
    "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "ome": {"ome": True, "metadata": {"axes": "ZYX"}},
    "ome zlib": {"ome": True, "metadata": {"axes": "ZYX"}, "compression": "zlib"},
    "big": {"bigtiff": True},
    "big-endian": {"byteorder": ">"},
    "tiled": {"tile": (16, 16), "compression": "zlib"},
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_cut_tiff_is_refused_not_taken_for_a_shorter_stack(tmp_path, stack, writer):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, **WRITERS[writer])
    whole = path.read_bytes()
    assert Planes.of(path).shape == stack.shape
    for part in (3, 7, 100, len(whole) // 20, len(whole) // 3, len(whole) * 9 // 10):
        path.write_bytes(whole[:part])
        with pytest.raises(OSError, match=r"^a\.tif (is|cannot)") as raised:
            Planes.of(path)
        assert "\n" not in str(raised.value) and str(raised.value).endswith(".")


def _write_set(folder, stack, options):
    """Write a stack as a set of two OME-TIFFs, all planes but the last in the first, and return their paths."""
    paths = [folder / "0.ome.tif", folder / "1.ome.tif"]
    files = [(0, z) for z in range(len(stack) - 1)] + [(1, 0)]
    places = "".join(
        f'<TiffData FirstZ="{z}" FirstC="0" FirstT="0" IFD="{page}" PlaneCount="1">'
        f'<UUID FileName="{paths[file].name}">urn:uuid:{file}</UUID></TiffData>'
        for z, (file, page) in enumerate(files)
    )
    depth, height, width = stack.shape
    for file, path in enumerate(paths):
        told = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{file}"><Image ID="Image:0">'
            f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="{width}" SizeY="{height}" SizeZ="{depth}" '
            f'SizeC="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{places}</Pixels></Image></OME>'
        )
        with tifffile.TiffWriter(path) as tiff:
            for plane in stack[-1:] if file else stack[:-1]:
                tiff.write(plane, description=told, metadata=None, contiguous=False, **options)
                told = None
    return paths


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
def test_each_file_of_an_ome_tiff_in_several_opens_all_of_it_and_is_refused_where_it_is_cut(
    tmp_path, stack, options
):
    paths = _write_set(tmp_path, stack, options)
    for path in paths:  # the last one is the shorter
        np.testing.assert_array_equal(read_image(path).data[...], stack)
    for path in paths:
        whole = path.read_bytes()
        path.write_bytes(whole[:-100])
        with pytest.raises(OSError, match="is cut short"):
            read_image(path)
        path.write_bytes(whole)


def test_planes_that_imagej_wrote_after_a_single_page_are_a_stack_and_refused_where_it_is_cut(
    tmp_path, stack
):
    path = tmp_path / "a.tif"
    told = f"ImageJ=1.54f\nimages={len(stack)}\nslices={len(stack)}\n"
    tifffile.imwrite(path, stack[0], description=told, metadata=None, photometric="minisblack")
    whole = path.read_bytes() + stack[1:].tobytes()
    path.write_bytes(whole)
    np.testing.assert_array_equal(read_image(path).data[...], stack)
    path.write_bytes(whole[: -stack[0].nbytes])
    with pytest.raises(OSError, match="is cut short"):
        read_image(path)


@pytest.mark.parametrize("there", [None, b""])
def test_an_ome_tiff_of_which_a_file_is_missing_is_refused_not_made_black(tmp_path, stack, there):
    first, second = _write_set(tmp_path, stack, {})
    whole = second.read_bytes()
    second.unlink() if there is None else second.write_bytes(there)
    with pytest.raises(
        OSError,
        match=r"1 of the 5 planes of 0\.ome\.tif are missing: they are in 1\.ome\.tif, .* in one folder",
    ):
        read_image(first)
    second.write_bytes(whole)
    first.unlink()
    with pytest.raises(OSError, match=r"4 of the 5 planes of 1\.ome\.tif .* are in 0\.ome\.tif,"):
        read_image(second)


def test_planes_that_an_ome_tiff_never_had_are_black_and_that_is_told(tmp_path, stack, caplog):
    path, _ = _write_set(tmp_path, stack[:4], {})
    with tifffile.TiffFile(path) as tiff:
        told = tiff.ome_metadata
    start = told.index("<TiffData")
    places = (f'<TiffData FirstZ="{z}" IFD="{page}" PlaneCount="1"/>' for page, z in enumerate((0, 3)))
    told = told[:start] + "".join(places) + told[told.index("</Pixels>") :]
    with tifffile.TiffWriter(tmp_path / "sparse.ome.tif") as tiff:
        for plane in stack[[0, 3]]:
            tiff.write(plane, description=told, metadata=None, contiguous=False)
            told = None
    expected = stack[:4].copy()
    expected[1:3] = 0
    np.testing.assert_array_equal(read_image(tmp_path / "sparse.ome.tif").data[...], expected)
    assert "2 of the 4 planes of sparse.ome.tif are not in its files and are shown black" in caplog.text


def test_an_ome_tiff_under_another_name_opens_without_a_word(tmp_path, stack, caplog):
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, ome=True, metadata={"axes": "ZYX"})
    first, second = _write_set(tmp_path, stack, {})
    (tmp_path / "a.ome.tif").rename(tmp_path / "b.tif")
    first.rename(tmp_path / "c.ome.tif")
    for name in ("b.tif", "c.ome.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name).data[...], stack)
    assert "planes of" not in caplog.text
    assert second.exists()


def test_a_cut_tail_is_refused_or_costs_no_pixel(tmp_path, stack):
    path = tmp_path / "a.tif"
    for options in WRITERS.values():
        tifffile.imwrite(path, stack, **options)
        path.write_bytes(path.read_bytes()[:-20])
        try:
            planes = Planes.of(path, contrast=(0, 1))
            np.testing.assert_array_equal([planes.raw((z,))[..., 0] for z in range(5)], stack)
        except OSError:
            pass


def test_damaged_pixels_are_named_when_they_are_read(tmp_path, stack):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        start, length = tiff.pages[3].dataoffsets[0], tiff.pages[3].databytecounts[0]
    data = bytearray(path.read_bytes())
    data[start : start + length] = b"\xff" * length
    path.write_bytes(data)
    planes = Planes.of(path, contrast=(0, 1))
    planes.read((2,))
    with pytest.raises(OSError, match=r"Plane \(3,\) of the image could not be read"):
        planes.read((3,))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.tif", b"", "empty file"),
        ("a.tif", b"not an image at all", "cannot be read as an image"),
        ("a.tif", b"II*\0" + b"\xff" * 60, "not a readable TIFF"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 30, "cannot be read as an image"),
    ],
)
def test_files_that_are_no_images(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OSError, match=told):
        read_image(tmp_path / name)


def test_folders_that_are_no_images(tmp_path, monkeypatch):
    with pytest.raises(
        OSError, match=f"^{tmp_path.name} is a folder, but not a zarr: give a single file or a zarr"
    ):
        read_image(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=f"^{tmp_path.name} is a folder, but not a zarr"):
        read_image(".")
    zarr.open_group(tmp_path / "g.zarr", mode="w")
    with pytest.raises(OSError, match="not a readable zarr image"):
        read_image(tmp_path / "g.zarr")


def test_pixel_sizes_of_ome_zarr_are_in_the_unit_of_x_and_those_of_all_levels_count(tmp_path):
    group = zarr.open_group(tmp_path / "i.zarr", mode="w", zarr_format=2)
    group.create_array("0", shape=(2, 4, 5), dtype=np.uint8)
    units = {"z": "micrometer", "y": "nanometer", "x": "nanometer"}
    image = {
        "axes": [{"name": name, "type": "space", "unit": unit} for name, unit in units.items()],
        "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [2, 500, 250]}]}],
    }
    group.attrs["multiscales"] = [image]
    found = read_image(tmp_path / "i.zarr")
    assert found.scale == (2000, 500, 250) and found.unit == "nanometer"
    group.attrs["multiscales"] = [
        image | {"coordinateTransformations": [{"type": "scale", "scale": [1, 2, 2]}]}
    ]
    assert read_image(tmp_path / "i.zarr").scale == (2000, 1000, 500)


@pytest.mark.parametrize(
    ("z", "x", "depth"),
    [
        ("nm", "um", 2e-3),
        ("um", "nm", 2e3),
        ("micrometer", "um", 2),
        ("mm", "micron", 2e3),
        ("furlong", "um", None),
    ],
)
@pytest.mark.parametrize("ending", ["tif", "zarr"])
def test_pixel_sizes_are_in_the_unit_of_x_whatever_units_are_called(tmp_path, z, x, depth, ending):
    path = tmp_path / f"i.{ending}"
    if ending == "tif":
        tifffile.imwrite(path, np.zeros((2, 4, 5), np.uint8), ome=True, metadata={"axes": "ZYX"})
        sizes = {"Z": (2, z), "Y": (0.25, x), "X": (0.25, x)}
        told = "".join(
            f'PhysicalSize{axis}="{size}" PhysicalSize{axis}Unit="{unit}" '
            for axis, (size, unit) in sizes.items()
        )
        tifffile.tiffcomment(path, tifffile.tiffcomment(path).replace("<Pixels ", f"<Pixels {told}", 1))
    else:
        group = zarr.open_group(path, mode="w", zarr_format=2)
        group.create_array("0", shape=(2, 4, 5), dtype=np.uint8)
        axes = [{"name": n, "type": "space", "unit": unit} for n, unit in (("z", z), ("y", x), ("x", x))]
        places = [{"type": "scale", "scale": [2, 0.25, 0.25]}]
        group.attrs["multiscales"] = [
            {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": places}]}
        ]
    found = read_image(path).scale
    assert found[0] == pytest.approx(depth) and found[1:] == (0.25, 0.25)


@pytest.mark.parametrize(
    ("names", "told"), [(["raw", "b"], "that holds b and raw"), ([], "that holds no array")]
)
def test_of_a_zarr_group_that_is_no_image_the_arrays_are_named(names, told, tmp_path):
    group = zarr.open_group(tmp_path / "group.zarr", mode="w")
    for name in names:
        group.create_array(name, shape=(8, 8), dtype=np.uint8)
    with pytest.raises(OSError, match=f"{told}.: give the path of an array"):
        read_image(tmp_path / "group.zarr")


def test_of_several_images_in_an_ome_tiff_the_first_is_taken_and_that_is_told(tmp_path, stack, caplog):
    path = tmp_path / "positions.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for position in (stack, stack[:2]):
            tiff.write(position, photometric="minisblack", metadata={"axes": "ZYX"})
    np.testing.assert_array_equal(np.asarray(read_image(path).data[:]), stack)
    assert "positions.ome.tif holds 2 images; the first one is used, ZYX (5, 48, 70)" in caplog.text


def test_of_several_images_in_a_zarr_the_first_is_taken_and_that_is_told(tmp_path, stack, caplog):
    root = zarr.open_group(tmp_path / "all.zarr", mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    for name in ("0", "1", "OME"):
        group = root.create_group(name)
        group.create_array("0", data=stack[int(name == "1") :])
        group.attrs["multiscales"] = [{"datasets": [{"path": "0"}]}]
    np.testing.assert_array_equal(read_image(tmp_path / "all.zarr").data[...], stack)
    assert "all.zarr holds 2 images; the first one is used: give all.zarr/1 for the next one" in caplog.text


def test_of_a_plate_the_first_image_is_named(tmp_path):
    root = zarr.open_group(tmp_path / "p.zarr", mode="w", zarr_format=2)
    root.attrs["plate"] = {"wells": [{"path": "A/1"}, {"path": "A/2"}]}
    with pytest.raises(
        OSError, match=r"p\.zarr .* \(it is a plate, whose first image is A/1/0\): give the path"
    ):
        read_image(tmp_path / "p.zarr")
    root.create_group("A/1").attrs["well"] = {"images": [{"path": "3"}]}
    with pytest.raises(OSError, match=r"\(it is a well, whose first image is 3\)"):
        read_image(tmp_path / "p.zarr" / "A" / "1")


def test_axes_of_a_file_in_another_order_are_told(tmp_path, caplog):
    group = zarr.open_group(tmp_path / "xyz.zarr", mode="w", zarr_format=2)
    group.create_array("0", shape=(4, 5, 6), dtype=np.uint8)
    for names, told in (("xyz", True), ("zyx", False), ("cyx", False), ("yxc", False)):
        caplog.clear()
        group.attrs["multiscales"] = [{"axes": [{"name": n} for n in names], "datasets": [{"path": "0"}]}]
        Planes.of(tmp_path / "xyz.zarr", channels=0)
        assert ("The axes are XYZ; the last two are used" in caplog.text) == told
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((4, 5, 6), np.uint8), photometric="minisblack", metadata={"axes": "YXZ"}
    )
    caplog.clear()
    Planes.of(tmp_path / "a.tif")
    assert "The axes are YXZ; the last two are used" in caplog.text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"photometric": "miniswhite"},
            "with black for its highest values; its numbers are used as they are",
        ),
        (
            {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)},
            "in colours from its palette; its numbers are used as they are",
        ),
        ({"photometric": "minisblack"}, ""),
    ],
)
def test_a_tiff_that_is_not_shown_as_its_numbers_are_is_told(tmp_path, caplog, options, told):
    image = np.arange(30, dtype=np.uint8).reshape(5, 6)
    tifffile.imwrite(tmp_path / "a.tif", image, **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").data[...], image)
    assert told in caplog.text and bool(told) == bool(caplog.text)


@pytest.mark.parametrize("name", ["a.czi", "a.lif", "a.ND2", "a.h5", "a.n5"])
def test_of_files_of_other_programs_a_way_is_named(tmp_path, name):
    (tmp_path / name).mkdir() if name.endswith("n5") else (tmp_path / name).write_bytes(
        b"\x89HDF other bytes"
    )
    with pytest.raises(
        OSError, match=f"{name} .*: save it as OME-TIFF or OME-Zarr first, for example in Fiji or with"
    ):
        read_image(tmp_path / name)


def test_of_a_zipped_zarr_it_is_said_to_unzip_it(tmp_path):
    (tmp_path / "a.zarr.zip").write_bytes(b"PK and so on")
    with pytest.raises(OSError, match=r"a\.zarr\.zip .*: unzip it, and give the image in it\.$"):
        read_image(tmp_path / "a.zarr.zip")


@pytest.mark.parametrize("url", ["https://example.org/a.zarr", Path("s3://a/b.tif")])
def test_images_behind_urls_are_not_looked_for_on_disk(url):
    with pytest.raises(FileNotFoundError, match=r"An image must be on disk; got \w+://\w.*: download it"):
        read_image(url)


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("ome", [False, True])
def test_grey_channels_side_by_side_are_no_colours(tmp_path, rng, channels, ome):
    pixels = rng.integers(3, 30, (20, 24, channels)).astype(np.uint8)
    path = tmp_path / "grey.ome.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig", ome=ome)
    assert read_image(path).axes == "YXC"
    planes = Planes.of(path, channels=channels - 1)
    assert not planes.colour and planes.contrast[0][1] < 30
    np.testing.assert_array_equal(planes.raw()[..., 0], pixels[..., -1])
    if channels == 2:
        alpha = {"planarconfig": "contig", "extrasamples": ["unassalpha"]}
        tifffile.imwrite(path, pixels, photometric="minisblack", ome=ome, **alpha)
        assert read_image(path).axes == "YXS"


@pytest.mark.parametrize("how", ["in a loop", "appended"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_frames_that_were_written_one_by_one_are_a_stack(tmp_path, rng, how, compression):
    stack = rng.integers(0, 60_000, (5, 40, 48)).astype(np.uint16)
    path = tmp_path / "frames.tif"
    if how == "appended":
        for frame in stack:
            tifffile.imwrite(path, frame, append=True, compression=compression)
    else:
        with tifffile.TiffWriter(path) as tiff:
            for frame in stack:
                tiff.write(frame, compression=compression)
    planes = Planes.of(path)
    assert planes.shape == stack.shape
    np.testing.assert_array_equal(planes.raw((3,))[..., 0], stack[3])


def test_stacks_that_were_written_one_by_one_are_told(tmp_path, stack, caplog):
    with tifffile.TiffWriter(tmp_path / "two.tif") as tiff:
        for one in (stack, stack):
            tiff.write(one, photometric="minisblack")
        tiff.write(stack[0, :8, :8], photometric="minisblack")  # a thumbnail is not
    assert read_image(tmp_path / "two.tif").data.shape == stack.shape
    assert "two.tif holds 2 images; the first one is used" in caplog.text


def test_of_a_tiff_that_begins_with_its_thumbnail_it_is_told_that_there_is_more(tmp_path, stack, caplog):
    with tifffile.TiffWriter(tmp_path / "small.tif") as tiff:
        tiff.write(stack[0, :8, :8], photometric="minisblack")
        tiff.write(stack, photometric="minisblack")
    assert read_image(tmp_path / "small.tif").data.shape == (8, 8)
    assert "small.tif holds 2 images; the first one is used, YX (8, 8)" in caplog.text


def test_a_png_may_be_as_large_as_it_is(tmp_path, monkeypatch):
    iio.imwrite(tmp_path / "large.png", np.eye(40, dtype=np.uint8))
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 500)
    assert read_image(tmp_path / "large.png").data.shape == (40, 40)
    assert Image.MAX_IMAGE_PIXELS == 500


@pytest.mark.parametrize(
    ("names", "kinds", "letters"),
    [
        ("wavelength z y x", "channel space space space", "CZYX"),
        ("slice y x", "space space space", "?YX"),
        ("column y x", "space space space", "?YX"),
        ("frame section y x", "time space space space", "T?YX"),
        ("section y x", "", "?YX"),
    ],
)
def test_axes_of_ome_zarr_are_what_their_types_say(tmp_path, names, kinds, letters):
    axes = [{"name": name} for name in names.split()]
    for axis, kind in zip(axes, kinds.split(), strict=False):
        axis["type"] = kind
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("0", shape=(3,) * (len(axes) - 2) + (20, 20), dtype=np.uint8)
    group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}]}]
    assert read_image(tmp_path / "a.zarr").axes == letters
    assert not Planes.of(tmp_path / "a.zarr").colour


def test_before_axes_had_names_ome_zarr_had_five(tmp_path):
    group = zarr.open_group(tmp_path / "old.zarr", mode="w", zarr_format=2)
    group.create_array("0", shape=(2, 2, 3, 20, 20), dtype=np.uint8)
    group.attrs["multiscales"] = [{"version": "0.2", "datasets": [{"path": "0"}]}]
    planes = Planes.of(tmp_path / "old.zarr")
    assert (planes.leading, planes.axes, planes.channels) == ((2, 3), "TZYX", (0, 1))


def several_ome_tiffs(folder, *, planes, compression):
    """Write two images, each in a file of its own that tells of both; return their pixels."""
    names, ids = ["pos0.ome.tif", "pos1.ome.tif"], ["urn:uuid:a", "urn:uuid:b"]
    pixels = [
        np.full((planes, 40, 50), 100 * (n + 1), np.uint16) + np.arange(50, dtype=np.uint16) for n in (0, 1)
    ]
    told = "".join(
        f'<Image ID="Image:{n}"><Pixels ID="Pixels:{n}" DimensionOrder="XYZCT" Type="uint16" SizeX="50" SizeY="40" '
        f'SizeZ="{planes}" SizeC="1" SizeT="1" PhysicalSizeX="0.{n + 1}" PhysicalSizeY="0.{n + 1}">'
        f'<Channel ID="Channel:{n}:0" SamplesPerPixel="1"/>'
        + "".join(
            f'<TiffData FirstZ="{z}" IFD="{z}" PlaneCount="1"><UUID FileName="{names[n]}">{ids[n]}</UUID></TiffData>'
            for z in range(planes)
        )
        + "</Pixels></Image>"
        for n in (0, 1)
    )
    for name, own, one in zip(names, ids, pixels, strict=True):
        xml = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{own}">{told}</OME>'
        tifffile.imwrite(
            folder / name,
            one,
            description=xml,
            metadata=None,
            photometric="minisblack",
            compression=compression,
        )
    return pixels


@pytest.mark.parametrize("planes", [1, 3])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_of_several_ome_tiffs_the_image_of_the_one_that_was_named_is_read(
    tmp_path, planes, compression, caplog
):
    pixels = several_ome_tiffs(tmp_path, planes=planes, compression=compression)
    for n, expected in enumerate(pixels):
        found = read_image(tmp_path / f"pos{n}.ome.tif")
        np.testing.assert_array_equal(np.asarray(found.data[...]).reshape(expected.shape), expected)
        assert found.scale[-1] == 0.1 * (n + 1)
    assert "holds 2 images" not in caplog.text
    (tmp_path / "pos0.ome.tif").unlink()
    alone = read_image(tmp_path / "pos1.ome.tif")
    np.testing.assert_array_equal(np.asarray(alone.data[...]).reshape(pixels[1].shape), pixels[1])
    assert alone.scale[-1] == 0.2


def test_an_ome_tiff_whose_description_is_damaged_is_read_without_it(tmp_path, caplog):
    path = tmp_path / "a.ome.tif"
    xml = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image><Pixels a=b></Image></OME>'
    pixels = np.arange(216, dtype=np.uint8).reshape(3, 8, 9)
    tifffile.imwrite(path, pixels, description=xml, metadata=None, photometric="minisblack")
    found = read_image(path)
    np.testing.assert_array_equal(np.asarray(found.data[...]), pixels)
    assert found.scale is None and "the pixel size of a.ome.tif was not understood" in caplog.text


def test_an_ome_tiff_that_another_file_describes_is_refused(tmp_path):
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:b">'
        '<BinaryOnly MetadataFile="f0.ome.tif" UUID="urn:uuid:a"/></OME>'
    )
    path = tmp_path / "f1.ome.tif"
    tifffile.imwrite(
        path, np.zeros((3, 8, 9), np.uint8), description=xml, metadata=None, photometric="minisblack"
    )
    with pytest.raises(OSError, match=r"^f1\.ome\.tif holds a part of an image that f0\.ome\.tif describes"):
        read_image(path)


@pytest.mark.parametrize(
    ("unit", "seconds"),
    [("second", 2), ("minute", 120), ("day", 172800), ("microsecond", 2e-6), ("frame", None), (None, None)],
)
def test_the_time_between_frames_of_ome_zarr_is_in_seconds_or_unknown(tmp_path, unit, seconds):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("0", shape=(2, 4, 5), dtype=np.uint8)
    time = {"name": "t", "type": "time"} | ({"unit": unit} if unit else {})
    axes = [time, *({"name": name, "type": "space", "unit": "micrometer"} for name in "yx")]
    places = [{"type": "scale", "scale": [2, 0.25, 0.25]}, {"type": "translation", "translation": [4, 1, 1]}]
    group.attrs["multiscales"] = [
        {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": places}]}
    ]
    found = read_image(tmp_path / "a.zarr")
    assert (found.scale[0], found.translation[0]) == (
        (None, 0) if seconds is None else (pytest.approx(seconds), pytest.approx(2 * seconds))
    )
    assert found.scale[1:] == (0.25, 0.25) and found.translation[1:] == (1, 1)


def test_an_axis_that_is_neither_space_nor_time_has_no_size(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("0", shape=(2, 4, 5), dtype=np.uint8)
    axes = [{"name": "angle"}, *({"name": name, "type": "space", "unit": "micrometer"} for name in "yx")]
    places = [{"type": "scale", "scale": [15, 0.25, 0.25]}]
    group.attrs["multiscales"] = [
        {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": places}]}
    ]
    assert read_image(tmp_path / "a.zarr").scale == (None, 0.25, 0.25)


@pytest.mark.parametrize(
    ("told", "axes", "expected"),
    [
        ({"finterval": 5, "tunit": "min"}, "TYX", 300),
        ({"finterval": 5, "tunit": "ms"}, "TYX", 0.005),
        ({"finterval": 5}, "TYX", 5),
        ({"finterval": 5, "tunit": "fortnight"}, "TYX", None),
        ({"spacing": 300, "zunit": "nm"}, "ZYX", 0.3),
        ({"spacing": -0.5}, "ZYX", 0.5),
        ({"spacing": 0}, "ZYX", None),
    ],
)
def test_imagej_tells_units_axis_by_axis(tmp_path, told, axes, expected):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        np.zeros((3, 8, 9), np.uint8),
        imagej=True,
        resolution=(4, 4),
        metadata={"axes": axes, "unit": "um", **told},
    )
    found = read_image(path).scale
    assert found == (pytest.approx(expected) if expected else None, 0.25, 0.25)


def test_one_length_that_cannot_be_leaves_the_others(tmp_path, caplog):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.zeros((2, 4, 5), np.uint8), ome=True, metadata={"axes": "ZYX"})
    told = 'PhysicalSizeX="0.5" PhysicalSizeY="0.5" PhysicalSizeZ="0.0" '
    tifffile.tiffcomment(path, tifffile.tiffcomment(path).replace("<Pixels ", f"<Pixels {told}", 1))
    assert read_image(path).scale == (None, 0.5, 0.5)
    assert "the pixel size of a.ome.tif along Z was not understood: 0" in caplog.text


def test_a_grey_picture_that_moves_has_its_frames_first(tmp_path):
    from PIL import Image

    frames = [Image.fromarray(np.full((48, 64), n, np.uint8)) for n in (10, 200)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    found = read_image(tmp_path / "a.png")
    assert (found.axes, found.data.shape) == ("TYX", (2, 48, 64))


def ome_zarr(path, shape=(2, 4, 5), names="zyx", **image):
    group = zarr.open_group(path, mode="w", zarr_format=2)
    for name in "01":
        group.create_array(name, shape=shape, dtype=np.uint8)
    place = {"type": "scale", "scale": [2.0, *[0.5] * (len(shape) - 1)]}
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in names]
    datasets = [{"path": name, "coordinateTransformations": [place]} for name in "01"]
    group.attrs["multiscales"] = [{"axes": axes, "datasets": datasets} | image]
    return path


def test_lengths_of_ome_zarr_count_whatever_their_axes_are_called(tmp_path):
    found = read_image(ome_zarr(tmp_path / "i.zarr", names=("depth", "row", "column")))
    assert found.scale == (2, 0.5, 0.5) and found.unit == "micrometer"


@pytest.mark.parametrize(
    "odd",
    [
        {"coordinateTransformations": None},
        {"coordinateTransformations": [{"type": "scale", "path": "a"}]},
        {"axes": None},
    ],
)
def test_ome_zarr_is_read_though_what_it_tells_of_places_is_odd(tmp_path, odd):
    assert read_image(ome_zarr(tmp_path / "i.zarr", **odd)).data.shape == (2, 4, 5)


def test_one_magnification_of_ome_zarr_keeps_its_axes_and_size(tmp_path):
    found = read_image(ome_zarr(tmp_path / "i.zarr") / "1")
    assert found.axes == "ZYX" and found.scale == (2, 0.5, 0.5) and found.data.path == "1"
    lone = zarr.open_group(tmp_path / "plain.zarr", mode="w", zarr_format=2)
    lone.create_array("1", shape=(2, 4, 5), dtype=np.uint8)
    assert read_image(tmp_path / "plain.zarr" / "1").axes is None


def test_xarray_names_axes_in_zarr_of_version_2(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=(2, 3, 4, 5), dtype=np.uint8, zarr_format=2)
    array.attrs["_ARRAY_DIMENSIONS"] = ["c", "z", "y", "x"]
    assert read_image(tmp_path / "a.zarr").axes == "CZYX"
    array.attrs["_ARRAY_DIMENSIONS"] = ["channel", "z", "y", "x"]
    assert read_image(tmp_path / "a.zarr").axes is None


@pytest.mark.parametrize("name", ["a.zarr", "a.ozx"])
def test_a_zipped_zarr_is_known_by_its_first_bytes(tmp_path, name):
    with zarr.storage.ZipStore(tmp_path / name, mode="w") as store:
        zarr.create_array(store, shape=(4, 5), dtype=np.uint8)
    with pytest.raises(OSError, match="unzip it, and give the image in it"):
        read_image(tmp_path / name)
