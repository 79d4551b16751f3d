"""Modules of transformers' backbones, and what they emit."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_BACKBONE_MAPPING

from composer.adapters.probing import CPULinspace, ShapeProbe, find_patch_size, find_strides_and_sizes, probe_on_devices
from composer.adapters.rejections import convert_errors
from composer.adapters.transformers.configs import (
    build_config,
    reject_transformers_config,
    reject_transformers_sizes,
    reject_transformers_weights,
)
from composer.adapters.transformers.configs import list_networks as list_networks
from composer.adapters.transformers.parts import Transformers
from composer.adapters.weights import WEIGHT_FILES, check_reachable, read_file_weights
from composer.layouts import MAP, Features, format_count
from composer.modules.base import module, use_default_device
from composer.modules.encoders import TransparentWrapper, get_shared_module_state
from composer.parts import EncoderInfo
from composer.parts.encoders import get_weights_file
from composer.parts.registry import guard_import
from composer.parts.rules import Rejection, RejectionError
from composer.resources import limit_modules
from composer.tensors.files import SHARD_INDEX_SUFFIX
from composer.tensors.matching import LoadedWeights, Match, MismatchError, TensorState, list_names, match


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


ADDED_NORMS = "hidden_states_norms."
"""The norms after each stage. Checkpoints of classifiers lack them, and they keep their initial weights."""

HOOKS_MODULE = "transformers.utils.output_capturing"
"""The module whose hooks collect the hidden states. A network without them gets them when it next runs."""


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


def create_transformers_backbone(config: Any) -> Any:
    """Create the network of a config, with random weights.

    Raises whatever transformers raises for an invalid config, and RejectionError for a network too deep.
    """
    with guard_import(), limit_modules():
        return MODEL_FOR_BACKBONE_MAPPING[type(config)]._from_config(config)


@module.register(Transformers)
def _(part: Transformers, image: Features, *, info: EncoderInfo, pretrained: bool = True) -> nn.Module:  # noqa: ARG001
    """Build the network with random weights, or with a checkpoint's where the part asks and `pretrained` allows."""
    config = build_config(part, image[0].channels)
    if not (pretrained and part.pretrained):
        return TransformersBackbone(create_transformers_backbone(config))
    with convert_errors(lambda error: reject_transformers_weights(part, error)):
        network, loaded = _create_pretrained_transformers(part, config)
    backbone = TransformersBackbone(network.train())
    backbone.loaded_weights = loaded
    return backbone


def _create_pretrained_transformers(part: Transformers, config: Any) -> tuple[Any, LoadedWeights]:
    """Create the network with its weights. Raises where they cannot be loaded or do not fill the network."""
    source = get_weights_file(part.pretrained)
    if source is not None:
        file, prefix = source
        network, found = _load_transformers_state(config, read_file_weights(Path(file)), prefix)
        return network, found.report(file)
    if part.folder is not None:
        network, found = _load_transformers_state(config, read_folder_weights(part.folder), None)
        return network, found.report(str(part.folder))
    name, _, revision = part.name.partition("@")
    if "/" not in name:
        raise FileNotFoundError("an architecture has no weights")
    check_reachable(part.name)
    network, report = _create_from_pretrained(config, name, revision=revision or "main")
    missing = sorted(key for key in report["missing_keys"] if not _is_added_norm(key))
    if missing:
        raise MismatchError(f"a checkpoint that lacks {format_count(len(missing), 'tensor')}: {list_names(missing)}")
    return network, LoadedWeights()


def _is_added_norm(name: str) -> bool:
    return name.startswith(ADDED_NORMS)


def _create_from_pretrained(config: Any, name: str | None, **arguments: Any) -> tuple[Any, Mapping[str, Any]]:
    """Create the network as transformers loads it, and return it with transformers' report on the tensors."""
    with guard_import(), limit_modules():
        network, report = MODEL_FOR_BACKBONE_MAPPING[type(config)].from_pretrained(
            name, config=config, output_loading_info=True, **arguments
        )
    return network, report


def _load_transformers_state(config: Any, state: TensorState, prefix: str | None) -> tuple[Any, Match]:
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
        wanted = create_transformers_backbone(config).state_dict(keep_vars=True)
    found = match(state, wanted, convert, prefix=prefix, optional=_is_added_norm)
    name, tensor = next(iter(found.tensors.items()))
    return next(network for network in networks if network.state_dict(keep_vars=True)[name] is tensor), found


TRANSFORMERS_DEFAULT_SIDE = 224
"""The side of an image where the config has none."""


def probe(part: Transformers, channels: int) -> EncoderInfo | Rejection:
    """Return the info of a backbone that is fed `channels` channels, probed on the meta device or on the CPU."""
    try:
        config = build_config(part, channels)
    except RejectionError as error:
        return error.rejection

    def probe_on(device: str) -> EncoderInfo | Rejection:
        try:
            with use_default_device(device):
                network = create_transformers_backbone(config)
        except RejectionError:
            raise
        except Exception as error:  # whatever transformers raises for a config, or a library that is not installed
            return reject_transformers_config(part, error)
        patch = find_patch_size(network)
        # The channels that backbones state are not always true, so layouts are those of the first image.
        trial = ShapeProbe(TransformersBackbone(network).eval(), channels, device, MAP, patch=patch)
        found = find_strides_and_sizes(trial.compute_grids, _get_transformers_size(config))
        if found is None:
            return reject_transformers_sizes(part, channels, trial.error)
        strides, sizes = found
        return EncoderInfo(features=trial.build_features(strides), channels=channels, sizes=sizes, patch=patch)

    return probe_on_devices(probe_on)


def _get_transformers_size(config: Any) -> tuple[int, int]:
    size = getattr(config, "image_size", None) or TRANSFORMERS_DEFAULT_SIDE
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
