"""Calls of TerraTorch's factory: the specs that they come to, what is refused, what is noted and warned of."""

from __future__ import annotations

import sys

import pytest
from torch import nn

import composer
from composer.terratorch import EncoderDecoderFactory, TerraTorchWarning
from tests.factory_calls import NEEDY, NOTED, NUMBERS, REFUSED, SPECS, Maps, built, call_of, translated


@pytest.mark.parametrize(("changes", "spec"), SPECS.values(), ids=SPECS)
def test_a_call_comes_to_a_spec(changes, spec):
    assert composer.write(translated(**changes).graph) == spec


def problem_of(problem):
    """The code, the argument, and the fix."""
    return f"{problem.code} {problem.place.path}{f' -> {problem.fix}' if problem.fix else ''}"


@pytest.mark.parametrize(("changes", "problems"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_a_problem_at_its_argument(changes, problems):
    """Wrong for the call, or for the graph that it comes to."""
    with pytest.raises(composer.SpecError) as raised:
        built(**changes)
    found = [problem_of(problem) for problem in raised.value.problems]
    assert [one[: len(begin)] for one, begin in zip(found, problems, strict=True)] == problems


def test_a_problem_is_said_in_a_sentence():
    with pytest.raises(composer.SpecError) as raised:
        translated(decoder_chanels=8)
    assert str(raised.value) == (
        "error[unused] decoder_chanels: FCNDecoder has no argument 'chanels'.\n  fix: did you mean channels?"
    )


@pytest.mark.parametrize(("changes", "paths"), NOTED.values(), ids=NOTED)
def test_what_terratorch_does_otherwise_is_noted_at_its_argument(changes, paths):
    assert [note.place.path for note in translated(**changes).notes] == paths


class TestNothingIsRun:
    def test_a_path_of_an_activation_is_not_imported(self, tmp_path, monkeypatch):
        (tmp_path / "surprise.py").write_text("raise SystemExit('run')", encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)

        with pytest.raises(composer.SpecError, match="nothing is imported or called") as raised:
            translated(**NUMBERS, head_final_act="surprise.made")
        assert raised.value.problems[0].fix.startswith("choose one of ReLU, GELU, SiLU, LeakyReLU, ELU, Tanh, Sigmoi")
        assert "surprise" not in sys.modules

    def test_a_class_that_bears_the_name_of_torchs_is_none_of_torchs(self):
        class Sigmoid(nn.Module):
            pass

        with pytest.raises(composer.SpecError, match="nothing is imported or called"):
            translated(**NUMBERS, head_final_act=Sigmoid())


def test_a_note_is_a_warning_with_what_would_do():
    call = call_of(backbone=Maps(), decoder="IdentityDecoder", **NUMBERS)
    with pytest.warns(TerraTorchWarning) as warned:
        EncoderDecoderFactory().build_model(**call, head_batch_norm=False)

    assert [str(warning.message).split(" (")[1:] for warning in warned] == [
        ["RegressionHead: {batch_norm: false} does what it says)"]
    ]
    assert {warning.filename for warning in warned} == {__file__}


def list_padded(**changes):
    with pytest.warns(TerraTorchWarning) as warned:
        EncoderDecoderFactory().build_model(**call_of(**changes))
    return [str(warning.message).split(":")[0:2] for warning in warned if "TerraTorch feeds" in str(warning.message)]


@pytest.mark.parametrize(("changes", "path", "need"), NEEDY.values(), ids=NEEDY)
def test_a_part_of_whole_cells_is_told_of(changes, path, need):
    assert list_padded(**changes) == [[path, f" {need}"]]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"decoder": "UNetDecoder", "decoder_channels": [8, 8, 8, 8, 8]}, id="UNetDecoder"),
        pytest.param({"backbone": "vit_tiny_patch16_224"}, id="patches"),
        pytest.param({"backbone": "legacy_xception", "decoder": "UperNetDecoder"}, id="Xception"),
    ],
)
def test_where_terratorch_feeds_the_same_nothing_is_said(changes, recwarn):
    EncoderDecoderFactory().build_model(**call_of(**changes))

    assert [str(warning.message) for warning in recwarn if "TerraTorch feeds" in str(warning.message)] == []
