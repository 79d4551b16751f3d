"""The config of a backbone: the defaults of an architecture, or that of a checkpoint, with what a part changes."""

from __future__ import annotations

import json
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES

from composer.adapters.archives import text_of
from composer.adapters.huggingface import check_reachable
from composer.adapters.transformers.refusals import (
    foreign_config,
    no_config,
    no_stage,
    not_made,
    of_timm,
    out_of_order,
    too_large,
    unknown,
    unknown_option,
)
from composer.contracts.rules import Refused
from composer.parts import Transformers
from composer.parts.fields import MOST_IN_OPTIONS, arguments_of, size_of

ARCHITECTURES: tuple[str, ...] = tuple(MODEL_FOR_BACKBONE_MAPPING_NAMES)
"""The model types that AutoBackbone makes networks of."""


def names() -> tuple[str, ...]:
    """The architectures that a part may name."""
    return ARCHITECTURES


def config_of(part: Transformers, channels: int) -> Any:
    """The config of a part that is fed `channels` channels. Raises Refused where there is none such."""
    given = _given(part)
    kind = given.pop("model_type", None)
    if kind == "timm_backbone":
        raise Refused(of_timm(given.get("backbone")))
    if kind not in ARCHITECTURES:
        raise Refused(foreign_config(kind))
    known = CONFIG_MAPPING[kind]()
    fields = [name for name in {**known.to_dict(), **known.attribute_map} if not _picks_code(name)]
    for name, _ in part.options:
        if name not in fields:
            raise Refused(unknown_option(name, fields))
    for name in fields:
        number = max(size_of(given.get(name)))
        if number > MOST_IN_OPTIONS:
            raise Refused(too_large(name, number))
    asked = {name: _listed(value) for name, value in arguments_of(part.options).items()}
    if hasattr(known, "num_channels"):
        asked["num_channels"] = channels
    try:
        config = CONFIG_MAPPING[kind](**{**_lists_of(known), **given, **asked})
    except Exception as error:  # whatever a config raises for values that it does not take
        raise Refused(not_made(part, error)) from error
    if part.out_indices is not None:
        config.out_indices = _stages(part.out_indices, len(config.stage_names))
    return config


def source_of(part: Transformers) -> tuple[str, str | None]:
    """Where the checkpoint of a part is, folder or repository, and in which revision."""
    if part.folder is not None:
        return str(part.folder), None
    name, _, revision = part.name.partition("@")
    return name, revision or None


def _given(part: Transformers) -> dict[str, Any]:
    """What the config says that a part names: all of a checkpoint's, the model type alone of an architecture's."""
    if part.folder is None and "/" not in part.name:
        if part.name not in ARCHITECTURES:
            raise Refused(unknown(part.name, ARCHITECTURES))
        return {"model_type": part.name}
    name, revision = source_of(part)
    try:
        if part.folder is not None:
            found = json.loads(text_of(part.folder / "config.json", MOST_BYTES))
        else:
            check_reachable(part.name, "config.json")
            found, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
    except Exception as error:
        raise Refused(no_config(part, error)) from error
    return {key: value for key, value in dict(found).items() if not _picks_code(key)}


CODE = (
    "auto_map",
    "architectures",
    "attn_implementation",
    "experts_implementation",
    "quantization_config",
    "use_kernels",
)
"""Fields that pick the code to be run, some of which transformers fetches from the hub: nobody is asked for them."""


def _picks_code(name: str) -> bool:
    return name in CODE or name.startswith("_")


MOST_BYTES = 2**20
"""The size of a config. Those of backbones have thousands of bytes."""


def _lists_of(config: Any) -> dict[str, list[Any]]:
    """The tuples of a config as the lists that a file has: some networks take those, and fail on their own defaults."""
    fields = {name: getattr(config, name, None) for name in config.to_dict()}
    return {name: _listed(value) for name, value in fields.items() if isinstance(value, tuple)}


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _listed(entry) for name, entry in value.items()}
    return [_listed(entry) for entry in value] if isinstance(value, list | tuple) else value


def _stages(indices: tuple[int, ...], count: int) -> list[int]:
    for position, index in enumerate(indices):
        if not -count <= index < count:
            raise Refused(no_stage(position, index, count))
    positive = [index % count for index in indices]
    if positive != sorted(set(positive)):
        raise Refused(out_of_order(indices, sorted(set(positive))))
    return positive
