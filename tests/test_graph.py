"""Graphs and chains as they are handed in from Python."""

import re

import pytest
from torch import nn

from composer.building import build
from composer.graph import RESERVED_NAMES, Graph, chain
from composer.layouts import Image
from composer.parts import AddBottleneckLayer, FCNDecoder, RegressionHead, Timm

ENCODER = Timm("resnet18")
DECODER = FCNDecoder()
HEAD = RegressionHead()


def graph(**fields):
    return Graph(**{"inputs": {"image": Image()}, "nodes": (), "outputs": ("enc",), **fields})


REFUSED = [
    pytest.param({"outputs": "enc"}, "outputs must be a list of names (got 'enc')", id="outputs"),
    pytest.param({"rescale": "no"}, "rescale must be true or false (got 'no')", id="rescale-string"),
    pytest.param({"rescale": 1}, "rescale must be true or false (got 1)", id="rescale-number"),
    pytest.param({"rescale": None}, "rescale must be true or false (got None)", id="rescale-none"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_what_a_graph_must_hold(fields, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        graph(**fields)


def test_outputs_are_a_list():
    assert graph(outputs=["enc"]).outputs == ("enc",)


WRONG = [
    pytest.param(DECODER, repr(DECODER), id="bare"),
    pytest.param("FCNDecoder", "'FCNDecoder'", id="string"),
    pytest.param(None, "None", id="none"),
    pytest.param((), "nothing", id="empty"),
    pytest.param([AddBottleneckLayer()], "AddBottleneckLayer", id="neck"),
    pytest.param((AddBottleneckLayer(), DECODER), "AddBottleneckLayer, FCNDecoder", id="neck-first"),
    pytest.param((HEAD,), "RegressionHead", id="head-alone"),
    pytest.param((HEAD, HEAD), "RegressionHead, RegressionHead", id="two-heads"),
    pytest.param((DECODER, HEAD, HEAD), "FCNDecoder, RegressionHead, RegressionHead", id="a-second-head"),
    pytest.param((DECODER, DECODER), "FCNDecoder, FCNDecoder", id="two-decoders"),
    pytest.param((HEAD, DECODER), "RegressionHead, FCNDecoder", id="head-first"),
    pytest.param((DECODER, None), "FCNDecoder, NoneType", id="no-part"),
]


@pytest.mark.parametrize(("branch", "got"), WRONG)
def test_what_a_branch_must_be(branch, got):
    message = f"aux.early must be a tuple of a decoder, or of a decoder and a head (got {got})"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        chain(ENCODER, DECODER, aux={"early": branch})


BRANCHES = [
    pytest.param((DECODER,), ["aux.early.decoder"], id="decoder"),
    pytest.param([DECODER, HEAD], ["aux.early.decoder", "aux.early.head"], id="list-with-a-head"),
]


@pytest.mark.parametrize(("branch", "names"), BRANCHES)
def test_a_branch(branch, names):
    made = chain(ENCODER, DECODER, aux={"early": branch})
    assert [node.name for node in made.nodes if node.name.startswith("aux.")] == names
    assert made.auxiliary == (("early", names[-1]),)


BUILT = build(chain(Timm("test_resnet"), DECODER, HEAD))
CONTAINERS = {"module": nn.Module(), "list": nn.ModuleList(), "dict": nn.ModuleDict(), "model": BUILT}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
def test_no_node_can_hide_an_attribute_of_its_container(container):
    children = dict(container.named_children())
    public = {name for name in dir(container) if not name.startswith("_") and name not in children}

    assert public - RESERVED_NAMES == set()
