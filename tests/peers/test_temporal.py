"""TemporalPooling beside TerraTorch's TemporalWrapper, at equal weights.

In float64, so that what differs is what is computed, and not the order in which it is added up.
"""

from __future__ import annotations

import pytest
import torch
from terratorch.models.utils import TemporalWrapper, _get_backbone

from composer.building import build
from composer.graph import chain
from composer.layouts import Image
from composer.parts.encoders import Timm
from composer.parts.heads import EmbeddingHead
from composer.parts.tokens import TemporalPooling

TOLERANCE = 1e-12
FRAMES = 3
NETWORKS = {
    "resnet18": Timm("resnet18", features_only=True),
    "vit-maps": Timm("vit_tiny_patch16_224", features_only=True, img_size=64),
}
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


def ours(encoder, way):
    parts = (encoder, TemporalPooling(**WAYS[way]), EmbeddingHead())
    return build(chain(*parts, input=Image(frames=frames_of(way)))).double()


def film(way, height=64, width=64):
    return torch.randn(2, 3, frames_of(way), height, width, generator=torch.Generator().manual_seed(0)).double()


def backbone(encoder, way):
    """What TerraTorch makes of the arguments that its users write."""
    arguments = {f"temporal_{name}": value for name, value in WAYS[way].items()}
    size = {} if encoder.img_size is None else {"img_size": encoder.img_size}
    return _get_backbone(f"timm_{encoder.name}", use_temporal=True, pretrained=False, **arguments, **size).double()


def difference(one, other):
    assert [x.shape for x in one] == [x.shape for x in other]
    return max(float((x - y).abs().max()) for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize("mode", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("encoder", NETWORKS.values(), ids=NETWORKS)
def test_features_and_gradients_are_those_of_the_wrapper(encoder, way, mode):
    model, wrapper = ours(encoder, way).train(mode), backbone(encoder, way).train(mode)
    wrapper.encoder.load_state_dict(model.encoder.state_dict())
    x = film(way)

    given, wanted = model(x).output, wrapper(x)
    for features in (given, wanted):
        sum(y.square().mean() for y in features).backward()

    assert difference(given, wanted) < TOLERANCE
    mine, theirs = (dict(network.named_parameters()) for network in (model.encoder, wrapper.encoder))
    assert list(mine) == list(theirs)
    assert difference([mine[name].grad for name in mine], [theirs[name].grad for name in mine]) < TOLERANCE


@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_those_of_the_wrapper(way):
    """A ViT's own tokens, prefix and all, which TerraTorch takes for `(b, l, c)`."""
    model = ours(Timm("test_vit", out_indices=[1, 4], tokens=True), way).eval()
    wrapper = TemporalWrapper(model.encoder, **WAYS[way])
    x = film(way, 48, 64)
    with torch.no_grad():
        assert difference(model(x).output, wrapper(x)) < TOLERANCE
