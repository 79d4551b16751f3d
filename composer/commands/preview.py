"""An image of any bands as a picture that a person can look at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from composer.commands.bands import Bands
from composer.commands.colours import NO_DATA_COLOUR
from composer.commands.normalising import infer_full_scale
from composer.commands.rasters import Array, Raster


def render_preview(raster: Raster, bands: Bands) -> NDArray[np.uint8]:
    """One band or three of an image as RGB (height, width, 3); of several frames, the first.

    A picture, of at most three bands in 0..255 or 0..1, is shown as it is. Of anything else each band is stretched
    from its 2nd to its 98th percentile. Grey where a shown band holds no data.
    """
    chosen = [band - 1 for band in bands]
    values, missing = raster.values[chosen], raster.missing[chosen]
    if values.ndim == 4:
        values, missing = values[:, 0], missing[:, 0]
    highest = raster.white or infer_full_scale(values, missing) if len(raster.values) <= 3 else None
    levels = [_compute_levels(band, absent, highest) for band, absent in zip(values, missing, strict=True)]
    picture = np.stack(levels if len(levels) == 3 else levels * 3, axis=-1)
    picture[missing.any(axis=0)] = NO_DATA_COLOUR
    return picture


def _compute_levels(band: Array, missing: Array, highest: int | None) -> NDArray[np.uint8]:
    present = band[~missing].astype(np.float64)
    low, high = (0, highest) if highest is not None else np.percentile(present, [2, 98]) if present.size else (0, 1)
    numbers = np.where(missing, low, band).astype(np.float64)
    spread = (numbers - low) / (high - low) if high > low else np.full(band.shape, 0.5)
    levels: NDArray[np.uint8] = (np.clip(spread, 0, 1) * 255).round().astype(np.uint8)
    return levels
