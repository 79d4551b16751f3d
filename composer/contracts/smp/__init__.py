"""What smp's decoders give, as smp 0.6 computes it; smp itself is not needed to know. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from composer.contracts.dispatch import contract
from composer.contracts.rules import ContractResult
from composer.contracts.smp.arguments import require_known_smp_arguments
from composer.contracts.smp.climbing import infer_fpn, infer_linknet, infer_manet, infer_unet, infer_unet_plus_plus
from composer.contracts.smp.dpt import infer_dpt
from composer.contracts.smp.levels import Levels, build_levels
from composer.contracts.smp.pooling import (
    infer_deeplab,
    infer_deeplab_plus,
    infer_pan,
    infer_pspnet,
    infer_segformer,
    infer_upernet,
)
from composer.feature import Features
from composer.parts import Smp
from composer.parts.smp import SMP_DECODER_ARGUMENTS as SMP_DECODER_ARGUMENTS


@contract.register(Smp)
def _(decoder: Smp, features: Features) -> ContractResult:
    if refusal := require_known_smp_arguments(decoder):
        return refusal
    if decoder.name == "DPT":
        return infer_dpt(decoder, features)
    return _SMP_RULES[decoder.name](decoder, build_levels(decoder, features))


_SMP_RULES: Mapping[str, Callable[[Smp, Levels], ContractResult]] = MappingProxyType(
    {
        "Unet": infer_unet,
        "UnetPlusPlus": infer_unet_plus_plus,
        "MAnet": infer_manet,
        "Linknet": infer_linknet,
        "FPN": infer_fpn,
        "PSPNet": infer_pspnet,
        "DeepLabV3": infer_deeplab,
        "DeepLabV3Plus": infer_deeplab_plus,
        "PAN": infer_pan,
        "UPerNet": infer_upernet,
        "Segformer": infer_segformer,
    }
)
