"""The combinations in which composer and TerraTorch are compared, and what each is as a call of the factory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, pairwise, product
from random import Random
from typing import Any

import torch
from torch import nn

Combination = dict[str, str]
Pair = tuple[tuple[str, str], tuple[str, str]]

CHANNELS = 4
"""Bands of the images. Not three, so that no stem is the default one."""

SIDE = 64


class Pyramid(nn.Module):
    """A backbone of one's own: four maps, each half of the one before, and what TerraTorch asks of a backbone."""

    def __init__(self) -> None:
        super().__init__()
        widths = (CHANNELS, 6, 8, 10, 12)
        self.out_channels = list(widths[1:])
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(*pair, kernel_size=3, stride=2, padding=1), nn.BatchNorm2d(pair[1]), nn.ReLU())
            for pair in pairwise(widths)
        )

    def forward(self, x_BCHW: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for stage in self.stages:
            x_BCHW = stage(x_BCHW)
            maps.append(x_BCHW)
        return maps


def prithvi(frames: int = 2) -> nn.Module:
    """Prithvi's encoder, small: frames at once, tokens with a class token."""
    from terratorch.models.backbones.prithvi_vit import PrithviViT

    network = PrithviViT(
        img_size=SIDE, patch_size=(1, 8, 8), num_frames=frames, in_chans=CHANNELS, embed_dim=32, depth=4, num_heads=2
    )
    # As TerraTorch's registry hands it out: it gives the features of every block, and reconstructs nothing.
    network.forward = network.forward_features
    return network


VIT = {
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 4,
    "num_heads": 2,
    "img_size": SIDE,
    "out_indices": [0, 1, 2, 3],
    "in_chans": CHANNELS,
}
SWIN = {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 3, 3], "img_size": SIDE, "window_size": 4}
BACKBONES: dict[str, tuple[Any, dict[str, Any]]] = {
    "resnet": ("timm_resnet18", {"in_chans": CHANNELS, "out_indices": [1, 2, 3, 4]}),
    "convnext": ("convnext_atto", {"in_chans": CHANNELS}),
    "vit": ("timm_vit_tiny_patch16_224", VIT),
    "swin": ("timm_swin_tiny_patch4_window7_224", SWIN | {"in_chans": CHANNELS}),
    "prithvi": (prithvi, {}),
    "module": (Pyramid, {}),
}
WIDTHS = {
    "resnet": (64, 128, 256, 512),
    "convnext": (40, 80, 160, 320),
    "vit": (24,) * 4,
    "swin": (12, 24, 48, 96),
    "prithvi": (64,) * 4,
    "module": (6, 8, 10, 12),
}
FLAT = ("vit", "prithvi")

LAYOUTS = {
    "swin": [{"name": "PermuteDims", "new_order": [0, 3, 1, 2]}],
    "prithvi": [{"name": "ReshapeTokensToImage", "effective_time_dim": 2}],
}
"""The necks that make maps of what a backbone gives."""

NECKS: dict[str, dict[str, Any]] = {
    "some": {"name": "SelectIndices", "indices": [-3, -2]},
    "bottleneck": {"name": "AddBottleneckLayer"},
    "fpn": {"name": "FeaturePyramidNetworkNeck", "out_channel": 8, "output_ordered_dict": False},
    "interpolate": {"name": "InterpolateToPyramidal", "mode": "bilinear"},
    "maxpool": {"name": "MaxpoolToPyramidal"},
    "learned": {"name": "LearnedInterpolateToPyramidal"},
}
PYRAMIDAL = ("interpolate", "maxpool", "learned")
MAPS = {"bottleneck": 5, "some": 2}
"""How many maps come out, where it is not four."""

DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "FCN": ("FCNDecoder", {"channels": 8, "num_convs": 2, "in_index": -1}),
    "UNet": ("UNetDecoder", {"attention_type": "scse"}),
    "UperNet": ("UperNetDecoder", {"channels": 8, "pool_scales": [1, 2]}),
    "UperNet scaled": ("UperNetDecoder", {"channels": 8, "scale_modules": True, "align_corners": False}),
    "Linear": ("LinearDecoder", {"num_classes": 5, "upsampling_size": 2}),
    "MLP": ("MLPDecoder", {"channels": 7, "activation": "GELU"}),
    "Identity": ("IdentityDecoder", {"out_index": 0}),
    "ASPP": ("ASPPRegressionHead", {"channels": 8, "out_channels": 3, "dilations": [1, 2]}),
    "smp Unet": ("smp_Unet", {}),
    "smp FPN": (
        "smp_FPN",
        {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32, "decoder_dropout": 0.0},
    ),
    "smp PSPNet": ("PSPNet", {"psp_out_channels": 8, "psp_dropout": 0.3}),
}
PIXEL_HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"dropout": 0.3},
    "channels": {"channel_list": [6, 5]},
    "all": {"channel_list": [6], "dropout": 0.2},
    "final_act": {"final_act": "torch.nn.Softplus"},
    "upscale": {"learned_upscale_layers": 1, "channel_list": [5]},
}
AUX: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "one": [{"name": "early", "decoder": "FCNDecoder",
             "decoder_args": {"decoder_channels": 6, "decoder_num_convs": 1, "decoder_in_index": 0}}],
    "identity": [{"name": "one", "decoder": "IdentityDecoder", "decoder_args": {"decoder_out_index": 0}}],
    "two": [{"name": "one", "decoder": "IdentityDecoder", "decoder_args": {"decoder_out_index": 1}},
            {"name": "two", "decoder": "FCNDecoder",
             "decoder_args": {"decoder_channels": 5, "decoder_num_convs": 1, "head_dropout": 0.5}}],
}  # fmt: skip
OUTPUTS: dict[str, dict[str, Any]] = {
    "rescaled": {},
    "raw": {"rescale": False},
    "cropped": {"image_size_out": (30, 34)},
}
TIMES: dict[str, dict[str, Any]] = {
    "mean": {"temporal_pooling": "mean", "temporal_n_timestamps": 3},
    "max": {"temporal_pooling": "max", "temporal_n_timestamps": 3},
    "diff": {"temporal_pooling": "diff", "temporal_subset_lengths": [2, 1]},
    "concat": {"temporal_pooling": "concat", "temporal_n_timestamps": 3},
}
PIXEL_WISE = {
    "task": ("segmentation", "regression"),
    "encoder": tuple(BACKBONES),
    "neck": ("none", *NECKS),
    "decoder": tuple(DECODERS),
    "head": tuple(PIXEL_HEADS),
    "aux": ("none", "one", "two"),
    "output": tuple(OUTPUTS),
    "size": ("native", "odd"),
}
SCALAR = {
    "task": ("classification", "scalar_regression"),
    "encoder": tuple(BACKBONES),
    "neck": ("none", "aggregate mean", "aggregate max", "aggregate cls"),
    "decoder": ("Identity", "MLP", "FCN"),
    "head": ("plain", "dim_list", "dropout", "after_pool", "all"),
    "aux": ("none", "identity"),
}
TEMPORAL = {
    "task": ("segmentation", "classification"),
    "encoder": ("resnet", "vit", "module"),
    "decoder": ("FCN", "UperNet", "Identity"),
    "time": tuple(TIMES),
    "size": ("native", "odd"),
}
SCALAR_HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dim_list": {"dim_list": [6]},
    "dropout": {"dropout": 0.3},
    "after_pool": {"linear_after_pool": True, "dim_list": [5]},
    "all": {"dim_list": [6, 5], "dropout": 0.2, "linear_after_pool": False},
}


def goes_together(one: Combination) -> bool:
    """Whether TerraTorch builds and runs a combination, and pads the image as composer does."""
    flat, neck, decoder = one["encoder"] in FLAT, one.get("neck", "none"), one["decoder"]
    if one["task"] == "segmentation" and one.get("head") in ("final_act", "upscale"):
        return False
    if neck == "interpolate" and one.get("output") == "raw":
        return False  # cells smaller than pixels, of which TerraTorch keeps as many as the image has pixels
    fits = _neck_fits(one["encoder"], neck, flat=flat) and _decoder_fits(one["encoder"], decoder, neck, flat=flat)
    return fits and (one.get("size") != "odd" or _takes_odd_sizes(one))


def _neck_fits(encoder: str, neck: str, *, flat: bool) -> bool:
    if neck == "aggregate cls":
        return encoder == "prithvi"  # a class token is known only where there are tokens
    return flat if neck in PYRAMIDAL else neck != "fpn" or not flat


def _decoder_fits(encoder: str, decoder: str, neck: str, *, flat: bool) -> bool:
    if decoder == "smp FPN":
        return encoder == "resnet" and neck == "none"  # smp drops the first map, and wants four of those that are left
    if neck.startswith("aggregate"):
        return decoder == "Identity" or (decoder == "MLP" and flat)
    if decoder in ("UNet", "smp Unet"):
        return neck != "some" and (not flat or neck in PYRAMIDAL)
    if decoder == "UperNet scaled":
        return flat and neck == "none"
    return decoder != "MLP" or (flat and neck in ("none", "some"))


def _takes_odd_sizes(one: Combination) -> bool:
    """Whether both bring an image of an odd size to the same pixels.

    A transformer pads it to its own size; without `rescale` composer moves it there onto whole cells of the output.
    A convolutional network takes it as it is, but behind parts that enlarge a grid by a whole factor, for which
    composer pads: there TerraTorch stretches the cells of a larger image over this one.
    """
    if one["encoder"] == "swin":
        return False  # TerraTorch pads to eight pixels, which its own network refuses
    if one["encoder"] in FLAT:
        return one.get("output") != "raw"
    enlarging = one["decoder"] in ("FCN", "Linear", "smp FPN") or one.get("head") == "upscale"
    return not enlarging and one.get("aux", "none") == "none"


def call_of(one: Combination) -> dict[str, Any]:
    """The arguments of the factory for a combination. A backbone that is a module is a new one each time."""
    backbone, arguments = BACKBONES[one["encoder"]]
    if one["decoder"] == "smp FPN":
        arguments = arguments | {"out_indices": [0, 1, 2, 3, 4]}
    necks = _necks(one)
    decoder, decoder_arguments = DECODERS[one["decoder"]]
    scalar = one["task"] in ("classification", "scalar_regression")
    heads = SCALAR_HEADS if scalar else PIXEL_HEADS
    outputs = {"num_classes": 3} if one["task"] in ("segmentation", "classification") else {"num_outputs": 2}
    call = {
        "task": one["task"],
        "backbone": backbone if isinstance(backbone, str) else backbone(*_frames(one)),
        "necks": necks,
        "decoder": decoder,
        **{f"backbone_{name}": value for name, value in arguments.items()},
        **{f"decoder_{name}": value for name, value in (decoder_arguments | _widths(one)).items()},
        **{f"head_{name}": value for name, value in heads[one.get("head", "plain")].items()},
        **OUTPUTS[one.get("output", "rescaled")],
        **outputs,
    }
    if one.get("aux", "none") != "none":
        call["aux_decoders"] = AUX[one["aux"]]
    if "time" in one:
        call |= {"backbone_use_temporal": True} | {f"backbone_{k}": v for k, v in TIMES[one["time"]].items()}
    return call


def _frames(one: Combination) -> tuple[int, ...]:
    """The frames that a backbone takes at once, where it takes any.

    Its stated channels are those of all frames, which tokens that are aggregated over them have not.
    """
    if one["encoder"] != "prithvi":
        return ()
    return (1,) if one.get("neck", "none").startswith("aggregate") else (2,)


def frames_of(one: Combination) -> tuple[int, ...]:
    """The frames of the images for a combination."""
    return (3,) if "time" in one else _frames(one)


def _necks(one: Combination) -> list[dict[str, Any]]:
    neck = one.get("neck", "none")
    tokens_are_wanted = neck.startswith("aggregate") and one["encoder"] == "prithvi"
    layout = [] if tokens_are_wanted else LAYOUTS.get(one["encoder"], [])
    if neck.startswith("aggregate"):
        return [*layout, {"name": "AggregateTokens", "pooling": neck.split()[1], "indices": [0, 1, 2, 3]}]
    return [*layout, *([NECKS[neck]] if neck in NECKS else [])]


def _widths(one: Combination) -> dict[str, Any]:
    maps = MAPS.get(one.get("neck", "none"), 4)
    if one["decoder"] == "UNet":
        return {"channels": [32, 24, 16, 16, 16][:maps]}
    if one["decoder"] == "smp Unet":
        return {"decoder_channels": [32, 24, 16, 16][: maps - 1]}
    if one["decoder"] == "ASPP":
        return {"in_channels": _channels(one)[-1]}
    return {}


def _channels(one: Combination) -> list[int]:
    """The channels of the maps that reach the decoder."""
    widths = list(WIDTHS[one["encoder"]])
    changed = {
        "bottleneck": [*widths, widths[-1] // 2],
        "some": widths[1:3],
        "fpn": [8] * 4,
        "learned": [widths[0] // 4, widths[1] // 2, *widths[2:]],
    }
    return changed.get(one.get("neck", "none"), widths)


LOOKED_AT = 200
"""How many of the combinations that hold a missing pair are compared before one is chosen."""


def covering(factors: Mapping[str, Sequence[str]], works: Callable[[Combination], bool]) -> list[Combination]:
    """Combinations of one option of each factor, all of which work, that have every pair of options that can.

    Greedy: of those that have a pair not yet had, one that has as many of these as any of a fixed random choice. Always
    the same for the same factors.
    """
    every = (dict(zip(factors, options, strict=True)) for options in product(*factors.values()))
    lawful = [one for one in every if works(one)]
    holding: dict[Pair, list[Combination]] = {}
    for one in lawful:
        for pair in pairs_of(one):
            holding.setdefault(pair, []).append(one)
    choose, missing, chosen = Random(0), dict.fromkeys(holding), []
    while missing:
        some = holding[next(iter(missing))]
        candidates = some if len(some) <= LOOKED_AT else choose.sample(some, LOOKED_AT)
        best = max(candidates, key=lambda one: sum(pair in missing for pair in pairs_of(one)))
        chosen.append(best)
        for pair in pairs_of(best):
            missing.pop(pair, None)
    return chosen


def pairs_of(one: Combination) -> list[Pair]:
    """Every two options of a combination, in the order of the factors."""
    return list(combinations(one.items(), 2))


PIXEL_WISE_COMBINATIONS = covering(PIXEL_WISE, goes_together)
SCALAR_COMBINATIONS = covering(SCALAR, goes_together)
TEMPORAL_COMBINATIONS = covering(TEMPORAL, goes_together)
