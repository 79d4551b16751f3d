"""The nodes of a model: their names, what is shared, and what is frozen."""

import copy
import pickle
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import composer
from composer.errors import SpecError
from composer.graph import Graph, Node, Shared
from composer.layouts import Image
from composer.parts.decoders import FCNDecoder, IdentityDecoder
from composer.parts.encoders import Timm
from composer.parts.heads import EmbeddingHead, SegmentationHead
from composer.parts.necks import ConcatFeatures, SelectIndices

CHAIN = composer.chain(
    Timm("test_resnet", out_indices=[1, 2]),
    composer.AddBottleneckLayer(),
    SelectIndices(indices=[-1]),
    FCNDecoder(channels=8, num_convs=1),
    SegmentationHead(num_classes=2, dropout=0.5),
    aux={"early": (FCNDecoder(channels=4, num_convs=1), SegmentationHead(num_classes=2))},
)
NODES = ("encoder", "necks.0", "decoder", "head", "aux.early.decoder", "aux.early.head")
"""The paths of the nodes that have parameters."""


@pytest.fixture
def model():
    return composer.build(CHAIN)


def get_statistics(model):
    return {name: x.clone() for name, x in model.encoder.state_dict().items() if "running" in name}


def have_changed(before, after):
    return [name for name, x in before.items() if not torch.equal(x, after[name])] != []


def list_trainable(model):
    """The nodes whose parameters all have gradients, and those in train mode."""
    nodes = {path: model.get_submodule(path) for path in NODES}
    with_gradients = {path for path, node in nodes.items() if all(p.requires_grad for p in node.parameters())}
    return with_gradients, {path for path, node in nodes.items() if node.training}


def test_nodes_are_children_under_their_own_names(model):
    assert [name for name, _ in model.named_children()] == ["encoder", "necks", "decoder", "head", "aux"]
    assert isinstance(model.necks, nn.ModuleList)
    assert model.get_submodule("aux.early.decoder") is model.aux["early"]["decoder"]
    found = [next((p for p in NODES if name.startswith(f"{p}.")), name) for name in model.state_dict()]
    assert sorted(set(found)) == sorted(NODES)


@pytest.mark.parametrize("name", [name for name in vars(composer.Model) if not name.startswith("_")])
def test_no_node_has_the_name_of_an_attribute_of_the_model(name):
    graph = Graph(inputs={"image": Image()}, nodes=[Node(name, Timm("test_resnet"), "image")], outputs=[name])
    with pytest.raises(SpecError) as caught:
        composer.infer(graph)
    message = f"{name!r} cannot be a name, because a torch module has a {name!r} of its own."
    assert caught.value.problems[0].message == message


def test_names_of_a_graph_may_nest():
    graph = Graph(
        inputs={"image": Image()},
        nodes=[
            Node("trunk.net", Timm("test_resnet", out_indices=[1]), "image"),
            Node("trunk.out[0]", IdentityDecoder(), "trunk.net"),
            Node("trunk.out[1]", SegmentationHead(num_classes=2), "trunk.out[0]"),
        ],
        outputs=["trunk.out[1]"],
    )
    model = composer.build(graph)
    assert {".".join(name.split(".")[:3]) for name in model.state_dict() if ".out." in name} == {"trunk.out.1"}
    assert model(torch.rand(1, 3, 33, 40)).output.shape == (1, 2, 33, 40)


@pytest.mark.parametrize("frozen", ["encoder", "head"])
def test_a_frozen_node_has_no_gradients_and_keeps_its_statistics(model, frozen):
    model.freeze(frozen)
    before = get_statistics(model)
    model.train()(torch.rand(2, 3, 64, 64)).output.sum().backward()
    assert [name for name, p in model.get_submodule(frozen).named_parameters() if p.grad is not None] == []
    assert [name for name, p in model.decoder.named_parameters() if p.grad is None] == []
    # The second case shows that the first could fail.
    assert have_changed(before, get_statistics(model)) == (frozen != "encoder")


def test_freezing_and_unfreezing_keep_eval_mode(model):
    model.eval()
    model.freeze("encoder")
    assert (model.training, model.decoder.training) == (False, False)
    model.unfreeze("encoder")
    assert not model.encoder.training
    assert model.train().encoder.training


@pytest.mark.parametrize(
    ("name", "frozen"),
    [
        pytest.param("necks", {"necks.0"}, id="all-necks"),
        pytest.param("necks[0]", {"necks.0"}, id="one-neck"),
        pytest.param("aux.early", {"aux.early.decoder", "aux.early.head"}, id="a-branch"),
        pytest.param("aux.early.head", {"aux.early.head"}, id="a-node-of-a-branch"),
        pytest.param("head", {"head"}, id="not-the-head-of-a-branch"),
    ],
)
def test_a_name_freezes_all_nodes_within_it(model, name, frozen):
    model.freeze(name)
    assert list_trainable(model) == (set(NODES) - frozen, set(NODES) - frozen)


@pytest.mark.parametrize("verb", ["freeze", "unfreeze"])
@pytest.mark.parametrize("name", ["neck", "necks[2]", "aux.late", ""])
def test_an_unknown_node_is_an_error_and_changes_nothing(model, name, verb):
    message = (
        f"there is no node {name!r} to {verb}; the nodes are encoder, necks[0], necks[1], decoder, head, "
        "aux.early.decoder, aux.early.head"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        getattr(model, verb)("encoder", name)
    assert (model.frozen, list_trainable(model)) == ((), (set(NODES), set(NODES)))


def test_unfreezing_is_the_inverse(model):
    model.freeze("encoder", "aux", "head", "necks")
    assert model.frozen == ("encoder", "necks[0]", "necks[1]", "head", "aux.early.decoder", "aux.early.head")
    model.unfreeze("encoder", "aux.early.decoder", "necks")
    assert model.frozen == ("head", "aux.early.head")
    rest = set(NODES) - {"head", "aux.early.head"}
    assert list_trainable(model) == (rest, rest)
    before = get_statistics(model)
    model.train()(torch.rand(2, 3, 64, 64)).output.sum().backward()
    assert [name for name, p in model.encoder.named_parameters() if p.grad is None] == []
    assert have_changed(before, get_statistics(model))


def test_parameters_that_were_not_trained_before_are_not_trained_afterwards(model):
    """For example fixed position embeddings."""
    model.head.requires_grad_(False)
    fixed = model.get_parameter("encoder.conv1.0.weight").requires_grad_(False)
    model.freeze("encoder")
    model.freeze("encoder")
    model.unfreeze("encoder", "head", "decoder")
    assert [p is fixed for p in model.encoder.parameters() if not p.requires_grad] == [True]
    assert list_trainable(model)[0] == set(NODES) - {"encoder", "head"}


@pytest.mark.parametrize("before", [True, False], ids=["trained before", "not trained before"])
def test_a_freeze_ends_where_torch_switches_all_gradients_on(model, before):
    """Otherwise the node would be trained in eval mode."""
    model.encoder.requires_grad_(before)
    model.freeze("encoder")
    model.requires_grad_(True)
    model.train()
    assert list_trainable(model) == (set(NODES), set(NODES))
    assert model.frozen == ()
    model.freeze("encoder")
    assert (model.frozen, model.encoder.training) == (("encoder",), False)
    assert [p for p in model.encoder.parameters() if p.requires_grad] == []


def test_a_part_of_a_frozen_node_may_be_trained(model):
    """Its statistics do not change, as is usual where only the last stage is trained."""
    model.freeze("encoder")
    model.encoder.layer1.requires_grad_(True)
    model.train()
    assert model.frozen == ("encoder",)
    assert not any(child.training for child in model.encoder.modules())


def save_and_load(model, folder):
    composer.save(model, folder / "model.safetensors")
    return composer.load(folder / "model.safetensors")


def compile_save_and_load(model, folder):
    model.encoder = torch.compile(model.encoder)
    return save_and_load(model, folder)


COPIES = {
    "file": save_and_load,
    "compiled": compile_save_and_load,
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)),
    "deepcopy": lambda model, _: copy.deepcopy(model),
}


@pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES)
def test_a_copy_is_frozen_as_the_model_is(model, tmp_path, make_copy):
    model.freeze("encoder", "aux.early", "head")
    model.unfreeze("head")
    other = make_copy(model, tmp_path).train()
    rest = {"necks.0", "decoder", "head"}
    assert other.frozen == ("encoder", "aux.early.decoder", "aux.early.head")
    assert list_trainable(other) == (rest, rest)
    other.unfreeze("encoder", "aux")
    assert list_trainable(other) == (set(NODES), set(NODES))


def test_a_file_with_frozen_nodes_that_the_model_does_not_have_is_rejected(model, tmp_path):
    file = tmp_path / "model.safetensors"
    composer.save(model, file)
    with safe_open(file, framework="pt") as found:
        metadata = found.metadata() | {"composer.frozen": "encoder\nhaed"}
    save_file(load_file(file), file, metadata=metadata)
    message = (
        f"{file}: error[weights] lists frozen nodes that the model does not have: there is no node 'haed' to freeze; "
    )
    with pytest.raises(SpecError, match=f"^{re.escape(message)}"):
        composer.load(file)


@pytest.fixture
def siamese():
    nodes = [
        Node("old", Timm("test_resnet", out_indices=[1]), "before"),
        Node("new", Shared("old"), "after"),
        Node("both", ConcatFeatures(), ["old", "new"]),
        Node("change", IdentityDecoder(), "both"),
    ]
    return composer.build(Graph(inputs={"before": Image(), "after": Image()}, nodes=nodes, outputs=["change"]))


def test_a_shared_node_runs_the_weights_of_its_owner(siamese):
    alone = composer.build(composer.chain(Timm("test_resnet", out_indices=[1])))
    assert [name.removeprefix("old.") for name in siamese.state_dict()] == list(alone.encoder.state_dict())
    assert not hasattr(siamese, "new")
    siamese.eval()
    one, other = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        there = siamese({"before": one, "after": other}).output.chunk(2, dim=1)
        back = siamese({"before": other, "after": one}).output.chunk(2, dim=1)
    assert torch.equal(there[0], back[1])
    assert torch.equal(there[1], back[0])
    assert not torch.equal(there[0], there[1])


def test_a_shared_node_is_frozen_with_its_owner(siamese, tmp_path):
    siamese.freeze("new")
    assert [name for name, p in siamese.old.named_parameters() if p.requires_grad] == []
    assert siamese.frozen == ("old", "new")
    assert save_and_load(siamese, tmp_path).frozen == ("old", "new")
    siamese.unfreeze("new")
    assert (siamese.frozen, siamese.old.training) == ((), True)
    assert all(p.requires_grad for p in siamese.old.parameters())


def share_between_resolutions(encoder, *parts, size=None):
    """A graph in which each part after the first node shares the weights of its twin at half the resolution."""
    nodes = []
    for number, part in enumerate((encoder, *parts)):
        for branch in ("fine", "coarse"):
            source = f"{branch}{number - 1}" if number else branch
            shared = part if branch == "fine" or isinstance(part, EmbeddingHead) else Shared(f"fine{number}")
            nodes.append(Node(f"{branch}{number}", shared, source))
    inputs = {"fine": Image(size=size), "coarse": Image(stride=2)}
    return Graph(inputs=inputs, nodes=nodes, outputs=[f"fine{len(parts)}", f"coarse{len(parts)}"])


FPN = composer.FeaturePyramidNetworkNeck(out_channel=8)
FCN = FCNDecoder(channels=8, num_convs=1)
OWN = composer.Custom(nn.Conv2d(3, 8, 2, stride=2), features=composer.Feature(channels=8, stride=2))


@pytest.mark.parametrize(
    ("encoder", "parts"),
    [
        pytest.param(OWN, (EmbeddingHead(),), id="a module of one's own"),
        pytest.param(Timm("legacy_xception", out_indices=[0]), (FCN, EmbeddingHead()), id="maps without borders"),
        pytest.param(Timm("test_resnet"), (FPN, FCN, EmbeddingHead()), id="necks and a decoder"),
    ],
)
def test_weights_are_shared_between_resolutions(encoder, parts):
    """The module is called as it is on both, and its strides count the pixels of each image."""
    typed = composer.infer(share_between_resolutions(encoder, *parts))
    model = composer.build(typed).eval()
    fine, coarse = torch.rand(1, 3, 128, 64), torch.rand(1, 3, 64, 32)
    with torch.no_grad():
        alone = coarse
        for number in range(len(parts)):
            alone = model.get_submodule(f"fine{number}")(alone)
        found = model({"fine": fine, "coarse": coarse}).output[f"coarse{len(parts)}"]
    features = typed.features[f"coarse{len(parts)}"]
    assert [f.stride for f in features] == [2 * f.stride for f in typed.features[f"fine{len(parts)}"]]
    assert [f.cells(128) for f in features] == [x.shape[2] for x in found]
    alone = [alone] if isinstance(alone, torch.Tensor) else alone
    assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))


def test_a_part_that_reads_strides_is_not_shared_between_resolutions():
    graph = share_between_resolutions(Timm("test_resnet", out_indices=[0]), composer.Smp("PSPNet"), EmbeddingHead())
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(graph)
    assert str(caught.value) == (
        "error[join] coarse1: smp/PSPNet shares the weights of fine1, which was made for map "
        '"b c h w" (32 channels, stride 2); coarse0 gives map "b c h w" (32 channels, stride 4).\n'
        "  fix: give both nodes inputs of the same features"
    )


def test_equal_parts_of_two_nodes_and_of_two_seeds_have_different_weights():
    nodes = [
        Node("old", Timm("test_resnet", out_indices=[1]), "before"),
        Node("new", Timm("test_resnet", out_indices=[1]), "after"),
    ]
    graph = Graph(inputs={"before": Image(), "after": Image()}, nodes=nodes, outputs=["old", "new"])
    states = [composer.build(graph, seed=seed).state_dict() for seed in (0, 1)]
    weights = [state[f"{name}.conv1.0.weight"] for state in states for name in ("old", "new")]
    assert len({float(weight.sum()) for weight in weights}) == 4
