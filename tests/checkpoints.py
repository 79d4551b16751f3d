"""Weights as TerraTorch would have trained them, for the tests of loading them."""

import re

import torch

import composer
from composer.parts.decoders import FCNDecoder, IdentityDecoder
from composer.parts.encoders import Timm
from composer.parts.heads import SegmentationHead
from composer.parts.necks import AddBottleneckLayer

RESNET = Timm("test_resnet", out_indices=[1])
GRAPH = composer.chain(RESNET, FCNDecoder(channels=4, num_convs=1), SegmentationHead(num_classes=2))
BRANCHED = composer.chain(
    Timm("test_resnet", out_indices=[1, 2], features_only=True),
    AddBottleneckLayer(),
    FCNDecoder(channels=4, num_convs=1),
    SegmentationHead(num_classes=2, channel_list=[3]),
    aux={
        "early": (FCNDecoder(channels=3, num_convs=1), SegmentationHead(num_classes=2)),
        "late": (IdentityDecoder(), SegmentationHead(num_classes=2)),
    },
)


def state_of(model):
    return {name: x.clone() for name, x in model.state_dict().items()}


def unlike(one, other):
    """Names of the tensors that differ, in value, type or name."""
    assert list(one) == list(other)
    return [name for name, x in one.items() if x.dtype != other[name].dtype or not torch.equal(x, other[name])]


def trained(graph=GRAPH, seed=3, side=32):
    """A model whose every tensor is unlike that of another seed, with statistics that are not those of the start."""
    model = composer.build(graph, seed=seed).train()
    generator = torch.Generator().manual_seed(seed)
    channels = graph.inputs[0][1].channels
    model(torch.rand(2, channels, side, side, generator=generator))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.rand(parameter.shape, generator=generator)
    return model


def as_terratorch_says(state):
    """composer's names of a chain without pooled frames, in TerraTorch's."""
    rules = [
        (r"^necks\.(\d+)\.", r"neck.\1."),
        (r"^aux\.([^.]+)\.decoder\.", r"aux_heads.\1.0."),
        (r"^aux\.([^.]+)\.head\.", r"aux_heads.\1.1."),
    ]
    renamed = {}
    for name, x in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = x
    return renamed
