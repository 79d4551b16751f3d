"""timm's networks as timm makes them, and what they say of themselves."""

from __future__ import annotations

from typing import Any

import timm
from timm.models.mvitv2 import MultiScaleVit

from composer.adapters.probing import GridFunction
from composer.contracts.rules import RejectionError
from composer.feature import CHANNELS_LAST, MAP
from composer.modules.devices import use_default_device
from composer.modules.growth import limit_modules
from composer.parts import Timm
from composer.parts.fields import to_keyword_arguments
from composer.quiet import drop_warnings

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

    Raises whatever timm raises for arguments that the network does not take, and Refused for one too deep.
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
    """Return `grids_at` for the sizes that a network made for `size` takes: for MViT v2 that one alone.

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
