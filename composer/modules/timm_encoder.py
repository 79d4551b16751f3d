"""A network of timm as an encoder. No timm here: the network is handed in. B batch, N tokens, C channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from composer.loaded import LoadedWeights


class TimmEncoder(nn.Module):
    """A plain network of timm that gives the levels `indices`, as maps or as tokens, with its final norm or without.

    It has the network's own parameters, buffers and children, not a network inside it, so that its state dict bears
    the names that published checkpoints use. What none of the levels needs is pruned away.
    """

    loaded_weights: LoadedWeights | None = None

    def __init__(self, network: Any, indices: Sequence[int], *, tokens: bool = False, norm: bool = False) -> None:
        super().__init__()
        self.indices = list(network.prune_intermediate_layers(list(indices), prune_norm=not norm, prune_head=True))
        self.tokens = tokens
        # Two networks of timm have no such argument.
        self._normed = {"norm": True} if norm else {}
        # A tuple, which torch does not search for modules.
        self._network = (network,)
        self._parameters = network._parameters
        self._buffers = network._buffers
        self._modules = network._modules
        self._non_persistent_buffers_set = network._non_persistent_buffers_set

    @property
    def network(self) -> Any:
        """timm's own module."""
        return self._network[0]

    def train(self, mode: bool = True) -> TimmEncoder:  # noqa: FBT001, FBT002, the signature is torch's
        """Set the mode of the network itself too, which is no child of this module."""
        super().train(mode)
        self.network.training = mode
        return self

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Each level as `(b, c, h, w)`, or with `tokens` as `(b, prefix + h * w, c)`."""
        run, asked = self.network.forward_intermediates, {"indices": self.indices, "intermediates_only": True}
        if not self.tokens:
            return tuple(run(image_BCHW, **asked, **self._normed))
        levels = run(image_BCHW, **asked, **self._normed, return_prefix_tokens=True, output_fmt="NLC")
        pairs = [level if isinstance(level, tuple | list) else (level, None) for level in levels]
        return tuple(x if prefix is None else torch.cat([prefix, x], dim=1) for x, prefix in pairs)
