"""Graphs and chains as they are handed in from Python."""

import re

import pytest
from torch import nn

from composer.building import build
from composer.graph import RESERVED_NAMES, Graph, Node, Shared, chain
from composer.graph_checks import sort_nodes
from composer.layouts import Image
from composer.parts import AddBottleneckLayer, FCNDecoder, RegressionHead, Timm

ENCODER = Timm("resnet18")
DECODER = FCNDecoder()
HEAD = RegressionHead()


WRONG = [
    pytest.param(DECODER, repr(DECODER), id="bare"),
    pytest.param(None, "None", id="none"),
    pytest.param([AddBottleneckLayer()], "AddBottleneckLayer", id="neck"),
    pytest.param((DECODER, HEAD, HEAD), "FCNDecoder, RegressionHead, RegressionHead", id="a-second-head"),
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


@pytest.mark.parametrize(
    ("written", "order"),
    [
        pytest.param("head decoder b a encoder", "encoder a b decoder head", id="depth-first"),
        pytest.param("encoder b shared a decoder head", "encoder b a shared decoder head", id="owner-first"),
        pytest.param("encoder b a decoder head", "encoder b a decoder head", id="as-written"),
    ],
)
def test_nodes_run_in_written_order_each_behind_its_inputs(written, order):
    """Seeded weights are drawn in this order."""
    sources = {"a": "encoder", "b": "encoder", "shared": "encoder", "decoder": ("a", "b"), "head": "decoder"}
    nodes = [
        Node(name, Shared("a") if name == "shared" else DECODER, sources.get(name, "image")) for name in written.split()
    ]
    made = Graph(inputs={"image": Image()}, nodes=nodes, outputs=("head",))
    assert " ".join(node.name for node in sort_nodes(made)) == order


BUILT = build(chain(Timm("test_resnet"), DECODER, HEAD))
CONTAINERS = {"module": nn.Module(), "list": nn.ModuleList(), "dict": nn.ModuleDict(), "model": BUILT}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
def test_no_node_can_hide_an_attribute_of_its_container(container):
    children = dict(container.named_children())
    public = {name for name in dir(container) if not name.startswith("_") and name not in children}

    assert public - RESERVED_NAMES == set()
