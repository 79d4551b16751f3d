"""What a node costs: chains of nodes that only pass tensors on, in microseconds for each node."""

import statistics
import time

import pytest
import torch
from torch import nn

import composer
from composer.layouts import Feature
from composer.parts.decoders import IdentityDecoder
from composer.parts.encoders import Custom
from composer.parts.necks import SelectIndices

FEW, MANY = 10, 100


def passing_on(nodes):
    """An encoder that gives its image, then necks that pass it on, and a decoder that does."""
    necks = [SelectIndices(indices=[-1])] * (nodes - 2)
    encoder = Custom(nn.Identity(), features=Feature(channels=3))
    return composer.build(composer.chain(encoder, *necks, IdentityDecoder())).eval()


def per_call(function, rounds=30, calls=50):
    """The median time of a call on the processor, in microseconds."""
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        for _ in range(calls):
            function()
        times.append(1e6 * (time.thread_time() - start) / calls)
    return statistics.median(times)


@pytest.mark.parametrize("size", [(64, 64)], ids=["64x64"])
def test_microseconds_per_node(note, size):
    """The slope between a short chain and a long one, and the same modules called in a bare loop."""
    image = torch.rand(1, 3, *size)
    few, many = passing_on(FEW), passing_on(MANY)
    bare = list(many.necks)

    def by_hand():
        features = (image,)
        for neck in bare:
            features = neck(features)

    with torch.no_grad():
        one, other = per_call(lambda: few(image)), per_call(lambda: many(image))
        hand = per_call(by_hand)
    slope = (other - one) / (MANY - FEW)
    note("a node, microseconds", f"{slope:.2f}, of which its module's own call {hand / len(bare):.2f}")
    note("a graph without nodes, microseconds", f"{one - FEW * slope:.1f}")
