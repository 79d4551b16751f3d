"""The neck that makes vectors of tokens. N tokens, C channels; x may have frames in front of both."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from composer.feature import Features
from composer.modules.dispatch import module
from composer.parts import AggregateTokens


class Aggregate(nn.Module):
    """Pools the tokens, or the cells, of the tensors at its positions; or picks one token of each."""

    def __init__(self, neck: AggregateTokens, features: Features) -> None:
        super().__init__()
        self.pooling = neck.pooling
        self.positions = neck.positions
        self.maps = tuple("h" in features[index].axes for index in neck.positions)
        self.dropped = tuple(features[index].prefix if neck.drop_cls else 0 for index in neck.positions)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give a vector `(b, c)` for each of the chosen, or `(b, t, c)` where it has frames."""
        chosen = zip(self.positions, self.maps, self.dropped, strict=True)
        return tuple(
            self._pool_tokens(features[index].flatten(-2).mT if is_map else features[index][..., dropped:, :])
            for index, is_map, dropped in chosen
        )

    def _pool_tokens(self, x_NC: Tensor) -> Tensor:
        match self.pooling:
            case "mean":
                return x_NC.mean(-2)
            case "max":
                # Not amax, which shares the gradient among equal tokens: behind a ReLU many are equal.
                return x_NC.max(-2).values
            case "min":
                return x_NC.min(-2).values
        return x_NC[..., 0 if self.pooling == "cls" else int(self.pooling), :]


@module.register(AggregateTokens)
def _(neck: AggregateTokens, features: Features) -> nn.Module:
    return Aggregate(neck, features)
