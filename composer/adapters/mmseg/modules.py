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

from composer.adapters.decoders import GROUPS, Call
from composer.adapters.mmseg.parts import Mmseg, build_call, resolve_arguments, takes_several
from composer.layouts import Features
from composer.modules.base import get_default_device, module, use_default_device
from composer.process import drop_warnings

COMPILED_OPS = "mmcv._ext"


class UncompiledOps(ModuleType):
    """Stands in for mmcv's compiled operations, each of which raises RuntimeError when it is called."""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(name)

        def raise_uncompiled(*_: Any, **__: Any) -> NoReturn:
            raise RuntimeError(f"{name} is an operation that mmcv compiles, and this mmcv is not compiled")

        return raise_uncompiled


def import_decode_heads() -> ModuleType:
    """Return the module of mmseg's heads. Raises whatever importing it raises."""
    # First, so that a missing mmseg is distinguished from a missing mmcv.
    import_module("mmseg")
    # Before anything imports them, because what fails halfway stays registered with mmcv.
    if COMPILED_OPS not in sys.modules and find_spec(COMPILED_OPS) is None:
        sys.modules[COMPILED_OPS] = UncompiledOps(COMPILED_OPS)
        try:
            # Operations in plain torch work, such as the attention of CCHead.
            import_module("mmcv.ops")
        finally:
            del sys.modules[COMPILED_OPS]
    return import_module("mmseg.models.decode_heads")


HEADS = import_decode_heads()


@module.register(Mmseg)
def _(part: Mmseg, features: Features) -> nn.Module:
    """Return mmseg's own head, which returns a tuple."""
    # Its constructor runs on the CPU if it reads a tensor, which the meta device does not allow.
    reads = part.name == "SegmenterMaskTransformerHead"
    call = build_call(part, features)
    with drop_warnings():  # each builds a loss too, which warns about missing arguments
        with use_default_device("cpu") if reads else nullcontext():
            head: nn.Module = getattr(HEADS, part.name)(**_build_head_arguments(part, call))
        head.to(get_default_device())
        _init_head(head)
    if part.name == "LightHamHead":
        _register_bases(head, call.arguments)
    if part.name == "ANNHead" and head.dropout is None:
        # mmseg calls it even if it has none.
        head.dropout = nn.Identity()
    # Hooks, because a wrapper would change the names of mmseg's parameters.
    head.register_forward_pre_hook(_make_contiguous)
    head.register_forward_hook(_to_single_output)
    return head


def _make_contiguous(_: nn.Module, inputs: tuple[Sequence[Tensor]]) -> tuple[list[Tensor]]:
    # mmseg calls view on its inputs.
    return ([x_BCHW.contiguous() for x_BCHW in inputs[0]],)


def _to_single_output(_: nn.Module, __: object, out: Tensor | tuple[Tensor, ...]) -> tuple[Tensor]:
    # The first of DAHead's predictions is that of both its branches.
    return (out,) if isinstance(out, Tensor) else (out[0],)


def _init_head(head: Any) -> None:
    """Initialise as mmengine's runner does, without its two log lines for each parameter."""
    if get_default_device() == "meta":
        return
    head._dump_init_info = lambda: None
    head.init_weights()
    del head._dump_init_info


def _register_bases(head: Any, arguments: Mapping[str, Any]) -> None:
    """Draw the bases now; mmseg does so in the first forward pass, but a model must not change when it is used."""
    ham, count, rank = head.hamburger.ham, arguments["MD_S"], arguments["MD_R"]
    device = head.conv_seg.weight.device
    bases = ham._build_bases(1, count, arguments["ham_channels"] // count, rank, device=device)
    ham.register_buffer("bases", bases)


_NORMS = {"BN": {"type": "BN"}, "GN": {"type": "GN", "num_groups": GROUPS}, False: None}


def _build_head_arguments(part: Mmseg, call: Call) -> dict[str, Any]:
    """Return the arguments in mmseg's form, and those that follow from the inputs."""
    arguments, widths = resolve_arguments(call), [f.channels for f in call.maps]
    if takes_several(part):
        # An in_index of the wrong type stays, so that mmseg itself rejects it.
        arguments |= {"in_channels": widths, "in_index": call.positions if part.in_index is None else part.in_index}
    else:
        arguments["in_channels"] = widths[0]
    if "norm" in arguments:
        arguments["norm_cfg"] = _NORMS[arguments.pop("norm")]
    if "act" in arguments:
        arguments["act_cfg"] = {"type": arguments.pop("act")}
    match part.name:
        case "FPNHead":
            # mmseg uses their ratios only, and the logarithm of a power of 2 is exact.
            finest = call.maps[0].stride or 1
            arguments["feature_strides"] = [float((f.stride or 1) / finest) for f in call.maps]
        case "DepthwiseSeparableASPPHead":
            arguments["c1_in_channels"] = call.features[0].channels
        case "EncHead":
            arguments["use_se_loss"] = False
        case "LightHamHead":
            ham = {name: arguments.pop(name) for name in ("MD_S", "MD_R", "train_steps", "eval_steps")}
            arguments["ham_kwargs"] = {**ham, "rand_init": False}
        case "SegmenterMaskTransformerHead":
            # The width of the classifier that every head builds and this one deletes.
            arguments["channels"] = arguments["embed_dims"]
    return arguments
