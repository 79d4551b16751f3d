"""Modules of transformers' backbones, and what they emit."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from copy import deepcopy
from math import prod
from pathlib import Path
from typing import Any

import torch
from attrs import define
from torch import Tensor, nn
from transformers import MODEL_FOR_BACKBONE_MAPPING

from composer.adapters.probing import (
    CPULinspace,
    Grids,
    ShapeInferenceMode,
    check_image_numbers,
    find_patch_size,
    find_strides_and_sizes,
)
from composer.adapters.transformers.configs import (
    build_config,
    get_checkpoint_source,
    reject_transformers_config,
    reject_transformers_sizes,
    reject_transformers_weights,
)
from composer.adapters.transformers.configs import list_networks as list_networks
from composer.adapters.transformers.parts import Transformers
from composer.adapters.weights import WEIGHT_FILES, check_reachable, read_file_weights, read_one_file, read_shards
from composer.isolation import guard_import
from composer.layouts import MAP, TOKENS, Feature, Features, format_count
from composer.modules.base import SeededGenerator, module, use_default_device
from composer.modules.encoders import TransparentWrapper, get_shared_module_state
from composer.parts import EncoderInfo
from composer.parts.encoders import get_weights_file
from composer.parts.rules import Rejection, RejectionError
from composer.resources import limit_modules
from composer.tensors.files import SHARD_INDEX_SUFFIX
from composer.tensors.matching import LoadedWeights, Match, MismatchError, TensorState, list_names, match


def read_folder_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder by name: of one file, or of the shards that its index names.

    As in transformers, a file goes before its index and safetensors before pickles, and no other file counts. Raises
    FileNotFoundError where there are none, and where a shard is not there; and ValueError for an index that is none
    or names what is outside the folder, and for a file that cannot be read.
    """
    for name in WEIGHT_FILES:
        whole, index = folder / name, folder / f"{name}{SHARD_INDEX_SUFFIX}"
        if whole.exists():
            return read_one_file(whole, whole.name)
        if index.exists():
            return read_shards(index)
    raise FileNotFoundError(f"there is neither {' nor '.join(WEIGHT_FILES)} in {folder}")


ADDED_NORMS = "hidden_states_norms."
"""The norms behind each stage, which a classifier has not: its checkpoints lack them, and they begin as they are."""


HOOKS_MODULE = "transformers.utils.output_capturing"
"""Whose hooks collect the hidden states. A network without them gets them when it next runs."""


class TransformersBackbone(TransparentWrapper):
    """A backbone of transformers. Its weights have transformers' own names."""

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Each stage that was asked for, as a map `(b, c, h, w)` or as tokens `(b, prefix + h * w, c)`."""
        return tuple(self.network(image_BCHW).feature_maps)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of: without the hooks that a network gets when it first runs, which no pickle takes."""
        weights = {id(x): x for x in (*self.network.parameters(), *self.network.buffers())}
        network = deepcopy(self.network, weights)
        for part in network.modules():
            for number, hook in tuple(part._forward_hooks.items()):
                if getattr(hook, "__module__", None) == HOOKS_MODULE:
                    del part._forward_hooks[number]
            vars(part).pop("_output_capturing_hooks_installed", None)
        return {**vars(self), **get_shared_module_state(network)}


def create_transformers_backbone(config: Any) -> Any:
    """The network of a config, with random weights.

    Raises what transformers raises where it cannot be made, and RejectionError for one too deep.
    """
    with guard_import(), limit_modules():
        return MODEL_FOR_BACKBONE_MAPPING[type(config)]._from_config(config)


@module.register(Transformers)
def _(part: Transformers, image: Features, *, facts: EncoderInfo, pretrained: bool = True) -> nn.Module:  # noqa: ARG001
    """The network with random weights, or with a checkpoint's where the part asks and `pretrained` allows."""
    config = build_config(part, image[0].channels)
    if not (pretrained and part.pretrained):
        return TransformersBackbone(create_transformers_backbone(config))
    try:
        network, loaded = _create_pretrained_transformers(part, config)
    except (RejectionError, MemoryError):
        raise
    except Exception as error:
        raise RejectionError(reject_transformers_weights(part, error)) from error
    backbone = TransformersBackbone(network.train())
    backbone.loaded_weights = loaded
    return backbone


def _create_pretrained_transformers(part: Transformers, config: Any) -> tuple[Any, LoadedWeights]:
    """The network with its weights. Raises where they cannot be had, or do not fill the network."""
    source = get_weights_file(part.pretrained)
    if source is not None:
        file, prefix = source
        network, found = _load_transformers_state(config, read_file_weights(Path(file)), prefix)
        return network, found.report(file)
    if part.folder is not None:
        network, found = _load_transformers_state(config, read_folder_weights(part.folder), None)
        return network, found.report(str(part.folder))
    name, revision = get_checkpoint_source(part)
    if "/" not in name:
        raise FileNotFoundError("an architecture has no weights")
    check_reachable(part.name)
    network, told = _create_from_pretrained(config, name, revision=revision or "main")
    missing = sorted(key for key in told["missing_keys"] if not _is_added_norm(key))
    if missing:
        raise MismatchError(f"a checkpoint that lacks {format_count(len(missing), 'tensor')}: {list_names(missing)}")
    return network, LoadedWeights()


def _is_added_norm(name: str) -> bool:
    return name.startswith(ADDED_NORMS)


def _create_from_pretrained(config: Any, name: str | None, **arguments: Any) -> tuple[Any, Mapping[str, Any]]:
    """The network as transformers loads it, and what it says of the tensors."""
    with guard_import(), limit_modules():
        network, told = MODEL_FOR_BACKBONE_MAPPING[type(config)].from_pretrained(
            name, config=config, output_loading_info=True, **arguments
        )
    return network, told


def _load_transformers_state(config: Any, state: TensorState, prefix: str | None) -> tuple[Any, Match]:
    """The network with the tensors of a checkpoint. Raises MismatchError where they do not fill it.

    With the tensors in hand transformers asks for no name, and looks at no file of a folder.
    """
    made: list[Any] = []

    def convert(given: dict[str, Tensor]) -> TensorState:
        network, told = _create_from_pretrained(config, None, state_dict=given, ignore_mismatched_sizes=True)
        made.append(network)
        unlike = {name: torch.empty(shape, device="meta") for name, shape, _ in told["mismatched_keys"]}
        left = {name: torch.empty(0) for name in told["unexpected_keys"]}
        own = network.state_dict(keep_vars=True)
        loaded = {name: tensor for name, tensor in own.items() if name not in told["missing_keys"]}
        return {**left, **loaded, **unlike}

    with use_default_device("meta"), CPULinspace():
        wanted = create_transformers_backbone(config).state_dict(keep_vars=True)
    found = match(state, wanted, convert, prefix=prefix, optional=_is_added_norm)
    name, tensor = next(iter(found.tensors.items()))
    return next(network for network in made if network.state_dict(keep_vars=True)[name] is tensor), found


TRANSFORMERS_DEFAULT_SIDE = 224
"""The side of an image where the config names none."""


def probe(part: Transformers, channels: int) -> EncoderInfo | Rejection:
    """The facts of a backbone that is fed `channels` channels: on the meta device, or on the CPU where that fails."""
    try:
        config = build_config(part, channels)
        found = _probe_transformers_on("meta", part, config, channels)
        if isinstance(found, Rejection) and found.kind == "raises":
            with SeededGenerator():
                found = _probe_transformers_on("cpu", part, config, channels)
    except RejectionError as refused:
        return refused.refusal
    return found


def _probe_transformers_on(device: str, part: Transformers, config: Any, channels: int) -> EncoderInfo | Rejection:
    try:
        with use_default_device(device):
            network = create_transformers_backbone(config)
    except RejectionError:
        raise
    except Exception as error:  # whatever transformers raises for a config, or a library that is not installed
        return reject_transformers_config(part, error)
    patch = find_patch_size(network)
    trial = _TransformersShapeProbe(TransformersBackbone(network).eval(), channels, device, patch)
    usual = _get_transformers_size(config)
    grids = trial.compute_grids(*usual)
    found = None
    if grids is not None:
        reductions = tuple(max(1, round(usual[0] / rows)) for rows, _ in grids)
        found = find_strides_and_sizes(trial.compute_grids, usual, reductions)
    if found is None or trial.layouts is None or any(prefix < 0 for _, _, prefix in trial.layouts):
        return reject_transformers_sizes(part, channels, trial.error)
    strides, sizes = found
    features = [
        Feature(channels=c, stride=stride, axes=axes, prefix=prefix)
        for (axes, c, prefix), stride in zip(trial.layouts, strides, strict=True)
    ]
    return EncoderInfo(features=features, channels=channels, sizes=sizes, patch=patch)


def _get_transformers_size(config: Any) -> tuple[int, int]:
    size = getattr(config, "image_size", None) or TRANSFORMERS_DEFAULT_SIDE
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


StageLayout = tuple[str, int, int]
"""The axes of a stage, its channels and its prefix tokens."""


@define
class _TransformersShapeProbe:
    """Runs a backbone at image sizes that it may not take, and keeps what it raised, and what its layouts are.

    Layouts and channels are read off what it gives: what backbones state of their channels is not always true.
    """

    encoder: TransformersBackbone
    channels: int
    device: str
    patch: tuple[int, int] | None
    error: Exception | None = None
    layouts: tuple[StageLayout, ...] | None = None

    def compute_grids(self, height: int, width: int) -> Grids | None:
        """The grids of all stages for an image of (height, width), or None where the network does not take it."""
        self.error = None
        try:
            check_image_numbers(self.device, self.channels, height, width)
            with torch.no_grad(), ShapeInferenceMode() if self.device == "meta" else nullcontext():
                given = self.encoder(torch.empty(1, self.channels, height, width, device=self.device))
        except Exception as error:  # whatever a network raises at a size that it does not take
            self.error = error
            return None
        grids = tuple(self._measure_grid(x, height, width) for x in given)
        layouts = tuple(_get_stage_layout(x, grid) for x, grid in zip(given, grids, strict=True))
        self.layouts = self.layouts or layouts
        return grids if layouts == self.layouts else None

    def _measure_grid(self, x: Tensor, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of a stage. Tokens tell their number alone: their grid is that of the patches."""
        if x.dim() == 4:
            return x.shape[2], x.shape[3]
        rows, columns = self.patch or (height, width)
        return height // rows, width // columns


def _get_stage_layout(x: Tensor, grid: tuple[int, int]) -> StageLayout:
    return (MAP, x.shape[1], 0) if x.dim() == 4 else (TOKENS, x.shape[2], x.shape[1] - prod(grid))
