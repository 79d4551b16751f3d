"""Modules of mmseg's decode heads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NoReturn

from torch import Tensor, nn

from composer.adapters.mmseg.contracts import GN_GROUPS, SelectedMaps, resolve_positions, resolve_segmenter_attention
from composer.adapters.mmseg.parts import MULTI_MAP_HEADS, Mmseg, resolve_mmseg_arguments
from composer.isolation import drop_warnings
from composer.layouts import Features
from composer.modules.base import get_default_device, module, use_default_device

COMPILED_OPS = "mmcv._ext"


class UncompiledOps(ModuleType):
    """In the place of mmcv's compiled operations: each of them is there, and raises RuntimeError when it is called."""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(name)

        def raise_uncompiled(*_: Any, **__: Any) -> NoReturn:
            raise RuntimeError(f"{name} is an operation that mmcv compiles, and this mmcv is not compiled")

        return raise_uncompiled


def import_decode_heads() -> ModuleType:
    """mmseg's heads. Raises whatever importing them raises."""
    # First, so that an mmseg that is not there is told from an mmcv that is not.
    import_module("mmseg")
    # Asked before anything is imported that needs them: what fails halfway stays registered with mmcv.
    if COMPILED_OPS not in sys.modules and find_spec(COMPILED_OPS) is None:
        sys.modules[COMPILED_OPS] = UncompiledOps(COMPILED_OPS)
        try:
            # What is written in plain torch there, as CCHead's attention is, works.
            import_module("mmcv.ops")
        finally:
            del sys.modules[COMPILED_OPS]
    return import_module("mmseg.models.decode_heads")


HEADS = import_decode_heads()


@module.register(Mmseg)
def _(part: Mmseg, features: Features) -> nn.Module:
    """mmseg's own head, which gives a tuple."""
    with drop_warnings():  # each makes a loss too, which warns of what it was not told
        head = _create_head(part, features)
        _init_head(head)
    if part.name in _FINALIZERS:
        _FINALIZERS[part.name](part, head)
    # Hooks, because a module around the head would give its parameters other names than mmseg's.
    head.register_forward_pre_hook(_make_contiguous)
    head.register_forward_hook(_to_single_output)
    return head


def _create_head(part: Mmseg, features: Features) -> nn.Module:
    """The head by its name; on the CPU first where its constructor reads a tensor, which on meta cannot be done."""
    with use_default_device("cpu") if part.name == "SegmenterMaskTransformerHead" else nullcontext():
        head: nn.Module = getattr(HEADS, part.name)(**_build_head_arguments(part, features))
    return head.to(get_default_device())


def _make_contiguous(_: nn.Module, inputs: tuple[Sequence[Tensor]]) -> tuple[list[Tensor]]:
    """mmseg looks at maps as lists of cells, without asking whether they lie in memory as such."""
    return ([x_BCHW.contiguous() for x_BCHW in inputs[0]],)


def _to_single_output(_: nn.Module, __: object, out: Tensor | tuple[Tensor, ...]) -> tuple[Tensor]:
    """A tuple of the one prediction. The first of DAHead's is that of both its branches."""
    return (out,) if isinstance(out, Tensor) else (out[0],)


def _init_head(head: Any) -> None:
    """As mmengine's runner does, without two lines in its log for each parameter. On the meta device are no values."""
    if get_default_device() == "meta":
        return
    head._dump_init_info = lambda: None
    head.init_weights()
    del head._dump_init_info


def _build_head_arguments(part: Mmseg, features: Features) -> dict[str, Any]:
    told = resolve_mmseg_arguments(part)
    taken = SelectedMaps(features, resolve_positions(part.name, told, features))
    told |= _build_input_arguments(part, told, taken) | _convert_norm_and_act(told)
    if part.name in _EXTRA_ARGUMENTS:
        told |= _EXTRA_ARGUMENTS[part.name](told, taken)
    return told


def _build_input_arguments(part: Mmseg, told: Mapping[str, Any], taken: SelectedMaps) -> dict[str, Any]:
    """`in_channels` and `in_index`: lists of them where several maps are taken."""
    widths = [f.channels for f in taken.maps]
    if part.name in MULTI_MAP_HEADS or told.get("input_transform"):
        # What was given stays, so that mmseg itself refuses what it cannot be.
        return {"in_channels": widths, "in_index": taken.positions if part.in_index is None else part.in_index}
    return {"in_channels": widths[0], "in_index": told["in_index"]}


def _convert_norm_and_act(told: dict[str, Any]) -> dict[str, Any]:
    """Norms and activations as mmseg's configs have them; what they are called here is left out."""
    norms = {"BN": {"type": "BN"}, "GN": {"type": "GN", "num_groups": GN_GROUPS}, False: None}
    given = {}
    if "norm" in told:
        given["norm_cfg"] = norms[told.pop("norm")]
    if "act" in told:
        given["act_cfg"] = {"type": told.pop("act")}
    return given


def _build_fpn_arguments(_: Mapping[str, Any], taken: SelectedMaps) -> dict[str, Any]:
    # As ratios, whose logarithms are whole where they should be; nothing else is made of them.
    least = taken.maps[0].stride or 1
    return {"feature_strides": [float((f.stride or 1) / least) for f in taken.maps]}


def _build_aspp_arguments(_: Mapping[str, Any], taken: SelectedMaps) -> dict[str, Any]:
    return {"c1_in_channels": taken.features[0].channels}


def _build_encnet_arguments(_: Mapping[str, Any], __: SelectedMaps) -> dict[str, Any]:
    return {"use_se_loss": False}


def _build_ham_arguments(told: dict[str, Any], _: SelectedMaps) -> dict[str, Any]:
    ham = {name: told.pop(name) for name in ("MD_S", "MD_R", "train_steps", "eval_steps")}
    return {"ham_kwargs": {**ham, "rand_init": False}}


def _build_segmenter_arguments(told: Mapping[str, Any], taken: SelectedMaps) -> dict[str, Any]:
    given = resolve_segmenter_attention(told, taken.maps[0])
    # The width of a classifier that every head is made with, and that this one drops.
    return {**given, "channels": given["embed_dims"]}


_EXTRA_ARGUMENTS: Mapping[str, Callable[[dict[str, Any], SelectedMaps], dict[str, Any]]] = {
    "FPNHead": _build_fpn_arguments,
    "DepthwiseSeparableASPPHead": _build_aspp_arguments,
    "EncHead": _build_encnet_arguments,
    "LightHamHead": _build_ham_arguments,
    "SegmenterMaskTransformerHead": _build_segmenter_arguments,
}
"""What some heads are told besides, and what others are told in another form."""


def _register_bases(part: Mmseg, head: Any) -> None:
    """mmseg draws the bases at the first forward, and a model should not change when it is used."""
    told, ham = resolve_mmseg_arguments(part), head.hamburger.ham
    width = told["ham_channels"] // told["MD_S"]
    device = head.conv_seg.weight.device
    ham.register_buffer("bases", ham._build_bases(1, told["MD_S"], width, told["MD_R"], device=device))


def _fill_missing_dropout(_: Mmseg, head: Any) -> None:
    """mmseg calls ANN's dropout also where it has made none."""
    if head.dropout is None:
        head.dropout = nn.Identity()


_FINALIZERS: Mapping[str, Callable[[Mmseg, Any], None]] = {
    "LightHamHead": _register_bases,
    "ANNHead": _fill_missing_dropout,
}
"""What some heads lack when they are made."""
