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


@pytest.fixture
def model():
    return composer.build(CHAIN)


def under(model, prefix):
    return {name: x.clone() for name, x in model.state_dict().items() if name.startswith(prefix)}


def changed(before, after):
    return {name for name, x in before.items() if not torch.equal(x, after[name])}


PREFIXES = ("encoder.", "necks.0.", "decoder.", "head.", "aux.early.decoder.", "aux.early.head.")


def test_weights_are_named_by_their_nodes(model):
    """Every name begins with that of a node, and each node that has weights has some."""
    found = [next((prefix for prefix in PREFIXES if name.startswith(prefix)), name) for name in model.state_dict()]
    assert sorted(set(found)) == sorted(PREFIXES)


def test_nodes_are_children_under_their_own_names(model):
    assert [name for name, _ in model.named_children()] == ["encoder", "necks", "decoder", "head", "aux"]
    assert isinstance(model.necks, nn.ModuleList)
    assert model.get_submodule("aux.early.decoder") is model.aux["early"]["decoder"]


OWN_NAMES = [name for name in vars(composer.Model) if not name.startswith("_")]


@pytest.mark.parametrize("name", OWN_NAMES)
def test_no_node_has_the_name_of_an_attribute_of_the_model(name):
    """The node would hide it, or it the node."""
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
    prefixes = {".".join(name.split(".")[:3]) for name in model.state_dict() if ".out." in name}
    assert prefixes == {"trunk.out.1"}
    assert model(torch.rand(1, 3, 33, 40)).output.shape == (1, 2, 33, 40)


def test_a_frozen_node_gets_no_gradient(model):
    model.freeze("encoder")
    model.train()(torch.rand(2, 3, 64, 64)).output.sum().backward()
    assert [name for name, p in model.encoder.named_parameters() if p.requires_grad or p.grad is not None] == []
    assert [name for name, p in model.decoder.named_parameters() if p.grad is None] == []


def test_a_frozen_node_keeps_its_statistics_in_train_mode(model):
    model.freeze("encoder")
    before = under(model, "encoder.")
    model.train()(torch.rand(2, 3, 64, 64))
    assert changed(before, under(model, "encoder.")) == set()


def test_statistics_of_other_nodes_drift_on(model):
    """What the test above relies on: without freezing, the encoder's statistics do change."""
    model.freeze("head")
    before = under(model, "encoder.")
    model.train()(torch.rand(2, 3, 64, 64))
    assert any(name.endswith("running_mean") for name in changed(before, under(model, "encoder.")))


def test_a_frozen_node_stays_in_eval_mode(model):
    model.freeze("head")
    model.train()
    assert {name: child.training for name, child in model.named_children()} == {
        "encoder": True,
        "necks": True,
        "decoder": True,
        "head": False,
        "aux": True,
    }
    assert [child.training for child in model.head.modules()] == [False] * len(list(model.head.modules()))


def test_dropout_of_a_frozen_head_is_off(model):
    model.freeze("head")
    model.train()
    features = (torch.rand(1, 8, 16, 16),)
    assert torch.equal(model.head(features)[0], model.head(features)[0])


def test_freezing_does_not_leave_eval_mode(model):
    model.eval()
    model.freeze("encoder")
    assert not model.training
    assert not model.decoder.training


WITHIN = [
    pytest.param("necks", {"necks.0"}, id="all-necks"),
    pytest.param("necks[0]", {"necks.0"}, id="one-neck"),
    pytest.param("aux.early", {"aux.early.decoder", "aux.early.head"}, id="a-branch"),
    pytest.param("aux", {"aux.early.decoder", "aux.early.head"}, id="all-branches"),
    pytest.param("aux.early.head", {"aux.early.head"}, id="a-node-of-a-branch"),
    pytest.param("head", {"head"}, id="not-the-head-of-a-branch"),
]
HOLDERS = ("encoder", "necks.0", "decoder", "head", "aux.early.decoder", "aux.early.head")
"""The nodes that have parameters."""


@pytest.mark.parametrize(("name", "frozen"), WITHIN)
def test_a_name_freezes_all_that_is_within_it(model, name, frozen):
    model.freeze(name)
    still = {holder for holder in HOLDERS if not any(p.requires_grad for p in model.get_submodule(holder).parameters())}
    assert still == frozen


@pytest.mark.parametrize("name", ["neck", "enc", "necks[2]", "aux.late", ""])
def test_an_unknown_node_cannot_be_frozen(model, name):
    message = (
        f"there is no node {name!r} to freeze; the nodes are encoder, necks[0], necks[1], decoder, head, "
        "aux.early.decoder, aux.early.head"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model.freeze(name)


def trainable(model):
    """The nodes with parameters that have gradients, and those in train mode."""
    nodes = {holder: model.get_submodule(holder) for holder in HOLDERS}
    with_gradients = {name for name, node in nodes.items() if all(p.requires_grad for p in node.parameters())}
    return with_gradients, {name for name, node in nodes.items() if node.training}


def test_several_nodes_are_frozen_at_once(model):
    model.freeze("encoder", "necks", "aux.early.head")
    rest = {"decoder", "head", "aux.early.decoder"}
    assert trainable(model) == (rest, rest)
    assert model.frozen == ("encoder", "necks[0]", "necks[1]", "aux.early.head")


def test_nothing_is_frozen_where_one_name_is_unknown(model):
    with pytest.raises(ValueError, match=r"^there is no node 'haed' to freeze; the nodes are encoder, "):
        model.freeze("encoder", "haed")
    assert (model.frozen, trainable(model)) == ((), (set(HOLDERS), set(HOLDERS)))


def test_unfreezing_is_the_inverse(model):
    model.freeze("encoder", "aux", "head")
    model.unfreeze("encoder", "aux.early.decoder")
    assert model.frozen == ("head", "aux.early.head")
    rest = set(HOLDERS) - {"head", "aux.early.head"}
    assert trainable(model) == (rest, rest)
    before = under(model, "encoder.")
    model.train()(torch.rand(2, 3, 64, 64)).output.sum().backward()
    assert [name for name, p in model.encoder.named_parameters() if p.grad is None] == []
    assert any(name.endswith("running_mean") for name in changed(before, under(model, "encoder.")))


def test_an_unknown_node_cannot_be_unfrozen(model):
    with pytest.raises(ValueError, match=r"^there is no node 'haed' to unfreeze; the nodes are encoder, "):
        model.unfreeze("haed")


def test_unfreezing_what_is_not_frozen_changes_nothing(model):
    model.head.requires_grad_(False)
    model.unfreeze("head", "decoder")
    assert trainable(model) == (set(HOLDERS) - {"head"}, set(HOLDERS))


def test_only_what_freezing_switched_off_is_switched_on_again(model):
    """What never learned, such as fixed position embeddings, does not begin to."""
    fixed = model.get_parameter("encoder.conv1.0.weight").requires_grad_(False)
    model.freeze("encoder")
    model.freeze("encoder")
    model.unfreeze("encoder")
    assert [p is fixed for p in model.encoder.parameters() if not p.requires_grad] == [True]


def test_unfreezing_does_not_leave_eval_mode(model):
    model.freeze("head")
    model.eval()
    model.unfreeze("head")
    assert not model.head.training
    assert model.train().head.training


def torch_undoes(model):
    model.requires_grad_(True)


def parameters_are_undone(model):
    for parameter in model.encoder.parameters():
        parameter.requires_grad = True


@pytest.mark.parametrize("before", [True, False], ids=["trained before", "not trained before"])
@pytest.mark.parametrize("undo", [torch_undoes, parameters_are_undone], ids=["the model", "each parameter"])
def test_gradients_that_are_switched_on_in_torchs_way_end_the_freeze(model, undo, before):
    """Or the node would learn and yet stay in eval mode for ever."""
    model.encoder.requires_grad_(before)
    model.freeze("encoder")
    undo(model)
    model.train()
    assert trainable(model) == (set(HOLDERS), set(HOLDERS))
    assert model.frozen == ()
    model.freeze("encoder")
    assert (model.frozen, model.encoder.training) == (("encoder",), False)
    assert [p for p in model.encoder.parameters() if p.requires_grad] == []


def test_a_part_of_a_node_may_learn_while_the_node_is_frozen(model):
    """Its statistics stay as they are, as is usual when the last stage alone is trained."""
    model.freeze("encoder")
    model.encoder.layer1.requires_grad_(True)
    model.train()
    assert model.frozen == ("encoder",)
    assert [child.training for child in model.encoder.modules()] == [False] * len(list(model.encoder.modules()))


def in_a_file(model, folder):
    composer.save(model, folder / "model.safetensors")
    return composer.load(folder / "model.safetensors")


def compiled_in_a_file(model, folder):
    model.encoder = torch.compile(model.encoder)
    return in_a_file(model, folder)


COPIES = {
    "file": in_a_file,
    "compiled": compiled_in_a_file,
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)),
    "deepcopy": lambda model, _: copy.deepcopy(model),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_is_frozen_as_the_model_is(model, tmp_path, copied):
    model.freeze("encoder", "aux.early")
    other = copied(model, tmp_path).train()
    rest = {"necks.0", "decoder", "head"}
    assert other.frozen == ("encoder", "aux.early.decoder", "aux.early.head")
    assert trainable(other) == (rest, rest)
    other.unfreeze("encoder", "aux")
    assert trainable(other) == (set(HOLDERS), set(HOLDERS))


def test_a_model_that_is_not_frozen_comes_back_so(model, tmp_path):
    model.freeze("encoder")
    model.unfreeze("encoder")
    assert trainable(in_a_file(model, tmp_path)) == (set(HOLDERS), set(HOLDERS))


def test_an_encoder_is_unfrozen_after_it_was_compiled(model):
    model.freeze("encoder")
    model.encoder = torch.compile(model.encoder)
    model.unfreeze("encoder")
    assert [p for p in model.encoder.parameters() if not p.requires_grad] == []
    assert model.encoder.training


def test_frozen_nodes_that_the_model_does_not_have_are_one_problem(model, tmp_path):
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


SIAMESE = Graph(
    inputs={"before": Image(), "after": Image()},
    nodes=[
        Node("old", Timm("test_resnet", out_indices=[1]), "before"),
        Node("new", Shared("old"), "after"),
        Node("both", ConcatFeatures(), ["old", "new"]),
        Node("change", IdentityDecoder(), "both"),
    ],
    outputs=["change"],
)


def test_a_shared_node_has_no_weights_of_its_own():
    model = composer.build(SIAMESE)
    alone = composer.build(composer.chain(Timm("test_resnet", out_indices=[1])))
    assert [name.removeprefix("old.") for name in model.state_dict()] == list(alone.encoder.state_dict())
    assert not hasattr(model, "new")


def test_a_shared_node_runs_the_same_weights():
    model = composer.build(SIAMESE).eval()
    one, other = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        there = model({"before": one, "after": other}).output.chunk(2, dim=1)
        back = model({"before": other, "after": one}).output.chunk(2, dim=1)
    assert torch.equal(there[0], back[1])
    assert torch.equal(there[1], back[0])
    assert not torch.equal(there[0], there[1])


def test_a_shared_node_is_frozen_with_the_one_it_shares():
    model = composer.build(SIAMESE)
    model.freeze("new")
    assert [name for name, p in model.old.named_parameters() if p.requires_grad] == []


def test_a_shared_node_is_unfrozen_with_the_one_it_shares(tmp_path):
    model = composer.build(SIAMESE)
    model.freeze("old", "new")
    assert model.frozen == ("old", "new")
    composer.save(model, tmp_path / "model.safetensors")
    assert composer.load(tmp_path / "model.safetensors").frozen == ("old", "new")
    model.unfreeze("new")
    assert (model.frozen, model.old.training) == ((), True)
    assert [name for name, p in model.old.named_parameters() if not p.requires_grad] == []


def two_resolutions(encoder, *parts, fine=(), coarse=()):
    """A graph in which each part after the first node shares the weights of its twin at half the resolution."""
    nodes = []
    for number, part in enumerate((encoder, *parts)):
        for branch in ("fine", "coarse"):
            source = f"{branch}{number - 1}" if number else branch
            shared = part if branch == "fine" or isinstance(part, EmbeddingHead) else Shared(f"fine{number}")
            nodes.append(Node(f"{branch}{number}", shared, source))
    last = len(parts)
    return Graph(
        inputs={"fine": Image(**dict(fine)), "coarse": Image(stride=2, **dict(coarse))},
        nodes=nodes,
        outputs=[f"fine{last}", f"coarse{last}"],
    )


@pytest.mark.parametrize(
    ("encoder", "parts"),
    [
        pytest.param(Timm("test_resnet"), (EmbeddingHead(),), id="an encoder"),
        pytest.param(
            composer.Custom(nn.Conv2d(3, 8, 2, stride=2), features=composer.Feature(channels=8, stride=2)),
            (EmbeddingHead(),),
            id="a module of one's own",
        ),
        pytest.param(
            Timm("legacy_xception", out_indices=[0]),
            (FCNDecoder(channels=8, num_convs=1), EmbeddingHead()),
            id="maps that lost their borders",
        ),
        pytest.param(
            Timm("test_resnet"),
            (composer.FeaturePyramidNetworkNeck(out_channel=8), FCNDecoder(channels=8), EmbeddingHead()),
            id="all to the end",
        ),
        pytest.param(
            Timm("test_resnet"), (composer.UNetDecoder(channels=[8, 8, 8, 8, 8]), EmbeddingHead()), id="U-Net"
        ),
    ],
)
def test_weights_are_shared_between_resolutions(encoder, parts):
    """The module is called as it is on both, and its strides count the pixels of each image."""
    typed = composer.infer(two_resolutions(encoder, *parts))
    model = composer.build(typed).eval()
    fine, coarse = torch.rand(1, 3, 128, 64), torch.rand(1, 3, 64, 32)

    with torch.no_grad():
        given = model({"fine": fine, "coarse": coarse}).output
        alone = coarse
        for number in range(len(parts)):
            alone = model.get_submodule(f"fine{number}")(alone)

    last = len(parts)
    assert [f.stride for f in typed.features[f"coarse{last}"]] == [2 * f.stride for f in typed.features[f"fine{last}"]]
    assert [f.cells(128) for f in typed.features[f"coarse{last}"]] == [x.shape[2] for x in given[f"coarse{last}"]]
    alone = [alone] if isinstance(alone, torch.Tensor) else alone
    assert all(torch.equal(one, other) for one, other in zip(given[f"coarse{last}"], alone, strict=True))


def test_a_shared_network_stays_made_for_the_image_of_its_owner():
    graph = two_resolutions(Timm("test_vit"), EmbeddingHead(), fine={"size": (128, 128)})
    model = composer.build(graph).eval()
    assert model.fine0.state_dict()["pos_embed"].shape == (1, 8 * 8 + 1, 64)
    coarse = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        given = model({"fine": torch.rand(1, 3, 128, 128), "coarse": coarse}).output["coarse1"]
        alone = model.fine0(coarse)
    assert all(torch.equal(one, other) for one, other in zip(given, alone, strict=True))


@pytest.mark.parametrize(
    ("encoder", "part", "expected"),
    [
        pytest.param(
            Timm("test_vit", tokens=True, out_indices=[1]),
            composer.ReshapeTokensToImage(),
            "error[join] coarse1: ReshapeTokensToImage shares the weights of fine1, which was made for tokens "
            '"b n c" (64 channels, stride 16, 1 prefix token); coarse0 gives tokens "b n c" (64 channels, stride 32, '
            "1 prefix token).\n  fix: give both nodes inputs of the same features",
            id="grids that are counted in pixels of the reference",
        ),
        pytest.param(
            Timm("test_resnet", out_indices=[0]),
            composer.Smp("PSPNet"),
            "error[join] coarse1: smp/PSPNet shares the weights of fine1, which was made for map "
            '"b c h w" (32 channels, stride 2); coarse0 gives map "b c h w" (32 channels, stride 4).\n'
            "  fix: give both nodes inputs of the same features",
            id="levels that are counted from the resolution of the reference",
        ),
    ],
)
def test_what_reads_strides_is_not_shared_between_resolutions(encoder, part, expected):
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(two_resolutions(encoder, part, EmbeddingHead()))
    assert str(caught.value) == expected


def test_equal_parts_on_different_nodes_have_weights_of_their_own():
    nodes = [
        Node("old", Timm("test_resnet", out_indices=[1]), "before"),
        Node("new", Timm("test_resnet", out_indices=[1]), "after"),
    ]
    graph = Graph(inputs={"before": Image(), "after": Image()}, nodes=nodes, outputs=["old", "new"])
    model = composer.build(graph)
    assert not torch.equal(model.old.state_dict()["conv1.0.weight"], model.new.state_dict()["conv1.0.weight"])


def test_seeds_differ():
    one, other = (under(composer.build(CHAIN, seed=seed), "encoder.conv1") for seed in (0, 1))
    assert "encoder.conv1.0.weight" in changed(one, other)
