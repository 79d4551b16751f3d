"""Images in files: what GDAL and numpy read comes out as bands first, and the rest in one line."""

import os
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from attrs import evolve
from PIL import Image
from rasterio.enums import ColorInterp

from composer.bands import RGB
from composer.cli.bands import Raster, select_bands, select_preview_bands, split_by_input
from composer.cli.images import infer_full_scale, normalize_bands, read_raster, render_preview
from composer.cli.terminal import UsageError
from composer.layouts import Feature
from composer.layouts import Image as Input
from composer.parts import EncoderInfo

RED, GREEN, CLEAR = (200, 10, 20), (30, 180, 40), (0, 0, 255, 0)


def save_picture(file: Path, mode: str = "RGB") -> str:
    """A picture of 2 × 3 pixels, the left ones red and the others green, in any of Pillow's modes."""
    image = Image.new("RGB", (3, 2), GREEN)
    image.paste(RED, (0, 0, 1, 2))
    image.convert(mode, palette=Image.Palette.ADAPTIVE).save(file)
    return str(file)


def save_raster(file: Path, values, *, mask=None, colours=None, palette=None, names=(), **options) -> str:
    """A file of values (bands, height, width) as GDAL writes it; the suffix says in which format."""
    values = np.asarray(values)
    driver = {".tif": "GTiff", ".png": "PNG", ".jp2": "JP2OpenJPEG", ".pnm": "PNM"}[file.suffix]
    shape = dict(zip(("count", "height", "width"), values.shape, strict=True), dtype=values.dtype)
    with (
        warnings.catch_warnings(action="ignore"),
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True, GDAL_PAM_ENABLED=False),
        rasterio.open(file, "w", driver=driver, **shape, **options) as target,
    ):
        if colours:
            target.colorinterp = colours
        if palette:
            target.write_colormap(1, palette)
        target.write(values)
        for number, name in enumerate(names, 1):
            target.set_band_description(number, name)
        if mask is not None:
            target.write_mask(mask)
    return str(file)


def build_raster(values) -> Raster:
    return Raster("x.npy", np.ma.masked_invalid(values))


def pixel(values, row=0, column=0):
    return values.data[:, row, column].tolist()


def mask(read):
    return np.ma.getmaskarray(read.values)


def raises(said):
    return pytest.raises(UsageError, match=f"^{re.escape(said)}$")


class TestPictures:
    @pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
    def test_colours_come_out_of_every_mode(self, tmp_path, mode):
        read = read_raster(save_picture(tmp_path / "x.png", mode), 3)
        assert (pixel(read.values), pixel(read.values, 0, 2)) == (list(RED), list(GREEN))
        assert (read.values.shape, read.values.dtype, read.remarks) == ((3, 2, 3), np.uint8, ())
        assert not mask(read).any()

    @pytest.mark.parametrize("suffix", ["jpg", "jp2", "ppm", "tif"])
    def test_every_format_is_known_by_its_first_bytes(self, tmp_path, suffix):
        Image.new("RGB", (9, 8), RED).save(tmp_path / f"x.{suffix}")
        (tmp_path / f"x.{suffix}").rename(tmp_path / "x.photo")
        read = read_raster(str(tmp_path / "x.photo"), 3)
        assert np.abs(np.array(pixel(read.values)) - RED).max() < 3
        assert read.values.shape == (3, 8, 9)

    @pytest.mark.parametrize("suffix", ["png", "tif"])
    @pytest.mark.parametrize(("mode", "expected"), [("L", [[68, 119, 119]] * 2), ("1", [[0, 255, 255]] * 2)])
    def test_grey_has_one_band(self, tmp_path, mode, expected, suffix):
        image = Image.open(save_picture(tmp_path / "colour.png")).convert("L")
        (image.point(lambda level: 255 * (level > 100)).convert("1") if mode == "1" else image).save(
            tmp_path / f"x.{suffix}"
        )
        assert read_raster(str(tmp_path / f"x.{suffix}"), 3).values.tolist() == [expected]

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_a_photograph_is_turned_upright(self, tmp_path, orientation):
        levels = np.repeat(np.repeat([[0, 50, 100], [150, 200, 250]], 16, axis=0), 16, axis=1).astype(np.uint8)
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(levels).save(tmp_path / "x.jpg", exif=exif)
        turns = [levels, levels[:, ::-1], levels[::-1, ::-1], levels[::-1]]
        turns += [turn.swapaxes(0, 1) for turn in (levels, levels[::-1], levels[::-1, ::-1], levels[:, ::-1])]
        read = read_raster(str(tmp_path / "x.jpg"), 1)
        assert np.abs(read.values[0].astype(int) - turns[orientation - 1]).max() < 20
        assert read.remarks == (("turned upright, as its EXIF orientation says",) if orientation > 1 else ())

    @pytest.mark.parametrize(("mode", "channels"), [("RGBA", 3), ("LA", 1), ("P", 3)])
    def test_transparent_pixels_are_missing(self, tmp_path, mode, channels):
        image = Image.new("RGBA", (3, 1), (9, 200, 9, 255))
        image.putpixel((1, 0), CLEAR)
        image.putpixel((2, 0), (9, 200, 9, 128))
        image.quantize(4).save(tmp_path / "x.png") if mode == "P" else image.convert(mode).save(tmp_path / "x.png")
        read = read_raster(str(tmp_path / "x.png"), channels)
        assert mask(read).tolist() == [[[False, True, False]]] * channels

    @pytest.mark.parametrize("channels", [4, None])
    def test_alpha_is_a_band_where_it_is_asked_for(self, tmp_path, channels):
        Image.new("RGBA", (2, 1), (1, 2, 3, 0)).save(tmp_path / "x.png")
        read = read_raster(str(tmp_path / "x.png"), channels)
        assert (pixel(read.values), read.remarks) == ([1, 2, 3, 0], ("alpha counts as band 4",))
        assert not mask(read).any()

    @pytest.mark.parametrize(("name", "bands"), [("x.png", 1), ("x.tif", 3), ("x.jp2", 3), ("x.pnm", 3)])
    def test_all_16_bits_are_kept(self, tmp_path, name, bands):
        values = np.random.default_rng(0).integers(0, 65536, (bands, 2, 3), np.uint16)
        options = {"quality": "100", "reversible": "yes"} if name == "x.jp2" else {}
        read = read_raster(save_raster(tmp_path / name, values, **options), bands)
        assert np.array_equal(read.values, values)
        assert (read.values.dtype, read.remarks) == (np.uint16, ())

    def test_white_of_a_picture_of_16_bits_is_1(self, tmp_path):
        read = read_raster(save_raster(tmp_path / "x.png", np.array([[[0, 257, 65535]]] * 3, np.uint16)), 3)
        assert read.values[0].tolist() == pytest.approx(np.array([[0, 1 / 255, 1]]))
        assert (infer_full_scale(read.values), read.remarks) == (1, ("16 bits scaled to 0..1",))


NO_IMAGES = {
    "ambiguous": (
        np.zeros((3, 9, 3)),
        None,
        "both the first and the last axis of 3 × 9 × 3 could be the bands; crop or pad the image so that only one can.",
    ),
    "one axis": (np.zeros(5), None, "an image is an array (bands, height, width) (this is 5)."),
    "frames": (
        np.zeros((2, 3, 4, 4)),
        4,
        "the model takes 4 frames, as an array (4, bands, height, width) (this is 2 × 3 × 4 × 4).",
    ),
    "complex": (np.zeros((3, 4, 4), complex), None, "an image holds numbers (this holds complex128, shape 3 × 4 × 4)."),
    "empty": (np.zeros((3, 0, 4)), None, "an image holds numbers (this holds float64, shape 3 × 0 × 4)."),
}


class TestArrays:
    @pytest.mark.parametrize(
        ("shape", "channels", "expected"),
        [
            ((6, 4, 5), 6, (6, 4, 5)),
            ((4, 5, 6), 6, (6, 4, 5)),
            ((4, 5), 1, (1, 4, 5)),
            ((2, 40, 50), 3, (2, 40, 50)),
            ((10, 40, 50), None, (10, 40, 50)),
            ((40, 50, 10), None, (10, 40, 50)),
        ],
        ids=["first", "last", "none for one band", "neither: the shorter", "picked: first", "picked: last"],
    )
    def test_the_axis_of_the_bands(self, tmp_path, shape, channels, expected):
        values = np.arange(np.prod(shape)).reshape(shape)
        np.save(tmp_path / "x.npy", values)
        read = read_raster(str(tmp_path / "x.npy"), channels)
        assert read.values.shape == expected
        assert (read.values.ravel()[0], read.values.ravel()[-1]) == (0, values.ravel()[-1])

    def test_frames_go_behind_the_bands(self, tmp_path):
        np.save(tmp_path / "x.npy", np.arange(3 * 2 * 4 * 5).reshape(3, 2, 4, 5))
        read = read_raster(str(tmp_path / "x.npy"), 2, 3)
        assert read.values.shape == (2, 3, 4, 5)
        assert read.values[:, :, 0, 0].tolist() == [[0, 40, 80], [20, 60, 100]]

    @pytest.mark.parametrize(("array", "frames", "message"), NO_IMAGES.values(), ids=NO_IMAGES)
    def test_what_is_no_image_is_refused(self, tmp_path, array, frames, message):
        file = str(tmp_path / "x.npy")
        np.save(file, array)
        with raises(f"{file}: {message}"):
            read_raster(file, 3, frames)


INSIDE = np.ones((4, 5), bool)
INSIDE[0, :3] = False
"""A mask, of which three pixels are outside."""

SHADES = {index: (index, 255 - index, 9, 255) for index in range(256)}
"""A palette: entry i is the colour (i, 255 - i, 9)."""


class TestTiff:
    @pytest.mark.parametrize(("dtype", "bands"), [(np.uint8, 3), (np.int16, 1), (np.float32, 6)])
    def test_pixels_outside_of_the_mask_are_missing(self, tmp_path, dtype, bands):
        values = np.arange(20 * bands).reshape(bands, 4, 5).astype(dtype)
        read = read_raster(save_raster(tmp_path / "x.tif", values, mask=INSIDE), bands)
        assert np.array_equal(read.values.data, values)
        assert np.array_equal(mask(read), np.broadcast_to(~INSIDE, (bands, 4, 5)))
        assert read.remarks == ()

    def test_no_data_is_missing(self, tmp_path):
        values = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
        read = read_raster(save_raster(tmp_path / "x.tif", values, nodata=7, compress="zstd", interleave="band"), 3)
        assert np.array_equal(read.values.data, values)
        assert np.array_equal(mask(read), values == 7)

    def test_numbers_that_satellite_products_use_are_missing(self, tmp_path):
        values = np.array([[[1, -9999, np.nan, -1]]], np.float32)
        read = read_raster(save_raster(tmp_path / "x.tif", values, nodata=-1), 1)
        assert mask(read).tolist() == [[[False, True, True, True]]]

    @pytest.mark.parametrize(
        ("dtype", "options", "white", "grey"),
        [(np.uint8, {}, 255, 254), (np.uint8, {"nbits": 1}, 255, 0), (np.uint16, {}, 65535, 65534)],
        ids=["8 bits", "1 bit", "16 bits"],
    )
    def test_where_zero_is_white_the_image_is_inverted(self, tmp_path, dtype, options, white, grey):
        stored = np.array([[[0, 1, 0]]], dtype)
        read = read_raster(save_raster(tmp_path / "x.tif", stored, photometric="miniswhite", **options), 1)
        assert read.values.tolist() == [[[white, grey, white]]]

    @pytest.mark.parametrize(
        ("options", "missing"),
        [
            ({}, [False] * 4),
            ({"nodata": 3}, [False, True, False, False]),
            ({"mask": np.eye(1, 4, 1) > 0}, [True, False, True, True]),
        ],
        ids=["plain", "nodata", "mask"],
    )
    def test_a_palette_is_resolved(self, tmp_path, options, missing):
        file = save_raster(tmp_path / "x.tif", np.array([[[0, 3, 200, 255]]], np.uint8), palette=SHADES, **options)
        read = read_raster(file, 3)
        assert read.values.data.tolist() == [[[0, 3, 200, 255]], [[255, 252, 55, 0]], [[9] * 4]]
        assert mask(read).tolist() == [[missing]] * 3

    @pytest.mark.parametrize(("last", "bands"), [(ColorInterp.alpha, 3), (ColorInterp.undefined, 4)])
    def test_a_fourth_band_is_left_out_only_where_it_is_alpha(self, tmp_path, last, bands):
        values = np.arange(80, dtype=np.uint16).reshape(4, 4, 5)
        colours = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, last]
        assert len(read_raster(save_raster(tmp_path / "x.tif", values, colours=colours), 3).values) == bands

    def test_pages_of_one_band_are_bands(self, tmp_path):
        bands = [Image.fromarray(np.full((4, 5), number, np.uint8)) for number in range(6)]
        bands[0].save(tmp_path / "x.tif", save_all=True, append_images=bands[1:])
        read = read_raster(str(tmp_path / "x.tif"), 6)
        assert (pixel(read.values), read.remarks) == ([0, 1, 2, 3, 4, 5], ("its 6 pages are the bands",))

    @pytest.mark.parametrize(("mode", "other"), [("RGB", (5, 4)), ("L", (9, 9))], ids=["colours", "another size"])
    def test_of_other_pages_the_first_is_taken(self, tmp_path, mode, other):
        first, second = Image.new("RGB", (5, 4), RED).convert(mode), Image.new(mode, other)
        first.save(tmp_path / "x.tif", save_all=True, append_images=[second])
        read = read_raster(str(tmp_path / "x.tif"), len(mode))
        assert (read.values.shape, read.remarks) == ((len(mode), 4, 5), ("the first of its 2 images",))

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_inks_are_refused(self, tmp_path, dtype):
        file = save_raster(tmp_path / "x.tif", np.full((4, 2, 3), 20, dtype), photometric="cmyk")
        with raises(f"{file}: bands in the colour space CMYK cannot be read from this TIFF; save it as RGB."):
            read_raster(file, 4)


VRT = """<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>
<SourceFilename>secret.tif</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"""
UNKNOWN = "not an image that can be read here; use PNG, JPEG, TIFF or .npy."


class TestUnreadable:
    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            pytest.param("zero.png", b"", "the file is empty.", id="empty"),
            pytest.param("text.tif", b"hello", UNKNOWN, id="text called .tif"),
            pytest.param("vrt.tif", VRT.encode(), UNKNOWN, id="VRT called .tif"),
            pytest.param("x.vrt", VRT.encode(), UNKNOWN, id="VRT"),
            pytest.param("x.npz", b"PK", UNKNOWN, id="archive of arrays"),
        ],
    )
    def test_one_line_says_why(self, tmp_path, monkeypatch, name, content, message):
        monkeypatch.chdir(tmp_path)
        save_raster(tmp_path / "secret.tif", np.zeros((3, 4, 4), np.uint8))
        Path(name).write_bytes(content)
        with raises(f"{name}: {message}"):
            read_raster(name, 3)

    @pytest.mark.parametrize("name", ["/vsimem/x.tif", "zip://x.zip!x.tif"])
    def test_only_paths_are_names(self, name):
        with raises(f"{name}: there is no such file; check the path."):
            read_raster(name, 3)

    def test_names_that_look_like_addresses_are_files(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        file = save_raster(tmp_path / "x.tif", np.full((3, 4, 4), 7, np.uint8))
        Path(file).rename("GTIFF_DIR:2:x.tif")
        assert read_raster("GTIFF_DIR:2:x.tif", 3).values.max() == 7

    def test_no_file_beside_the_image_is_read(self, tmp_path):
        file = save_raster(tmp_path / "x.tif", np.full((3, 4, 4), 7, np.uint8))
        band = '<PAMRasterBand band="1"><NoDataValue>7</NoDataValue></PAMRasterBand>'
        Path(f"{file}.aux.xml").write_text(f"<PAMDataset>{band}</PAMDataset>")
        assert not mask(read_raster(file, 3)).any()
        assert len(os.listdir(tmp_path)) == 2

    @pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "jp2", "ppm"])
    def test_part_of_a_file(self, tmp_path, suffix):
        file = tmp_path / f"x.{suffix}"
        Image.effect_noise((64, 64), 50).convert("RGB").save(file)
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * 0.9)])
        with pytest.raises(UsageError, match=rf"^{re.escape(str(file))}: cannot be read as an image \([^\n]+[^.]\)\.$"):
            read_raster(str(file), 3)

    def test_a_size_is_checked_before_anything_is_read(self, tmp_path):
        options = {"tiled": True, "sparse_ok": True, "compress": "deflate", "blockxsize": 4096, "blockysize": 4096}
        file, shape = tmp_path / "x.tif", {"count": 8, "height": 200_000, "width": 200_000, "dtype": "uint8"}
        with warnings.catch_warnings(action="ignore"), rasterio.open(file, "w", "GTiff", **shape, **options):
            pass
        assert file.stat().st_size < 1_000_000
        with raises(f"{file}: an image has at most 4 GiB (this has 298.0); crop it."):
            read_raster(str(file), 3)

    def test_a_picture_has_no_frames(self, tmp_path):
        file = save_picture(tmp_path / "x.png")
        said = f"{file}: an image of 3 frames is read from a .npy array (frames, bands, height, width)."
        with raises(said):
            read_raster(file, 3, 3)


BY_NUMBER = "pick bands by number, from 1 and with commas: --bands 4,3,2"
TEN, GREY = build_raster(np.zeros((10, 4, 5))), build_raster(np.zeros((1, 4, 5)))


class TestBands:
    @pytest.mark.parametrize(
        ("image", "channels", "asked", "expected"),
        [
            (TEN, 10, None, (tuple(range(1, 11)), None)),
            (TEN, 3, "4,3,2", ((4, 3, 2), "bands 4,3,2 of 10")),
            (GREY, 3, None, ((1, 1, 1), "one grey band, used for all three channels")),
        ],
        ids=["all", "picked", "grey"],
    )
    def test_used(self, image, channels, asked, expected):
        assert select_bands(image, "image", Input(channels=channels), asked) == expected

    @pytest.mark.parametrize(
        ("image", "step"),
        [
            (TEN, "the file has 10; pick them with --bands, counted from 1: --bands 1,2,3,4,5,6."),
            (GREY, "the file has 1; use another image."),
        ],
        ids=["too many", "too few"],
    )
    def test_another_number_of_bands_than_the_input_has(self, image, step):
        with raises(f"x.npy: input 'image' expects 6 bands; {step}"):
            select_bands(image, "image", Input(channels=6), None)

    @pytest.mark.parametrize(
        ("bands", "drawn"),
        [((5, 6, 7), (5, 6, 7)), ((4,), (4,)), ((4, 5), (4,)), ((2, 3, 4, 5), (4, 3, 2))],
        ids=["three are colours", "one is grey", "two", "more"],
    )
    def test_drawn(self, bands, drawn):
        remark = None if drawn == bands else f"bands drawn: {','.join(map(str, drawn))}, a guess"
        chosen, said = select_preview_bands(TEN, bands, None, None)
        assert (chosen, said and said.partition(";")[0]) == (drawn, remark)
        assert select_preview_bands(TEN, bands, None, "9,8,1") == ((9, 8, 1), None)

    def test_drawn_by_the_names_of_the_file_where_the_input_has_none(self):
        named = evolve(TEN, bands=(None, "BLUE", "GREEN", "RED", *[None] * 6))
        assert select_preview_bands(named, (4, 3, 2, 8), None, None) == ((4, 3, 2), None)

    def test_a_band_to_draw_that_the_file_lacks(self):
        said = "x.npy has no band 'VV' (its bands: without names)"
        with raises(f"--show-bands: {said}; {BY_NUMBER.replace('--bands', '--show-bands')}."):
            select_preview_bands(TEN, (1, 2, 3), None, "VV")

    @pytest.mark.parametrize("bands", ["4,3", "4,11,12"], ids=["too few", "beyond the last"])
    def test_bands_that_do_not_fit(self, bands):
        said = f"of the 10 bands of x.npy, counted from 1 (got {bands})."
        with raises(f"--bands: expected 3 {said}"):
            select_bands(TEN, "image", Input(), bands)
        with raises(f"--show-bands: expected 1 or 3 {said}"):
            select_preview_bands(TEN, (1, 2, 3), None, bands)

    @pytest.mark.parametrize(
        ("text", "wrong"),
        [("", ""), ("1,", ""), ("0,1", "0"), ("-1", "-1"), ("1.5", "1.5"), ("1;2", "1;2"), ("x", "x")],
    )
    def test_bands_are_numbers_from_1_or_names(self, text, wrong):
        with raises(f"--bands: x.npy has no band {wrong!r} (its bands: without names); {BY_NUMBER}."):
            select_bands(TEN, "image", Input(), text)

    @pytest.mark.parametrize(
        ("values", "inputs", "expected"),
        [
            (["a.png"], ["image"], {"image": "a.png"}),
            (["image=a.png"], ["image"], {"image": "a.png"}),
            (["x=a.png"], ["image"], {"image": "x=a.png"}),
            (["s1=a=b.png", "s2=c.png"], ["s2", "s1"], {"s1": "a=b.png", "s2": "c.png"}),
        ],
    )
    def test_values_by_input(self, values, inputs, expected):
        assert split_by_input(values, inputs, "--image") == expected

    def test_no_input_is_given_twice(self):
        with raises("--image: image is given twice, a.png and b.png."):
            split_by_input(["a.png", "b.png"], ["image"], "--image")


BGRN = ("B2", "B3", "B4", "B8")
"""Descriptions of the bands of a file."""


class TestBandsByName:
    @pytest.fixture(params=[np.uint8, np.uint16], ids=["with alpha, as GDAL has it", "without alpha"])
    def raster(self, request, tmp_path):
        values = np.arange(4, dtype=request.param)[:, None, None] + np.zeros((1, 2, 3), request.param)
        colours = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
        options = {"colours": colours} if request.param is np.uint8 else {}
        file = save_raster(tmp_path / "x.tif", values, names=BGRN, **options)
        return lambda channels: read_raster(file, channels)

    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            (("RED", "GREEN", "BLUE"), (3, 2, 1)),
            (("NIR", "RED"), (4, 3)),
            (("BLUE", "GREEN", "RED", "NIR"), (1, 2, 3, 4)),
        ],
    )
    def test_they_come_in_the_order_of_the_input(self, raster, names, expected):
        read = raster(len(names))
        chosen, remark = select_bands(read, "image", Input(bands=names), None)
        assert (chosen, remark) == (expected, f"bands {','.join(map(str, expected))} of 4")
        assert [pixel(read.values)[number - 1] for number in chosen] == [number - 1 for number in expected]

    def test_names_and_numbers_pick_them(self, raster):
        assert select_bands(raster(None), "image", Input(), "NIR,3,b2")[0] == (4, 3, 1)
        assert select_preview_bands(raster(None), (1, 2), None, "red,green,blue") == ((3, 2, 1), None)
        assert select_preview_bands(raster(None), (4, 3, 2, 1), ("NIR", *RGB), None) == ((3, 2, 1), None)

    def test_a_band_that_is_missing_is_one_error(self, raster):
        read = raster(3)
        listed = "its bands: BLUE, GREEN, RED, NIR_BROAD"
        with raises(f"input 'image': {read.file} has no band 'SWIR_1' ({listed}); {BY_NUMBER}."):
            select_bands(read, "image", Input(bands=["RED", "SWIR_1", "BLUE"]), None)

    def test_a_name_of_two_bands_is_one_error(self, tmp_path):
        file = save_raster(tmp_path / "x.tif", np.zeros((3, 2, 3), np.uint16), names=["red", "B04", None])
        with raises(f"input 'image': {file} has RED as bands 1,2 (its bands: RED, RED); {BY_NUMBER}."):
            select_bands(read_raster(file, 1), "image", Input(bands=["RED"]), None)

    def test_without_names_in_the_file_the_number_must_fit(self):
        image = Input(bands=["RED", "NIR"])
        step = "pick them with --bands, counted from 1: --bands 1,2"
        with raises(f"x.npy: input 'image' expects 2 bands, RED, NIR_BROAD; the file has 10; {step}."):
            select_bands(TEN, "image", image, None)
        assert select_bands(TEN, "image", image, "4,8") == ((4, 8), "bands 4,8 of 10")
        two = build_raster(np.zeros((2, 4, 5)))
        assert select_bands(two, "image", image, None) == ((1, 2), "bands without names, taken for RED, NIR_BROAD")

    @pytest.mark.parametrize(("mode", "name"), [("RGB", "x.png"), ("P", "x.png"), ("RGBA", "x.png"), ("RGB", "x.jpg")])
    def test_a_picture_is_red_green_and_blue(self, tmp_path, mode, name):
        read = read_raster(save_picture(tmp_path / name, mode), 3)
        assert (read.bands, select_bands(read, "image", Input(bands=RGB[::-1]), None)[0]) == (RGB, (3, 2, 1))

    def test_grey_has_no_name(self, tmp_path):
        read = read_raster(save_picture(tmp_path / "x.png", "L"), 3)
        remark = "one grey band, used for all three channels"
        assert select_bands(read, "image", Input(bands=RGB[::-1]), None) == ((1, 1, 1), remark)


IMAGENET = "encoder", EncoderInfo(features=Feature(channels=1), mean=(0.5, 0.4, 0.25), std=(0.5, 0.2, 0.25))


class TestNormalising:
    @pytest.mark.parametrize(("highest", "dtype"), [(255, np.uint8), (1, np.float32)])
    def test_as_published(self, highest, dtype):
        values = (np.array([[[0, 1]]] * 3) * highest).astype(dtype)
        result, remark = normalize_bands(np.ma.array(values), IMAGENET, "image")
        assert result.tolist() == pytest.approx(np.array([[[-1, 1]], [[-2, 3]], [[-1, 3]]]))
        assert result.dtype == np.float32
        assert remark == f"values 0 to {highest}, normalised for encoder: mean 0.5, 0.4, 0.25, deviation 0.5, 0.2, 0.25"

    def test_the_published_mean_is_that_of_the_band(self):
        values = np.array([[[0, 255]]] * 3, np.uint8)
        named = "encoder", evolve(IMAGENET[1], bands=("BLUE", "RED", "GREEN"))
        result, remark = normalize_bands(np.ma.array(values), named, "image")
        assert result.tolist() == pytest.approx(np.array([[[-1, 3]], [[-1, 1]], [[-2, 3]]]))
        assert "mean 0.25, 0.5, 0.4, deviation 0.25, 0.5, 0.2" in remark
        other = "encoder", evolve(IMAGENET[1], bands=("NIR", "RED", "GREEN"))
        assert normalize_bands(np.ma.array(values), other, "image")[1].startswith("each band to zero mean")

    @pytest.mark.parametrize(
        ("count", "top", "published"),
        [(4, 255, IMAGENET), (3, 9000, IMAGENET), (3, 255, None)],
        ids=["four bands", "another scale", "nothing published"],
    )
    def test_otherwise_each_band_on_its_own_scale(self, count, top, published):
        values = np.arange(count * 12).reshape(count, 3, 4) * (top // 50)
        values[0, 0, 0] = top
        result, remark = normalize_bands(np.ma.array(values), published, "image")
        assert result.mean(axis=(1, 2)).tolist() == pytest.approx([0] * count, abs=1e-6)
        assert result.std(axis=(1, 2)).tolist() == pytest.approx([1] * count, abs=1e-6)
        assert remark == "each band to zero mean and unit deviation over this image"

    @pytest.mark.parametrize(
        ("values", "expected"), [([[[1.0, 3.0, np.nan, np.nan]]], [[[-1, 1, 0, 0]]]), ([[[7, 7]]], [[[0, 0]]])]
    )
    def test_what_is_missing_is_the_mean_and_a_band_of_one_number_is_zero(self, values, expected):
        assert normalize_bands(np.ma.masked_invalid(values), None, "image")[0].tolist() == expected

    def test_a_band_without_any_data_is_refused(self):
        with raises("x.npy: image: band 2 of the input holds no data at all."):
            normalize_bands(np.ma.array([[[0]], [[0]]], mask=[[[False]], [[True]]]), None, "x.npy: image")

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            (np.array([0.0, 1.5]), 255),
            (np.array([0, 256]), None),
            (np.array([-1.0, 1.0]), None),
            (np.array([np.nan]), None),
        ],
    )
    def test_full_scale(self, values, expected):
        assert infer_full_scale(np.ma.masked_invalid(values)) == expected


class TestPreview:
    def test_a_picture_is_shown_as_it_is(self):
        values = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
        assert np.array_equal(render_preview(build_raster(values), (1, 2, 3)), values.transpose(1, 2, 0))

    def test_other_bands_are_stretched_over_two_deviations(self):
        drawn = render_preview(build_raster([[[-1000.0, 0, 0, 1000]], [[5.0] * 4], [[np.nan] * 4]]), (1, 2, 2))
        assert drawn[0].tolist() == [[37, 128, 128], [128] * 3, [128] * 3, [218, 128, 128]]

    def test_one_band_is_grey_and_gaps_are_light(self):
        drawn = render_preview(build_raster([[[0.0, 0.5, 1.0, np.nan]]]), (1,))[0]
        assert drawn.tolist() == [[0] * 3, [128] * 3, [255] * 3, [205] * 3]

    def test_of_frames_the_first(self):
        values = np.stack([np.zeros((3, 2, 2)), np.ones((3, 2, 2))], axis=1)
        assert render_preview(build_raster(values), (1, 2, 3)).max() == 0


@pytest.mark.parametrize(("count", "bands"), [(256, 256), (257, 1)], ids=["all pages", "too many pages"])
def test_pages_are_bands_up_to_a_number(tmp_path, count, bands):
    """Opening one page takes as long as there are pages before it: thousands would take minutes."""
    pages = [Image.new("L", (1, 1), index % 256) for index in range(count)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    assert read_raster(str(tmp_path / "pages.tif"), None).values[:, 0, 0].tolist() == list(range(bands))
