"""Create networks of timm, and read what timm states about them."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import timm
from attrs import evolve
from timm.models.mvitv2 import MultiScaleVit

from composer.adapters.probing import GridFunction
from composer.adapters.rounding import RoundingMismatch
from composer.adapters.timm.catalogue import normalize_indices
from composer.adapters.weights import reject_weights
from composer.isolation import drop_warnings
from composer.layouts import CHANNELS_LAST, MAP, format_count
from composer.modules.base import use_default_device
from composer.parts import Timm
from composer.parts.encoders import get_weights_file
from composer.parts.rules import Rejection, RejectionError
from composer.parts.validators import to_keyword_arguments
from composer.resources import limit_modules
from composer.sizes import SizeConstraint

SIZE_SWITCHES: tuple[dict[str, bool], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
"""The switches by which timm's networks take other image sizes, in the order in which they are tried."""


def list_networks(pattern: str = "*") -> list[str]:
    """timm's networks whose name matches a glob pattern, without `timm/`."""
    return list(timm.list_models(pattern))


def list_candidate_names(name: str) -> list[str]:
    """The names that `name` may have been meant to be: all networks, and the tagged ones that begin as it does."""
    return list_networks() + list(timm.list_pretrained(f"{name.split('.')[0]}*"))


def list_tags(network: str) -> list[str]:
    """Return the tags of a network's weights: `a1_in1k` of `resnet50.a1_in1k`."""
    return [tag for name in timm.models.get_arch_pretrained_cfgs(network) if (tag := name.partition(".")[2])]


def get_declared_arguments(part: Timm) -> dict[str, Any]:
    """The arguments that the declaration spells out, as timm names them."""
    given = {"output_stride": part.output_stride, "img_size": part.img_size}
    return {name: value for name, value in given.items() if value is not None} | to_keyword_arguments(part.options)


def create_timm_network(part: Timm, channels: int, device: str, **arguments: Any) -> Any:
    """The network that a part declares, in timm's wrapper where it asks for that. `arguments` come on top.

    Raises whatever timm raises for arguments that the network does not take, and RejectionError for one too deep.
    """
    if part.features_only:
        arguments |= {"features_only": True}
        arguments |= {} if part.out_indices is None else {"out_indices": part.out_indices}
    with (
        use_default_device(device),
        limit_modules(),
        drop_warnings(),
    ):  # meta tensors warn that initialising them does nothing
        return timm.create_model(part.name, **{"in_chans": channels, **get_declared_arguments(part), **arguments})


def create_flexible_network(part: Timm, channels: int, device: str) -> tuple[Any, dict[str, bool]]:
    """The network without weights, and the switch that makes its image size flexible. Raises as `create` does."""
    *switches, last = (
        ({},) if get_declared_arguments(part).keys() & {"dynamic_img_size", "strict_img_size"} else SIZE_SWITCHES
    )
    for switch in switches:
        try:
            return create_timm_network(part, channels, device, **switch), switch
        except RejectionError:
            raise
        except Exception:  # noqa: S112, a switch that a network does not know is a TypeError, and the last try has none
            continue
    return create_timm_network(part, channels, device, **last), last


def get_default_size(part: Timm, network: Any) -> tuple[int, int]:
    """The image size at which a network is sure to run."""
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
    """The layout of what a network gives: timm's wrapper gives its own, which the plain network is asked to turn."""
    # Absent on the networks that know no other layout than the usual one.
    told = str(getattr(network, "output_fmt", "")) if part.features_only else ""
    return CHANNELS_LAST if told.endswith("NHWC") else MAP


def resolve_timm_levels(part: Timm, network: Any, channels: int, device: str) -> tuple[int, ...]:
    """The levels asked for, counted from 0; timm's own choice where none are. Raises RejectionError for what it has not."""
    if part.out_indices is None:
        if not part.features_only:
            network = create_timm_network(evolve(part, features_only=True, tokens=False, norm=False), channels, device)
        return tuple(network.feature_info.out_indices)
    # timm's wrapper fails without a word on a level that it has not, so it is the plain network that is asked.
    plain = create_timm_network(evolve(part, features_only=False), channels, device)
    indices = normalize_indices(part.out_indices, count_levels(plain))
    if isinstance(indices, Rejection):
        raise RejectionError(indices)
    return indices


def count_levels(network: Any) -> int:
    """How many levels a network has in all; timm's wrapper keeps the list of them to itself."""
    return len(getattr(network.feature_info, "info", network.feature_info))


def get_channels_and_reductions(
    part: Timm, network: Any, indices: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The channels and reductions that timm states for the levels."""
    if part.features_only:
        return tuple(network.feature_info.channels()), tuple(network.feature_info.reduction())
    infos = [network.feature_info[index] for index in indices]
    # SAM's final norm stands behind a neck that narrows.
    width = "num_chs_norm" if part.norm and all("num_chs_norm" in info for info in infos) else "num_chs"
    return tuple(info[width] for info in infos), tuple(info["reduction"] for info in infos)


_UNEXPECTED_ARGUMENT = re.compile(r"unexpected keyword argument '(\w+)'")


def reject_timm_arguments(part: Timm, error: Exception) -> Rejection:
    """A constructor that raised; Python names an argument that it has not."""
    unexpected = _UNEXPECTED_ARGUMENT.search(str(error))
    named = (
        [unexpected[1]]
        if unexpected and unexpected[1] in get_declared_arguments(part)
        else get_declared_arguments(part)
    )
    given = ", ".join(named) or "its arguments"
    return _reject_network("refuses its arguments", _format_timm_error(error), f"correct or leave out {given}")


def reject_timm_sizes(part: Timm, channels: int, error: Exception | None) -> Rejection:
    """A network that ran nowhere; `error` is what it raised, if it did."""
    given = ", ".join(get_declared_arguments(part))
    return _reject_network(
        f"runs at no image size tried with {format_count(channels, 'input channel')}",
        _format_timm_error(error) if error else "cells that are not square, or levels of other channels than it states",
        f"correct or leave out {given}" if given else "choose another network",
    )


def reject_tokens(error: Exception) -> Rejection:
    """A network that has no tokens to give."""
    return _reject_network(
        "cannot give its tokens", _format_timm_error(error), "leave tokens out: maps are what it gives"
    )


def reject_norm(error: Exception | None) -> Rejection:
    """A network that has no final norm for its levels, or does not take the wish for it."""
    if error is not None:
        return _reject_network("cannot apply its final norm to its levels", _format_timm_error(error), "leave norm out")
    return Rejection(
        code="network",
        kind="wrong_output",
        expected="has no final norm that norm could apply",
        got="levels as they are",
        repair="leave norm out",
        about="norm",
    )


def reject_img_size(size: tuple[int, int], sizes: SizeConstraint) -> Rejection:
    """Return the refusal of an `img_size` that is not one of the sizes the network takes."""
    nearest = sizes.compute_padded_size(*size)
    return Rejection(
        code="sizes",
        kind="wrong_output",
        expected=f"takes img_size: {sizes}",
        got=f"{size[0]} × {size[1]}",
        repair=f"img_size: {list(nearest)}" if nearest else "leave img_size out",
        about="img_size",
    )


def reject_fixed_size(sizes: SizeConstraint, error: Exception | None) -> Rejection:
    """A network that takes images of one size; `error` is what it raised at another, if it did."""
    return Rejection(
        code="sizes",
        kind="raises" if error else "wrong_output",
        expected="gives what it promises at one image size only",
        got=str(sizes),
        repair="leave any_size out",
        about="any_size",
    )


def reject_any_size(
    misfit: RoundingMismatch, stride: Fraction | None, error: Exception | None, multiple: int
) -> Rejection:
    """A network that takes multiples of its largest stride only; `stride` and `error` are those of the misfit."""
    if misfit.grid is None:
        rule = "does not run at every image size"
        got = "levels of other channels than it states" if error is None else _format_timm_error(error)
    else:
        rule = "has levels that round neither down nor up at every image size"
        got = f"{misfit.grid[0]} × {misfit.grid[1]} cells of stride {stride}"
    return Rejection(
        code="sizes",
        kind="raises" if error else "wrong_output",
        expected=rule,
        got=f"at {misfit.height} × {misfit.width}, {got}",
        repair=f"leave any_size out: images are then padded to multiples of {multiple}",
        about="any_size",
    )


def reject_timm_weights(part: Timm, error: Exception) -> Rejection:
    """Weights that cannot be had, or do not fit."""
    source = get_weights_file(part.pretrained)
    if source is None:
        return reject_weights(
            "cannot load the weights that timm publishes for it",
            error,
            "check the connection, give the path of a weights file, or set pretrained: false",
            part.pretrained,
        )
    repair = "give the path of a weights file that fits this network"
    return reject_weights(f"cannot load the weights {source[0]}", error, repair, part.pretrained)


def _format_timm_error(error: Exception) -> str:
    words = " ".join(str(error).split())[:300]
    return f"timm says {type(error).__name__}{': ' if words else ''}{words}"


def _reject_network(expected: str, got: str, repair: str) -> Rejection:
    return Rejection(code="network", kind="raises", expected=expected, got=got, repair=repair)
