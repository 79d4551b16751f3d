"""Published weights of Clay, ScaleMAE and Prithvi's Swin by the names that their networks have here. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from terratorch.models.backbones.prithvi_swin import PRETRAINED_BANDS as BANDS_OF_SWIN
from terratorch.models.backbones.prithvi_swin import convert_weights_swin2mmseg
from terratorch.models.backbones.scalemae import PRETRAINED_BANDS as BANDS_OF_SCALE_MAE
from torch import Tensor

State = dict[str, Tensor]
RenamedState = tuple[State, str, list[str]]
"""A state, the name of its first layer, and the bands of that."""

_IGNORED_KEYS = re.compile(r"^(head\.|norm\d*\.|mask_token|decoder)|\.attn_mask$")
"""What of a Swin no feature is of: its classifier and its last layers, and what it was trained with."""


def convert_clay(state: Mapping[str, Tensor], network: Any) -> State:
    """The encoder of Clay's masked autoencoder. Prompts of one's own stay as they are: no weights have any."""
    given = {re.sub(r"^model\.encoder\.", "clay_encoder.", name): value for name, value in state.items()}
    prompts = {name: value for name, value in network.state_dict().items() if "vpt_prompt_embeddings" in name}
    return {**prompts, **{name: value for name, value in given.items() if name.startswith("clay_encoder.")}}


def convert_scale_mae(state: Mapping[str, Tensor], own: State) -> RenamedState:
    """The encoder of ScaleMAE, whose learned positions nothing reads."""
    kept = {name: value for name, value in state.items() if name in own}
    return {**kept, "pos_embed": own["pos_embed"]}, "patch_embed.proj.weight", [b.value for b in BANDS_OF_SCALE_MAE]


def convert_swin(state: Mapping[str, Tensor], own: State) -> RenamedState:
    """A Swin as MMSegmentation writes it, with or without `backbone.`, or the encoder of the original one."""
    if any(name.startswith("encoder.") for name in state):
        encoder = {name.removeprefix("encoder."): value for name, value in state.items()}
        state = convert_weights_swin2mmseg({n: value for n, value in encoder.items() if not _IGNORED_KEYS.search(n)})
    named = {re.sub(r"^(backbone\.)?(stages\.)?", _format_stage_prefix, name): value for name, value in state.items()}
    # Which cells of a window are how far apart is worked out, and older files do not hold it.
    counted = {name: value for name, value in own.items() if name.endswith("relative_position_index")}
    kept = {name: value for name, value in named.items() if not _IGNORED_KEYS.search(name)}
    return {**counted, **kept}, "patch_embed.projection.weight", [band.value for band in BANDS_OF_SWIN]


def _format_stage_prefix(found: re.Match[str]) -> str:
    return "stages_" if found[2] else ""
