"""Calls of TerraTorch's factory: the specs that they come to, what is refused, what is noted and warned of."""

from __future__ import annotations

import sys
from textwrap import dedent

import pytest
from torch import nn

import composer
from composer.terratorch.factory import EncoderDecoderFactory, TerraTorchWarning
from tests.factory_calls import NOTED, NUMBERS, REFUSED, SPECS, Maps, call_of, translated


@pytest.mark.parametrize(("changes", "spec"), SPECS.values(), ids=SPECS)
def test_a_call_comes_to_a_spec(changes, spec):
    assert composer.write(translated(**changes).graph) == dedent(spec)


def problem_of(problem):
    """The code, the argument, and how the fix begins."""
    fix = f" -> {str(problem.fix)[:60]}" if problem.fix else ""
    return f"{problem.code} {problem.place.path}{fix}"


@pytest.mark.parametrize(("changes", "problems"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_a_problem_at_its_argument(changes, problems):
    with pytest.raises(composer.SpecError) as raised:
        translated(**changes)
    assert [problem_of(problem) for problem in raised.value.problems] == problems


def test_all_problems_are_said_at_once():
    changes = {"task": "regression", "num_classes": 2, "decoder_chanels": 8, "rescael": False}
    with pytest.raises(composer.SpecError) as raised:
        translated(**changes)
    assert f"{raised.value}\n" == dedent(
        """\
        error[unused] decoder_chanels: FCNDecoder has no argument 'chanels'.
          fix: did you mean channels?
        error[unused] num_classes: regression takes num_outputs, not num_classes.
          fix: num_outputs: 2
        error[unused] rescael: rescael was passed but not used.
          fix: did you mean rescale?
        """
    )


@pytest.mark.parametrize(("changes", "paths"), NOTED.values(), ids=NOTED)
def test_what_terratorch_does_otherwise_is_noted_at_its_argument(changes, paths):
    assert [note.place.path for note in translated(**changes).notes] == paths


class TestNothingIsRun:
    @pytest.mark.parametrize("path", ["surprise.made", "surprise", "surprise.made.__call__", "torch.nn.surprise.made"])
    def test_a_path_of_an_activation_is_not_imported(self, path, tmp_path, monkeypatch):
        (tmp_path / "surprise.py").write_text("raise SystemExit('run')", encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)

        with pytest.raises(composer.SpecError, match="nothing is imported or called"):
            translated(**NUMBERS, head_final_act=path)
        assert "surprise" not in sys.modules

    def test_a_class_that_bears_the_name_of_torchs_is_none_of_torchs(self):
        class Sigmoid(nn.Module):
            pass

        with pytest.raises(composer.SpecError, match="nothing is imported or called"):
            translated(**NUMBERS, head_final_act=Sigmoid())


class TestWarnings:
    def test_a_note_is_a_warning_with_what_would_do(self):
        with pytest.warns(TerraTorchWarning) as warned:
            EncoderDecoderFactory().build_model(
                **call_of(
                    backbone=Maps(),
                    necks=[{"name": "FeaturePyramidNetworkNeck"}],
                    decoder="IdentityDecoder",
                    head_num_classes=3,
                )
            )

        assert [str(warning.message) for warning in warned] == [
            (
                "necks[0]: TerraTorch gives an ordered dict, which no decoder of its factory takes; composer gives a "
                "tuple."
            ),
            "head_num_classes: TerraTorch ignores num_classes: num_classes: 2 is given beside it.",
        ]
        assert {warning.filename for warning in warned} == {__file__}

    def test_with_what_would_do(self):
        with pytest.warns(TerraTorchWarning, match=r"^head_batch_norm: .* \(RegressionHead: {batch_norm: false} does"):
            EncoderDecoderFactory().build_model(
                **call_of(backbone=Maps(), decoder="IdentityDecoder", **NUMBERS, head_batch_norm=False)
            )
