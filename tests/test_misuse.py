"""What is handed in from Python and is something else than what is wanted: one error that says what is wanted."""

from __future__ import annotations

import pytest

import composer
from composer.errors import SpecError
from composer.graph import MAX_ENCODERS, Graph, Node
from composer.layouts import Image
from composer.parts.decoders import FCNDecoder
from composer.parts.encoders import Timm

GRAPH = composer.chain(Timm("test_resnet"), FCNDecoder(channels=4), composer.SegmentationHead(num_classes=2))
ITSELF = []
ITSELF.append(ITSELF)


def node(**fields):
    return Node(**{"name": "n", "part": FCNDecoder(), "inputs": "image", **fields})


def graph(**fields):
    return Graph(**{"inputs": {"image": Image()}, "nodes": [node()], "outputs": ["n"], **fields})


A_GRAPH = "a graph is needed, as composer.read and composer.chain make it"
PART = "part must be a declaration, such as FCNDecoder(), or Shared"
INPUTS = "inputs are names, or names with the node that each is taken from"
SEED = "seed must be a whole number from 0 to 2**63 - 1"
MISUSES = {
    "reads bytes": (
        lambda: composer.reads(b"encoder: timm/resnet18"),
        TypeError,
        "reads takes a text, and composer.read the path of a file (got bytes)",
    ),
    "infer a text": (lambda: composer.infer("encoder: timm/resnet18"), TypeError, f"{A_GRAPH} (got str)"),
    "fit a number": (lambda: composer.autofix(3), TypeError, f"{A_GRAPH} (got int)"),
    "write nothing": (lambda: composer.write(None), TypeError, f"{A_GRAPH} (got NoneType)"),
    "limits": (lambda: composer.build(GRAPH, limits=5), TypeError, "limits must be composer.Limits (got 5)"),
    "a huge seed": (lambda: composer.build(GRAPH, seed=2**70), ValueError, f"{SEED} (got {2**70})"),
    "several seeds": (lambda: composer.build(GRAPH, seed=[1, 2]), ValueError, f"{SEED} (got [1, 2])"),
    "a seed that is a truth": (lambda: composer.build(GRAPH, seed=True), ValueError, f"{SEED} (got True)"),
    "a device": (
        lambda: composer.build(GRAPH, device="cuda"),
        ValueError,
        "device must be 'cpu' or 'meta' (got 'cuda'); a model is moved to others: model.to(…)",
    ),
    "options in a list": (
        lambda: Timm("resnet18", options=[1, 2]),
        ValueError,
        "options map names to plain values (got [1, 2])",
    ),
    "an option that holds itself": (
        lambda: Timm("resnet18", options={"a": ITSELF}),
        ValueError,
        "option a must nest at most 32 deep",
    ),
    "several channels": (
        lambda: Image(channels=(3, 4)),
        ValueError,
        "channels must be a whole number from 1 to 65536 (got (3, 4))",
    ),
    "a part": (lambda: node(part=None), ValueError, f"{PART} (got None)"),
    "a class of parts": (
        lambda: node(part=FCNDecoder),
        ValueError,
        "FCNDecoder is a class, not a part; use composer.FCNDecoder(…)",
    ),
    "a name": (lambda: node(name=3), ValueError, "name must be a string (got 3)"),
    "what a node takes": (lambda: node(inputs=["a", 1]), ValueError, f"{INPUTS} (got 1)"),
    "a number as what a node takes": (lambda: node(inputs=7), ValueError, f"{INPUTS} (got 7)"),
    "images": (
        lambda: graph(inputs={"image": None}),
        ValueError,
        "inputs must map names to Images (got ('image', None))",
    ),
    "nodes": (lambda: graph(nodes=[FCNDecoder()]), ValueError, f"nodes must be Nodes (got {FCNDecoder()!r})"),
    "one output": (lambda: graph(outputs="n"), ValueError, "outputs must be a list of names (got 'n')"),
    "auxiliary outputs": (
        lambda: graph(auxiliary={"a": None}),
        ValueError,
        "auxiliary must map names to names of nodes (got ('a', None))",
    ),
}


@pytest.mark.parametrize(("misuse", "kind", "said"), MISUSES.values(), ids=MISUSES)
def test_one_error_says_what_is_wanted(misuse, kind, said):
    with pytest.raises(kind) as caught:
        misuse()
    assert str(caught.value) == said


def test_a_path_may_be_bytes(tmp_path):
    with pytest.raises(SpecError) as caught:
        composer.read(bytes(tmp_path / "none.yaml"))
    assert str(caught.value) == (
        f"{tmp_path}/none.yaml: error[file] the file cannot be read: No such file or directory."
    )


class Index:
    """A number as numpy's are: no int of Python's."""

    def __index__(self):
        return 7


def test_a_seed_may_be_any_whole_number():
    one, other = (composer.build(GRAPH, seed=seed).state_dict() for seed in (7, Index()))
    assert [name for name in one if not one[name].equal(other[name])] == []


def test_a_graph_has_so_many_encoders_and_no_more():
    """What one of them gives may take a second to find out."""
    names = [f"e{position}" for position in range(MAX_ENCODERS + 1)]
    nodes = [Node(name, Timm("resnet18", out_indices=[4]), "image") for name in names]
    joined = Node("joined", composer.ConcatFeatures(), names)
    head = Node("head", composer.EmbeddingHead(), "joined")
    with pytest.raises(SpecError) as caught:
        composer.infer(Graph(inputs={"image": Image()}, nodes=[*nodes, joined, head], outputs=["head"]))
    assert str(caught.value) == (
        "error[limit] e32: a graph has at most 32 encoders (got 33).\n"
        "  fix: let nodes share the weights of one: share: NODE in place of a part"
    )
