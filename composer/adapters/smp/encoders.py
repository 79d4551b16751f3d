"""smp's encoders as smp makes them, and which of their levels they give. B batch, C channels, H and W cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor

from composer.modules.own_names import TransparentWrapper
from composer.parts import SmpEncoder
from composer.quiet import drop_warnings


class SmpLevels(TransparentWrapper):
    """An encoder of smp that gives the levels `indices`, level i at 1 / 2**i of the image's resolution."""

    def __init__(self, network: Any, indices: Sequence[int]) -> None:
        super().__init__(network)
        self.indices = tuple(indices)

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Each level as `(b, c, h, w)`."""
        levels = self.network(image_BCHW)
        return tuple(levels[index] for index in self.indices)


def create_smp_encoder(part: SmpEncoder, weights: str | None = None) -> Any:
    """The network for three channels, without dilation, with the published weights of a set or with random ones."""
    with drop_warnings():  # of the names that smp's next version will have, and of tensors on the meta device
        return get_encoder(part.name, depth=part.depth, weights=weights)


def set_channels_and_dilation(network: Any, part: SmpEncoder, channels: int, *, weighted: bool) -> Any:
    """The same network for `channels` channels, dilated where the part asks: as smp adapts its own.

    Where it is `weighted`, the first layer keeps its weights, over and over for more channels. Raises ValueError
    where smp makes no dilated network of it.
    """
    network.set_in_channels(channels, pretrained=weighted)
    if part.output_stride not in (None, 32):
        network.make_dilated(part.output_stride)
    return network


def list_smp_levels(part: SmpEncoder, network: Any) -> tuple[int, ...]:
    """The levels that the part gives: not the first unless it says so, and none without channels."""
    first = 0 if part.first_level else 1
    return tuple(index for index, width in enumerate(network.out_channels) if index >= first and width)
