"""Checkpoints in models that they fit, nearly fit and do not fit: all is set or nothing, and all is said."""

import re

import pytest
import torch

import composer
from composer import SpecError
from composer.terratorch import load
from composer.terratorch.checkpoints import Mismatch
from tests.checkpoints import GRAPH, lightning, state_of, trained, unlike


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.ckpt"


@pytest.fixture
def model():
    return composer.build(GRAPH, seed=8)


def test_parameters_stay_the_same_objects(file, model):
    """An optimiser that holds them goes on working, and the mode of the model is as it was."""
    torch.save(state_of(trained()), file)
    before = {name: id(p) for name, p in model.named_parameters()}
    model.eval()
    load(model, file)
    assert {name: id(p) for name, p in model.named_parameters()} == before
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("wanted", [torch.float32, torch.float16], ids=str)
def test_floating_point_numbers_are_cast_to_the_models_precision(file, model, stored, wanted):
    state = {name: x.to(stored) if x.is_floating_point() else x for name, x in state_of(trained()).items()}
    torch.save(state, file)
    load(model.to(wanted), file)
    expected = {name: x.to(wanted) if x.is_floating_point() else x for name, x in state.items()}
    assert unlike(state_of(model), expected) == []


def drop(*names):
    return lambda state: [state.pop(name) for name in names]


def add(**tensors):
    return lambda state: state.update({name.replace("__", "."): x for name, x in tensors.items()})


def drop_all(prefix):
    return lambda state: [state.pop(name) for name in [name for name in state if name.startswith(prefix)]]


def both(*changes):
    return lambda state: [change(state) for change in changes]


REPAIR = "\n  repair: give a checkpoint of this very model, or allow it: ignore="
OTHER = "has 1 tensor of another shape or type than the model's: 1 of "
UNFIT = {
    "missing": (
        drop("head.head.2.bias"),
        "lacks 1 tensor that the model has: 1 of head (head.head.2.bias)." + REPAIR + '["head.*"]',
        ["head.head.2.bias"],
    ),
    "unexpected": (
        add(neck__0__fpn1__0__bias=torch.ones(2)),
        "has 1 tensor that the model has not: 1 of neck.0 (neck.0.fpn1.0.bias)." + REPAIR + '["neck.0.*"]',
        ["neck.0.*"],
    ),
    "another-shape": (
        add(head__head__2__bias=torch.ones(3)),
        OTHER + "head (head.head.2.bias is [3] and must be [2])." + REPAIR + '["head.*"]',
        ["*.bias"],
    ),
    "another-kind": (
        add(head__head__2__bias=torch.ones(2).int()),
        OTHER + "head (head.head.2.bias is int32 [2] and must be float32 [2])." + REPAIR + '["head.*"]',
        ["head.head.2.*"],
    ),
    "whole-numbers-of-another-kind": (
        add(encoder__conv1__1__num_batches_tracked=torch.ones((), dtype=torch.int32)),
        OTHER + "encoder (encoder.conv1.1.num_batches_tracked is int32 [] and "
        "must be int64 [])." + REPAIR + '["encoder.*"]',
        ["encoder.conv1.?.*"],
    ),
    "many": (
        both(
            drop_all("decoder."),
            drop("head.head.2.bias"),
            add(aux_heads__a__0__x=torch.ones(1), extra=torch.ones(1), aux_heads__a__1__x=torch.ones(1)),
        ),
        "lacks 7 tensors that the model has: 6 of decoder (decoder.convs.0.0.weight, decoder.convs.0.0.bias, "
        "decoder.convs.0.1.weight, …); 1 of head (head.head.2.bias)." + REPAIR + '["decoder.*", "head.*"]\n'
        "FILE: error[weights] has 3 tensors that the model has not: 1 of aux_heads.a.0 (aux_heads.a.0.x); 1 of extra "
        "(extra); 1 of aux_heads.a.1 (aux_heads.a.1.x)." + REPAIR + '["aux_heads.a.0.*", "extra", "aux_heads.a.1.*"]',
        ["decoder.*", "head.*", "aux_heads.a.0.*", "extra", "aux_heads.a.1.*"],
    ),
}


@pytest.mark.parametrize("wrapped", [dict, lightning], ids=["model", "task"])
@pytest.mark.parametrize(("change", "said", "ignore"), UNFIT.values(), ids=UNFIT)
def test_what_does_not_fit_is_refused_whole(file, model, change, said, ignore, wrapped):
    state = state_of(trained())
    change(state)
    torch.save(wrapped(state), file)
    before = state_of(model)

    with pytest.raises(SpecError) as raised:
        load(model, file)

    # A task's names are said as they stand in the file, and may be named without what stands before them.
    plain = re.sub(r"([(,] ?)model\.", r"\1", str(raised.value)) if wrapped is lightning else str(raised.value)
    assert plain == f"{file}: error[weights] {said}".replace("FILE", str(file))
    assert unlike(state_of(model), before) == []


@pytest.mark.parametrize("wrapped", [dict, lightning], ids=["model", "task"])
@pytest.mark.parametrize(("change", "said", "ignore"), UNFIT.values(), ids=UNFIT)
def test_what_the_caller_names_is_left_as_it_is(file, model, change, said, ignore, wrapped):
    state = state_of(trained())
    change(state)
    torch.save(wrapped(state), file)
    before = state_of(model)

    report = load(model, file, ignore=ignore)

    left = [*report.missing, *(mismatch.name for mismatch in report.mismatched)]
    expected = {name: before[name] if name in left else state[name] for name in before}
    assert unlike(state_of(model), expected) == []
    assert len(left) + len(report.unexpected) == sum(map(int, re.findall(r"(\d+) of ", said)))


def test_a_report_says_all(file, model):
    state = state_of(trained())
    both(drop("decoder.convs.0.0.bias"), add(head__head__2__bias=torch.ones(3), extra=torch.ones(1)))(state)
    torch.save({f"model.{name}": x for name, x in state.items()} | {"criterion.weight": torch.ones(2)}, file)

    report = load(model, file, ignore=["decoder.convs.0.0.bias", "model.head.*", "ext*"])

    assert str(report) == (
        "36 of 38 tensors were set\n"
        "  missing in the file, left as it was: decoder.convs.0.0.bias\n"
        "  not fitting, left as it was: head.head.2.bias is [3] and must be [2]\n"
        "  unexpected, left in the file: model.extra\n"
        "  set aside: criterion.weight (the loss of a task has it, and a model has no loss)"
    )
    assert report.missing == ("decoder.convs.0.0.bias",)
    assert report.mismatched == (Mismatch("head.head.2.bias", "model.head.head.2.bias", "[3]", "[2]"),)
    assert report.unexpected == ("model.extra",)
    assert report.matched[0] == ("encoder.conv1.0.weight", "model.encoder.conv1.0.weight")


def test_the_problem_has_every_name(file, model):
    state = state_of(trained())
    drop_all("decoder.")(state)
    torch.save(state, file)
    with pytest.raises(SpecError) as raised:
        load(model, file)
    (problem,) = raised.value.problems
    assert problem.got.split("; ") == [name for name in state_of(model) if name.startswith("decoder.")]


def test_what_is_named_and_fits_is_set(file, model):
    torch.save(state_of(trained()), file)
    report = load(model, file, ignore=["*"])
    assert unlike(state_of(model), state_of(trained())) == []
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())


def test_two_names_that_come_out_alike_are_not_both_taken(file, model):
    state = state_of(trained())
    torch.save({**state, "model.head.head.2.bias": torch.zeros(2)}, file)
    message = (
        f"{file}: error[weights] has 1 tensor that the model has not: 1 of head (model.head.head.2.bias)."
        f'{REPAIR}["head.*"]'
    )
    with pytest.raises(SpecError, match=f"^{re.escape(message)}$"):
        load(model, file)


def test_a_checkpoint_of_something_else_sets_nothing_even_if_all_is_ignored(file, model):
    torch.save({"fc.weight": torch.ones(2)}, file)
    message = (
        f"{file}: error[weights] has no tensor of this model.\n"
        "  repair: give a checkpoint of this model, trained by TerraTorch"
    )
    with pytest.raises(SpecError, match=f"^{re.escape(message)}$"):
        load(model, file, ignore=["*"])


def test_one_name_is_no_list_of_them(file, model):
    with pytest.raises(ValueError, match=r"^ignore must be a list of names or patterns \(got 'head\.\*'\)$"):
        load(model, file, ignore="head.*")
