"""The config of a backbone: the defaults of an architecture, or that of a checkpoint, with what a part changes."""

from __future__ import annotations

import json
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES

from composer.adapters.archives import read_limited_text
from composer.adapters.huggingface import check_reachable
from composer.adapters.transformers.refusals import (
    reject_foreign_config,
    reject_large_config,
    reject_stage_index,
    reject_stage_order,
    reject_timm_wrapper,
    reject_transformers_config,
    reject_transformers_option,
    reject_unknown_architecture,
    reject_unreadable_config,
)
from composer.contracts.rules import RejectionError
from composer.parts import Transformers
from composer.parts.fields import MAX_IN_OPTIONS, measure_value, to_keyword_arguments

ARCHITECTURES: tuple[str, ...] = tuple(MODEL_FOR_BACKBONE_MAPPING_NAMES)
"""The model types that AutoBackbone makes networks of."""


def list_networks() -> tuple[str, ...]:
    """The architectures that a part may name."""
    return ARCHITECTURES


def build_config(part: Transformers, channels: int) -> Any:
    """The config of a part that is fed `channels` channels. Raises Refused where there is none such."""
    given = _read_config(part)
    kind = given.pop("model_type", None)
    if kind == "timm_backbone":
        raise RejectionError(reject_timm_wrapper(given.get("backbone")))
    if kind not in ARCHITECTURES:
        raise RejectionError(reject_foreign_config(kind))
    known = CONFIG_MAPPING[kind]()
    fields = [name for name in {**known.to_dict(), **known.attribute_map} if not _is_code_field(name)]
    for name, _ in part.options:
        if name not in fields:
            raise RejectionError(reject_transformers_option(name, fields))
    for name in fields:
        number = max(measure_value(given.get(name)))
        if number > MAX_IN_OPTIONS:
            raise RejectionError(reject_large_config(name, number))
    asked = {name: _to_lists(value) for name, value in to_keyword_arguments(part.options).items()}
    if hasattr(known, "num_channels"):
        asked["num_channels"] = channels
    try:
        config = CONFIG_MAPPING[kind](**{**_convert_tuple_fields(known), **given, **asked})
    except Exception as error:  # whatever a config raises for values that it does not take
        raise RejectionError(reject_transformers_config(part, error)) from error
    if part.out_indices is not None:
        config.out_indices = _normalize_stages(part.out_indices, len(config.stage_names))
    return config


def get_checkpoint_source(part: Transformers) -> tuple[str, str | None]:
    """Where the checkpoint of a part is, folder or repository, and in which revision."""
    if part.folder is not None:
        return str(part.folder), None
    name, _, revision = part.name.partition("@")
    return name, revision or None


def _read_config(part: Transformers) -> dict[str, Any]:
    """What the config says that a part names: all of a checkpoint's, the model type alone of an architecture's."""
    if part.folder is None and "/" not in part.name:
        if part.name not in ARCHITECTURES:
            raise RejectionError(reject_unknown_architecture(part.name, ARCHITECTURES))
        return {"model_type": part.name}
    name, revision = get_checkpoint_source(part)
    try:
        if part.folder is not None:
            found = json.loads(read_limited_text(part.folder / "config.json", MAX_CONFIG_BYTES))
        else:
            check_reachable(part.name, "config.json")
            found, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
    except Exception as error:
        raise RejectionError(reject_unreadable_config(part, error)) from error
    return {key: value for key, value in dict(found).items() if not _is_code_field(key)}


CODE_FIELDS = (
    "auto_map",
    "architectures",
    "attn_implementation",
    "experts_implementation",
    "quantization_config",
    "use_kernels",
)
"""Fields that pick the code to be run, some of which transformers fetches from the hub: nobody is asked for them."""


def _is_code_field(name: str) -> bool:
    return name in CODE_FIELDS or name.startswith("_")


MAX_CONFIG_BYTES = 2**20
"""The size of a config. Those of backbones have thousands of bytes."""


def _convert_tuple_fields(config: Any) -> dict[str, list[Any]]:
    """The tuples of a config as the lists that a file has: some networks take those, and fail on their own defaults."""
    fields = {name: getattr(config, name, None) for name in config.to_dict()}
    return {name: _to_lists(value) for name, value in fields.items() if isinstance(value, tuple)}


def _to_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _to_lists(entry) for name, entry in value.items()}
    return [_to_lists(entry) for entry in value] if isinstance(value, list | tuple) else value


def _normalize_stages(indices: tuple[int, ...], count: int) -> list[int]:
    for position, index in enumerate(indices):
        if not -count <= index < count:
            raise RejectionError(reject_stage_index(position, index, count))
    positive = [index % count for index in indices]
    if positive != sorted(set(positive)):
        raise RejectionError(reject_stage_order(indices, sorted(set(positive))))
    return positive
