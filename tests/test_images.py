"""Images in files: whatever Pillow, numpy and tifffile read comes out as bands first, and the rest in one line."""

import re
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from composer.cli.images import Raster, read_raster
from composer.cli.inputs import (
    PretrainedStats,
    infer_full_scale,
    normalize_bands,
    parse_bands,
    render_preview,
    select_bands,
    select_preview_bands,
)
from composer.cli.terminal import UsageError, check_writable, write_output_file

RED, GREEN, CLEAR = (200, 10, 20), (30, 180, 40), (0, 0, 255, 0)


def picture(file: Path, mode: str = "RGB", **options) -> str:
    """A picture of 2 × 3 pixels, the left one red and the others green, in any of Pillow's modes."""
    image = Image.new("RGB", (3, 2), GREEN)
    image.putpixel((0, 0), RED)
    image.putpixel((0, 1), RED)
    image.convert(mode, palette=Image.Palette.ADAPTIVE).save(file, **options)
    return str(file)


def made(values) -> Raster:
    array = np.asarray(values)
    return Raster("x.npy", array, ~np.isfinite(array))


def pixel(values, row=0, column=0):
    return values[:, row, column].tolist()


class TestPictures:
    @pytest.mark.parametrize("mode", ["RGB", "P", "RGBA", "CMYK"])
    def test_colours_come_out_of_every_mode(self, tmp_path, mode):
        read = read_raster(picture(tmp_path / ("x.tif" if mode == "CMYK" else "x.png"), mode), 3)
        assert read.values.shape == (3, 2, 3)
        assert (pixel(read.values), pixel(read.values, 0, 2)) == (list(RED), list(GREEN))
        assert read.values.dtype == np.uint8
        assert not read.missing.any()

    @pytest.mark.parametrize(("mode", "expected"), [("L", [[68, 119, 119]] * 2), ("1", [[0, 255, 255]] * 2)])
    def test_grey_has_one_band(self, tmp_path, mode, expected):
        file = tmp_path / "x.png"
        image = Image.open(picture(tmp_path / "colour.png")).convert("L")
        (image.point(lambda level: 255 * (level > 100)).convert("1") if mode == "1" else image).save(file)
        assert read_raster(str(file), 3).values.tolist() == [expected]

    def test_sixteen_bits_are_kept(self, tmp_path):
        Image.fromarray(np.array([[0, 40000], [65535, 7]], np.uint16)).save(tmp_path / "x.png")
        assert read_raster(str(tmp_path / "x.png"), 1).values.tolist() == [[[0, 40000], [65535, 7]]]

    def test_a_photograph_is_turned_upright(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned: rows are columns
        read = read_raster(picture(tmp_path / "x.png", exif=exif), 3)
        assert read.values.shape == (3, 3, 2)
        assert [pixel(read.values, row) for row in range(3)] == [list(RED), list(GREEN), list(GREEN)]
        assert read.remarks == ("turned upright, as its EXIF orientation says",)

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
    def test_what_is_transparent_is_white(self, tmp_path, mode):
        image = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
        image.putpixel((1, 0), CLEAR)
        image.convert(mode).save(tmp_path / "x.png", **({"transparency": 0} if mode == "P" else {}))
        read = read_raster(str(tmp_path / "x.png"), 3)
        assert read.values[..., 0, 1 if mode != "P" else 0].tolist() == [255] * (1 if mode == "LA" else 3)
        assert read.remarks == ("transparent pixels laid over white",)

    def test_alpha_is_a_band_where_four_are_asked_for(self, tmp_path):
        Image.new("RGBA", (2, 1), (1, 2, 3, 4)).save(tmp_path / "x.png")
        read = read_raster(str(tmp_path / "x.png"), 4)
        assert (pixel(read.values), read.remarks) == ([1, 2, 3, 4], ("alpha counts as band 4",))

    def test_of_a_moving_picture_the_first_frame_is_taken_and_that_is_said(self, tmp_path):
        first, second = Image.new("RGB", (2, 1), RED), Image.new("RGB", (2, 1), GREEN)
        first.save(tmp_path / "x.png", save_all=True, append_images=[second])
        read = read_raster(str(tmp_path / "x.png"), 3)
        assert (pixel(read.values), read.remarks) == (list(RED), ("the first of its 2 frames",))


class TestArrays:
    @pytest.mark.parametrize(
        ("shape", "channels", "picked", "expected"),
        [
            pytest.param((6, 4, 5), 6, False, (6, 4, 5), id="bands first"),
            pytest.param((4, 5, 6), 6, False, (6, 4, 5), id="bands last"),
            pytest.param((4, 5), 1, False, (1, 4, 5), id="no axis for one band"),
            pytest.param((2, 40, 50), 3, False, (2, 40, 50), id="neither fits: the shorter"),
            pytest.param((10, 40, 50), 50, True, (10, 40, 50), id="picked: the shorter, first"),
            pytest.param((40, 50, 10), 40, True, (10, 40, 50), id="picked: the shorter, last"),
        ],
    )
    def test_the_axis_of_the_bands(self, tmp_path, shape, channels, picked, expected):
        values = np.arange(np.prod(shape)).reshape(shape)
        np.save(tmp_path / "x.npy", values)
        read = read_raster(str(tmp_path / "x.npy"), channels, picked=picked)
        assert read.values.shape == expected
        assert pixel(read.values)[0] == 0
        assert read.values.ravel()[-1] == values.ravel()[-1]

    def test_frames_go_behind_the_bands(self, tmp_path):
        np.save(tmp_path / "x.npy", np.arange(3 * 2 * 4 * 5).reshape(3, 2, 4, 5))
        read = read_raster(str(tmp_path / "x.npy"), 2, 3)
        assert read.values.shape == (2, 3, 4, 5)
        assert read.values[:, :, 0, 0].tolist() == [[0, 40, 80], [20, 60, 100]]

    @pytest.mark.parametrize(
        ("array", "frames", "message"),
        [
            pytest.param(
                np.zeros((3, 9, 3)),
                None,
                "both the first and the last axis of 3 × 9 × 3 could be the bands; "
                "crop or pad the image so that only one can.",
                id="ambiguous",
            ),
            pytest.param(np.zeros(5), None, "an image is an array (bands, height, width) (this is 5).", id="one axis"),
            pytest.param(
                np.zeros((2, 3, 4, 4)),
                4,
                "the model takes 4 frames, as an array (4, bands, height, width) (this is 2 × 3 × 4 × 4).",
                id="frames",
            ),
            pytest.param(
                np.zeros((3, 4, 4), complex),
                None,
                "an image holds numbers (this holds complex128, shape 3 × 4 × 4).",
                id="complex",
            ),
            pytest.param(
                np.zeros((3, 0, 4)), None, "an image holds numbers (this holds float64, shape 3 × 0 × 4).", id="empty"
            ),
            pytest.param(
                np.array([None, {}], object),
                None,
                "an image holds numbers (this holds objects of Python).",
                id="pickles are not opened",
            ),
        ],
    )
    def test_what_is_no_image_is_refused(self, tmp_path, array, frames, message):
        file = str(tmp_path / "x.npy")
        np.save(file, array, allow_pickle=True)
        with pytest.raises(UsageError, match=f"^{re.escape(f'{file}: {message}')}$"):
            read_raster(file, 3, frames)


COLOURS = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 9)]).astype(np.uint16) * 256
"""A palette: entry i is the colour (i, 255 - i, 9)."""

SIXTEEN = np.array(
    [[[0, 65535, 40000], [1, 255, 256], [257, 12345, 54321]], [[7, 8, 9], [65534, 511, 2], [30000, 30001, 30002]]],
    np.uint16,
)
"""A picture of 2 × 3 pixels, whose colours differ in their low bytes too."""


def png16(file, values, interlaced=False, orientation=None):
    """A PNG of 16 bits, which Pillow cannot write: values (height, width, 2, 3 or 4), each row with another filter."""
    height, width, bands = values.shape
    passes = ADAM7 if interlaced else [(0, 0, 1, 1)]
    data = b"".join(filtered(values[top::down, left::across]) for top, left, down, across in passes)
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[bands], 0, 0, interlaced)
    exif = (
        b"" if orientation is None else b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation, 0, 0])
    )
    chunks = [(b"IHDR", header), *([(b"eXIf", exif + bytes(4))] if exif else [])]
    chunks += [(b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    body = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))
    return str(file)


ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
"""The passes of an interlaced PNG: first row and column, and the steps."""


def filtered(values):
    """Rows of a PNG: the first as it is, the others as differences to the pixel on the left."""
    if 0 in values.shape:
        return b""
    rows = np.ascontiguousarray(values.astype(">u2")).view(np.uint8).reshape(*values.shape[:2], -1)
    left = np.concatenate([np.zeros_like(rows[:, :1]), rows[:, :-1]], axis=1)
    return b"".join(
        bytes([index > 0]) + (row - before if index else row).tobytes()
        for index, (row, before) in enumerate(zip(rows, left, strict=True))
    )


class TestSixteenBits:
    @pytest.mark.parametrize("interlaced", [False, True], ids=["plain", "interlaced"])
    def test_of_a_png(self, tmp_path, interlaced):
        read = read_raster(png16(tmp_path / "x.png", SIXTEEN, interlaced), 3)
        assert read.values.dtype == np.uint16
        assert np.array_equal(read.values, SIXTEEN.transpose(2, 0, 1))
        assert (read.remarks, read.white) == ((), 65535)

    @pytest.mark.parametrize("bands", [2, 4])
    def test_alpha_is_a_band_where_it_is_asked_for(self, tmp_path, bands):
        values = np.concatenate([SIXTEEN, SIXTEEN[::-1]], axis=2)[..., :bands]
        read = read_raster(png16(tmp_path / "x.png", values), bands)
        assert np.array_equal(read.values, values.transpose(2, 0, 1))
        assert read.remarks == (f"alpha counts as band {bands}",)

    @pytest.mark.parametrize("colours", [1, 3])
    def test_what_is_transparent_is_white(self, tmp_path, colours):
        alpha = np.array([[[65535], [0], [13107]]], np.uint16)  # opaque, clear, a fifth
        values = np.concatenate([np.full((1, 3, colours), 1000, np.uint16), alpha], axis=2)
        read = read_raster(png16(tmp_path / "x.png", values), colours)
        assert read.values.tolist() == [[[1000, 65535, 52628]]] * colours
        assert read.remarks == ("transparent pixels laid over white",)

    def test_a_png_is_turned_upright(self, tmp_path):
        read = read_raster(png16(tmp_path / "x.png", SIXTEEN, orientation=6), 3)
        assert np.array_equal(read.values, np.rot90(SIXTEEN, -1).transpose(2, 0, 1))
        assert read.remarks == ("turned upright, as its EXIF orientation says",)

    @pytest.mark.parametrize(("kind", "bands", "white"), [("P6", 3, 65535), ("P6", 3, 60000), ("P5", 1, 65535)])
    def test_of_a_ppm(self, tmp_path, kind, bands, white):
        values = SIXTEEN[..., :bands].clip(max=white)
        (tmp_path / "x.ppm").write_bytes(f"{kind}\n3 2\n# here\n{white}\n".encode() + values.astype(">u2").tobytes())
        read = read_raster(str(tmp_path / "x.ppm"), bands)
        assert np.array_equal(read.values, values.transpose(2, 0, 1))
        assert read.white == (white if bands == 3 else None)

    def test_they_are_normalised_from_0_to_white(self):
        published = PretrainedStats("encoder", (0.5, 0.4, 0.25), (0.5, 0.2, 0.25))
        values = np.array([[[0, 65535]]] * 3, np.uint16)
        result, how = normalize_bands(values, np.zeros(values.shape, bool), published, "image", 65535)
        assert result.tolist() == pytest.approx(np.array([[[-1, 1]], [[-2, 3]], [[-1, 3]]]))
        assert how.startswith("values 0 to 65535, normalised for encoder")

    def test_they_are_shown_from_0_to_white(self):
        image = Raster("x.png", np.array([[[0, 257, 65535]]] * 3, np.uint16), np.zeros((3, 1, 3), bool), (), 65535)
        assert render_preview(image, (1, 2, 3)).tolist() == [[[0] * 3, [1] * 3, [255] * 3]]

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("x.ppm", b"P3\n2 1\n65535\n1 2 3 4 5 6\n"),
            # An SGI picture: no compression, 2 bytes, 3 axes, 2 × 1 × 3.
            ("x.rgb", struct.pack(">hBBHHHH", 474, 0, 2, 3, 2, 1, 3).ljust(512, b"\0") + bytes(12)),
        ],
        ids=["text", "sgi"],
    )
    def test_what_pillow_would_cut_is_refused(self, tmp_path, name, content):
        file = tmp_path / name
        file.write_bytes(content)
        said = f"{file}: its colours have more than 8 bits, which cannot be read here; save it as TIFF or .npy."
        with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
            read_raster(str(file), 3)

    def test_16_bits_for_all_three_colours_together_are_read(self, tmp_path):
        """A BMP of 5, 5 and 5 bits."""
        header = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 58, 0, 0, 54, 40, 2, 1, 1, 16, 0, 4, 0, 0, 0, 0)
        (tmp_path / "x.bmp").write_bytes(header + struct.pack("<HH", 0b0111110000000000, 0b0000000000011111))
        assert read_raster(str(tmp_path / "x.bmp"), 3).values.tolist() == [[[255, 0]], [[0, 0]], [[0, 255]]]

    def test_jpeg_2000_of_12_bits_is_refused(self, tmp_path):
        file = tmp_path / "x.jp2"
        Image.new("RGB", (4, 5)).save(file)
        content = bytearray(file.read_bytes())
        size = content.find(b"\xff\x4f\xff\x51") + 42
        content[size : size + 9 : 3] = bytes([11]) * 3  # 12 bits
        file.write_bytes(content)
        said = f"{file}: its colours have more than 8 bits, which cannot be read here; save it as TIFF or .npy."
        with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
            read_raster(str(file), 3)


INSIDE = np.ones((4, 5), bool)
INSIDE[0, :3] = False
"""A mask, of which three pixels are outside."""


def tiff(file, values, mask=None, nodata=None, **options):
    """A TIFF of values (height, width), (height, width, bands) or (bands, height, width), as GDAL would write it."""
    tifffile = pytest.importorskip("tifffile")
    tags = list(options.pop("extratags", []))
    if nodata is not None:
        tags.append((42113, "s", 0, nodata, True))
    with tifffile.TiffWriter(file) as writer:
        writer.write(values, metadata=None, extratags=tags, **options)
        if mask is not None:
            writer.write(mask, metadata=None, photometric="mask", subfiletype=4, bitspersample=1)
    return str(file)


class TestTiffOfEveryKind:
    """Bit depths, colours, planes, masks and marks of no data: the values are those that GDAL reads from such files."""

    @pytest.mark.parametrize("bands", [1, 3, 5])
    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32], ids=lambda dtype: dtype.__name__)
    def test_what_is_outside_of_the_mask_is_missing(self, tmp_path, dtype, bands):
        values = np.arange(20 * bands).reshape(4, 5, bands).astype(dtype)
        colours = "rgb" if bands == 3 else "minisblack"
        planes = {} if bands == 1 else {"planarconfig": "contig"}
        file = tiff(tmp_path / "x.tif", values[..., 0] if bands == 1 else values, INSIDE, photometric=colours, **planes)
        read = read_raster(file, bands)
        assert np.array_equal(read.values, values.transpose(2, 0, 1))
        assert np.array_equal(read.missing, np.broadcast_to(~INSIDE, (bands, 4, 5)))
        assert read.remarks == ()

    def test_a_mask_goes_with_no_data_and_overviews(self, tmp_path):
        tifffile = pytest.importorskip("tifffile")
        values = np.arange(20, dtype=np.uint8).reshape(4, 5)
        with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
            writer.write(values, metadata=None, photometric="minisblack", extratags=[(42113, "s", 0, "19", True)])
            writer.write(values[::2, ::2], metadata=None, photometric="minisblack", subfiletype=1)
            writer.write(INSIDE[::2, ::2], metadata=None, photometric="mask", subfiletype=5, bitspersample=1)
            writer.write(INSIDE, metadata=None, photometric="mask", subfiletype=4, bitspersample=1)
        read = read_raster(str(tmp_path / "x.tif"), 1)
        assert np.array_equal(read.values[0], values)
        assert np.array_equal(read.missing[0], ~INSIDE | (values == 19))
        assert read.remarks == ()

    @pytest.mark.parametrize("planes", ["contig", "separate"])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=lambda dtype: dtype.__name__)
    def test_no_data_is_missing_at_every_depth(self, tmp_path, dtype, planes):
        values = np.arange(60, dtype=dtype).reshape(4, 5, 3)
        stored = values if planes == "contig" else values.transpose(2, 0, 1)
        read = read_raster(tiff(tmp_path / "x.tif", stored, nodata="7", photometric="rgb", planarconfig=planes), 3)
        assert np.array_equal(read.values, values.transpose(2, 0, 1))
        assert np.array_equal(read.missing, read.values == 7)

    @pytest.mark.parametrize("nodata", [None, "2"], ids=["plain", "nodata"])
    @pytest.mark.parametrize("planes", ["contig", "separate"])
    @pytest.mark.parametrize(
        ("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535), (np.uint32, 4294967295)], ids=["8", "16", "32"]
    )
    def test_where_zero_is_white_the_image_is_inverted(self, tmp_path, dtype, white, planes, nodata):
        values = np.array([[0, 1, 2, white]], dtype)
        file = tiff(tmp_path / "x.tif", values, nodata=nodata, photometric="miniswhite", planarconfig=planes)
        read = read_raster(file, 1)
        assert read.values.tolist() == [[[white, white - 1, white - 2, 0]]]
        assert read.missing.tolist() == [[[False, False, nodata is not None, False]]]
        assert read.remarks == ("inverted, because its zero is white",)

    @pytest.mark.parametrize("dtype", [np.int16, np.float32], ids=lambda dtype: dtype.__name__)
    def test_numbers_that_are_no_brightness_are_not_inverted(self, tmp_path, dtype):
        read = read_raster(tiff(tmp_path / "x.tif", np.array([[-1, 2]], dtype), photometric="miniswhite"), 1)
        assert (read.values.tolist(), read.remarks) == ([[[-1, 2]]], ())

    @pytest.mark.parametrize(
        ("more", "missing"),
        [
            ({}, [False] * 4),
            ({"nodata": "3"}, [False, True, False, False]),
            ({"mask": True}, [True, False, True, False]),
        ],
        ids=["plain", "nodata", "mask"],
    )
    def test_a_palette_is_resolved(self, tmp_path, more, missing):
        values = np.array([[0, 3, 200, 255]], np.uint8)
        more = {**more, **({"mask": np.array([[False, True, False, True]])} if "mask" in more else {})}
        read = read_raster(tiff(tmp_path / "x.tif", values, photometric="palette", colormap=COLOURS, **more), 3)
        assert read.values.tolist() == [[[0, 3, 200, 255]], [[255, 252, 55, 0]], [[9] * 4]]
        assert read.missing.tolist() == [[missing]] * 3

    @pytest.mark.parametrize("mask", [None, np.array([[True, True, False]])], ids=["plain", "mask"])
    def test_one_bit_is_black_or_white(self, tmp_path, mask):
        file = tiff(
            tmp_path / "x.tif", np.array([[True, False, True]]), mask, bitspersample=1, photometric="minisblack"
        )
        read = read_raster(file, 1)
        assert read.values.tolist() == [[[255, 0, 255]]]
        assert read.missing.tolist() == [[[False, False, mask is not None]]]

    def test_a_fourth_band_that_is_not_alpha_is_kept(self, tmp_path):
        values = np.arange(80, dtype=np.uint8).reshape(4, 5, 4)
        file = tiff(tmp_path / "x.tif", values, photometric="rgb", extrasamples=["unspecified"], planarconfig="contig")
        assert np.array_equal(read_raster(file, 4).values, values.transpose(2, 0, 1))

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=lambda dtype: dtype.__name__)
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_every_depth_is_turned_upright(self, tmp_path, orientation, dtype):
        values = np.arange(18, dtype=dtype).reshape(2, 3, 3)
        file = tiff(tmp_path / "x.tif", values, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
        turns = [values, values[:, ::-1], values[::-1, ::-1], values[::-1]]
        turns += [turn.swapaxes(0, 1) for turn in (values, values[::-1], values[::-1, ::-1], values[:, ::-1])]
        read = read_raster(file, 3)
        assert np.array_equal(read.values, turns[orientation - 1].transpose(2, 0, 1))
        said = ("turned upright, as its EXIF orientation says",) if orientation > 1 else ()
        assert read.remarks == said

    def test_other_colours_are_refused_where_they_would_be_bands(self, tmp_path):
        file = tiff(tmp_path / "x.tif", np.zeros((4, 5, 3), np.uint16), photometric="cielab", planarconfig="contig")
        said = f"{file}: bands in the colour space CIELAB cannot be read from this TIFF; save it as RGB."
        with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
            read_raster(file, 3)


class TestTiff:
    @pytest.mark.parametrize("axes", ["YXS", "CYX"])
    def test_bands_are_known_from_the_file(self, tmp_path, axes):
        tifffile = pytest.importorskip("tifffile")
        bands = np.arange(6 * 4 * 5, dtype=np.float32).reshape(6, 4, 5)
        stored = bands if axes == "CYX" else bands.transpose(1, 2, 0)
        tifffile.imwrite(tmp_path / "x.tif", stored, metadata={"axes": axes}, photometric="minisblack")
        read = read_raster(str(tmp_path / "x.tif"), 3)
        assert np.array_equal(read.values, bands)

    def test_no_data_is_missing(self, tmp_path):
        tifffile = pytest.importorskip("tifffile")
        values = np.array([[1, -9999, np.nan, -1]], np.float32)
        tifffile.imwrite(tmp_path / "x.tif", values, photometric="minisblack", extratags=[(42113, "s", 0, "-1", True)])
        read = read_raster(str(tmp_path / "x.tif"), 1)
        assert read.missing.tolist() == [[[False, True, True, True]]]

    @pytest.mark.parametrize(
        ("said", "numbers", "missing", "remark"),
        [
            ("0", np.int16, [True, False], None),
            (" -3.0\0", np.int16, [False, True], None),
            ("nan", np.float32, [False, False], None),
            ("nan", np.int16, [False, False], "its no-data value 'nan' is not a number of int16, and is ignored"),
            (
                "1e999",
                np.int16,
                [False, False],
                "its no-data value '1e999' is not a number of int16, and is ignored",
            ),
            ("-1", np.uint16, [False, False], "its no-data value '-1' is not a number of uint16, and is ignored"),
            ("0.5", np.int16, [False, False], "its no-data value '0.5' is not a number of int16, and is ignored"),
            (
                "none",
                np.float32,
                [False, False],
                "its no-data value 'none' is not a number of float32, and is ignored",
            ),
        ],
        ids=lambda value: getattr(value, "__name__", None) or str(value)[:6],
    )
    def test_a_mark_of_no_data_that_is_no_number_of_the_image_means_nothing(
        self, tmp_path, said, numbers, missing, remark
    ):
        tifffile = pytest.importorskip("tifffile")
        values = np.array([[0, 3 if numbers is np.uint16 else -3]], numbers)
        file = tmp_path / "x.tif"
        tifffile.imwrite(file, values, photometric="minisblack", extratags=[(42113, "s", 0, said, True)])
        read = read_raster(str(file), 1)
        assert read.missing.tolist() == [[missing]]
        assert read.remarks == (() if remark is None else (remark,))

    @pytest.mark.parametrize(
        ("colours", "extra"),
        [("rgb", []), ("palette", []), ("rgb", [(274, "H", 1, 6, True)])],
        ids=["as it is", "with a palette", "to be turned"],
    )
    def test_a_tile_of_more_pixels_than_pillow_takes(self, tmp_path, monkeypatch, colours, extra):
        """A tile of Sentinel-2 has 120 million of them, and Pillow stops at 89."""
        tifffile = pytest.importorskip("tifffile")
        monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 1000)
        values = np.arange(40 * 30 * 3, dtype=np.uint16).reshape(40, 30, 3)
        stored, more = (values, {}) if colours == "rgb" else (values[..., 0].astype(np.uint8), {"colormap": COLOURS})
        file = str(tmp_path / "x.tif")
        tifffile.imwrite(file, stored, photometric=colours, extratags=extra, **more)
        seen = (COLOURS >> 8)[:, stored].transpose(1, 2, 0) if colours == "palette" else values
        upright = np.rot90(seen, -1) if extra else seen
        assert np.array_equal(read_raster(file, 3).values, upright.transpose(2, 0, 1))

    def test_more_bits_than_a_picture_has_are_kept(self, tmp_path):
        tifffile = pytest.importorskip("tifffile")
        values = np.full((4, 5, 3), 9000, np.uint16)
        tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb")
        assert read_raster(str(tmp_path / "x.tif"), 3).values.max() == 9000

    def test_without_tifffile_a_line_says_what_to_install(self, tmp_path, monkeypatch):
        tifffile = pytest.importorskip("tifffile")
        file = str(tmp_path / "x.tif")
        tifffile.imwrite(file, np.zeros((4, 5, 6), np.float32), photometric="minisblack")
        monkeypatch.setitem(sys.modules, "tifffile", None)
        said = f"{file}: this TIFF needs tifffile: pip install 'composer-vision[geo]'"
        with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
            read_raster(file, 6)


class TestUnreadable:
    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("none.png", None, "there is no such file; check the path."),
            ("zero.png", b"", "the file is empty."),
            ("text.png", b"hello", "not an image that Pillow can read; use PNG, JPEG, TIFF or .npy."),
            ("text.npy", b"hello", "cannot be read as an image (.*)."),
            ("text.tif", b"hello", "cannot be read as an image (.*)."),
            ("x.npz", b"PK", "this is a collection of arrays; save the one that is the image as .npy."),
        ],
    )
    def test_one_line_says_why(self, tmp_path, name, content, said):
        file = tmp_path / name
        if content is not None:
            file.write_bytes(content)
        pattern = re.escape(f"{file}: {said}").replace(r"\.\*", ".*")
        with pytest.raises(UsageError, match=f"^{pattern}$"):
            read_raster(str(file), 3)

    def test_a_folder(self, tmp_path):
        with pytest.raises(UsageError, match=f"^{re.escape(str(tmp_path))}: this is a folder; name a file in it.$"):
            read_raster(str(tmp_path), 3)

    def test_half_a_photograph(self, tmp_path):
        file = tmp_path / "x.jpg"
        Image.effect_noise((64, 64), 50).save(file)
        file.write_bytes(file.read_bytes()[:900])
        with pytest.raises(UsageError, match=r"^.*x.jpg: cannot be read as an image \(image file is truncated.*\).$"):
            read_raster(str(file), 3)

    def test_a_picture_has_no_frames(self, tmp_path):
        file = picture(tmp_path / "x.png")
        said = f"{file}: an image of 3 frames is read from a .npy array (frames, bands, height, width)."
        with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
            read_raster(file, 3, 3)


class TestBands:
    ten = made(np.zeros((10, 4, 5)))

    @pytest.mark.parametrize(
        ("image", "channels", "asked", "expected"),
        [
            pytest.param(ten, 10, None, (tuple(range(1, 11)), None), id="all"),
            pytest.param(ten, 3, (4, 3, 2), ((4, 3, 2), "bands 4,3,2 of 10"), id="picked"),
            pytest.param(
                made(np.zeros((1, 4, 5))),
                3,
                None,
                ((1, 1, 1), "one grey band, used for all three channels"),
                id="grey",
            ),
        ],
    )
    def test_fed(self, image, channels, asked, expected):
        assert select_bands(image, "image", channels, asked) == expected

    @pytest.mark.parametrize(
        ("image", "channels", "asked", "said"),
        [
            pytest.param(
                ten,
                6,
                None,
                "x.npy: input 'image' expects 6 bands; the file has 10; "
                "pick them with --bands, counted from 1: --bands 1,2,3,4,5,6.",
                id="too many",
            ),
            pytest.param(
                made(np.zeros((1, 4, 5))),
                6,
                None,
                "x.npy: input 'image' expects 6 bands; the file has 1; use another image.",
                id="too few",
            ),
            pytest.param(ten, 3, (4, 11, 12), "--bands: x.npy has 10 bands, counted from 1 (got 11,12).", id="beyond"),
            pytest.param(ten, 3, (4, 3), "--bands: input 'image' expects 3 bands (got 2: 4,3).", id="not as many"),
        ],
    )
    def test_not_fed(self, image, channels, asked, said):
        with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
            select_bands(image, "image", channels, asked)

    @pytest.mark.parametrize(
        ("bands", "asked", "expected"),
        [
            pytest.param((5, 6, 7), None, ((5, 6, 7), None), id="three are colours"),
            pytest.param((4,), None, ((4,), None), id="one is grey"),
            pytest.param((4, 5), None, ((4,), "band 4 shown as grey"), id="two"),
            pytest.param(
                (2, 3, 4, 5),
                None,
                ((4, 3, 2), "bands 4,3,2 shown as red, green and blue: a guess, --show-bands says otherwise"),
                id="more are a guess",
            ),
            pytest.param((2, 3, 4, 5), (9, 8, 1), ((9, 8, 1), None), id="asked for"),
        ],
    )
    def test_shown(self, bands, asked, expected):
        assert select_preview_bands(self.ten, bands, asked) == expected

    def test_two_bands_are_no_colours(self):
        said = "--show-bands: one band, or three as red, green and blue (got 1,2)."
        with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
            select_preview_bands(self.ten, (1, 2, 3), (1, 2))

    @pytest.mark.parametrize("text", ["", "1,", "0,1", "-1", "a", "1.5", "1;2"])
    def test_bands_are_numbers_from_1(self, text):
        with pytest.raises(ValueError, match=r"invalid literal|counted from 1"):
            parse_bands(text)


class TestNormalising:
    imagenet = PretrainedStats("encoder", (0.5, 0.4, 0.25), (0.5, 0.2, 0.25))

    @pytest.mark.parametrize("highest", [255, 1])
    def test_as_published(self, highest):
        values = np.array([[[0, 1]], [[0, 1]], [[0, 1]]]) * highest
        values = values.astype(np.uint8 if highest == 255 else np.float32)
        result, how = normalize_bands(values, np.zeros(values.shape, bool), self.imagenet, "image")
        assert result.tolist() == pytest.approx(np.array([[[-1, 1]], [[-2, 3]], [[-1, 3]]]))
        assert result.dtype == np.float32
        assert how == (f"values 0 to {highest}, normalised for encoder: mean 0.5, 0.4, 0.25, deviation 0.5, 0.2, 0.25")

    @pytest.mark.parametrize(
        ("count", "top", "published"),
        [(4, 255, imagenet), (3, 9000, imagenet), (3, 255, None)],
        ids=["four bands", "another scale", "nothing published"],
    )
    def test_otherwise_each_band_on_its_own_scale(self, count, top, published):
        values = np.arange(count * 12).reshape(count, 3, 4) * (top // 50)
        values[0, 0, 0] = top
        result, how = normalize_bands(values, np.zeros(values.shape, bool), published, "image")
        assert result.mean(axis=(1, 2)).tolist() == pytest.approx([0] * count, abs=1e-6)
        assert result.std(axis=(1, 2)).tolist() == pytest.approx([1] * count, abs=1e-6)
        assert how == "each band to zero mean and unit deviation over this image"

    def test_what_is_missing_is_the_mean_and_counts_for_nothing(self):
        values = np.array([[[1.0, 3.0, -9999.0, np.nan]]])
        result, _ = normalize_bands(values, (values == -9999) | np.isnan(values), None, "image")
        assert result.tolist() == [[[-1, 1, 0, 0]]]

    def test_a_band_of_one_number_is_zero(self):
        assert normalize_bands(np.full((1, 2, 2), 7), np.zeros((1, 2, 2), bool), None, "image")[0].tolist() == [
            [[0, 0]] * 2
        ]

    def test_a_band_without_any_data_is_refused(self):
        said = "x.npy: image: band 2 of the input holds no data at all."
        with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
            normalize_bands(np.zeros((2, 1, 1)), np.array([[[False]], [[True]]]), None, "x.npy: image")

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            (np.array([0, 1], np.uint8), 255),
            (np.array([0.0, 1.0]), 1),
            (np.array([0.0, 1.5]), 255),
            (np.array([0, 256]), None),
            (np.array([-1.0, 1.0]), None),
        ],
    )
    def test_full_scale(self, values, expected):
        assert infer_full_scale(values, np.zeros(values.shape, bool)) == expected


class TestPreview:
    def test_a_picture_is_shown_as_it_is(self):
        values = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
        assert np.array_equal(render_preview(made(values), (1, 2, 3)), values.transpose(1, 2, 0))

    def test_other_bands_are_stretched_from_percentile_2_to_98(self):
        bands = np.stack([np.linspace(0, 1000, 101), np.linspace(5, 6, 101), np.ones(101), np.zeros(101)])
        drawn = render_preview(made(bands[:, None]), (1, 2, 3))[0]
        assert drawn[[0, 2, 50, 98, 100]].tolist() == [
            [0, 0, 128],
            [0, 0, 128],
            [128] * 3,
            [255, 255, 128],
            [255, 255, 128],
        ]

    def test_one_band_is_grey_and_gaps_are_light(self):
        drawn = render_preview(made(np.array([[[0.0, 0.5, 1.0, np.nan]]])), (1,))[0]
        assert drawn.tolist() == [[0] * 3, [128] * 3, [255] * 3, [205] * 3]

    def test_of_frames_the_first(self):
        values = np.stack([np.zeros((3, 2, 2)), np.ones((3, 2, 2))], axis=1)
        assert render_preview(made(values), (1, 2, 3)).max() == 0


class TestOutFile:
    def test_a_file_appears_whole(self, tmp_path):
        file = check_writable(str(tmp_path / "x.png"), (".png", ".jpg"))
        assert list(tmp_path.iterdir()) == []
        write_output_file(file, lambda partial: partial.write_text("all"))
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.png", "all")]

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
    def test_or_not_at_all(self, tmp_path, error):
        (tmp_path / "x.png").write_text("before")

        def fill(partial: Path):
            partial.write_text("half")
            raise error

        with pytest.raises(error):
            write_output_file(tmp_path / "x.png", fill)
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.png", "before")]

    def test_a_full_disk_is_said(self, tmp_path):
        def fill(_: Path):
            raise OSError(28, "No space left on device")

        said = f"{tmp_path}/x.png: cannot be written (No space left on device)."
        with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
            write_output_file(tmp_path / "x.png", fill)

    def test_a_link_stays_a_link(self, tmp_path):
        (tmp_path / "real.png").write_text("before")
        (tmp_path / "link.png").symlink_to("real.png")
        write_output_file(
            check_writable(str(tmp_path / "link.png"), (".png",)), lambda partial: partial.write_text("after")
        )
        assert (tmp_path / "link.png").is_symlink()
        assert (tmp_path / "real.png").read_text() == "after"

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("x.gif", "the name must end in .png or .jpg."),
            ("folder.png", "this is not a regular file; choose another name."),
            ("none/x.png", "there is no folder {folder}/none; make it first."),
        ],
    )
    def test_what_cannot_be_written_is_refused_at_once(self, tmp_path, name, said):
        (tmp_path / "folder.png").mkdir()
        with pytest.raises(UsageError, match=f"^{re.escape(f'{tmp_path}/{name}: {said.format(folder=tmp_path)}')}$"):
            check_writable(f"{tmp_path}/{name}", (".png", ".jpg"))

    def test_a_folder_that_cannot_be_written_to(self, tmp_path, monkeypatch):
        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "touch", refuse)
        said = f"{tmp_path}/x.png: cannot be written (Permission denied); choose another name or folder."
        with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
            check_writable(f"{tmp_path}/x.png", (".png",))
