"""Configs of transformers' backbones, and why some are rejected."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES

from composer.adapters.transformers.parts import Transformers
from composer.adapters.weights import check_reachable, read_limited_text, reject_weights
from composer.errors import suggest
from composer.layouts import format_count
from composer.parts.encoders import get_weights_file
from composer.parts.rules import Rejection, RejectionError
from composer.parts.validators import MAX_IN_OPTIONS, measure_value, to_keyword_arguments


def reject_unknown_architecture(name: str, known: Iterable[str]) -> Rejection:
    """A name that is no architecture, and no checkpoint either."""
    return _reject_network(
        "is not an architecture that AutoBackbone makes",
        f"transformers {transformers.__version__}",
        suggest(name, known),
    )


def reject_foreign_config(kind: str | None) -> Rejection:
    """A checkpoint of something else."""
    return _reject_network(
        "is no checkpoint of an architecture that AutoBackbone makes",
        f"model_type {kind!r}",
        "choose another checkpoint",
    )


def reject_timm_wrapper(backbone: str | None) -> Rejection:
    """A wrapper around a network of timm, which can be had without it."""
    return Rejection(
        code="network",
        kind="policy",
        expected="is a wrapper around a network of timm",
        got=backbone or "no name of one",
        repair=f"use timm/{backbone or 'NAME'}",
    )


def reject_unreadable_config(part: Transformers, error: Exception) -> Rejection:
    """A checkpoint whose config cannot be read."""
    return Rejection(
        code="network",
        kind="raises",
        expected="cannot read the config of this checkpoint",
        got=_format_transformers_error(error),
        repair="give the path of a folder that holds a config.json"
        if part.folder is not None
        else "check the name and the connection, or give the path of a folder that holds the checkpoint",
    )


def reject_transformers_option(name: str, known: Iterable[str]) -> Rejection:
    """A field that the config has not: it would be kept, and do nothing."""
    return Rejection(
        code="option",
        kind="wrong_output",
        expected=f"has no field {name!r} in its config",
        got=f"transformers {transformers.__version__}",
        repair=suggest(name, known),
        about="options",
    )


def reject_large_config(name: str, number: int) -> Rejection:
    """A checkpoint whose config would have its network made for minutes."""
    return Rejection(
        code="network",
        kind="policy",
        expected=f"has a config whose {name} comes to at most {MAX_IN_OPTIONS:,}",
        got=f"{number:,}",
        repair="choose another checkpoint",
    )


def reject_stage_index(position: int, index: int, count: int) -> Rejection:
    """A stage that there is not."""
    return Rejection(
        code="index",
        kind="raises",
        expected=f"has stages 0 to {count - 1}",
        got=f"stage {index}",
        repair=f"use out_indices from {-count} to {count - 1}",
        about=f"out_indices[{position}]",
    )


def reject_stage_order(indices: tuple[int, ...], ordered: list[int]) -> Rejection:
    """Stages in another order than their own."""
    return Rejection(
        code="order",
        kind="raises",
        expected="gives its stages in its own order, each once",
        got=f"out_indices {list(indices)}",
        repair=f"out_indices: {ordered}, and SelectIndices for another order",
        about="out_indices",
    )


def reject_transformers_config(part: Transformers, error: Exception) -> Rejection:
    """A network that cannot be made of its config: another library is missing, or the options are not for it."""
    missing = re.search(r"requires the (\w+) library", str(error)) if isinstance(error, ImportError) else None
    if missing:
        return Rejection(
            code="install",
            kind="policy",
            expected=f"needs {missing[1]}",
            got="no installation of it",
            repair=f"pip install {missing[1]}",
        )
    given = ", ".join(name for name, _ in part.options)
    return _reject_network(
        "cannot be made of its config",
        _format_transformers_error(error),
        f"correct or leave out {given}" if given else "choose another",
    )


def reject_transformers_sizes(part: Transformers, channels: int, error: Exception | None) -> Rejection:
    """A network that ran nowhere, `error` being what it raised; or without an error, one whose cells are not square."""
    given = ", ".join(name for name, _ in part.options)
    if error is None:
        return Rejection(
            code="network",
            kind="policy",
            expected="gives cells that are not square",
            got="another stride from top to bottom than from left to right",
            repair="choose earlier stages with out_indices, or another network",
        )
    return _reject_network(
        f"runs at no image size tried with {format_count(channels, 'input channel')}",
        _format_transformers_error(error),
        f"correct or leave out {given}" if given else "choose another network",
    )


def reject_transformers_weights(part: Transformers, error: Exception) -> Rejection:
    """Weights that cannot be had, or do not fit."""
    source = get_weights_file(part.pretrained)
    if source is not None:
        repair = "give the path of a weights file that fits this network, or set pretrained: false"
        return reject_weights(f"cannot load the weights {source[0]}", error, repair, part.pretrained)
    if part.folder is None and "/" not in part.name:
        return Rejection(
            code="weights",
            kind="raises",
            expected="is an architecture, and has no weights",
            got="pretrained: true",
            repair=f"name a checkpoint, transformers/OWNER/{part.name}-…, or set pretrained: false",
            about="pretrained",
        )
    repair = "check the connection, give the path of a folder that holds the checkpoint, or set pretrained: false"
    return reject_weights("cannot load the weights of this checkpoint", error, repair, part.pretrained)


def _format_transformers_error(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300] or 'no reason given'}"


def _reject_network(expected: str, got: str, repair: str) -> Rejection:
    return Rejection(code="network", kind="raises", expected=expected, got=got, repair=repair)


ARCHITECTURES: tuple[str, ...] = tuple(MODEL_FOR_BACKBONE_MAPPING_NAMES)
"""The model types that AutoBackbone makes networks of."""


def list_networks() -> tuple[str, ...]:
    """The architectures that a part may name."""
    return ARCHITECTURES


def build_config(part: Transformers, channels: int) -> Any:
    """The config of a part that is fed `channels` channels. Raises RejectionError where there is none such."""
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
