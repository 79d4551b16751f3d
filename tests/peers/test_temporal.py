"""TemporalPooling of tokens beside TerraTorch's TemporalWrapper; of maps, with gradients, in test_parity.

In float64, so that what differs is what is computed, and not the order in which it is added up.
"""

from __future__ import annotations

import pytest
import torch
from terratorch.models.utils import TemporalWrapper

from composer.building import build
from composer.graph import chain
from composer.layouts import Image
from composer.parts.encoders import Timm
from composer.parts.heads import EmbeddingHead
from composer.parts.tokens import TemporalPooling

TOLERANCE = 1e-12
FRAMES = 3
WAYS = {
    "mean": {},
    "max": {"pooling": "max"},
    "concat": {"pooling": "concat"},
    "keep": {"pooling": "keep"},
    "mean-of-subsets": {"pooling": "mean", "subset_lengths": [1, 2]},
    "max-of-subsets": {"pooling": "max", "subset_lengths": [2, 1]},
    "diff-of-subsets": {"pooling": "diff", "subset_lengths": [1, 2]},
    "concat-of-subsets": {"pooling": "concat", "subset_lengths": [2, 1]},
    "keep-of-subsets": {"pooling": "keep", "subset_lengths": [2, 1]},
    "diff-of-two": {"pooling": "diff"},
}


def frames_of(way):
    return 2 if way == "diff-of-two" else FRAMES


def film(way, height=64, width=64):
    return torch.randn(2, 3, frames_of(way), height, width, generator=torch.Generator().manual_seed(0)).double()


def difference(one, other):
    assert [x.shape for x in one] == [x.shape for x in other]
    return max(float((x - y).abs().max()) for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_those_of_the_wrapper(way):
    """A ViT's own tokens, prefix and all, which TerraTorch takes for `(b, l, c)`."""
    encoder = Timm("test_vit", out_indices=[1, 4], tokens=True)
    graph = chain(encoder, TemporalPooling(**WAYS[way]), EmbeddingHead(), input=Image(frames=frames_of(way)))
    model = build(graph).double().eval()
    wrapper = TemporalWrapper(model.encoder, **WAYS[way])
    x = film(way, 48, 64)
    with torch.no_grad():
        assert difference(model(x).output, wrapper(x)) < TOLERANCE
