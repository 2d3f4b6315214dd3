"""Data sets in the layouts in which they are published, made up here."""

from __future__ import annotations

import struct
import zlib

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.io import savemat
from skimage.io import imsave

from napari_interformer.crops import Picture
from napari_interformer.datasets import DATASETS, Sample, load, read, read_labels, split
from napari_interformer.label_files import write_labels

PICTURE = np.arange(20 * 24 * 3, dtype=np.uint8).reshape(20, 24, 3)
MASK = np.zeros((20, 24), np.uint8)
MASK[5:12, 6:15] = 1


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    imsave(path, pixels, check_contrast=False)


def test_a_folder_matches_tiff_and_png_by_name(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.tif", PICTURE[..., 0])
    save(tmp_path / "labels" / "a.png", MASK * 3)
    save(tmp_path / "images" / "b.png", PICTURE)
    tifffile.imwrite(tmp_path / "labels" / "b.tif", MASK.astype(np.uint16) * 300)
    a, b = load("folder", tmp_path)
    assert (a.name, a.image.shape, a.labels.max()) == ("a", (20, 24), 3)
    assert (b.name, b.image.shape, b.labels.max()) == ("b", (20, 24, 3), 300)


def test_dsb2018_has_kinds(tmp_path):
    for name, pixels in (("images", PICTURE), ("labels", MASK)):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "x.tif", pixels)
    (tmp_path / "index.csv").write_text("name,kind,height,width,objects\nx,tissue,20,24,1\n")
    (sample,) = load("dsb2018", tmp_path)
    assert sample.kind == "tissue"
    (tmp_path / "index.csv").write_text(
        "\ufeffname,kind\nx.tif,tissue\n", "utf-8"
    )  # as a spreadsheet saves it
    (sample,) = load("dsb2018", tmp_path)
    assert sample.kind == "tissue"
    (tmp_path / "index.csv").write_text("name,kind\ny,tissue\nx\n")  # the second one is cut off
    with pytest.raises(ValueError, match=r"index\.csv; x\.tif has none: add a row for each"):
        list(load("dsb2018", tmp_path))


def test_the_real_dsb2018_is_read_and_split_by_kind(shared):
    root = shared / "data" / "dsb2018"
    stems = [Sample(p.stem, MASK, MASK, kind) for p, kind in _kinds(root)]
    training, validation = split(stems, fraction=0.2)
    assert len(stems) == 563 and len(validation) == 112
    assert not {s.name for s in training} & {s.name for s in validation}
    for kind in {s.kind for s in stems}:
        count = sum(s.kind == kind for s in stems)
        assert sum(s.kind == kind for s in validation) == round(0.2 * count)
    first = next(iter(load("dsb2018", root)))
    assert first.image.shape[:2] == first.labels.shape and first.labels.max() > 1


def _kinds(root):
    import csv

    with (root / "index.csv").open() as file:
        return [(root / row["name"], row["kind"]) for row in csv.DictReader(file)]


def test_grabcut_ignores_the_band_at_the_border(tmp_path):
    band = MASK * 255
    band[4, 6:15] = 128
    save(tmp_path / "data_GT" / "cat.jpg", PICTURE)
    save(tmp_path / "boundary_GT" / "cat.bmp", band)
    (sample,) = load("grabcut", tmp_path)
    np.testing.assert_array_equal(sample.labels, MASK)
    assert sample.ignore.sum() == 9
    np.testing.assert_array_equal(sample.marked, np.where(band == 128, -1, MASK.astype(int)))


def test_berkeley_has_several_objects_of_an_image(tmp_path):
    save(tmp_path / "images" / "12003.jpg", PICTURE)
    for n in (1, 2):
        save(tmp_path / "masks" / f"12003#{n}.png", MASK * 255)
    assert [s.name for s in load("berkeley", tmp_path)] == ["12003#1", "12003#2"]
    assert {s.group for s in load("berkeley", tmp_path)} == {"12003"}


def test_berkeley_takes_images_named_as_their_masks_are(tmp_path):
    for n in (0, 1):
        save(tmp_path / "images" / f"100#{n}.png", PICTURE + n)
        save(tmp_path / "masks" / f"100#{n}.png", MASK * 255)
    first, second = load("berkeley", tmp_path)
    np.testing.assert_array_equal(first.image + 1, second.image)
    assert first.group == second.group == "100", "they are of one photograph"


def test_davis_joins_the_objects_of_a_frame(tmp_path):
    coloured = np.zeros((20, 24, 3), np.uint8)
    coloured[MASK > 0] = (128, 0, 0)
    coloured[0, 0] = (0, 128, 0)
    save(tmp_path / "img" / "bear.jpg", PICTURE)
    save(tmp_path / "gt" / "bear.png", coloured)
    (sample,) = load("davis", tmp_path)
    assert sample.labels.sum() == MASK.sum() + 1


def test_of_several_ome_tiffs_each_gives_its_own_image(tmp_path):
    from test_image_files import several_ome_tiffs

    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    pixels = several_ome_tiffs(tmp_path / "images", planes=1, compression=None)
    for n in (0, 1):
        save(tmp_path / "labels" / f"pos{n}.tif", np.pad(MASK, ((0, 20), (0, 26))))
    for sample, expected in zip(load("folder", tmp_path), pixels, strict=True):
        np.testing.assert_array_equal(sample.image, expected[0])


def test_all_masks_of_a_frame_of_davis_count(tmp_path):
    save(tmp_path / "img" / "bear.jpg", PICTURE)
    for number, part in enumerate((np.s_[:, :7], np.s_[:, 7:])):
        seen = np.zeros_like(MASK)
        seen[part] = MASK[part]
        save(tmp_path / "gt" / f"bear#{number}.png", seen)
    (sample,) = load("davis", tmp_path)
    np.testing.assert_array_equal(sample.labels, MASK)


def test_masks_of_davis_may_have_a_number(tmp_path):
    save(tmp_path / "img" / "bear.jpg", PICTURE)
    save(tmp_path / "gt" / "bear#001.png", MASK)
    (sample,) = load("davis", tmp_path)
    assert sample.name == "bear"
    np.testing.assert_array_equal(sample.labels, MASK)


def test_sbd_has_an_object_for_each_instance(tmp_path):
    save(tmp_path / "img" / "2008_1.jpg", PICTURE)
    (tmp_path / "inst").mkdir()
    savemat(tmp_path / "inst" / "2008_1.mat", {"GTinst": {"Segmentation": MASK * 2}})
    (tmp_path / "val.txt").write_text("2008_1\n")
    (sample,) = load("sbd", tmp_path)
    assert set(np.unique(sample.labels)) == {0, 2}


def test_the_split_is_the_same_whatever_the_order_and_in_every_run():
    everything = [Sample(f"s{i}", MASK, MASK, kind=str(i % 3)) for i in range(30)]
    names = {s.name for s in split(everything, fraction=0.2)[1]}
    assert names == {s.name for s in split(everything[::-1], fraction=0.2)[1]}
    assert names == {"s7", "s13", "s20", "s21", "s23", "s27"}, (
        "what models were trained without stays out for good"
    )


def test_names_alone_say_nothing_of_what_belongs_together():
    plate = [Sample(f"plate#{i}", MASK, MASK) for i in range(10)]
    assert [len(part) for part in split(plate, fraction=0.2)] == [8, 2]


def test_pixels_without_a_value_count_for_nothing():
    image = np.ones(MASK.shape, np.float32)
    assert (Sample("x", image, MASK).marked == MASK).all()
    image[:8], ignore = np.nan, np.zeros(MASK.shape, bool)
    ignore[:, :3] = True
    marked = Sample("x", image, MASK, ignore=ignore).marked
    assert (marked[:8] == -1).all() and (marked[:, :3] == -1).all() and (marked[8:, 3:] == MASK[8:, 3:]).all()


def test_samples_of_one_group_are_split_together():
    pixels = np.zeros((2, 2), np.uint8)
    samples = [Sample(f"{n}#{i}", pixels, pixels, group=str(n)) for n in range(10) for i in range(3)]
    learnt, kept = ({sample.name.split("#")[0] for sample in part} for part in split(samples, fraction=0.3))
    assert len(learnt) == 7 and len(kept) == 3 and not learnt & kept


@pytest.mark.parametrize("name", DATASETS)
def test_a_folder_without_the_layout_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=rf"the layout of '{name}': .+ is missing\. It needs \S+") as told:
        list(load(name, tmp_path))
    assert str(told.value).count(str(tmp_path)) == 1


def test_a_damaged_image_is_named(tmp_path):
    for name in ("images", "labels"):
        save(tmp_path / name / "a.png", MASK)
    (tmp_path / "images" / "a.png").write_bytes(b"this is text")
    with pytest.raises(OSError, match=r"a\.png cannot be read as an image"):
        list(load("folder", tmp_path))


@pytest.mark.parametrize("part", ["images", "labels"])
@pytest.mark.parametrize(
    ("axes", "shape"), [("ZYX", (5, 20, 24)), ("CYX", (3, 20, 24)), ("ZYXS", (5, 20, 24, 3))]
)
def test_a_stack_is_refused_and_named(part, axes, shape, tmp_path):
    for name in ("images", "labels"):
        save(tmp_path / name / "a.png", MASK)
    (tmp_path / part / "a.png").unlink()
    tifffile.imwrite(
        tmp_path / part / "a.tif", np.zeros(shape, np.uint8), imagej=True, metadata={"axes": axes}
    )
    size = " x ".join(map(str, shape))
    with pytest.raises(ValueError, match=rf"a\.tif has {size} \({axes}\): save each plane"):
        list(load("folder", tmp_path))


@pytest.mark.parametrize("part", ["images", "labels"])
def test_a_stack_that_was_written_plane_by_plane_is_refused(part, tmp_path):
    for name in ("images", "labels"):
        save(tmp_path / name / "a.png", MASK)
    (tmp_path / part / "a.png").unlink()
    with tifffile.TiffWriter(tmp_path / part / "a.tif") as writer:
        for _ in range(5):
            writer.write(np.zeros((20, 24), np.uint8), photometric="minisblack")
    with pytest.raises(ValueError, match=r"a\.tif has 5 x 20 x 24 .*save each plane"):
        list(load("folder", tmp_path))


def test_colours_that_lie_apart_and_a_single_plane_are_images(tmp_path):
    for name in "ab":
        save(tmp_path / "labels" / f"{name}.png", MASK)
    (tmp_path / "images").mkdir()
    colours = np.moveaxis(PICTURE, 2, 0)
    tifffile.imwrite(tmp_path / "images" / "a.tif", colours, photometric="rgb", planarconfig="separate")
    tifffile.imwrite(tmp_path / "images" / "b.tif", PICTURE[None, :, :, 0], photometric="minisblack")
    a, b = load("folder", tmp_path)
    np.testing.assert_array_equal(a.image, PICTURE)
    np.testing.assert_array_equal(b.image, PICTURE[..., 0])


def test_transparency_is_no_pixel(tmp_path):
    for name, pixels in (("images", PICTURE[..., 0]), ("labels", MASK * 7)):
        (tmp_path / name).mkdir()
        iio.imwrite(
            tmp_path / name / "a.png", np.stack([pixels, np.full_like(pixels, 128)], axis=-1), mode="LA"
        )
    (sample,) = load("folder", tmp_path)
    np.testing.assert_array_equal(sample.image, PICTURE[..., 0])
    np.testing.assert_array_equal(sample.labels, MASK * 7)


def test_labels_with_a_palette_are_its_numbers_and_images_its_colours(tmp_path):
    labels = MASK.copy()
    labels[15:, 18:] = 2
    palette = [0, 0, 0, 0, 255, 0, 0, 0, 255]  # without red
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        picture = Image.fromarray(labels)
        picture.putpalette(palette)
        picture.save(tmp_path / name / "a.png")
    (sample,) = load("folder", tmp_path)
    np.testing.assert_array_equal(sample.labels, labels)
    np.testing.assert_array_equal(sample.image, np.array(palette, np.uint8).reshape(3, 3)[labels])


def test_a_tiff_with_a_palette_is_its_numbers_and_says_so(tmp_path, caplog):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        colours = np.zeros((3, 256), np.uint16)
        tifffile.imwrite(tmp_path / name / "a.tif", MASK, photometric="palette", colormap=colours)
    (sample,) = load("folder", tmp_path)
    np.testing.assert_array_equal(sample.image, MASK)
    (told,) = caplog.messages
    assert "a.tif is meant to be shown in colours from its palette" in told


def test_labels_of_many_colours_are_refused(tmp_path):
    for name in ("images", "labels"):
        save(tmp_path / name / "a.png", np.stack([MASK * 9] * 3, axis=-1))
    (sample,) = load("folder", tmp_path)
    np.testing.assert_array_equal(sample.labels, MASK * 9)
    save(tmp_path / "labels" / "a.png", PICTURE)
    with pytest.raises(ValueError, match=r"a\.png has colours: save it as grayscale"):
        list(load("folder", tmp_path))


def test_sizes_must_agree(tmp_path):
    save(tmp_path / "images" / "a.png", PICTURE)
    save(tmp_path / "labels" / "a.png", MASK[:5])
    with pytest.raises(ValueError, match="the size of its image"):
        list(load("folder", tmp_path))


def test_images_without_labels_are_refused_and_named(tmp_path):
    for name in "abcdef":
        save(tmp_path / "images" / f"{name}.png", PICTURE)
    save(tmp_path / "labels" / "b.png", MASK)
    with pytest.raises(ValueError, match=r"1 of 6 have one: a\.png, c\.png, d\.png and 2 more have none"):
        list(load("folder", tmp_path))


def test_a_folder_with_files_of_another_kind_is_not_called_missing(tmp_path):
    save(tmp_path / "images" / "a.png", PICTURE)
    (tmp_path / "labels").mkdir()
    np.save(tmp_path / "labels" / "a.npy", MASK)
    with pytest.raises(ValueError, match=r"as TIFF or PNG .*labels holds none"):
        list(load("folder", tmp_path))


def test_ome_tiff_has_the_name_of_its_image_and_two_of_a_name_are_refused(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.tif", PICTURE)
    tifffile.imwrite(tmp_path / "labels" / "a.ome.tif", MASK)
    (sample,) = load("folder", tmp_path)
    assert sample.name == "a"
    save(tmp_path / "images" / "a.png", PICTURE)
    with pytest.raises(ValueError, match=r"images holds a\.png and a\.tif: remove one"):
        list(load("folder", tmp_path))


def test_what_a_mac_leaves_beside_files_is_no_image(tmp_path):
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        iio.imwrite(tmp_path / part / "a.png", np.ones((8, 9), np.uint8))
        (tmp_path / part / "._a.png").write_bytes(b"Mac OS X")
    assert [sample.name for sample in load("folder", tmp_path)] == ["a"]


def test_images_of_one_bit_have_truth_values(tmp_path):
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    square = np.pad(np.ones((4, 4), bool), 4)
    Image.fromarray(square).save(tmp_path / "images" / "a.png")
    iio.imwrite(tmp_path / "labels" / "a.png", square.astype(np.uint8))
    (sample,) = load("folder", tmp_path)
    assert sample.image.dtype == bool and sample.image.view(np.uint8).max() == 1


def test_labels_as_jpeg_are_refused(tmp_path):
    save(tmp_path / "images" / "a.png", PICTURE)
    save(tmp_path / "labels" / "a.jpg", MASK * 255)
    with pytest.raises(ValueError, match=r"which JPEG changes; got .*a\.jpg: save the labels as TIFF or PNG"):
        list(load("folder", tmp_path))


@pytest.mark.parametrize("wrong", [-1, 0.5, np.nan, np.inf, 2**63])
def test_labels_take_whole_numbers_from_0(wrong, tmp_path):
    (tmp_path / "labels").mkdir()
    save(tmp_path / "images" / "a.png", PICTURE)
    labels = MASK.astype(np.uint64 if wrong == 2**63 else np.float32)
    tifffile.imwrite(tmp_path / "labels" / "a.tif", labels)
    assert next(load("folder", tmp_path)).labels.max() == 1
    labels[0, 0] = wrong
    tifffile.imwrite(tmp_path / "labels" / "a.tif", labels)
    with pytest.raises(ValueError, match=rf"whole numbers from 0.*a\.tif has {wrong}"):
        list(load("folder", tmp_path))


def test_labels_are_as_large_as_a_label_image_can_hold_them(tmp_path):
    save(tmp_path / "images" / "a.png", PICTURE)
    (tmp_path / "labels").mkdir()
    write_labels(tmp_path / "labels" / "a.tif", np.where(MASK > 0, 2**32 - 1, 0))
    (sample,) = load("folder", tmp_path)
    assert sample.labels.max() == 2**32 - 1
    np.testing.assert_array_equal(Picture(sample.image, sample.marked).labels, MASK)


def test_a_number_for_each_class_is_told(tmp_path, caplog):
    squares = np.zeros((60, 60), np.uint8)
    for number, (y, x) in enumerate(np.ndindex(5, 5)):
        squares[12 * y : 12 * y + 9, 12 * x : 12 * x + 9] = 1 + number % 2
    objects = np.where(squares > 0, np.arange(60)[:, None] // 12 * 5 + np.arange(60) // 12 + 1, 0)
    for name, labels in (("classes", squares), ("objects", objects.astype(np.uint8))):
        save(tmp_path / "images" / f"{name}.png", squares * 100)
        save(tmp_path / "labels" / f"{name}.png", labels)
    list(load("folder", tmp_path))
    (told,) = caplog.messages
    assert told.startswith("classes.png in ") and "have the same number" in told


def test_a_mask_of_several_objects_is_told_once(tmp_path, caplog):
    pieces = MASK.copy()
    pieces[17:, 18:] = 1
    for name, labels in {
        "one": MASK * 255,
        "mask": pieces * 255,
        "bool": pieces > 0,
        "two": pieces + MASK,
    }.items():
        save(tmp_path / "images" / f"{name}.png", PICTURE)
        (tmp_path / "labels").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "labels" / f"{name}.tif", labels)
    assert len(list(load("folder", tmp_path))) == 4
    (told,) = caplog.messages
    assert told.startswith("bool.tif, mask.tif in ") and "skimage.measure.label" in told


def test_an_unknown_data_set_lists_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="grabcut"):
        list(load("coco", tmp_path))


@pytest.mark.parametrize("kind", ["LA", "RGB", "RGBA"])
def test_labels_of_which_a_reader_would_keep_half_are_refused(tmp_path, kind):
    numbers = np.array([[0, 3], [300, 301]], np.uint16)
    path = tmp_path / "labels.png"
    path.write_bytes(png16(np.stack([numbers] * len(kind), axis=-1)))
    with pytest.raises(ValueError, match=r"labels\.png has 16 bits with colour or alpha"):
        read_labels(path)
    iio.imwrite(path, numbers)
    np.testing.assert_array_equal(read_labels(path), numbers)


def png16(pixels):
    """Return a PNG of 16 bits and several numbers a pixel, which Pillow does not write."""
    height, width, count = pixels.shape
    kind = {2: 4, 3: 2, 4: 6}[count]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def part(name, content):
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")
    )


def test_ink_is_seen_as_the_colours_that_it_makes(tmp_path):
    picture = Image.new("RGB", (16, 16), (240, 235, 245))
    picture.convert("CMYK").save(tmp_path / "ink.jpg", quality=100)
    assert np.abs(read(tmp_path / "ink.jpg").astype(int) - (240, 235, 245)).max() < 4


def test_a_pixel_without_a_value_in_one_channel_does_not_count():
    image = PICTURE.astype(np.float32)
    image[6, 7, 1] = np.nan
    marked = Sample("a", image, MASK).marked
    assert np.argwhere(marked < 0).tolist() == [[6, 7]] and marked[5, 6] == 1


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("part", ["images", "labels"])
def test_grey_channels_side_by_side_are_not_left_out_without_a_word(tmp_path, rng, channels, part):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        pixels = rng.integers(0, 9, (20, 24, channels) if folder == part else (20, 24)).astype(np.uint16)
        tifffile.imwrite(tmp_path / folder / "a.tif", pixels, photometric="minisblack", planarconfig="contig")
    with pytest.raises(ValueError, match=rf"a\.tif has 20 x 24 x {channels} \(YXC\): save each plane"):
        list(load("folder", tmp_path))


@pytest.mark.parametrize("part", ["images", "labels"])
def test_complex_numbers_are_refused_and_their_file_named(tmp_path, part):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        kind = np.complex64 if folder == part else np.uint8
        tifffile.imwrite(tmp_path / folder / "a.tif", np.ones((20, 24), kind))
    with pytest.raises(ValueError, match=rf"real numbers; .*{part}.a\.tif has complex64"):
        list(load("folder", tmp_path))


def test_a_png_that_is_called_tif_is_a_png(tmp_path, rng):
    pixels = rng.integers(0, 9, (20, 24)).astype(np.uint8)
    iio.imwrite(tmp_path / "a.png", pixels)
    (tmp_path / "a.png").rename(tmp_path / "a.tif")
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), pixels)
