"""Whatever the text: it is refused with a place, or it is a graph that is written, inferred, built and run.

`COMPOSER_SOAK=20000 python -m pytest -m slow tests/fuzz -n auto` runs so many texts of each kind. Hypothesis keeps
failing texts in `.hypothesis`, replays them first, and shrinks them.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from math import prod

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import composer
from composer.errors import Place, Problem, SpecError
from composer.testing.strategies import chains, graphs
from tests import graphs as any_graphs
from tests.bounded import limit_seconds
from tests.fuzz_reads import ROOT, check_problems, take, words
from tests.law.test_graphs import outputs_of, shapes_in

MAX_SECONDS = 20.0
"""CPU seconds to read a text and infer its graph; nearly all of them go into the probe of a network."""

MAX_PARAMETERS = 3_000_000
MAX_NUMBERS = 20_000_000
"""The numbers that flow along all edges of a graph that is run; larger ones are only read and inferred."""

SEEDS = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "specs").glob("*.yaml"))]


def evaluate_text(text: str) -> bool:
    """Whether a text is a valid graph, which is run. Raises an error if it has no answer, or another than its graph."""
    with limit_seconds(MAX_SECONDS):
        graph = take(text.encode("utf-8", "surrogatepass"))
        if graph is None:
            return False
        try:
            typed = composer.infer(graph)
        except SpecError as error:
            check_problems(error)
            return False
    run(typed)
    return True


def run(typed: composer.TypedGraph) -> None:
    """Build a graph, and compare a forward pass for shapes with what was inferred, where it is small enough."""
    size = typed.sizes.compute_padded_size(*(typed.graph.crop or (1, 1)))
    if size is None or sum(prod(f.shape(2, *size)) for fs in typed.features.values() for f in fs) > MAX_NUMBERS:
        return
    try:
        model = composer.build(typed, pretrained=False, limits=composer.Limits(parameters=MAX_PARAMETERS))
    except SpecError as error:
        if {problem.code for problem in error.problems} <= {"install", "limit"}:
            return
        raise
    images = {name: torch.empty(image.feature.shape(2, *size), device="meta") for name, image in typed.graph.inputs}
    with torch.no_grad():
        out = model.eval().to("meta")(images)
    shapes = {end: shapes_in(x) for end, x in outputs_of(out, typed.graph).items()}
    assert shapes == {end: typed.shape(end, *size) for end in typed.ends}


styles = st.fixed_dictionaries(
    {
        "default_flow_style": st.sampled_from((True, False, None)),
        "explicit_start": st.booleans(),
        "line_break": st.sampled_from(("\n", "\r\n", "\r")),
        "width": st.sampled_from((20, 80, 1000)),
    }
)
written = st.one_of(chains(), graphs(), any_graphs.chains(), any_graphs.graphs()).map(composer.write)
EDGES = (
    *(None, True, 0, -1, 2, 65, 2**16, 2**31, 2**63, 10**41, 0.5, 1e308, float("inf"), float("nan")),
    *("", " ", "64", "no", "é", "\u202e", "{}", "<<", "a" * 300),
    *([], {}, [[]], [None], [1] * 70, {"part": "FCNDecoder", "from": "image"}),
)
"""Replacements of a value: of another type, too large, or nothing."""


def list_places(data):
    """Every place of a tree, as its container and its key."""
    pairs = list(data.items()) if isinstance(data, dict) else list(enumerate(data)) if isinstance(data, list) else []
    return [(data, key) for key, _ in pairs] + [place for _, value in pairs for place in list_places(value)]


@st.composite
def edited_trees(draw, texts):
    """A text some of whose values are others, or parts of another text, written by PyYAML in some style."""
    tree, other = (yaml.safe_load(draw(texts)) for _ in range(2))
    for _ in range(draw(st.integers(0, 3))):
        holder, key = draw(st.sampled_from(list_places(tree)))
        source, place = draw(st.sampled_from(list_places(other)))
        value = draw(st.sampled_from((*EDGES, source[place], source[place], [holder[key]])) | st.sampled_from(words()))
        holder[draw(st.sampled_from((key, key, *words()))) if isinstance(holder, dict) else key] = value
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, **draw(styles))


@st.composite
def edited_characters(draw, texts):
    """A text some of whose characters are nothing, others, or what means something in YAML."""
    text = draw(texts)
    for _ in range(draw(st.integers(1, 4))):
        start, length = draw(st.integers(0, len(text))), draw(st.sampled_from((0, 1, 5, 100)))
        text = text[:start] + draw(st.sampled_from(words()) | st.text(max_size=3)) + text[start + length :]
    return text


seeds = st.sampled_from(SEEDS)
STRATEGIES = {
    "graphs": written,
    "edited trees": edited_trees(seeds | written),
    "edited characters": edited_characters(seeds | written),
}
UNHURRIED = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@pytest.mark.slow
@pytest.mark.parametrize("texts", STRATEGIES.values(), ids=STRATEGIES)
def test_whatever_a_text_says_it_is_answered(texts):
    @settings(max_examples=int(os.environ.get("COMPOSER_SOAK", "100")), **UNHURRIED)
    @given(texts)
    def holds(text):
        evaluate_text(text)

    holds()


@pytest.mark.parametrize("edit", [edited_trees, edited_characters])
def test_whatever_a_text_says_it_is_read_or_refused(edit):
    @settings(max_examples=50, **UNHURRIED)
    @given(edit(seeds))
    def holds(text):
        take(text.encode("utf-8", "surrogatepass"))

    holds()


CHAIN = """\
input: {channels: 5}
encoder: timm/test_resnet
decoder: {UNetDecoder: {channels: [16, 8, 8, 4, 4]}}
head: {SegmentationHead: {num_classes: 3}}
aux: {early: {decoder: {FCNDecoder: {channels: 4, num_convs: 1}}, head: RegressionHead}}
crop: [24, 32]
"""
SHARED = """\
inputs: {before: &image {channels: 4}, after: *image }
nodes:
  old: {part: {timm/test_convnext: {out_indices: [1, 2, 3]}}, from: before}
  new: {share: old, from: after}
  both: {part: ConcatFeatures, from: [old, new]}
  seen: {part: EmbeddingHead, from: both}
outputs: [seen]
"""
LARGE = "encoder: timm/resnet18\ndecoder: {FCNDecoder: {channels: 4096}}\nhead: RegressionHead\n"
VALID = {
    "chain": (CHAIN, True),
    "shared": (SHARED, True),
    "too large to be run": (LARGE, True),
    "no name of a node": (SHARED + "auxiliary: {early: 5}\n", False),
    "refused": ("encoder: 5\nhead: Nothing\n", False),
    "refused as a graph": ("encoder: timm/test_resnet\ndecoder: {UNetDecoder: {channels: [1]}}\n", False),
}


@pytest.mark.parametrize(("text", "is_valid"), VALID.values(), ids=VALID)
def test_a_text_is_answered(text, is_valid):
    assert evaluate_text(text) is is_valid


# --- each law is broken once


def raising(error):
    def function(*_arguments, **_named):
        raise error

    return function


def crop_output(self, image, forward=composer.Model.forward):
    out = forward(self, image)
    return out._replace(output=out.output[:, :, 1:])


def spin(*_arguments, **_named):
    while True:
        pass


NOWHERE = SpecError([Problem(code="x", message="m")])
MUTE = SpecError([Problem(code="x", message=" ", place=Place("", "spec.yaml", 1, 1))])
BROKEN = {
    "reading raises": ("spec.reader.reads", raising(KeyError("x")), KeyError),
    "inferring raises": ("infer", raising(RecursionError()), RecursionError),
    "no problems": ("spec.reader.reads", raising(SpecError([])), AssertionError),
    "no place": ("infer", raising(NOWHERE), AssertionError),
    "no message": ("infer", raising(MUTE), AssertionError),
    "written otherwise": ("spec.writer.write", lambda graph: SHARED, AssertionError),
    "building is refused": ("build", raising(NOWHERE), SpecError),
    "another shape": ("Model.forward", crop_output, AssertionError),
    "no end": ("infer", spin, AssertionError),
}


@pytest.mark.parametrize(("name", "broken", "error"), BROKEN.values(), ids=BROKEN)
def test_a_law_that_does_not_hold_is_found(name, broken, error, monkeypatch):
    monkeypatch.setattr(f"composer.{name}", broken)
    monkeypatch.setattr(f"{__name__}.MAX_SECONDS", 1.0)
    with pytest.raises(error):
        evaluate_text(CHAIN)


# --- the coverage-guided fuzzer


@pytest.mark.parametrize("text", SEEDS, ids=range(len(SEEDS)))
def test_the_harness_takes_the_specs(text):
    assert take(text.encode()) is not None


@pytest.mark.parametrize("data", [b"", b"\xff", b"encoder: 5", b"\x00", b"{" * 200_000], ids=range(5))
def test_the_harness_takes_what_is_refused(data):
    assert take(data) is None


def test_the_words_can_be_put_in_quotes():
    assert {"FCNDecoder", "num_classes", "<<: "} <= set(words())
    assert [word for word in words() if '"' in word or "\\" in word] == []


@pytest.mark.fuzz
def test_a_minute_of_the_fuzzer_finds_nothing(tmp_path):
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed")
    command = [sys.executable, str(ROOT / "tests" / "fuzz_reads.py"), str(tmp_path), "-max_total_time=60"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
