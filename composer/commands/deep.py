"""Pictures of 16 bits a colour, of which Pillow keeps 8. All bits are read here."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from composer.commands.rasters import Array
from composer.commands.terminal import UsageError

_SIXTEEN_BIT_LAYOUTS = (("RGBA", "LA;16B"), ("RGB", "RGB;16B"), ("RGBA", "RGBA;16B"))
"""Modes of Pillow and the layouts of PNG files, of which it keeps the high byte of each colour."""


def read_deep_picture(file: str, image: Image.Image) -> tuple[Array, int | None] | None:
    """The values (height, width, bands) of a picture of more than 8 bits a colour, and what white is in its colours.

    None for a picture that Pillow reads in full. Raises UsageError where it does not, and cannot be read here.
    """
    tiles: Any = getattr(image, "tile", None)
    tile = tiles[0] if tiles else None
    if image.format == "PPM" and tile is not None and isinstance(tile.args, tuple) and tile.args[-1] > 255:
        if tile.codec_name == "ppm":
            shape = (image.height, image.width, len(image.getbands()))
            values = np.fromfile(file, ">u2", int(np.prod(shape)), offset=tile.offset)
            return values.reshape(shape).astype(np.uint16), tile.args[-1] if shape[-1] == 3 else None
        raise _build_depth_error(file)
    if image.format == "PNG" and tile is not None and (image.mode, tile.args) in _SIXTEEN_BIT_LAYOUTS:
        return _read_png(file, tile.args.removesuffix(";16B")), 65535
    if (tile is not None and _is_truncated(image.mode, tile)) or (
        image.format == "JPEG2000" and _read_jpeg2000_bits(file) > 8 and not image.mode.startswith("I")
    ):
        raise _build_depth_error(file)
    return None


def _is_truncated(mode: str, tile: Any) -> bool:
    """Whether Pillow decodes colours of 16 bits into bytes. Its layout BGR;16 is another: 16 bits for all three."""
    layout = str(tile.args[0] if isinstance(tile.args, tuple) and tile.args else tile.args)
    return "I" not in mode and (tile.codec_name == "SGI16" or layout.endswith((";16B", ";16L", ";16N")))


def _read_png(file: str, bands: str) -> Array:
    """Decode the file with Pillow once for the high bytes and once for the low ones."""
    if bands == "LA":
        # Pillow has no layout for the low bytes, but the four bytes of a pixel are those of 8-bit RGBA.
        both = _decode_layout(file, "RGBA")
        high, low = both[..., ::2], both[..., 1::2]
    else:
        high, low = _decode_layout(file, f"{bands};16B"), _decode_layout(file, f"{bands};16L")
    return (high << 8) | low


def _decode_layout(file: str, layout: str) -> Array:
    image: Any
    with Image.open(file) as image:
        image.tile = [tile._replace(args=layout) for tile in image.tile]
        return np.asarray(image).astype(np.uint16)


def _read_jpeg2000_bits(file: str) -> int:
    """The bits of its first component, which its codestream begins with."""
    with open(file, "rb") as opened:
        head = opened.read(2**16)
    size = head.find(b"\xff\x4f\xff\x51")
    return (head[size + 42] & 0x7F) + 1 if 0 <= size < len(head) - 42 else 0


def _build_depth_error(file: str) -> UsageError:
    return UsageError(f"{file}: its colours have more than 8 bits, which cannot be read here; save it as TIFF or .npy.")
