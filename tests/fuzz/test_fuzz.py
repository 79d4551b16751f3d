"""Whatever the text: a short run of the fuzzer's texts, seen to bite; and of the coverage-guided fuzzer's harness."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, Phase, given, settings

import composer
from composer.errors import Place, Problem, SpecError
from tests.fuzz import oracle
from tests.fuzz.grammar import texts
from tests.fuzz.mutations import generate_mutations
from tests.fuzz.oracle import WrongAnswerError, evaluate_text
from tests.fuzz.seeds import BUILTIN_SEEDS, list_seeds
from tests.fuzz_reads import ROOT, take, words

SHORT = settings(
    max_examples=30, derandomize=True, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
LAWFUL = BUILTIN_SEEDS[0]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Nobody opens a socket here."""

    def refuse(*_arguments, **_named):
        raise AssertionError("a socket is opened")

    monkeypatch.setattr(socket, "socket", refuse)


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [texts(), generate_mutations(*BUILTIN_SEEDS), generate_mutations(*list_seeds())],
    ids=["of the grammar", "spoilt", "specs spoilt"],
)
def test_whatever_a_text_says_it_is_answered(strategy):
    answers = set()

    @SHORT
    @given(strategy)
    def holds(text):
        answers.add(evaluate_text(text, os.environ["COMPOSER_CACHE"]))

    holds()

    assert answers - {None}


LARGE = "encoder: timm/resnet18\ndecoder: {FCNDecoder: {channels: 4096}}\nhead: RegressionHead\n"
"""A model that is inferred, and too large to be run here."""


@pytest.mark.parametrize("text", [*BUILTIN_SEEDS, LARGE], ids=["chain", "tokens", "shared", "frames", "large"])
def test_a_valid_text_has_no_problems(text):
    assert evaluate_text(text, os.environ["COMPOSER_CACHE"]) is None


def test_an_invalid_text_has_codes():
    assert evaluate_text("encoder: 5\nhead: Nothing\n") == ("part", "type")


# --- each law is broken once


def raising(error):
    def function(*_arguments, **_named):
        raise error

    return function


def crop_output(self, image, forward=composer.Model.forward):
    out = forward(self, image)
    return out._replace(output=out.output[:, :, 1:])


def opening(text, reads=composer.reads):
    with open("/var/composer-is-not-here", encoding="ascii"):
        pass


BROKEN = {
    "reading raises": (composer, "reads", raising(KeyError("x")), "read raises nothing but a SpecError", "KeyError"),
    "a hundred frames deep": (
        composer,
        "infer",
        raising(RecursionError()),
        "infer raises nothing but",
        "RecursionError",
    ),
    "no problems": (composer, "reads", raising(SpecError([])), "a SpecError has problems", "read"),
    "no place": (composer, "reads", raising(SpecError([Problem(code="x", message="m")])), "a problem has a place", "x"),
    "no message": (
        composer,
        "reads",
        raising(SpecError([Problem(code="x", message=" ", place=Place("", "f", 1, 1))])),
        "a problem has a place and a message",
        "code='x'",
    ),
    "written otherwise": (
        composer,
        "write",
        lambda graph: BUILTIN_SEEDS[1],
        "a written graph is read equal",
        "test_vit",
    ),
    "writing raises": (composer, "write", raising(SpecError([])), "write raises nothing but a SpecError", "SpecError"),
    "building is refused": (
        composer,
        "build",
        raising(SpecError([Problem(code="x", message="m")])),
        "a valid graph builds",
        "m",
    ),
    "building raises": (composer, "build", raising(ValueError("m")), "build raises nothing but", "ValueError: m"),
    "another shape": (composer.Model, "forward", crop_output, "forward gives what was inferred", "head is ('b', 3, 2"),
    "forward raises": (composer.Model, "forward", raising(RuntimeError("m")), "forward at", "m"),
    "time": (oracle, "MAX_SECONDS", -1.0, "read and infer are bounded in time", "they took"),
    "a file": (composer, "reads", opening, "nothing is opened or fetched", "/var/composer-is-not-here"),
    "a socket": (
        composer,
        "reads",
        lambda text: sys.audit("socket.connect", None, ("example.org", 80)),
        "nothing is opened or fetched",
        "socket.connect ('example.org', 80)",
    ),
}


@pytest.mark.parametrize(("owner", "name", "broken", "law", "said"), BROKEN.values(), ids=BROKEN)
def test_a_law_that_does_not_hold_is_told(owner, name, broken, law, said, monkeypatch):
    monkeypatch.setattr(owner, name, broken, raising=False)
    with pytest.raises(WrongAnswerError) as caught:
        evaluate_text(LAWFUL, os.environ["COMPOSER_CACHE"])
    assert law in str(caught.value)
    assert said in str(caught.value)


# --- the coverage-guided fuzzer


@pytest.mark.parametrize("text", list_seeds(), ids=range(len(list_seeds())))
def test_the_harness_takes_the_specs(text):
    assert take(text.encode()) is True


@pytest.mark.parametrize("data", [b"", b"\xff", b"encoder: 5", b"\x00", b"{" * 200_000], ids=range(5))
def test_the_harness_takes_what_is_refused(data):
    assert take(data) is False


def test_the_dictionary_is_of_words_in_quotes():
    lines = words().splitlines()
    assert {'"FCNDecoder"', '"num_classes"', '"<<: "'} <= set(lines)
    assert [line for line in lines if line.count('"') != 2 or "\\" in line] == []


@pytest.mark.fuzz
def test_a_minute_of_the_fuzzer_finds_nothing(tmp_path):
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed")
    command = [sys.executable, str(ROOT / "tests" / "fuzz_reads.py"), str(tmp_path), "-max_total_time=60"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
