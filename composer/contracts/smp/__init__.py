"""What smp's decoders give, as smp 0.6 computes it; smp itself is not needed to know. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from composer.contracts.dispatch import contract
from composer.contracts.rules import Outcome
from composer.contracts.smp.arguments import known_arguments
from composer.contracts.smp.climbing import fpn, linknet, manet, unet, unet_plus_plus
from composer.contracts.smp.dpt import dpt
from composer.contracts.smp.levels import Levels, levels_of
from composer.contracts.smp.pooling import deeplab, deeplab_plus, pan, pspnet, segformer, upernet
from composer.feature import Features
from composer.parts import Smp
from composer.parts.smp import ARGUMENTS as ARGUMENTS


@contract.register(Smp)
def _(decoder: Smp, features: Features) -> Outcome:
    if refusal := known_arguments(decoder):
        return refusal
    if decoder.name == "DPT":
        return dpt(decoder, features)
    return _RULES[decoder.name](decoder, levels_of(decoder, features))


_RULES: Mapping[str, Callable[[Smp, Levels], Outcome]] = MappingProxyType(
    {
        "Unet": unet,
        "UnetPlusPlus": unet_plus_plus,
        "MAnet": manet,
        "Linknet": linknet,
        "FPN": fpn,
        "PSPNet": pspnet,
        "DeepLabV3": deeplab,
        "DeepLabV3Plus": deeplab_plus,
        "PAN": pan,
        "UPerNet": upernet,
        "Segformer": segformer,
    }
)
