"""mmseg's heads as TerraTorch makes them, in terms of composer's. No torch here, and no mmseg."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer.contracts.mmseg.arguments import GN_GROUPS
from composer.parts.mmseg import Mmseg
from composer.parts.mmseg_heads import MMSEG_HEAD_ARGUMENTS as MMSEG_HEAD_ARGUMENTS
from composer.parts.mmseg_heads import UNSUPPORTED_HEADS as UNSUPPORTED_HEADS
from composer.terratorch.arguments import Arguments, Diagnostics, construct_part

REQUIRED_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "ANNHead": ("channels", "project_channels"),
    "DAHead": ("channels", "pam_channels"),
    "DepthwiseSeparableASPPHead": ("channels", "c1_channels"),
    "EMAHead": ("channels", "ema_channels", "num_bases", "num_stages"),
    "ISAHead": ("channels", "isa_channels"),
    "SegmenterMaskTransformerHead": ("num_layers", "num_heads", "embed_dims"),
}
"""What mmseg's class has no default for, where that is more than `channels`."""

LOSS_ARGUMENTS = ("loss_decode", "loss_se_decode", "ignore_index", "sampler", "threshold", "boundary_threshold")
"""Arguments of mmseg's losses, which TerraTorch never asks for."""

INFERRED_ARGUMENTS = ("feature_strides", "c1_in_channels")
"""Arguments that say of the maps what is known of them."""

NORMS = {"BN": "BN", "SyncBN": "BN", "GN": "GN"}


def build_mmseg_head(name: str, path: str, arguments: Arguments, ledger: Diagnostics) -> Mmseg | None:
    """The head that TerraTorch makes: with mmseg's own defaults, which are a head without norms."""
    if name in UNSUPPORTED_HEADS:
        reason, instead = UNSUPPORTED_HEADS[name]
        ledger.add_problem(
            path, f"mmseg's {name} cannot be had: {reason}.", f"decoder: mmseg_{instead}", code="unknown"
        )
        return None
    for needed in REQUIRED_ARGUMENTS.get(name, ("channels",)):
        if needed not in arguments:
            ledger.add_problem(
                path, f"mmseg's {name} needs {needed}.", f"decoder_{needed}: {_suggest_value(name, needed)}", "missing"
            )
            return None
    if name in ("EncHead", "DAHead") and arguments.get("use_se_loss", True):
        ledger.add_note(
            path, f"TerraTorch fails on {name}, which gives several outputs; here it gives the first of them."
        )
    plain = arguments.without(*LOSS_ARGUMENTS, *INFERRED_ARGUMENTS, "use_se_loss", *_list_unused_arguments(name))
    prepared = _flatten_configs(name, plain, ledger)
    return None if prepared is None else construct_part(Mmseg, prepared.replace(name=name), ledger, f"mmseg's {name}")


def _suggest_value(name: str, argument: str) -> Any:
    usual = MMSEG_HEAD_ARGUMENTS[name][argument]
    return 12 if usual is None and argument == "num_heads" else 768 if usual is None else usual


def _list_unused_arguments(name: str) -> tuple[str, ...]:
    # mmseg demands these too, and makes nothing of them.
    return ("channels", "dropout_ratio", "align_corners") if name == "SegmenterMaskTransformerHead" else ()


def _flatten_configs(name: str, arguments: Arguments, ledger: Diagnostics) -> Arguments | None:
    """Norm, activation and factorisation, which mmseg has as dicts."""
    norm = arguments.get("norm_cfg")
    act = arguments.get("act_cfg")
    if norm is not None and not _is_norm(norm):
        said = f"a norm is BN, SyncBN, or GN in {GN_GROUPS} groups (got {norm!r})."
        ledger.add_problem(arguments.path("norm_cfg"), said, "decoder_norm_cfg: {type: BN}")
        return None
    if act is not None and not isinstance(act, Mapping):
        said = f"an activation has a type (got {act!r})."
        ledger.add_problem(arguments.path("act_cfg"), said, "decoder_act_cfg: {type: ReLU}")
        return None
    told: dict[str, Any] = (
        {"norm": False if norm is None else NORMS[norm["type"]]} if "norm" in MMSEG_HEAD_ARGUMENTS[name] else {}
    )
    told |= {} if act is None else {"act": act.get("type")}
    told |= {"num_convs": 2} if name == "STDCHead" and "num_convs" not in arguments else {}
    # What it draws at every forward in mmseg is drawn once here.
    ham = {key: value for key, value in dict(arguments.get("ham_kwargs") or {}).items() if key != "rand_init"}
    return arguments.without("norm_cfg", "act_cfg", "ham_kwargs").replace(**told, **ham)


def _is_norm(norm: Any) -> bool:
    return isinstance(norm, Mapping) and norm.get("type") in NORMS and norm.get("num_groups", GN_GROUPS) == GN_GROUPS
