"""The backbones that TerraTorch keeps outside of its own registry: Clay and Prithvi's Swin with timm, ScaleMAE in a
table. B batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from math import isfinite
from typing import Any

from terratorch.models.backbones.clay_v1.embedder import Embedder, clay_v1_base
from terratorch.models.backbones.prithvi_swin import prithvi_swin_B, prithvi_swin_L
from terratorch.models.backbones.scalemae import VisionTransformer as ScaleMAE
from terratorch.models.backbones.scalemae import create_model
from terratorch.models.backbones.swin_encoder_decoder import MMSegSwinTransformer
from torch import Tensor

from composer.adapters.terratorch.coordinates import check_coordinates
from composer.parts import TerraTorch
from composer.parts.terratorch_names import CLAY, SCALE_MAE, SWIN

_TIMM_FACTORIES = {made.__name__: made for made in (clay_v1_base, prithvi_swin_B, prithvi_swin_L)}
_DROP_RATES = ("drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate")
_UNREGISTERED_OPTIONS: Mapping[tuple[str, ...], frozenset[str]] = {
    CLAY: frozenset(inspect.signature(Embedder.__init__).parameters) - {"self", "kwargs"},
    SWIN: frozenset(inspect.signature(MMSegSwinTransformer.__init__).parameters) - {"self"},
    # Others of timm's reach layers that its forward leaves out.
    SCALE_MAE: frozenset({"default_input_res", "init_values", "qk_norm", *_DROP_RATES}),
}


def get_unregistered_options(part: TerraTorch) -> frozenset[str] | None:
    """The arguments that have an effect on such a backbone; None of those that TerraTorch's own registry has."""
    return next((known for names, known in _UNREGISTERED_OPTIONS.items() if part.name in names), None)


def create_unregistered(part: TerraTorch, arguments: Mapping[str, Any]) -> Any:
    """The network with random weights, and with all its levels where the part picks among those of a ScaleMAE."""
    if part.name not in SCALE_MAE:
        network = _TIMM_FACTORIES[part.name](features_only=True, **arguments)
        # A function of TerraTorch's own factories, which cannot be pickled.
        network.__dict__.pop("prepare_features_for_image_model", None)
        return network
    network = create_model(part.name.removeprefix("scalemae_"), **arguments)
    if part.out_indices is not None:
        network.out_indices = list(range(len(network.blocks)))
    return network


EXTRA_INPUTS: Mapping[type, frozenset[str]] = {
    Embedder: frozenset({"time", "latlon", "gsd"}),
    ScaleMAE: frozenset({"input_res"}),
}
"""The keyword arguments that a network takes beside its image. Clay's wavelengths are those of its bands."""


def forward_clay(network: Any, image: Tensor, extras: Mapping[str, Any]) -> Any:
    """The levels of Clay. Raises ValueError for times or places that are not `(b, 4)`, or for no size of a pixel."""
    batch = image.shape[0]
    size = extras.get("gsd")
    if size is not None and not (isinstance(size, int | float) and size > 0 and isfinite(size)):
        raise ValueError(f"gsd must be a number above 0, the metres of a pixel of all images (got {size!r})")
    shapes = {
        "time": ((batch, 4), "the week and the hour of each image, as sines and cosines"),
        "latlon": ((batch, 4), "the latitude and the longitude of each image, as sines and cosines"),
    }
    check_coordinates({name: value for name, value in extras.items() if name != "gsd"}, image, shapes)
    return network.forward_features(image, **extras)


def forward_scale_mae(network: Any, image: Tensor, extras: Mapping[str, Any]) -> Any:
    """The levels of ScaleMAE. Raises ValueError for sizes of pixels that are not `(b,)`."""
    shapes = {"input_res": ((image.shape[0],), "the metres of a pixel of each image")}
    check_coordinates(extras, image, shapes)
    size = extras.get("input_res")
    # It multiplies them with positions in single precision, and takes no others.
    return network(image, None if size is None else size.float())
