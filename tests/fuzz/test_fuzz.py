"""Whatever the text: a run of the fuzzer's texts, seen to find what is wrong; and the coverage-guided fuzzer.

`COMPOSER_SOAK=20000 python -m pytest -m slow tests/fuzz -n auto` runs so many texts of each kind. Hypothesis keeps
failing texts in `.hypothesis`, replays them first, and shrinks them.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

import composer
from composer.errors import Place, Problem, SpecError
from composer.spec.yaml import parse_document
from tests.fuzz import oracle
from tests.fuzz.grammar import texts
from tests.fuzz.mutations import generate_mutations, to_plain_data
from tests.fuzz.oracle import WrongAnswerError, evaluate_text
from tests.fuzz.seeds import BUILTIN_SEEDS, list_seeds
from tests.fuzz.yaml_styles import generate_yaml_styles
from tests.fuzz_reads import ROOT, take, words

SOAK = settings(
    max_examples=int(os.environ.get("COMPOSER_SOAK", "100")), deadline=None, suppress_health_check=list(HealthCheck)
)
MAX_EXTRA_BYTES = 4 * 2**30
STRATEGIES = {
    "grammar": texts(),
    "mutated specs": generate_mutations(*list_seeds()),
    "mutated grammar": st.tuples(texts(), texts()).flatmap(lambda pair: generate_mutations(*pair)),
}


@pytest.fixture
def _limited_memory():
    """A text that takes too much memory ends with a MemoryError, not with the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_EXTRA_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.slow
@pytest.mark.usefixtures("_limited_memory")
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_whatever_a_text_says_it_is_answered(strategy):
    @SOAK
    @given(strategy)
    def holds(text):
        evaluate_text(text, os.environ["COMPOSER_CACHE"])

    holds()


SCALARS = st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats(allow_nan=False) | st.text(max_size=8)
DATA = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
)


@pytest.mark.slow
@settings(SOAK, max_examples=40)
@given(st.data(), st.dictionaries(st.text(max_size=6), DATA, min_size=1, max_size=4))
def test_data_mean_the_same_in_every_style(drawn, data):
    tree, problems = parse_document(drawn.draw(generate_yaml_styles(data)))

    assert problems == []
    assert repr(to_plain_data(tree)) == repr(data)


def is_accepted(text):
    try:
        composer.infer(composer.reads(text))
    except SpecError:
        return False
    return True


HELD = {
    "a chain": lambda text: "nodes:" not in text and "encoder:" in text,
    "several inputs": lambda text: len(composer.reads(text).inputs) > 1,
    "frames": lambda text: any(image.frames for _, image in composer.reads(text).inputs),
    "shared weights": lambda text: any(isinstance(node.part, composer.Shared) for node in composer.reads(text).nodes),
    "an alias": lambda text: "&a0" in text,
    "what is accepted": is_accepted,
    "what is refused": lambda text: not is_accepted(text),
}


@pytest.mark.slow
@pytest.mark.parametrize("holds", HELD.values(), ids=HELD)
def test_texts_hold_all_that_a_text_may_hold(holds):
    find(texts(), holds, settings=settings(SOAK, max_examples=2000, phases=[Phase.generate], database=None))


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


def opening(text):
    with open("/var/composer-is-not-here", encoding="ascii"):
        pass


def connecting(text):
    sys.audit("socket.connect", None, ("example.org", 80))


def spec_error(**fields):
    return SpecError([Problem(code="x", **fields)])


SHOWN = "a problem has a place and a message"
BROKEN = {
    "reading raises": ("reads", raising(KeyError("x")), "read raises nothing but a SpecError"),
    "inferring raises": ("infer", raising(RecursionError()), "infer raises nothing but a SpecError"),
    "no problems": ("reads", raising(SpecError([])), "a SpecError has problems: read"),
    "no place": ("reads", raising(spec_error(message="m")), SHOWN),
    "no message": ("reads", raising(spec_error(message=" ", place=Place("", "f", 1, 1))), SHOWN),
    "written otherwise": ("write", lambda graph: BUILTIN_SEEDS[1], "a written graph is read equal"),
    "writing raises": ("write", raising(SpecError([])), "write raises nothing but a SpecError"),
    "building is refused": ("build", raising(spec_error(message="m")), "a valid graph builds"),
    "building raises": ("build", raising(ValueError("m")), "build raises nothing but a SpecError: ValueError: m"),
    "another shape": ("Model.forward", crop_output, "forward gives what was inferred: head is ('b', 3, 2"),
    "forward raises": ("Model.forward", raising(RuntimeError("m")), "forward at "),
    "a file": ("reads", opening, "nothing is opened or fetched: open '/var/composer-is-not-here'"),
    "a socket": ("reads", connecting, "nothing is opened or fetched: socket.connect ('example.org', 80)"),
}


@pytest.mark.parametrize(("name", "broken", "said"), BROKEN.values(), ids=BROKEN)
def test_a_law_that_does_not_hold_is_told(name, broken, said, monkeypatch):
    monkeypatch.setattr(f"composer.{name}", broken)
    with pytest.raises(WrongAnswerError) as caught:
        evaluate_text(BUILTIN_SEEDS[0], os.environ["COMPOSER_CACHE"])
    assert str(caught.value).startswith(said)


def spin(_text):
    while True:
        pass


def test_a_text_that_takes_long_is_told(monkeypatch):
    monkeypatch.setattr(oracle, "MAX_SECONDS", 0.1)
    monkeypatch.setattr("composer.reads", spin)
    with pytest.raises(WrongAnswerError, match="this takes more than"):
        evaluate_text("")


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
