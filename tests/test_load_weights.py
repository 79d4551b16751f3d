"""Checkpoints in models that they fit, nearly fit and do not fit: all is set or nothing, and all is said."""

import json
import re

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import composer
from composer.errors import SpecError
from composer.graph import Graph, Node, Shared
from composer.layouts import Image
from composer.parts.decoders import FCNDecoder
from composer.parts.heads import SegmentationHead
from composer.parts.necks import ConcatFeatures
from composer.tensors.matching import Mismatch
from composer.weights import load_weights
from tests.checkpoints import BRANCHED, GRAPH, RESNET, state_of, trained, unlike


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.ckpt"


@pytest.fixture
def model():
    return composer.build(GRAPH, seed=8)


JOINED = Graph(
    inputs={"image": Image()},
    nodes=[
        Node("model", RESNET, "image"),
        Node("again", Shared("model"), "image"),
        Node("module.both", ConcatFeatures(), ["model", "again"]),
        Node("module.top[0]", FCNDecoder(channels=4, num_convs=1), "module.both"),
        Node("cover", SegmentationHead(num_classes=2), "module.top[0]"),
        Node("deep", SegmentationHead(num_classes=3), "module.top[0]"),
    ],
    outputs=["cover", "deep"],
)


def save_lightning(model, file):
    """What a trainer writes beside the model's weights, with the buffers of a loss and of a metric."""
    state = {f"net.{name}": x for name, x in model.state_dict().items()}
    state |= {"criterion.weight": torch.ones(2), "metric.total": torch.ones(())}
    torch.save({"epoch": 1, "state_dict": state, "optimizer_states": [{}], "hyper_parameters": {"lr": 0.1}}, file)


def save_shards(model, file):
    files = {name: f"shard-{number % 2}.safetensors" for number, name in enumerate(model.state_dict())}
    for shard in set(files.values()):
        state = {name: x for name, x in model.state_dict().items() if files[name] == shard}
        safetensors.torch.save_file(state, file.with_name(shard))
    file.write_text(json.dumps({"weight_map": files}))


FORMS = {
    "composer": (composer.save, "model.safetensors", 0),
    "shards": (save_shards, "model.safetensors.index.json", 0),
    "lightning": (save_lightning, "last.ckpt", 2),
    "averaged": (
        lambda model, file: torch.save(torch.optim.swa_utils.AveragedModel(model).state_dict(), file),
        "model.pt",
        1,
    ),
}
CASES = {form: (GRAPH, *FORMS[form]) for form in FORMS}
CASES |= {"branches": (BRANCHED, *FORMS["lightning"]), "nodes": (JOINED, *FORMS["lightning"])}


def run(model):
    """Every tensor that a model returns, in eval mode, for an image that is padded."""
    with torch.no_grad():
        return tree_leaves(model.eval()(torch.rand(2, 3, 37, 50, generator=torch.Generator().manual_seed(1))))


@pytest.mark.parametrize(("graph", "write", "name", "aside"), CASES.values(), ids=CASES)
def test_a_checkpoint_of_a_model_gives_what_the_model_gives(tmp_path, graph, write, name, aside):
    donor, model = trained(graph), composer.build(graph, seed=8)
    write(donor, tmp_path / name)

    report = load_weights(model, tmp_path / name)

    assert [torch.equal(*pair) for pair in zip(run(model), run(donor), strict=True)] == [True] * len(run(donor))
    assert unlike(state_of(model), state_of(donor)) == []
    assert [key for key, _ in report.matched] == list(donor.state_dict())
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())
    assert len(report.set_aside) == aside


def rename(pattern, replacement):
    return lambda state, file: torch.save({re.sub(pattern, replacement, name): x for name, x in state.items()}, file)


def save_parameters(state, file):
    torch.save({name: nn.Parameter(x) if x.is_floating_point() else x for name, x in state.items()}, file)


def save_views(state, file):
    """Views of one tensor: other strides, and an offset."""
    views = {}
    for name, x in state.items():
        backwards = tuple(reversed(range(x.dim())))
        memory = torch.zeros(2, *reversed(x.shape), dtype=x.dtype)
        memory[1] = x.permute(backwards)
        views[name] = memory[1].permute(backwards)
    torch.save(views, file)


WRITTEN = {
    "model_state_dict": lambda state, file: torch.save({"model_state_dict": state, "optimizer": [state]}, file),
    # An older TerraTorch held timm's network in a child of its wrapper.
    "old": rename(r"^encoder\.", "encoder._timm_module."),
    "data-parallel": rename("^", "module."),
    # torch.compile around a data parallel model, in a task of Lightning's.
    "compiled": rename("^", "model._orig_mod.module."),
    "compiled-encoder": rename(r"^encoder\.", "encoder._orig_mod."),
    "parameters": save_parameters,
    "protocol-4": lambda state, file: torch.save(state, file, pickle_protocol=4),
    "views": save_views,
}


@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN)
def test_a_state_dict_of_every_form_is_loaded(write, file, model):
    state = state_of(trained())
    write(state, file)
    load_weights(model, file)
    assert unlike(state_of(model), state) == []


def save_with_average(file):
    """The state of a task that keeps an average of its model beside it."""
    states = {"model.": state_of(trained()), "ema.module.": state_of(trained(seed=4))}
    torch.save({"state_dict": {f"{at}{name}": x for at, state in states.items() for name, x in state.items()}}, file)


def test_two_models_in_one_file_are_named_and_one_is_to_be_chosen(file, model):
    save_with_average(file)
    before = state_of(model)
    message = (
        f"{file}: error[weights] has 38 tensors of this model behind each of several prefixes: 'model.', "
        "'ema.module.'.\n  fix: choose one: load_weights(model, file, prefix='model.')"
    )
    with pytest.raises(SpecError, match=f"^{re.escape(message)}$"):
        load_weights(model, file)
    assert unlike(state_of(model), before) == []


@pytest.mark.parametrize(
    ("prefix", "seed"),
    [("model.", 3), ("model", 3), ("ema.module", 4)],
    ids=["with a dot", "without", "the other"],
)
def test_a_prefix_chooses_one_of_two_models(file, model, prefix, seed):
    save_with_average(file)
    report = load_weights(model, file, prefix=prefix)
    assert unlike(state_of(model), state_of(trained(seed=seed))) == []
    assert {reason for _, reason in report.set_aside} == {f"not behind {prefix.removesuffix('.')}."}
    assert len(report.set_aside) == 38


def test_a_branch_alone_is_not_taken_for_the_model(file):
    """Its tensors are called like those of the main decoder and head, behind the prefix of the branch."""
    donor, model = trained(BRANCHED), composer.build(BRANCHED, seed=8)
    torch.save({name: x for name, x in state_of(donor).items() if name.startswith("aux.late.")}, file)
    before = state_of(model)
    load_weights(model, file, ignore=["encoder.*", "necks.*", "decoder.*", "head.*", "aux.early.*"])
    changed = unlike(state_of(model), before)
    assert changed == [name for name in before if name.startswith("aux.late.")]


def test_the_prefix_with_more_of_the_model_is_taken(file, model):
    """A second model in the file that lacks a layer is not this one."""
    state = {f"model.{name}": x for name, x in state_of(trained()).items()}
    others = {f"a.{name}": x for name, x in state_of(trained(seed=4)).items() if not name.endswith("bias")}
    torch.save(others | state, file)

    report = load_weights(model, file)

    assert unlike(state_of(model), state_of(trained())) == []
    assert dict(report.set_aside) == dict.fromkeys(others, "not behind model.")


def test_parameters_stay_the_same_objects(file, model):
    """An optimiser that holds them goes on working, and the mode of the model is as it was."""
    torch.save(state_of(trained()), file)
    before = {name: id(p) for name, p in model.named_parameters()}
    model.eval()
    load_weights(model, str(file), ignore=["*"])
    assert unlike(state_of(model), state_of(trained())) == []
    assert {name: id(p) for name, p in model.named_parameters()} == before
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("wanted", [torch.float32, torch.float16], ids=str)
def test_floating_point_numbers_are_cast_to_the_models_precision(file, model, stored, wanted):
    state = {name: x.to(stored) if x.is_floating_point() else x for name, x in state_of(trained()).items()}
    torch.save(state, file)
    load_weights(model.to(wanted), file)
    expected = {name: x.to(wanted) if x.is_floating_point() else x for name, x in state.items()}
    assert unlike(state_of(model), expected) == []


def drop(*prefixes):
    return lambda state: [state.pop(name) for name in list(state) if name.startswith(prefixes)]


def add(**tensors):
    return lambda state: state.update({name.replace("__", "."): x for name, x in tensors.items()})


def both(*changes):
    return lambda state: [change(state) for change in changes]


FIX = "\n  fix: give a checkpoint of this very model, or allow it: load_weights(model, file, ignore="
OTHER = "has 1 tensor of another shape or type than the model's: 1 of "
UNFIT = {
    "missing": (
        drop("head.head.2.bias"),
        "lacks 1 tensor of the model: 1 of head (head.head.2.bias)." + FIX + '["head.*"])',
        ["head.head.2.bias"],
    ),
    "unexpected": (
        add(neck__0__fpn1__0__bias=torch.ones(2)),
        "has 1 tensor that the model does not have: 1 of neck.0 (neck.0.fpn1.0.bias)." + FIX + '["neck.0.*"])',
        ["neck.0.*"],
    ),
    "another-shape": (
        add(head__head__2__bias=torch.ones(3)),
        OTHER + "head (head.head.2.bias is [3] and must be [2])." + FIX + '["head.*"])',
        ["*.bias"],
    ),
    "another-kind": (
        add(head__head__2__bias=torch.ones(2).int()),
        OTHER + "head (head.head.2.bias is int32 [2] and must be float32 [2])." + FIX + '["head.*"])',
        ["head.head.2.*"],
    ),
    "whole-numbers-of-another-kind": (
        add(encoder__conv1__1__num_batches_tracked=torch.ones((), dtype=torch.int32)),
        OTHER + "encoder (encoder.conv1.1.num_batches_tracked is int32 [] and "
        "must be int64 [])." + FIX + '["encoder.*"])',
        ["encoder.conv1.?.*"],
    ),
    "many": (
        both(
            drop("decoder.", "head.head.2.bias"),
            add(aux_heads__a__0__x=torch.ones(1), extra=torch.ones(1), aux_heads__a__1__x=torch.ones(1)),
        ),
        "lacks 7 tensors of the model: 6 of decoder (decoder.convs.0.0.weight, decoder.convs.0.0.bias, "
        "decoder.convs.0.1.weight and 3 more); 1 of head (head.head.2.bias)." + FIX + '["decoder.*", "head.*"])\n'
        "FILE: error[weights] has 3 tensors that the model does not have: 1 of aux_heads.a.0 (aux_heads.a.0.x); "
        "1 of extra (extra); 1 of aux_heads.a.1 (aux_heads.a.1.x)."
        + FIX
        + '["aux_heads.a.0.*", "extra", "aux_heads.a.1.*"])',
        ["decoder.*", "head.*", "aux_heads.a.0.*", "extra", "aux_heads.a.1.*"],
    ),
}


@pytest.mark.parametrize(("change", "said", "ignore"), UNFIT.values(), ids=UNFIT)
def test_what_does_not_fit_is_refused_whole_or_left_as_it_is(file, model, change, said, ignore):
    state = state_of(trained())
    change(state)
    torch.save(state, file)
    before = state_of(model)

    with pytest.raises(SpecError) as raised:
        load_weights(model, file)

    listed = [name for problem in raised.value.problems for name in problem.got.split("; ")]
    assert len(listed) == sum(map(int, re.findall(r"(\d+) of ", said)))
    assert str(raised.value) == f"{file}: error[weights] {said}".replace("FILE", str(file))
    assert unlike(state_of(model), before) == []

    report = load_weights(model, file, ignore=ignore)

    left = [*report.missing, *(mismatch.name for mismatch in report.mismatched)]
    expected = {name: before[name] if name in left else state[name] for name in before}
    assert unlike(state_of(model), expected) == []
    assert len(left) + len(report.unexpected) == sum(map(int, re.findall(r"(\d+) of ", said)))


def test_a_report_says_all(file, model):
    state = state_of(trained())
    both(drop("decoder.convs.0.0.bias"), add(head__head__2__bias=torch.ones(3), extra=torch.ones(1)))(state)
    torch.save({f"model.{name}": x for name, x in state.items()} | {"criterion.weight": torch.ones(2)}, file)

    report = load_weights(model, file, ignore=["decoder.convs.0.0.bias", "model.head.*", "ext*"])

    assert str(report) == (
        "36 of 38 tensors were set\n"
        "  missing in the file, left as it was: decoder.convs.0.0.bias\n"
        "  not fitting, left as it was: head.head.2.bias is [3] and must be [2]\n"
        "  unexpected, left in the file: model.extra\n"
        "  set aside: criterion.weight (not behind model.)"
    )
    assert report.missing == ("decoder.convs.0.0.bias",)
    assert report.mismatched == (Mismatch("head.head.2.bias", "model.head.head.2.bias", "[3]", "[2]"),)
    assert report.unexpected == ("model.extra",)
    assert report.matched[0] == ("encoder.conv1.0.weight", "model.encoder.conv1.0.weight")


def test_two_names_that_come_out_alike_are_not_both_taken(file, model):
    torch.save({**state_of(trained()), "head._orig_mod.head.2.bias": torch.zeros(2)}, file)
    message = "has 1 tensor that the model does not have: 1 of head (head._orig_mod.head.2.bias)."
    with pytest.raises(SpecError, match=re.escape(message)):
        load_weights(model, file)


OTHERS = {
    "another model": (None, ""),
    "another prefix": ("teacher", " behind teacher."),
}


@pytest.mark.parametrize(("prefix", "behind"), OTHERS.values(), ids=OTHERS)
def test_a_checkpoint_of_something_else_sets_nothing_even_if_all_is_ignored(file, model, prefix, behind):
    torch.save({"fc.weight": torch.ones(2)}, file)
    message = (
        f"{file}: error[weights] has no tensor of this model{behind}: fc.weight in the file, and "
        "encoder.conv1.0.weight, encoder.conv1.1.weight, encoder.conv1.1.bias and 35 more in the model.\n"
        "  fix: give a checkpoint of this model; for an encoder alone: pretrained: FILE in the spec"
    )
    with pytest.raises(SpecError, match=f"^{re.escape(message)}$"):
        load_weights(model, file, prefix=prefix, ignore=["*"])


def test_one_name_is_no_list_of_them(file, model):
    with pytest.raises(ValueError, match=r"^ignore must be a list of names or patterns \(got 'head\.\*'\)$"):
        load_weights(model, file, ignore="head.*")
