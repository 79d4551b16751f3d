"""The fully convolutional decoder. B batch, C channels, H and W cells."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from composer.feature import Features
from composer.modules.dispatch import module
from composer.modules.memory_format import make_contiguous_for_training
from composer.parts import FCNDecoder


class FCN(nn.Module):
    """One map doubled `num_convs` times."""

    def __init__(self, decoder: FCNDecoder, features: Features) -> None:
        super().__init__()
        self.index = decoder.in_index
        widths = [features[self.index].channels] + [decoder.channels] * decoder.num_convs
        self.convs = nn.Sequential(*map(_build_upsample_block, widths, widths[1:]))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give one map `(b, channels, h * 2**num_convs, w * 2**num_convs)` for the map `(b, c, h, w)` at `index`."""
        y_BCHW: Tensor = self.convs(features[self.index])
        # torch draws what a dropout drops in the order of memory, so that in train mode the order is the usual one.
        return (y_BCHW.contiguous() if self.training else y_BCHW,)


def _build_upsample_block(incoming: int, outgoing: int) -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(incoming, outgoing, kernel_size=2, stride=2),
        nn.Conv2d(outgoing, outgoing, kernel_size=3, padding=1),
        _LayerNorm2d(outgoing),
        nn.GELU(),
    )


class _LayerNorm2d(nn.Module):
    """Layer normalisation of each cell over its channels, `(b, c, h, w)` to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        # Without gradients the result stays in channels-last memory: the next convolution is as fast in it, and this
        # permutation is free.
        y_BCHW: Tensor = self.ln(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return make_contiguous_for_training(y_BCHW, like=x_BCHW)


@module.register(FCNDecoder)
def _(decoder: FCNDecoder, features: Features) -> nn.Module:
    return FCN(decoder, features)
