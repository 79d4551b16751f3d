"""Modules of the heads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from composer.layouts import VECTOR, Features
from composer.modules.base import build_activation, module
from composer.parts import ClassificationHead, EmbeddingHead, RegressionHead, ScalarHead, SegmentationHead


@module.register(SegmentationHead)
class Segmentation(nn.Module):
    """Apply 3 × 3 convolutions, dropout, and a 1 × 1 convolution."""

    def __init__(self, head: SegmentationHead, features: Features) -> None:
        super().__init__()
        (feature,) = features
        widths = (feature.channels, *(head.channel_list or ()))
        self.head = nn.Sequential(
            nn.Sequential(*(_build_conv_relu(*pair) for pair in pairwise(widths))),
            nn.Dropout(head.dropout) if head.dropout else nn.Identity(),
            nn.Conv2d(widths[-1], head.num_classes, kernel_size=1),
        )

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return class scores `(b, num_classes, h, w)` for one map `(b, c, h, w)`."""
        (x_BCHW,) = features
        return (self.head(x_BCHW),)


@module.register(RegressionHead)
class Regression(nn.Module):
    """Apply learned doublings, 3 × 3 convolutions, dropout, a 1 × 1 convolution, and the final activation."""

    def __init__(self, head: RegressionHead, features: Features) -> None:
        super().__init__()
        (feature,) = features
        widths = (feature.channels, *(head.channel_list or ()))
        stages: list[nn.Module] = []
        if head.learned_upscale_layers:
            doublings = (
                _PixelShuffleUpsample(feature.channels, batch_norm=head.batch_norm)
                for _ in range(head.learned_upscale_layers)
            )
            stages.append(nn.Sequential(*doublings))
        if head.channel_list is not None:
            block = _build_conv_norm_relu if head.batch_norm else _build_conv_relu
            stages.append(nn.Sequential(*(block(*pair) for pair in pairwise(widths))))
        dropout = nn.Dropout2d(head.dropout) if head.dropout else nn.Identity()
        self.head = nn.Sequential(*stages, dropout, nn.Conv2d(widths[-1], head.num_outputs, kernel_size=1))
        self.final_act = nn.Identity() if head.final_act is None else build_activation(head.final_act)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return numbers `(b, num_outputs, h * 2**layers, w * 2**layers)` for one map `(b, c, h, w)`."""
        (x_BCHW,) = features
        return (self.final_act(self.head(x_BCHW)),)


@module.register(ClassificationHead)
@module.register(ScalarHead)
class Scalars(nn.Module):
    """Apply linear layers, dropout, a linear layer, and the mean over positions, which may also come first."""

    def __init__(self, head: ClassificationHead | ScalarHead, features: Features) -> None:
        super().__init__()
        outputs = head.num_classes if isinstance(head, ClassificationHead) else head.num_outputs
        (feature,) = features
        widths = (feature.channels, *(head.dim_list or ()))
        self.head = nn.Sequential(
            nn.Sequential(*(nn.Sequential(nn.Linear(*pair), nn.ReLU(inplace=True)) for pair in pairwise(widths))),
            nn.Dropout(head.dropout) if head.dropout else nn.Identity(),
            nn.Linear(widths[-1], outputs),
        )
        self.vector = feature.axes == VECTOR
        # A single linear layer commutes with the mean, so the cheaper order is used.
        self.mean_first = head.linear_after_pool or not (head.dim_list or head.dropout)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return numbers `(b, outputs)` for one map `(b, c, h, w)` or one vector `(b, c)`."""
        (x,) = features
        if self.vector:
            return (self.head(x),)
        x_BCN = x.flatten(2)
        if self.mean_first:
            return (self.head(x_BCN.mean(2)),)
        return (self.head(x_BCN.transpose(1, 2)).mean(1),)


@module.register(EmbeddingHead)
class Embedding(nn.Module):
    """Return the features unchanged."""

    def __init__(self, head: EmbeddingHead, features: Features) -> None:
        super().__init__()

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the tensors themselves, of any shapes."""
        return tuple(features)


class _PixelShuffleUpsample(nn.Module):
    """Double a map, `(b, c, h, w)` to `(b, c, 2h, 2w)`: four values for each cell, laid out as a square."""

    def __init__(self, channels: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels * 4, kernel_size=3, padding=1)
        self.upscale = nn.PixelShuffle(2)
        self.bn = nn.BatchNorm2d(channels) if batch_norm else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW: Tensor = self.relu(self.bn(self.upscale(self.conv(x_BCHW))))
        return y_BCHW


def _build_conv_relu(incoming: int, outgoing: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(incoming, outgoing, kernel_size=3, padding=1), nn.ReLU(inplace=True))


def _build_conv_norm_relu(incoming: int, outgoing: int) -> nn.Module:
    # The norm subtracts what a bias would add.
    convolution = nn.Conv2d(incoming, outgoing, kernel_size=3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outgoing), nn.ReLU(inplace=True))
