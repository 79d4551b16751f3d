"""The tensors of a checkpoint beside those of a network, behind prefixes, with a conversion between them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from composer.tensors.matching import MismatchError, count_matches, match


class Network(nn.Module):
    """A parameter, a statistic, an index and a counter."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("index", torch.arange(2))
        self.register_buffer("counter", torch.tensor(0))


WANTED = Network().state_dict(keep_vars=True)


def numbers(value, prefix=""):
    return {f"{prefix}weight": torch.full((2,), float(value)), f"{prefix}mean": torch.full((2,), value / 2)}


def original(value, prefix=""):
    """The same by other names."""
    return {f"{prefix}w": torch.full((2,), float(value)), f"{prefix}m": torch.full((2,), value / 2)}


def convert(state):
    """Rename, and strip whatever stands in front: of two networks the first is left."""
    names = {"w": "weight", "m": "mean"}
    found = {}
    for name, tensor in state.items():
        found.setdefault(names.get(name.split(".")[-1], name), tensor)
    return found


def half(state):
    return {name: tensor.half() for name, tensor in state.items()}


FILLED = {
    "plain names": (numbers(3), "", 3),
    "plain names beside a prefix": (numbers(3) | numbers(4, "ema."), "", 3),
    "names to be converted": (original(3), "", 3),
    "names to be converted, behind a prefix": (original(3, "net."), "", 3),
    "names to be converted, beside a prefix": (original(3) | original(4, "ema."), "", 3),
    "two equal networks to be converted": (original(3, "a.") | original(3, "b."), "a.", 3),
    "several prefixes that are stripped": (original(3, "a.b."), "", 3),
    "two equal networks": (numbers(3, "a.") | numbers(3, "b."), "a.", 3),
}


@pytest.mark.parametrize(("given", "prefix", "value"), FILLED.values(), ids=FILLED)
def test_a_network_is_filled(given, prefix, value):
    network = Network()
    wanted = network.state_dict(keep_vars=True)
    found = match(given, wanted, convert)
    found.fill(wanted)
    assert (found.prefix, network.weight.tolist(), network.mean.tolist()) == (prefix, [value] * 2, [value / 2] * 2)


AMBIGUOUS = {
    "by name": numbers(3, "a.") | numbers(4, "b."),
    "to be converted": original(3, "a.") | original(4, "b."),
    "of two precisions": numbers(3, "a.") | half(numbers(3, "b.")),
}


@pytest.mark.parametrize("given", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_of_two_networks_none_is_taken(given):
    with pytest.raises(MismatchError) as raised:
        match(given, WANTED, convert)
    assert str(raised.value) == "a whole network behind each of the prefixes a, b"


def test_too_little_memory_is_no_mismatch():
    def fail(_):
        raise MemoryError

    with pytest.raises(MemoryError):
        match(numbers(3), WANTED, fail)


NAMES = ("conv.weight", "conv.bias", "layers.0.conv.weight")
PREFIXES = {
    "names as they are": (NAMES, {"": 3, "layers.0.": 1}),
    "one wrapper": ([f"model.{name}" for name in NAMES], {"model.": 3, "model.layers.0.": 1}),
    "two networks": (
        [f"{who}.backbone.{name}" for who in ("teacher", "student") for name in NAMES[:2]],
        {"student.backbone.": 2, "teacher.backbone.": 2},
    ),
    "eight dots": ([f"{'a.' * 8}conv.bias"], {"a." * 8: 1}),
    # Tried at each of its dots, with all that is behind, it would take minutes.
    "a million dots": ([f"{'a.' * 10**6}conv.bias"], {}),
    "nothing in common": (["conv.weight.scale", "other"], {}),
}


@pytest.mark.parametrize(("given", "counts"), PREFIXES.values(), ids=PREFIXES)
def test_matches_are_counted_behind_each_prefix(given, counts):
    assert list(count_matches(given, NAMES).items()) == list(counts.items())
