"""Create networks of timm, and read what timm states about them."""

from __future__ import annotations

import re
from typing import Any

import timm
from attrs import evolve
from timm.models.mvitv2 import MultiScaleVit

from composer.adapters.probing import GridFunction
from composer.adapters.rejections import normalize_indices, reject_all_sizes, reject_network, suggest_arguments
from composer.adapters.weights import reject_weights
from composer.errors import format_error
from composer.isolation import drop_warnings
from composer.layouts import CHANNELS_LAST, MAP
from composer.modules.base import use_default_device
from composer.parts import Timm
from composer.parts.encoders import get_weights_file
from composer.parts.rules import Kind, Rejection, RejectionError
from composer.parts.validators import to_keyword_arguments
from composer.resources import limit_modules
from composer.sizes import SizeConstraint

SIZE_SWITCHES: tuple[dict[str, bool], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
"""The switches by which timm's networks take other image sizes, in the order in which they are tried."""


def list_networks(pattern: str = "*") -> list[str]:
    """List timm's networks whose name matches a glob pattern, without `timm/`."""
    return list(timm.list_models(pattern))


def list_candidate_names(name: str) -> list[str]:
    """List the names to suggest for an unknown `name`: all networks, and the tagged ones that begin as it does."""
    return list_networks() + list(timm.list_pretrained(f"{name.split('.')[0]}*"))


def list_tags(network: str) -> list[str]:
    """Return the tags of a network's weights: `a1_in1k` of `resnet50.a1_in1k`."""
    return [tag for name in timm.models.get_arch_pretrained_cfgs(network) if (tag := name.partition(".")[2])]


def get_declared_arguments(part: Timm) -> dict[str, Any]:
    """Return the arguments that the declaration sets, as timm names them."""
    fields = {"output_stride": part.output_stride, "img_size": part.img_size}
    return {name: value for name, value in fields.items() if value is not None} | to_keyword_arguments(part.options)


def create_timm_network(part: Timm, channels: int, device: str, **arguments: Any) -> Any:
    """Create the network that a part declares, in timm's wrapper with `features_only`. `arguments` are added.

    Raises whatever timm raises for arguments that the network does not take, and RejectionError for one too deep.
    """
    if part.features_only:
        arguments |= {"features_only": True}
        arguments |= {} if part.out_indices is None else {"out_indices": part.out_indices}
    # Tensors on the meta device warn that initialising them does nothing.
    with use_default_device(device), limit_modules(), drop_warnings():
        return timm.create_model(part.name, **{"in_chans": channels, **get_declared_arguments(part), **arguments})


def create_flexible_network(part: Timm, channels: int, device: str) -> tuple[Any, dict[str, bool]]:
    """Create the network without weights, and return it with the switch that makes its image size flexible.

    Raises as `create_timm_network` does.
    """
    declared = get_declared_arguments(part).keys() & {"dynamic_img_size", "strict_img_size"}
    *switches, last = ({},) if declared else SIZE_SWITCHES
    for switch in switches:
        try:
            return create_timm_network(part, channels, device, **switch), switch
        except RejectionError:
            raise
        except Exception:  # noqa: S112, an unknown switch is a TypeError, and the last try has none
            continue
    return create_timm_network(part, channels, device, **last), last


def get_default_size(part: Timm, network: Any) -> tuple[int, int]:
    """Return the image size at which a network is sure to run."""
    _, height, width = network.pretrained_cfg["input_size"]
    return part.img_size or (height, width)


def limit_image_sizes(network: Any, size: tuple[int, int], grids_at: GridFunction) -> GridFunction:
    """Return `compute_grids` for the sizes that a network made for `size` takes: for MViT v2 that one alone.

    At another size it indexes its tables of relative positions beyond their end, or from the wrong end. The meta device
    does not check indices.
    """
    if not any(isinstance(module, MultiScaleVit) for module in network.modules()):
        return grids_at
    return lambda height, width: grids_at(height, width) if (height, width) == size else None


def get_layout(part: Timm, network: Any) -> str:
    """Return the layout of the levels: maps of a plain network, the network's own layout in timm's wrapper."""
    # Networks that only have the usual layout lack the attribute.
    layout = str(getattr(network, "output_fmt", "")) if part.features_only else ""
    return CHANNELS_LAST if layout.endswith("NHWC") else MAP


def resolve_timm_levels(part: Timm, network: Any, channels: int, device: str) -> tuple[int, ...]:
    """Return `out_indices` counted from 0, or timm's default. Raises RejectionError for missing levels."""
    if part.out_indices is None:
        if not part.features_only:
            network = create_timm_network(evolve(part, features_only=True, tokens=False, norm=False), channels, device)
        return tuple(network.feature_info.out_indices)
    # timm's wrapper fails silently on a missing level, so the levels are those of the plain network.
    plain = create_timm_network(evolve(part, features_only=False), channels, device)
    indices = normalize_indices(part.out_indices, count_levels(plain))
    if isinstance(indices, Rejection):
        raise RejectionError(indices)
    return indices


def count_levels(network: Any) -> int:
    """Return the number of levels of a network."""
    # timm's wrapper has the list of them inside an object.
    return len(getattr(network.feature_info, "info", network.feature_info))


def get_channels_and_reductions(
    part: Timm, network: Any, indices: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the channels and reductions that timm states for the levels."""
    if part.features_only:
        return tuple(network.feature_info.channels()), tuple(network.feature_info.reduction())
    infos = [network.feature_info[index] for index in indices]
    # SAM's final norm comes after a neck with fewer channels.
    width = "num_chs_norm" if part.norm and all("num_chs_norm" in info for info in infos) else "num_chs"
    return tuple(info[width] for info in infos), tuple(info["reduction"] for info in infos)


_UNEXPECTED_ARGUMENT = re.compile(r"unexpected keyword argument '(\w+)'")


def reject_timm_arguments(part: Timm, error: Exception) -> Rejection:
    """Reject a network whose constructor raised `error`."""
    declared = get_declared_arguments(part)
    unexpected = _UNEXPECTED_ARGUMENT.search(str(error))
    named = [unexpected[1]] if unexpected and unexpected[1] in declared else declared
    repair = suggest_arguments(named or ["its arguments"])
    return reject_network("refuses its arguments", format_timm_error(error), repair)


def reject_timm_sizes(part: Timm, channels: int, error: Exception | None) -> Rejection:
    """Reject a network that runs at no size tried; `error` is what it raised, if it did."""
    got = "cells that are not square, or levels of other channels than it states"
    return reject_all_sizes(channels, format_timm_error(error) if error else got, get_declared_arguments(part))


def reject_norm(error: Exception | None) -> Rejection:
    """Reject `norm` where a network has no final norm for its levels, or raises `error` with it."""
    if error is not None:
        return reject_network("cannot apply its final norm to its levels", format_timm_error(error), "leave norm out")
    return Rejection(
        code="network",
        kind="wrong_output",
        expected="has no final norm that norm could apply",
        got="levels as they are",
        repair="leave norm out",
        about="norm",
    )


def reject_img_size(size: tuple[int, int], sizes: SizeConstraint) -> Rejection:
    """Reject an `img_size` that is not one of the sizes the network takes."""
    nearest = sizes.compute_padded_size(*size)
    return Rejection(
        code="sizes",
        kind="wrong_output",
        expected=f"takes img_size: {sizes}",
        got=f"{size[0]} × {size[1]}",
        repair=f"img_size: {list(nearest)}" if nearest else "leave img_size out",
        about="img_size",
    )


def reject_any_size(expected: str, got: str, repair: str, error: Exception | None) -> Rejection:
    """Reject `any_size` for a network that does not round at every size; `error` is what it raised there, if it did."""
    kind: Kind = "raises" if error else "wrong_output"
    return Rejection(code="sizes", kind=kind, expected=expected, got=got, repair=repair, about="any_size")


def reject_timm_weights(part: Timm, error: Exception) -> Rejection:
    """Reject weights that cannot be loaded or do not match."""
    source = get_weights_file(part.pretrained)
    if source is None:
        named = "that timm publishes for it"
        repair = "check the connection, give the path of a weights file, or set pretrained: false"
    else:
        named, repair = source[0], "give the path of a weights file that fits this network"
    return reject_weights(f"cannot load the weights {named}", error, repair, part.pretrained)


def format_timm_error(error: Exception) -> str:
    """Return an exception of timm in one line."""
    return f"timm says {format_error(error)}"
