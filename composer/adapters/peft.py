"""PEFT: adapters of few parameters inside a frozen encoder. Needs the extra `peft`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import peft
import torch
from torch import Tensor, nn

from composer.errors import Place, Problem, SpecError, suggest

PEFT_KEYS = ("method", "replace_qkv", "peft_config_kwargs")

PEFT_METHODS = peft.PEFT_TYPE_TO_CONFIG_MAPPING


def apply_peft(encoder: nn.Module, config: Mapping[str, Any]) -> nn.Module:
    """Return the encoder with adapters, inside PEFT's own wrapper. The encoder itself is changed.

    `config` is TerraTorch's: `method` (`LORA`, or another of PEFT's), `peft_config_kwargs` for its configuration, and
    `replace_qkv`, the name of linear layers to split into three first. Raises SpecError for an invalid `config`.
    """
    unknown = [name for name in config if name not in PEFT_KEYS]
    if unknown:
        raise _make_peft_error(unknown[0], f"peft_config has no {unknown[0]!r}.", suggest(unknown[0], PEFT_KEYS))
    method = config.get("method")
    if method not in PEFT_METHODS:
        raise _make_peft_error(
            "method", f"PEFT has no method {method!r}.", suggest(str(method), map(str, PEFT_METHODS))
        )
    if config.get("replace_qkv") is not None:
        _split_qkv_layers(encoder, config["replace_qkv"])
    try:
        settings = PEFT_METHODS[method](**config.get("peft_config_kwargs") or {})
        adapted: nn.Module = peft.get_peft_model(encoder, settings)
    except (TypeError, ValueError) as error:
        raise _make_peft_error("peft_config_kwargs", f"PEFT says {error}") from error
    return adapted


def _make_peft_error(path: str, message: str, fix: str | None = None) -> SpecError:
    return SpecError([Problem(code="argument", message=message, place=Place(f"peft_config.{path}"), fix=fix)])


def _split_qkv_layers(encoder: nn.Module, suffix: str) -> None:
    names = [name for name, _ in encoder.named_modules() if name.endswith(f".{suffix}")]
    if not names:
        raise _make_peft_error(
            "replace_qkv", f"the encoder has no layer {suffix!r}.", "name the layer that computes q, k and v"
        )
    for name in names:
        parent, _, child = name.rpartition(".")
        layer = encoder.get_submodule(name)
        if not isinstance(layer, nn.Linear) or layer.out_features != 3 * layer.in_features:
            raise _make_peft_error("replace_qkv", f"{name} is not a linear layer with 3 outputs per input.")
        setattr(encoder.get_submodule(parent), child, SplitQKV(layer))


class SplitQKV(nn.Module):
    """A linear layer for queries, keys and values, split into three so that an adapter may change some of them."""

    def __init__(self, joint: nn.Linear) -> None:
        super().__init__()
        self.q_linear, self.k_linear, self.v_linear = (_create_third(joint, index) for index in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Return queries, keys and values, one after the other: `(…, c)` to `(…, 3 c)`."""
        return torch.cat([self.q_linear(x), self.k_linear(x), self.v_linear(x)], dim=-1)


def _create_third(joint: nn.Linear, index: int) -> nn.Linear:
    with torch.device("meta"):
        layer = nn.Linear(joint.in_features, joint.in_features, bias=joint.bias is not None)
    for name, parameter in joint.named_parameters():
        setattr(layer, name, nn.Parameter(parameter.detach().chunk(3)[index].clone()))
    return layer
