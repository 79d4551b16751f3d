"""mmseg's decode heads, made for the features that are known. B batch, C channels, H and W cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from composer.adapters.mmseg.importing import decode_heads
from composer.contracts.mmseg import attention
from composer.contracts.mmseg.arguments import GROUPS
from composer.contracts.mmseg.taken import Taken, positions
from composer.feature import Features
from composer.modules.devices import current, on
from composer.modules.dispatch import module
from composer.parts.mmseg import TAKES_SEVERAL, Mmseg, arguments
from composer.quiet import unwarned

HEADS = decode_heads()


@module.register(Mmseg)
def _(part: Mmseg, features: Features) -> nn.Module:
    """mmseg's own head, which gives a tuple."""
    with unwarned():  # each makes a loss too, which warns of what it was not told
        head = _made(part, features)
        _initialise(head)
    if part.name in _FINISHED:
        _FINISHED[part.name](part, head)
    # Hooks, because a module around the head would give its parameters other names than mmseg's.
    head.register_forward_pre_hook(_contiguous)
    head.register_forward_hook(_one)
    return head


def _made(part: Mmseg, features: Features) -> nn.Module:
    """The head by its name; on the CPU first where its constructor reads a tensor, which on meta cannot be done."""
    with on("cpu") if part.name == "SegmenterMaskTransformerHead" else nullcontext():
        head: nn.Module = getattr(HEADS, part.name)(**_own_arguments(part, features))
    return head.to(current())


def _contiguous(_: nn.Module, inputs: tuple[Sequence[Tensor]]) -> tuple[list[Tensor]]:
    """mmseg looks at maps as lists of cells, without asking whether they lie in memory as such."""
    return ([x_BCHW.contiguous() for x_BCHW in inputs[0]],)


def _one(_: nn.Module, __: object, out: Tensor | tuple[Tensor, ...]) -> tuple[Tensor]:
    """A tuple of the one prediction. The first of DAHead's is that of both its branches."""
    return (out,) if isinstance(out, Tensor) else (out[0],)


def _initialise(head: Any) -> None:
    """As mmengine's runner does, without two lines in its log for each parameter. On the meta device are no values."""
    if current() == "meta":
        return
    head._dump_init_info = lambda: None
    head.init_weights()
    del head._dump_init_info


def _own_arguments(part: Mmseg, features: Features) -> dict[str, Any]:
    told = arguments(part)
    taken = Taken(features, positions(part.name, told, features))
    told |= _taken(part, told, taken) | _configs(told)
    if part.name in _FURTHER:
        told |= _FURTHER[part.name](told, taken)
    return told


def _taken(part: Mmseg, told: Mapping[str, Any], taken: Taken) -> dict[str, Any]:
    """`in_channels` and `in_index`: lists of them where several maps are taken."""
    widths = [f.channels for f in taken.maps]
    if part.name in TAKES_SEVERAL or told.get("input_transform"):
        # What was given stays, so that mmseg itself refuses what it cannot be.
        return {"in_channels": widths, "in_index": taken.positions if part.in_index is None else part.in_index}
    return {"in_channels": widths[0], "in_index": told["in_index"]}


def _configs(told: dict[str, Any]) -> dict[str, Any]:
    """Norms and activations as mmseg's configs have them; what they are called here is left out."""
    norms = {"BN": {"type": "BN"}, "GN": {"type": "GN", "num_groups": GROUPS}, False: None}
    given = {}
    if "norm" in told:
        given["norm_cfg"] = norms[told.pop("norm")]
    if "act" in told:
        given["act_cfg"] = {"type": told.pop("act")}
    return given


def _fpn(_: Mapping[str, Any], taken: Taken) -> dict[str, Any]:
    # As ratios, whose logarithms are whole where they should be; nothing else is made of them.
    least = taken.maps[0].stride or 1
    return {"feature_strides": [float((f.stride or 1) / least) for f in taken.maps]}


def _deeplab_plus(_: Mapping[str, Any], taken: Taken) -> dict[str, Any]:
    return {"c1_in_channels": taken.features[0].channels}


def _encnet(_: Mapping[str, Any], __: Taken) -> dict[str, Any]:
    return {"use_se_loss": False}


def _light_ham(told: dict[str, Any], _: Taken) -> dict[str, Any]:
    ham = {name: told.pop(name) for name in ("MD_S", "MD_R", "train_steps", "eval_steps")}
    return {"ham_kwargs": {**ham, "rand_init": False}}


def _segmenter(told: Mapping[str, Any], taken: Taken) -> dict[str, Any]:
    given = attention(told, taken.maps[0])
    # The width of a classifier that every head is made with, and that this one drops.
    return {**given, "channels": given["embed_dims"]}


_FURTHER: Mapping[str, Callable[[dict[str, Any], Taken], dict[str, Any]]] = {
    "FPNHead": _fpn,
    "DepthwiseSeparableASPPHead": _deeplab_plus,
    "EncHead": _encnet,
    "LightHamHead": _light_ham,
    "SegmenterMaskTransformerHead": _segmenter,
}
"""What some heads are told besides, and what others are told in another form."""


def _with_bases(part: Mmseg, head: Any) -> None:
    """mmseg draws the bases at the first forward, and a model should not change when it is used."""
    told, ham = arguments(part), head.hamburger.ham
    width = told["ham_channels"] // told["MD_S"]
    device = head.conv_seg.weight.device
    ham.register_buffer("bases", ham._build_bases(1, told["MD_S"], width, told["MD_R"], device=device))


def _without_dropout(_: Mmseg, head: Any) -> None:
    """mmseg calls ANN's dropout also where it has made none."""
    if head.dropout is None:
        head.dropout = nn.Identity()


_FINISHED: Mapping[str, Callable[[Mmseg, Any], None]] = {"LightHamHead": _with_bases, "ANNHead": _without_dropout}
"""What some heads lack when they are made."""
