"""The times and places that a backbone is told beside its image: what they must be. B batch, T frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

COORDINATE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What TerraTorch takes for coordinates: its encoding of them asserts as much."""


CoordinateShapes = Mapping[str, tuple[tuple[int, ...], str]]
"""By the name of an argument, the shape that it must have, and what it is."""


def get_prithvi_shapes(image: Tensor, frames: int) -> CoordinateShapes:
    """Times `(b, t, 2)` and places `(b, 2)`."""
    batch = image.shape[0]
    return {
        "temporal_coords": ((batch, frames, 2), "the year and the day of each frame of each image"),
        "location_coords": ((batch, 2), "the latitude and the longitude of each image"),
    }


def check_coordinates(given: Mapping[str, Any], image: Tensor, shapes: CoordinateShapes) -> None:
    """Raise ValueError for what is not of its shape, in numbers of the image's kind. None is none.

    TerraTorch would spread a shape that is nearly right over images, frames or patches.
    """
    for name, value in given.items():
        if value is not None:
            shape, meaning = shapes[name]
            _check_coordinate_shape(name, value, shape, meaning)
            _check_coordinate_numbers(name, value, image)


def _check_coordinate_shape(name: str, value: Any, shape: tuple[int, ...], meaning: str) -> None:
    if not isinstance(value, Tensor) or value.dim() != len(shape) or tuple(value.shape) != shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name} must be a tensor of shape {shape}, {meaning} (got {got})")


def _check_coordinate_numbers(name: str, value: Tensor, image: Tensor) -> None:
    if value.dtype not in COORDINATE_DTYPES:
        raise ValueError(
            f"{name} must be of {', '.join(map(str, COORDINATE_DTYPES[:-1]))} or {COORDINATE_DTYPES[-1]} (got {value.dtype})"
        )
    # What is wider than the image would widen the tokens too, which the weights then do not fit.
    wider = torch.promote_types(value.dtype, image.dtype) != image.dtype
    if wider and not torch.is_autocast_enabled(image.device.type):
        raise ValueError(f"{name} must be no wider than the image, of {image.dtype} (got {value.dtype})")
    if not torch.compiler.is_compiling() and not _is_finite(value):
        raise ValueError(f"{name} must hold finite numbers (got {_describe_nonfinite(value)})")


def _is_finite(value: Tensor) -> bool:
    try:
        return bool(value.isfinite().all())
    except RuntimeError:  # a tensor without values: on the meta device, or while something is traced
        return True


def _describe_nonfinite(value: Tensor) -> str:
    index = tuple(int(axis) for axis in (~value.isfinite()).nonzero()[0])
    return f"{float(value[index])} at {list(index)}"
