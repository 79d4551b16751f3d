"""Building a model against making the same modules bare, as timm and torch make them."""

import timm
import torch

import composer
from composer.layouts import Feature
from composer.modules.decoders import Segmentation, UperNet
from composer.parts.decoders import UperNetDecoder
from composer.parts.encoders import Timm
from composer.parts.heads import SegmentationHead

INDICES = (1, 2, 3, 4)
DECODER = UperNetDecoder(channels=64)
HEAD = SegmentationHead(num_classes=5)
PYRAMID = tuple(Feature(channels=c, stride=s) for c, s in ((64, 4), (128, 8), (256, 16), (512, 32)))


def bare(features_only):
    """The modules alone, which know nothing of each other."""
    encoder = timm.create_model("resnet18", features_only=features_only, **_indices(features_only))
    if not features_only:
        encoder.prune_intermediate_layers(list(INDICES), prune_norm=True, prune_head=True)
    return torch.nn.ModuleList([encoder, UperNet(DECODER, PYRAMID), Segmentation(HEAD, (Feature(channels=64),))])


def _indices(features_only):
    return {"out_indices": INDICES} if features_only else {}


def graph(features_only):
    """The same as a spec."""
    return composer.chain(Timm("resnet18", out_indices=INDICES, features_only=features_only), DECODER, HEAD)


def same_weights(model, modules):
    """Whether both hold parameters of the same shapes, in the same order."""
    return [tuple(p.shape) for p in model.parameters()] == [tuple(p.shape) for p in modules.parameters()]


def test_build_against_bare_modules(paired):
    """The plain network, pruned to the levels that are wanted."""
    spec = graph(features_only=False)
    assert same_weights(composer.build(spec), bare(features_only=False))
    paired("build, resnet18 + UperNet", lambda: composer.build(spec), lambda: bare(features_only=False), pairs=15)


def test_build_with_the_wrapper_of_timm_against_bare_modules(paired):
    """timm's own features_only."""
    spec = graph(features_only=True)
    assert same_weights(composer.build(spec), bare(features_only=True))
    label = "build, resnet18 features_only + UperNet"
    paired(label, lambda: composer.build(spec), lambda: bare(features_only=True), pairs=15)


def test_build_one_model(benchmark):
    """In wall-clock time."""
    benchmark.pedantic(composer.build, args=(graph(features_only=False),), rounds=5, warmup_rounds=1)
