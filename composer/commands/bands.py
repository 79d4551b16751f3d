"""Which bands of an image a model is fed, and which a person is shown. Bands are counted from 1, as GDAL does."""

from __future__ import annotations

from composer.commands.rasters import Raster
from composer.commands.terminal import UsageError

Bands = tuple[int, ...]


def parse_bands(text: str) -> Bands:
    """`4,3,2` as (4, 3, 2). Raises ValueError for anything else."""
    found = tuple(int(number) for number in text.split(","))
    if any(number < 1 for number in found):
        raise ValueError(f"bands are counted from 1 (got {text})")
    return found


def select_bands(raster: Raster, name: str, channels: int, asked: Bands | None) -> tuple[Bands, str | None]:
    """The bands that input `name` is fed, and what to say of them. Raises UsageError where they do not fit."""
    count = len(raster.values)
    if asked is not None:
        _check_bands(raster, asked, "--bands")
        if len(asked) != channels:
            raise UsageError(
                f"--bands: the model's {name} takes {_format_band_count(channels)} (got {len(asked)}: {format_bands(asked)})."
            )
        return asked, f"bands {format_bands(asked)} of {count}"
    if count == channels:
        return tuple(range(1, count + 1)), None
    if count == 1 and channels == 3 and raster.values.ndim == 3:
        return (1, 1, 1), "one grey band, given to the model three times"
    example = format_bands(tuple(range(1, channels + 1)))
    step = f"pick them with --bands, counted from 1: --bands {example}" if count > channels else "use another image"
    raise UsageError(
        f"{raster.file}: the model's {name} takes {_format_band_count(channels)}, and this image has {count}; {step}."
    )


def select_preview_bands(raster: Raster, fed: Bands, asked: Bands | None) -> tuple[Bands, str | None]:
    """The bands that stand for red, green and blue (or one, for grey), and what to say of them.

    Of more than three bands, the third, second and first that the model is fed are a guess, and said to be one.
    """
    if asked is not None:
        _check_bands(raster, asked, "--show-bands")
        if len(asked) not in (1, 3):
            raise UsageError(f"--show-bands: one band, or three as red, green and blue (got {format_bands(asked)}).")
        return asked, None
    if len(fed) == 3:
        return fed, None
    if len(fed) < 3:
        return fed[:1], f"band {fed[0]} shown as grey" if len(fed) == 2 else None
    guess = (fed[2], fed[1], fed[0])
    return guess, f"bands {format_bands(guess)} shown as red, green and blue: a guess, --show-bands says otherwise"


def format_bands(bands: Bands) -> str:
    """(4, 3, 2) as `4,3,2`."""
    return ",".join(map(str, bands))


def _check_bands(raster: Raster, asked: Bands, option: str) -> None:
    count = len(raster.values)
    if beyond := [band for band in asked if band > count]:
        raise UsageError(
            f"{option}: {raster.file} has {_format_band_count(count)}, counted from 1 (got {format_bands(tuple(beyond))})."
        )


def _format_band_count(count: int) -> str:
    return "1 band" if count == 1 else f"{count} bands"
