"""Parts that installed packages register: had by name alone, and never in the way of a text that names none of them."""

from __future__ import annotations

import sys

import pytest

import composer
from composer.cli.list import describe_parts
from composer.cli.terminal import UsageError, render
from composer.parts import PART_REGISTRY, PARTS

DECLARED = """\
def __getattr__(name): raise AttributeError(f"no {name}")
from attrs import frozen
import composer
print("noise")
@frozen(kw_only=True)
class Twice(composer.Neck):
    '''Gives what it takes.'''
    times: int = 2
@frozen
class Net(composer.Encoder):
    '''A source of its own.'''
    source = "net"
    name: str
NO_PART = 3
"""

POINTS = """\
[composer.parts]
Twice = own_parts:Twice
net/ = own_parts:Net
Nothing = own_parts:NO_PART
Absent = own_parts:Absent
FCNDecoder = own_parts:Twice
Doubly = own_parts:Twice
"""


def distribution(folder, name, points):
    about = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text(points, encoding="utf-8")


@pytest.fixture
def own_parts(tmp_path, monkeypatch):
    """A package on the path that registers parts, and another that quarrels with it over one name."""
    (tmp_path / "own_parts.py").write_text(DECLARED, encoding="utf-8")
    (tmp_path / "broken_parts.py").write_text("raise OSError('no such\\n library')\n", encoding="utf-8")
    distribution(tmp_path, "own-parts", POINTS)
    distribution(tmp_path, "broken-parts", "[composer.parts]\nDoubly = broken_parts:It\nBroken = broken_parts:It\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_parts", None)


def text(neck="Twice", encoder="timm/resnet18"):
    return f"encoder: {encoder}\nnecks: [{neck}]\n"


def test_a_registered_part_is_read_and_written_by_its_name(own_parts, capfd):
    graph = composer.reads(text("Twice: {times: 3}"))

    assert (type(graph.nodes[1].part).__name__, graph.nodes[1].part.times) == ("Twice", 3)
    assert composer.reads(composer.write(graph)) == graph
    assert capfd.readouterr() == ("", "")


def test_a_registered_source_is_read_and_written(own_parts):
    graph = composer.reads("encoder: net/a/b\n")

    assert graph.nodes[0].part.name == "a/b"
    assert composer.write(graph) == "encoder: net/a/b\n"


def test_nothing_is_imported_for_a_text_that_names_none(own_parts):
    composer.write(composer.reads(text("PermuteDims: {new_order: [0, 1, 2, 3]}")))

    assert "own_parts" not in sys.modules


def test_a_built_in_part_is_not_replaced(own_parts):
    assert PART_REGISTRY["FCNDecoder"] is PARTS["FCNDecoder"]
    assert list(PART_REGISTRY).count("FCNDecoder") == 1


def test_what_is_handed_in_is_all_there_is(own_parts):
    with pytest.raises(composer.SpecError, match=r"there is no neck 'Twice'\."):
        composer.reads(text(), parts=PARTS)


WRONG = {
    "no part": (
        "Nothing",
        "Nothing is registered by own-parts as own_parts:NO_PART, which is not a part.",
        "register a class that derives from composer.Encoder, Neck, Decoder or Head",
    ),
    "not there": (
        "Absent",
        "Absent is registered by own-parts, which cannot be imported (got AttributeError: no Absent).",
        "pip install --force-reinstall own-parts",
    ),
    "broken": (
        "Broken",
        "Broken is registered by broken-parts, which cannot be imported (got OSError: no such library).",
        "pip install --force-reinstall broken-parts",
    ),
    "twice": (
        "Doubly",
        "Doubly is registered by broken-parts and by own-parts.",
        "uninstall all but one of broken-parts, own-parts",
    ),
}


@pytest.mark.parametrize(("name", "message", "fix"), WRONG.values(), ids=WRONG)
def test_a_part_that_cannot_be_had_is_a_problem_of_the_text_that_names_it(own_parts, name, message, fix):
    with pytest.raises(composer.SpecError) as caught:
        composer.reads(text(name))
    assert str(caught.value) == f"<text>:2:9: error[install] {message}\n  fix: {fix}".replace(
        "[install] ", "[install] necks[0]: "
    )


def test_a_name_that_nearly_is_one_is_told_though_others_are_broken(own_parts):
    with pytest.raises(composer.SpecError) as caught:
        composer.reads(text("Twices"))
    assert caught.value.problems[0].fix == "did you mean Twice?"


def test_registered_parts_are_listed_and_of_those_that_cannot_be_had_the_ones_asked_for(own_parts):
    broken = "Broken is registered by broken-parts, which cannot be imported"
    assert render(*describe_parts("necks", "Tw*")).splitlines() == ["Twice", "    Gives what it takes.", "  times: 2"]
    assert broken in " ".join(render(*describe_parts("necks", None)).split())
    for kind in ("necks", "encoders"):
        with pytest.raises(UsageError, match=f"^{broken}"):
            describe_parts(kind, "brok*")
