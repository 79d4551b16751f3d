"""Configs of transformers' backbones, and the rejections of backbones."""

from __future__ import annotations

import json
import re
from typing import Any

import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES

from composer.adapters.rejections import (
    convert_errors,
    normalize_indices,
    reject_all_sizes,
    reject_network,
    reject_unknown_option,
    suggest_arguments,
)
from composer.adapters.transformers.parts import Transformers
from composer.adapters.weights import check_reachable, read_limited_text, reject_pretrained
from composer.encoder_info import reject_missing
from composer.errors import format_error, suggest
from composer.parts.encoders import get_weights_file
from composer.parts.rules import Rejection, RejectionError
from composer.parts.validators import MAX_IN_OPTIONS, measure_value, to_keyword_arguments

ARCHITECTURES: tuple[str, ...] = tuple(MODEL_FOR_BACKBONE_MAPPING_NAMES)
"""The model types that AutoBackbone makes networks of."""

VERSION = f"transformers {transformers.__version__}"

CODE_FIELDS = (
    "auto_map",
    "architectures",
    "attn_implementation",
    "experts_implementation",
    "quantization_config",
    "use_kernels",
)
"""Fields that select the code to run, some of which transformers downloads from the hub. They are never read."""

MAX_CONFIG_BYTES = 2**20
"""The size of a config. Those of backbones have thousands of bytes."""


def list_networks() -> tuple[str, ...]:
    """List the architectures that a part may name."""
    return ARCHITECTURES


def build_config(part: Transformers, channels: int) -> Any:
    """Return the config of a part that is fed `channels` channels. Raises RejectionError for an invalid one."""
    values = _read_config(part)
    kind = values.pop("model_type", None)
    if kind == "timm_backbone":
        backbone = values.get("backbone")
        fix = f"use timm/{backbone or 'NAME'}"
        raise RejectionError(
            reject_network("is a wrapper around a network of timm", backbone or "no name of one", fix, "policy")
        )
    if kind not in ARCHITECTURES:
        expected = "is not a checkpoint of an architecture that AutoBackbone makes"
        raise RejectionError(reject_network(expected, f"model_type {kind!r}", "choose another checkpoint"))
    default = CONFIG_MAPPING[kind]()
    fields = [name for name in {**default.to_dict(), **default.attribute_map} if not _is_code_field(name)]
    for name, _ in part.options:
        if name not in fields:
            raise RejectionError(reject_unknown_option(f"has no field {name!r} in its config", name, fields, VERSION))
    for name in fields:
        number = max(measure_value(values.get(name)))
        if number > MAX_IN_OPTIONS:
            # Such a network would take minutes to make.
            expected = f"has a config whose {name} comes to at most {MAX_IN_OPTIONS:,}"
            raise RejectionError(reject_network(expected, f"{number:,}", "choose another checkpoint", "policy"))
    options = {name: _to_lists(value) for name, value in to_keyword_arguments(part.options).items()}
    if hasattr(default, "num_channels"):
        options["num_channels"] = channels
    with convert_errors(lambda error: reject_transformers_config(part, error)):
        config = CONFIG_MAPPING[kind](**{**_convert_tuple_fields(default), **values, **options})
    if part.out_indices is not None:
        indices = normalize_indices(part.out_indices, len(config.stage_names), "stage", "raises")
        if isinstance(indices, Rejection):
            raise RejectionError(indices)
        config.out_indices = list(indices)
    return config


def _read_config(part: Transformers) -> dict[str, Any]:
    """Return the fields of a checkpoint's config; of an architecture, its model type only."""
    if part.is_architecture:
        if part.name not in ARCHITECTURES:
            fix = suggest(part.name, ARCHITECTURES)
            raise RejectionError(reject_network("is not an architecture that AutoBackbone makes", VERSION, fix))
        return {"model_type": part.name}
    with convert_errors(lambda error: _reject_unreadable_config(part, error)):
        if part.folder is not None:
            values = json.loads(read_limited_text(part.folder / "config.json", MAX_CONFIG_BYTES))
        else:
            check_reachable(part.name, "config.json")
            name, _, revision = part.name.partition("@")
            values, _ = PreTrainedConfig.get_config_dict(name, revision=revision or None)
        return {key: value for key, value in dict(values).items() if not _is_code_field(key)}


def _is_code_field(name: str) -> bool:
    return name in CODE_FIELDS or name.startswith("_")


def _convert_tuple_fields(config: Any) -> dict[str, list[Any]]:
    """Return the tuples of a config as lists, as in a file: some networks only accept those, even as defaults."""
    fields = {name: getattr(config, name, None) for name in config.to_dict()}
    return {name: _to_lists(value) for name, value in fields.items() if isinstance(value, tuple)}


def _to_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _to_lists(entry) for name, entry in value.items()}
    return [_to_lists(entry) for entry in value] if isinstance(value, list | tuple) else value


def _reject_unreadable_config(part: Transformers, error: Exception) -> Rejection:
    fix = (
        "check the name and the connection, or give the path of a folder that holds the checkpoint"
        if part.folder is None
        else "give the path of a folder that holds a config.json"
    )
    return reject_network("cannot read the config of this checkpoint", format_error(error), fix)


def reject_transformers_config(part: Transformers, error: Exception) -> Rejection:
    """Reject a config that a network cannot be made of: its options are invalid, or another library is missing."""
    missing = re.search(r"requires the (\w+) library", str(error)) if isinstance(error, ImportError) else None
    if missing:
        return reject_missing(missing[1], missing[1])
    options = [name for name, _ in part.options]
    return reject_network("cannot be made of its config", format_error(error), suggest_arguments(options))


def reject_transformers_sizes(part: Transformers, channels: int, error: Exception | None) -> Rejection:
    """Reject a network that raised `error` at every size; without an error, one whose cells are not square."""
    if error is not None:
        return reject_all_sizes(channels, format_error(error), (name for name, _ in part.options))
    return reject_network(
        "gives cells that are not square",
        "another stride from top to bottom than from left to right",
        "choose earlier stages with out_indices, or another network",
        "policy",
    )


def reject_transformers_weights(part: Transformers, error: Exception) -> Rejection:
    """Reject weights that cannot be loaded or do not match."""
    if part.is_architecture and get_weights_file(part.pretrained) is None:
        return Rejection(
            code="weights",
            kind="raises",
            expected="is an architecture, and has no weights",
            got="pretrained: true",
            fix=f"name a checkpoint, transformers/OWNER/{part.name}-…, or set pretrained: false",
            about="pretrained",
        )
    return reject_pretrained(part.pretrained, error, "of this checkpoint")
