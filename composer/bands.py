"""Names of spectral bands: TerraTorch's, and what Sentinel-2, Landsat and STAC call the same bands."""

from __future__ import annotations

import re
from collections.abc import Mapping

from composer.errors import suggest

RGB = ("RED", "GREEN", "BLUE")
"""The bands of pictures, in their order."""

# Names: HLSBands, SARBands and MetadataBands of TerraTorch 1.2.11 (datasets/utils.py); YELLOW, PAN, HH and HV are ours.
# Sentinel-2: look_up_table of TerraTorch (models/backbones/torchgeo_vit.py). Landsat, and the names in lower case:
# "Common Band Names" of STAC's extension eo 1.0, whose nir is the broad band and whose nir08 is the narrow one.
BAND_SYNONYMS: Mapping[str, str] = {
    "COASTAL_AEROSOL": "B1 L8_B1 coastal",
    "BLUE": "B2 L8_B2 L7_B1 B",
    "GREEN": "B3 L8_B3 L7_B2 G",
    "RED": "B4 L8_B4 L7_B3 R",
    "PAN": "L8_B8 L7_B8",
    "RED_EDGE_1": "B5",
    "RED_EDGE_2": "B6",
    "RED_EDGE_3": "B7",
    "NIR_BROAD": "B8 L7_B4 nir",
    "NIR_NARROW": "B8A L8_B5 nir08",
    "WATER_VAPOR": "B9 nir09",
    "CIRRUS": "B10 L8_B9",
    "SWIR_1": "B11 L8_B6 L7_B5 swir16",
    "SWIR_2": "B12 L8_B7 L7_B7 swir22",
    "THERMAL_INFRARED_1": "L8_B10 L7_B6 lwir11",
    "THERMAL_INFRARED_2": "L8_B11 lwir12",
    **dict.fromkeys(("YELLOW", "VV", "VH", "HH", "HV", "ASC_VV", "ASC_VH", "DSC_VV", "DSC_VH", "VV_VH"), ""),
    **dict.fromkeys(("DEM", "NDVI", "LULC"), ""),
}
"""The bands, each with its synonyms. A plain number is Sentinel-2's, `B4` or `B04`; Landsat's have the satellite before
them: `L8_B4`, which is also `L9_B4`, and `L7_B3`, also `L5_B3` and `L4_B3`.
"""


def _normalize_name(name: str) -> str:
    """Return a name without case, signs and the zero of `B04`; satellites with the same sensor have one name."""
    plain = re.sub(r"[^A-Z0-9]", "", name.upper())
    plain = re.sub(r"^L[45](?=B\d)", "L7", re.sub(r"^L9(?=B\d)", "L8", plain))
    return re.sub(r"(?<=B)0(?=\d$)", "", plain)


_BANDS_BY_NAME = {
    _normalize_name(name): band for band, synonyms in BAND_SYNONYMS.items() for name in (band, *synonyms.split())
}


def find_band(name: str) -> str | None:
    """Return the common name of a band, `RED` for `B04` or `red`; None where it is not known."""
    return _BANDS_BY_NAME.get(_normalize_name(name))


def convert_bands(values: object) -> tuple[str, ...] | None:
    """Return the common names of bands, or None. Raises ValueError for anything but a list of different bands."""
    if values is None:
        return None
    if not isinstance(values, list | tuple) or not values or not all(isinstance(value, str) for value in values):
        raise ValueError(f"bands must be a list of names (got {values!r})")
    bands = {find_band(value): value for value in values}
    if None in bands:
        raise ValueError(f"there is no band {bands[None]!r} ({suggest(bands[None], BAND_SYNONYMS)})")
    if len(bands) < len(values):
        raise ValueError(f"bands must name each band once (got {', '.join(values)})")
    return tuple(band for band in bands if band)
