"""What the command line says and what it reads and writes, where the caller is odd: streams, pipes, names, links."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from composer.cli.main import main
from composer.errors import MAX_MESSAGE_LENGTH, Place, Problem, SpecError, make_printable
from composer.spec.reader import reads

ROOT = Path(__file__).parents[1]
SPEC = """\
encoder: timm/test_resnet
decoder: {FCNDecoder: {channels: 8, num_convs: 1}}
head: {SegmentationHead: {num_classes: 2}}
"""
LONG = "a" * 300


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a spec, an image and weights, which is where the commands run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(SPEC, encoding="utf-8")
    (tmp_path / "spec.png").write_text(SPEC, encoding="utf-8")
    (tmp_path / "weights.png").write_text("weights", encoding="utf-8")
    (tmp_path / "circle.png").symlink_to("circle.png")
    Image.fromarray(np.zeros((48, 64, 3), dtype=np.uint8)).save("image.png")
    (tmp_path / "a=b.png").write_bytes((tmp_path / "image.png").read_bytes())
    return tmp_path


def shell(command, folder, **environment):
    """What a shell makes of `command`, in which `composer` stands for the program."""
    command = command.replace("composer", f"{sys.executable} -m composer")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment}
    ran = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    return ran.returncode, ran.stdout, ran.stderr


OK = "ok  head (b, 2, H, W); multiple of 32, at least 32, any shape\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        pytest.param("composer check spec.yaml >&-", (0, "", ""), id="stdout closed"),
        pytest.param("composer check none.yaml 2>&-", (2, "", ""), id="stderr closed, and something to say"),
        pytest.param("cat spec.yaml | composer check /dev/stdin", (0, f"/dev/stdin: {OK}", ""), id="stdin"),
        pytest.param(
            "mkfifo pipe; cat spec.yaml > pipe & composer check --diff pipe 2>&-", (0, "", ""), id="a pipe with a name"
        ),
    ],
)
def test_streams_and_pipes(here, command, said):
    assert shell(command, here) == said


def test_a_user_without_a_home_has_no_cache(here, capsys, monkeypatch):
    """As in a container that is run by a number for a user. What stands in no catalogue is then found out each time."""

    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("COMPOSER_CACHE")
    monkeypatch.setattr(Path, "home", home)
    Path("spec.yaml").write_text(SPEC.replace("timm/test_resnet", "{timm/test_resnet: {any_size: true}}"))
    assert main(["check", "spec.yaml"]) == 0
    assert capsys.readouterr() == (f"spec.yaml: {OK}", "")


LOST = "itself, which would be lost; choose another name."
REFUSED = {
    "run spec.yaml --image image=image.png -o ./image.png": f"./image.png: this is the image {LOST}",
    "run spec.yaml --image a=b.png -o a=b.png": f"a=b.png: this is the image {LOST}",
    "run spec.yaml --image image.png --weights weights.png -o weights.png": (
        f"weights.png: this is the file of weights {LOST}"
    ),
    "run spec.png --image image.png -o spec.png": f"spec.png: this is the spec {LOST}",
    "run spec.yaml --image image.png -o circle.png": (
        "circle.png: cannot be written (Symlink loop from '{here}/circle.png'); choose another name or folder."
    ),
    f"run spec.yaml --image image.png -o o.png --weights {LONG}": f"{LONG}: cannot be read (File name too long).",
    "check \x1b[31mred.yaml": "\\x1b[31mred.yaml: there is no such file; check the path.",
    "check ": "'' names no file; check the path.",
}


@pytest.mark.parametrize(("arguments", "said"), REFUSED.items(), ids=range(len(REFUSED)))
def test_what_is_refused_before_anything_is_done(here, arguments, said, capsys):
    before = {path.name: path.read_bytes() for path in here.iterdir() if path.name != "circle.png"}
    assert main(arguments.split(" ")) == 2
    assert capsys.readouterr() == ("", f"{said.replace('{here}', str(here))}\n")
    assert {path.name: path.read_bytes() for path in here.iterdir() if path.name != "circle.png"} == before


def test_the_name_of_a_file_is_spelled_out(here, capsys):
    name = "a\x1b[31m\n\u202ered.yaml"
    (here / "spec.yaml").rename(name)
    assert main(["check", name]) == 0
    assert capsys.readouterr().out == f"a\\x1b[31m\\n\\u202ered.yaml: {OK}"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain ← × …", "plain ← × …"),
        ("\x1b[31m\x07\u202e", "\\x1b[31m\\x07\\u202e"),
        ("a\nb\tc", "a\\nb\\tc"),
    ],
    ids=["letters", "escapes", "lines"],
)
def test_what_would_move_the_cursor_is_spelled_out(text, seen):
    problem = Problem(code="part", message=f"{text}.", place=Place("a", f"{text}.yaml", 1, 2), fix=text)
    assert make_printable(text) == seen
    assert str(problem) == f"{seen}.yaml:1:2: error[part] a: {seen}.\n  fix: {seen}"


@pytest.mark.parametrize("most", [MAX_MESSAGE_LENGTH, 10 * MAX_MESSAGE_LENGTH], ids=["as it is", "shortened"])
def test_what_is_quoted_is_kept_short(most):
    quoted = Problem(code="key", message=f"begin {'x' * (most - 10)} end", got="y" * most, fix="z" * most)
    assert [len(quoted.message), len(quoted.got), len(quoted.fix)] == [min(most, MAX_MESSAGE_LENGTH + 3)] * 3
    assert (quoted.message[:7], quoted.message[-4:]) == ("begin x", " end")


HUGE = {
    "a part": (f"encoder: smp/resnet{'9' * 900_000}\n", 1),
    "a node": (f"nodes: {{{'a' * 900_000}: {{part: FCNDecoder, from: image}}}}\n", 3),
    "keys that are there twice": ("{" + "a: b, " * 9_000 + "a: b}", 101),
    "tags": ("[" + "!!str a, " * 9_000 + "]", 101),
}


@pytest.mark.parametrize(("text", "most"), HUGE.values(), ids=HUGE)
def test_of_a_huge_text_little_is_said(text, most):
    with pytest.raises(SpecError) as caught:
        reads(text)
    assert len(caught.value.problems) <= most
    assert len(str(caught.value)) < 40_000


def test_the_name_of_a_part_has_a_most():
    with pytest.raises(SpecError, match=r"error\[limit\] encoder: invalid part name .* has at most 4,096 letters\."):
        reads(f"encoder: timm/{'a' * 5000}\ndecoder: FCNDecoder\n")
