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

UNPADDED_DECODERS = ("FPN", "PSPNet", "DeepLabV3")
"""Decoders that count from the last map, and so need nothing in the place of levels that are not there."""


SIZE_AWARE_DECODERS = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "Segformer")
"""Decoders that look at the size of a level that is not there, or join it with its neighbours."""


UNINITIALIZED_DECODERS = ("DeepLabV3", "DeepLabV3Plus")
"""The decoders that smp leaves as torch makes them."""


class SmpDecoder(nn.Module):
    """A decoder of smp over maps, finest first; the first `passed` are passed over.

    `missing` levels before the first of the others are stood in for.
    """

    def __init__(self, decoder: nn.Module, missing: int, *, passed: int, sized: bool) -> None:
        super().__init__()
        # Published weights are called decoder._smp_decoder.
        self._smp_decoder = decoder
        self.missing = missing
        self.passed = passed
        self.sized = sized

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give one map for maps `(b, c_i, h_i, w_i)`."""
        used = features[self.passed :]
        first = used[0]
        # As smp's encoders do: a level that is not there has no channels, and twice the cells of the next.
        factors = [2**steps for steps in range(self.missing, 0, -1)]
        absent = [_make_empty_level(first, factor) if self.sized else first for factor in factors]
        return (self._smp_decoder([*absent, *used]),)


def _make_empty_level(x_BCHW: Tensor, factor: int) -> Tensor:
    batch, _, height, width = x_BCHW.shape
    return x_BCHW.new_empty(batch, 0, height * factor, width * factor)


class SmpDPT(nn.Module):
    """smp's DPT over tokens or maps."""

    def __init__(self, decoder: nn.Module, features: Features) -> None:
        super().__init__()
        self._smp_decoder = decoder
        self.features = features

    def forward(self, features: Sequence[Tensor], *, image_size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Give one map for tokens `(b, prefix + h * w, c)` or maps `(b, c, h, w)`; `image_size` is in pixels."""
        pairs = [_split_map_and_prefix(f, x, image_size) for f, x in zip(self.features, features, strict=True)]
        return (self._smp_decoder([x_BCHW for x_BCHW, _ in pairs], [prefix_BNC for _, prefix_BNC in pairs]),)


def _split_map_and_prefix(feature: Feature, x: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """A map, and the prefix tokens beside it where there are any."""
    if "n" not in feature.axes:
        # smp looks at it as a list of cells, without asking whether it lies in memory as one.
        return x.contiguous(), None
    assert feature.stride is not None
    pixels, cells = feature.stride.numerator, feature.stride.denominator
    height, width = (side * cells // pixels for side in image_size)
    prefix_BNC, x_BNC = x[:, : feature.prefix], x[:, feature.prefix :]
    x_BCHW = x_BNC.transpose(1, 2).reshape(x.shape[0], x.shape[2], height, width)
    return x_BCHW.contiguous(), prefix_BNC if feature.prefix else None


_DECODER_ARGUMENT_NAMES = {
    "decoder_use_norm": "use_norm",
    "decoder_attention_type": "attention_type",
    "decoder_interpolation": "interpolation_mode",
    "decoder_pab_channels": "pab_channels",
    "decoder_pyramid_channels": "pyramid_channels",
    "decoder_segmentation_channels": "segmentation_channels",
    "decoder_merge_policy": "merge_policy",
    "decoder_dropout": "dropout",
    "psp_out_channels": "out_channels",
    "psp_dropout": "dropout",
    "decoder_atrous_rates": "atrous_rates",
    "decoder_aspp_separable": "aspp_separable",
    "decoder_aspp_dropout": "aspp_dropout",
    "decoder_readout": "readout",
    "decoder_intermediate_channels": "intermediate_channels",
    "decoder_fusion_channels": "fusion_channels",
}
"""What the decoders call what their models call otherwise."""


def _build_decoder_arguments(part: Smp) -> dict[str, Any]:
    """The arguments by the names that the decoder itself has for them; what it has not, as it is."""
    renamed = _DECODER_ARGUMENT_NAMES | (
        {"decoder_channels": "out_channels"} if part.name.startswith("DeepLab") else {}
    )
    known = SMP_DECODER_ARGUMENTS[part.name]
    own = {
        renamed.get(name, name) if name in known else name: value for name, value in resolve_smp_arguments(part).items()
    }
    return own | ({"center": part.center is True} if part.name in CENTERED else {})


def _create_unet(made: Callable[..., nn.Module], levels: Levels, *, center: bool, **told: Any) -> nn.Module:
    return _create_with_blocks(made, levels, add_center_block=center, **told)


def _create_with_blocks(made: Callable[..., nn.Module], levels: Levels, **told: Any) -> nn.Module:
    return made(encoder_channels=_list_encoder_channels(levels), n_blocks=levels.depth, **told)


def _create_with_depth(made: Callable[..., nn.Module], levels: Levels, **told: Any) -> nn.Module:
    return made(encoder_channels=_list_encoder_channels(levels), encoder_depth=levels.depth, **told)


def _list_encoder_channels(levels: Levels) -> list[int]:
    return [0] * levels.first + [f.channels for f in levels.features]


def _create_pspnet(made: Callable[..., nn.Module], levels: Levels, **told: Any) -> nn.Module:
    return made(encoder_channels=_list_encoder_channels(levels), **told)


def _create_deeplab(made: Callable[..., nn.Module], levels: Levels, **told: Any) -> nn.Module:
    return made(in_channels=levels.features[-1].channels, **told)


def _create_deeplab_plus(made: Callable[..., nn.Module], levels: Levels, **told: Any) -> nn.Module:
    """An output stride of 16 means by 4, of 8 by 2; what the maps have is known."""
    fine, last = levels.since(2)[0], levels.features[-1]
    output_stride = 16 if last.stride and fine.stride and last.stride / fine.stride == 4 else 8
    return _create_with_depth(made, levels, output_stride=output_stride, **told)


_DECODER_FACTORIES: Mapping[str, tuple[Callable[..., nn.Module], Callable[..., nn.Module]]] = {
    "Unet": (_create_unet, UnetDecoder),
    "UnetPlusPlus": (_create_with_blocks, UnetPlusPlusDecoder),
    "MAnet": (_create_with_blocks, MAnetDecoder),
    "Linknet": (_create_with_blocks, LinknetDecoder),
    "FPN": (_create_with_depth, FPNDecoder),
    "PSPNet": (_create_pspnet, PSPDecoder),
    "DeepLabV3": (_create_deeplab, DeepLabV3Decoder),
    "DeepLabV3Plus": (_create_deeplab_plus, DeepLabV3PlusDecoder),
    "PAN": (_create_with_depth, PANDecoder),
    "UPerNet": (_create_with_depth, UPerNetDecoder),
    "Segformer": (_create_with_depth, SegformerDecoder),
}
"""How each is made, and of which class."""


@module.register(Smp)
def _(part: Smp, features: Features) -> nn.Module:
    with drop_warnings():  # smp's attention squeezes fewer than 16 channels to none, and torch warns of empty weights
        if part.name == "DPT":
            return SmpDPT(_init_decoder(part, _create_dpt(part, features)), features)
        levels = Levels(0, features) if part.name in UNPADDED_DECODERS else build_levels(part, features)
        make, made = _DECODER_FACTORIES[part.name]
        decoder = _init_decoder(part, make(made, levels, **_build_decoder_arguments(part)))
        passed = len(features) - len(levels.features)
        return SmpDecoder(decoder, levels.first, passed=passed, sized=part.name in SIZE_AWARE_DECODERS)


def _create_dpt(part: Smp, features: Features) -> nn.Module:
    decoder: nn.Module = DPTDecoder(
        encoder_out_channels=[f.channels for f in features],
        encoder_output_strides=[f.stride for f in features],
        encoder_has_prefix_tokens=any(f.prefix for f in features),
        **_build_decoder_arguments(part),
    )
    return decoder


def _init_decoder(part: Smp, decoder: nn.Module) -> nn.Module:
    if part.name not in UNINITIALIZED_DECODERS:
        with torch.no_grad():
            initialize_decoder(decoder)
    return decoder
