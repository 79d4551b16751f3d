"""Modules of smp's decoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3Decoder, DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.linknet.decoder import LinknetDecoder
from segmentation_models_pytorch.decoders.manet.decoder import MAnetDecoder
from segmentation_models_pytorch.decoders.pan.decoder import PANDecoder
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.decoders.unetplusplus.decoder import UnetPlusPlusDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn

from composer.adapters.smp.encoders import probe as probe
from composer.adapters.smp.levels import Levels, build_levels
from composer.adapters.smp.parts import CENTERED, SMP_DECODER_ARGUMENTS, Smp, resolve_smp_arguments
from composer.isolation import drop_warnings
from composer.layouts import Feature, Features
from composer.modules.base import module


class SmpDecoder(nn.Module):
    """A decoder of smp over maps, finest first. It drops the first `dropped` maps.

    In the place of `missing` levels it passes maps without channels, as smp's encoders do, each with twice the cells
    of the next.
    """

    def __init__(self, decoder: nn.Module, missing: int, dropped: int) -> None:
        super().__init__()
        # Published weights are named decoder._smp_decoder.
        self._smp_decoder = decoder
        self.missing = missing
        self.dropped = dropped

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return one map for maps `(b, c_i, h_i, w_i)`."""
        used = features[self.dropped :]
        batch, _, height, width = used[0].shape
        factors = [2**steps for steps in range(self.missing, 0, -1)]
        empty = [used[0].new_empty(batch, 0, height * factor, width * factor) for factor in factors]
        return (self._smp_decoder([*empty, *used]),)


class SmpDPT(nn.Module):
    """smp's DPT over tokens or maps."""

    def __init__(self, decoder: nn.Module, features: Features) -> None:
        super().__init__()
        self._smp_decoder = decoder
        self.features = features

    def forward(self, features: Sequence[Tensor], *, image_size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Return one map for tokens `(b, prefix + h * w, c)` or maps `(b, c, h, w)`; `image_size` is in pixels."""
        pairs = [_split_map_and_prefix(f, x, image_size) for f, x in zip(self.features, features, strict=True)]
        return (self._smp_decoder([x_BCHW for x_BCHW, _ in pairs], [prefix_BNC for _, prefix_BNC in pairs]),)


def _split_map_and_prefix(feature: Feature, x: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """Return the map and its prefix tokens, None if it has none."""
    if "n" not in feature.axes:
        # smp calls view on it.
        return x.contiguous(), None
    assert feature.stride is not None
    pixels, cells = feature.stride.numerator, feature.stride.denominator
    height, width = (side * cells // pixels for side in image_size)
    prefix_BNC, x_BNC = x[:, : feature.prefix], x[:, feature.prefix :]
    x_BCHW = x_BNC.transpose(1, 2).reshape(x.shape[0], x.shape[2], height, width)
    return x_BCHW.contiguous(), prefix_BNC if feature.prefix else None


_DECODERS: Mapping[str, tuple[Callable[..., nn.Module], str | None]] = {
    "Unet": (UnetDecoder, "n_blocks"),
    "UnetPlusPlus": (UnetPlusPlusDecoder, "n_blocks"),
    "MAnet": (MAnetDecoder, "n_blocks"),
    "Linknet": (LinknetDecoder, "n_blocks"),
    "FPN": (FPNDecoder, "encoder_depth"),
    "PSPNet": (PSPDecoder, None),
    "DeepLabV3": (DeepLabV3Decoder, None),
    "DeepLabV3Plus": (DeepLabV3PlusDecoder, "encoder_depth"),
    "PAN": (PANDecoder, "encoder_depth"),
    "UPerNet": (UPerNetDecoder, "encoder_depth"),
    "Segformer": (SegformerDecoder, "encoder_depth"),
}
"""The class of each decoder, and its name for the number of levels."""


@module.register(Smp)
def _(part: Smp, features: Features) -> nn.Module:
    with drop_warnings():  # smp's attention squeezes fewer than 16 channels to none, and torch warns of empty weights
        if part.name == "DPT":
            return SmpDPT(_create_dpt(part, features), features)
        # These count from the last map.
        levels = Levels(0, features) if part.name in ("FPN", "PSPNet", "DeepLabV3") else build_levels(part, features)
        create, depth = _DECODERS[part.name]
        arguments = _rename_arguments(part) | _build_input_arguments(part, levels)
        decoder = create(**arguments, **({depth: levels.depth} if depth else {}))
        if not part.name.startswith("DeepLab"):  # which smp leaves as torch initialises them
            _init_decoder(decoder)
        return SmpDecoder(decoder, levels.first, dropped=len(features) - len(levels.features))


def _rename_arguments(part: Smp) -> dict[str, Any]:
    """Return the arguments of smp's model by the decoder's names for them; unknown ones keep theirs, and raise."""
    renamed = {"decoder_interpolation": "interpolation_mode", "decoder_channels": "decoder_channels"}
    if part.name.startswith("DeepLab"):
        renamed["decoder_channels"] = "out_channels"
    known = SMP_DECODER_ARGUMENTS[part.name]
    return {
        renamed.get(name, name.removeprefix("decoder_").removeprefix("psp_")) if name in known else name: value
        for name, value in resolve_smp_arguments(part).items()
    }


def _build_input_arguments(part: Smp, levels: Levels) -> dict[str, Any]:
    if part.name == "DeepLabV3":
        return {"in_channels": levels.features[-1].channels}
    arguments: dict[str, Any] = {"encoder_channels": [0] * levels.first + [f.channels for f in levels.features]}
    if part.name in CENTERED:
        arguments["add_center_block" if part.name == "Unet" else "center"] = part.center is True
    if part.name == "DeepLabV3Plus":
        fine, last = levels.select_from(2)[0], levels.features[-1]
        # smp enlarges the last map by 4 for an output stride of 16, and by 2 for 8.
        arguments["output_stride"] = 16 if last.stride and fine.stride and last.stride / fine.stride == 4 else 8
    return arguments


def _create_dpt(part: Smp, features: Features) -> nn.Module:
    decoder = DPTDecoder(
        encoder_out_channels=[f.channels for f in features],
        encoder_output_strides=[f.stride for f in features],
        encoder_has_prefix_tokens=any(f.prefix for f in features),
        **_rename_arguments(part),
    )
    return _init_decoder(decoder)


def _init_decoder(decoder: nn.Module) -> nn.Module:
    with torch.no_grad():
        initialize_decoder(decoder)
    return decoder
