"""Backbones of transformers: their configs, what they emit, and their modules with weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_FOR_BACKBONE_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES

from composer.adapters.probing import CPULinspace, ShapeProbe, find_patch_size, find_strides_and_sizes, probe_on_devices
from composer.adapters.rejections import (
    convert_errors,
    normalize_indices,
    reject_all_sizes,
    reject_network,
    reject_unknown_option,
    suggest_arguments,
)
from composer.adapters.transformers import Transformers
from composer.adapters.weights import (
    WEIGHT_FILES,
    check_reachable,
    read_file_weights,
    read_limited_text,
    reject_pretrained,
)
from composer.encoder_info import reject_missing
from composer.errors import format_error, suggest
from composer.layouts import MAP, Features, format_count
from composer.modules.base import module, use_default_device
from composer.modules.encoders import TransparentWrapper, get_shared_module_state
from composer.parts import EncoderInfo
from composer.parts.encoders import get_weights_file
from composer.parts.rules import Rejection, RejectionError
from composer.parts.validators import MAX_IN_OPTIONS, measure_value, to_keyword_arguments
from composer.process import guard_import
from composer.resources import limit_modules
from composer.tensors.files import SHARD_INDEX_SUFFIX
from composer.tensors.matching import LoadedWeights, Match, MismatchError, TensorState, list_names, match

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

DEFAULT_SIDE = 224
"""The side of an image where the config has none."""

ADDED_NORMS = "hidden_states_norms."
"""The norms after each stage. Checkpoints of classifiers lack them, and they keep their initial weights."""

HOOKS_MODULE = "transformers.utils.output_capturing"
"""The module whose hooks collect the hidden states. A network without them gets them when it next runs."""


def list_networks() -> tuple[str, ...]:
    """List the architectures that a part may name."""
    return ARCHITECTURES


def _build_config(part: Transformers, channels: int) -> Any:
    """Return the config of a part that is fed `channels` channels. Raises RejectionError for an invalid one."""
    values = _read_config(part)
    kind = values.pop("model_type", None)
    if kind == "timm_backbone":
        backbone = values.get("backbone")
        expected, got = "is a wrapper around a network of timm", backbone or "no name of one"
        raise RejectionError(reject_network(expected, got, f"use timm/{backbone or 'NAME'}", "policy"))
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
    # Some networks only accept lists, as a file has them, even where their own defaults are tuples.
    defaults = {name: value for name in default.to_dict() if isinstance(value := getattr(default, name, None), tuple)}
    options = _convert_to_lists({**defaults, **values, **to_keyword_arguments(part.options)})
    if hasattr(default, "num_channels"):
        options["num_channels"] = channels
    with convert_errors(lambda error: _reject_config(part, error)):
        config = CONFIG_MAPPING[kind](**options)
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
    fix = "give the path of a folder that holds a config.json"
    if part.folder is None:
        fix = "check the name and the connection, or give the path of a folder that holds the checkpoint"
    with convert_errors(
        lambda error: reject_network("cannot read the config of this checkpoint", format_error(error), fix)
    ):
        if part.folder is not None:
            values = json.loads(read_limited_text(part.folder / "config.json", MAX_CONFIG_BYTES))
        else:
            check_reachable(part.name, "config.json")
            name, _, revision = part.name.partition("@")
            values, _ = PreTrainedConfig.get_config_dict(name, revision=revision or None)
        return {key: value for key, value in dict(values).items() if not _is_code_field(key)}


def _is_code_field(name: str) -> bool:
    return name in CODE_FIELDS or name.startswith("_")


def _convert_to_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _convert_to_lists(entry) for name, entry in value.items()}
    return [_convert_to_lists(entry) for entry in value] if isinstance(value, list | tuple) else value


def _reject_config(part: Transformers, error: Exception) -> Rejection:
    """Reject a config that a network cannot be made of: its options are invalid, or another library is missing."""
    missing = re.search(r"requires the (\w+) library", str(error)) if isinstance(error, ImportError) else None
    if missing:
        return reject_missing(missing[1], missing[1])
    return reject_network("cannot be made of its config", format_error(error), suggest_arguments(dict(part.options)))


def probe(part: Transformers, channels: int) -> EncoderInfo | Rejection:
    """Return the info of a backbone that is fed `channels` channels, probed on the meta device or on the CPU."""
    return probe_on_devices(partial(_probe_on, part, channels))


def _probe_on(part: Transformers, channels: int, device: str) -> EncoderInfo | Rejection:
    config = _build_config(part, channels)
    try:
        with use_default_device(device):
            network = _create_backbone(config)
    except RejectionError:
        raise
    except Exception as error:  # whatever transformers raises for a config, or a library that is not installed
        return _reject_config(part, error)
    patch = find_patch_size(network)
    # The channels that backbones state are not always true, so layouts are those of the first image.
    trial = ShapeProbe(TransformersBackbone(network).eval(), channels, device, MAP, patch=patch)
    size = getattr(config, "image_size", None) or DEFAULT_SIDE
    height, width = (size, size) if isinstance(size, int) else size
    found = find_strides_and_sizes(trial.compute_grids, (height, width))
    if found is not None:
        strides, sizes = found
        return EncoderInfo(features=trial.build_features(strides), channels=channels, sizes=sizes, patch=patch)
    if trial.error is not None:
        return reject_all_sizes(channels, format_error(trial.error), dict(part.options))
    return reject_network(
        "gives cells that are not square",
        "another stride from top to bottom than from left to right",
        "choose earlier stages with out_indices, or another network",
        "policy",
    )


class TransformersBackbone(TransparentWrapper):
    """A backbone of transformers. Its weights have transformers' own names."""

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Return each stage requested, as a map `(b, c, h, w)` or as tokens `(b, prefix + h * w, c)`."""
        return tuple(self.network(image_BCHW).feature_maps)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the hooks that a network gets when it first runs: they cannot be pickled."""
        weights = {id(x): x for x in (*self.network.parameters(), *self.network.buffers())}
        network = deepcopy(self.network, weights)
        for part in network.modules():
            for number, hook in tuple(part._forward_hooks.items()):
                if getattr(hook, "__module__", None) == HOOKS_MODULE:
                    del part._forward_hooks[number]
            vars(part).pop("_output_capturing_hooks_installed", None)
        return {**vars(self), **get_shared_module_state(network)}


def _create_backbone(config: Any) -> Any:
    """Create the network of a config, with random weights.

    Raises whatever transformers raises for an invalid config, and RejectionError for a network too deep.
    """
    with guard_import(), limit_modules():
        return MODEL_FOR_BACKBONE_MAPPING[type(config)]._from_config(config)


@module.register(Transformers)
def _(part: Transformers, image: Features, *, info: EncoderInfo, pretrained: bool = True) -> nn.Module:  # noqa: ARG001
    """Build the network with random weights, or with a checkpoint's where the part asks and `pretrained` allows."""
    config = _build_config(part, image[0].channels)
    if not (pretrained and part.pretrained):
        return TransformersBackbone(_create_backbone(config))
    with convert_errors(lambda error: _reject_weights(part, error)):
        network, loaded = _create_pretrained(part, config)
    backbone = TransformersBackbone(network.train())
    backbone.loaded_weights = loaded
    return backbone


def _create_pretrained(part: Transformers, config: Any) -> tuple[Any, LoadedWeights]:
    """Create the network with its weights. Raises where they cannot be loaded or do not fill the network."""
    source = get_weights_file(part.pretrained)
    if source is not None:
        network, found = _load_state(config, read_file_weights(Path(source[0])), source[1])
        return network, found.report(source[0])
    if part.folder is not None:
        network, found = _load_state(config, read_folder_weights(part.folder), None)
        return network, found.report(str(part.folder))
    if part.is_architecture:
        raise FileNotFoundError("an architecture has no weights")
    check_reachable(part.name)
    name, _, revision = part.name.partition("@")
    network, report = _create_from_pretrained(config, name, revision=revision or "main")
    missing = sorted(key for key in report["missing_keys"] if not _is_added_norm(key))
    if missing:
        raise MismatchError(f"a checkpoint that lacks {format_count(len(missing), 'tensor')}: {list_names(missing)}")
    return network, LoadedWeights()


def _reject_weights(part: Transformers, error: Exception) -> Rejection:
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


def read_folder_weights(folder: Path) -> dict[str, Tensor]:
    """Read the tensors of a folder by name: those of one file, or of the shards that its index names.

    As in transformers, a file goes before its index and safetensors before pickles, and no other file counts. Raises
    FileNotFoundError where there is no such file, and ValueError for a file that cannot be read.
    """
    for name in WEIGHT_FILES:
        for file in (folder / name, folder / f"{name}{SHARD_INDEX_SUFFIX}"):
            if file.exists():
                return read_file_weights(file)
    raise FileNotFoundError(f"there is neither {' nor '.join(WEIGHT_FILES)} in {folder}")


def _load_state(config: Any, state: TensorState, prefix: str | None) -> tuple[Any, Match]:
    """Create the network with the tensors of a checkpoint. Raises MismatchError where they do not fill it.

    Given the tensors, transformers needs no name and reads no file.
    """
    networks: list[Any] = []

    def convert(tensors: dict[str, Tensor]) -> TensorState:
        network, report = _create_from_pretrained(config, None, state_dict=tensors, ignore_mismatched_sizes=True)
        networks.append(network)
        mismatched = {name: torch.empty(shape, device="meta") for name, shape, _ in report["mismatched_keys"]}
        unexpected = {name: torch.empty(0) for name in report["unexpected_keys"]}
        own = network.state_dict(keep_vars=True)
        loaded = {name: tensor for name, tensor in own.items() if name not in report["missing_keys"]}
        return {**unexpected, **loaded, **mismatched}

    with use_default_device("meta"), CPULinspace():
        wanted = _create_backbone(config).state_dict(keep_vars=True)
    found = match(state, wanted, convert, prefix=prefix, optional=_is_added_norm)
    name, tensor = next(iter(found.tensors.items()))
    return next(network for network in networks if network.state_dict(keep_vars=True)[name] is tensor), found


def _create_from_pretrained(config: Any, name: str | None, **arguments: Any) -> tuple[Any, Mapping[str, Any]]:
    """Create the network as transformers loads it, and return it with transformers' report on the tensors."""
    with guard_import(), limit_modules():
        network, report = MODEL_FOR_BACKBONE_MAPPING[type(config)].from_pretrained(
            name, config=config, output_loading_info=True, **arguments
        )
    return network, report


def _is_added_norm(name: str) -> bool:
    return name.startswith(ADDED_NORMS)
