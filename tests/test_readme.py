"""What the README shows is what happens: its commands, its specs, its errors and its Python."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from attrs import fields

import composer
from composer.cli.main import main
from composer.encoder_info import LIBRARIES
from composer.testing.checking import ALL_LAWS, DEFAULT_EXAMPLES, ContractCheck, check_contract
from composer.testing.failures import ContractViolation

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
KIT = (ROOT / "composer" / "testing" / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


MODEL, GRAPH = blocks("yaml")
COUNT, LAYOUT = blocks("text")
CUSTOM, PATCHES = blocks("python")
PLUGIN = "composer.testing.plugin"
TOKENS = "{timm/vit_small_patch16_224: {out_indices: [2, 5, 8, 11], tokens: true}}"

WRONG = {
    "one wrong number": (MODEL.replace("[128, 64, 32, 16]", "[128, 64, 32]"), COUNT),
    "tokens": (MODEL.replace("timm/convnext_atto", TOKENS), LAYOUT),
}


EXAMPLES = re.findall(r"^\|.*\| `((?:en|de)coder: .*)` \|$", TEXT, flags=re.MULTILINE)
"""What the table of other libraries writes for each."""


@pytest.mark.parametrize("line", EXAMPLES)
def test_the_parts_of_other_libraries_are_read(line):
    """No library is needed for that, and a decoder of theirs is also checked."""
    if line.startswith("encoder"):
        (node, *_) = composer.reads(f"{line}\nhead: EmbeddingHead\n").nodes
    else:
        graph = composer.reads(f"encoder: timm/resnet18\n{line}\n{'' if 'mmseg' in line else 'head: EmbeddingHead'}\n")
        node = graph.nodes[1]
        composer.infer(graph)
    assert type(node.part).source == line.partition(": ")[2].lstrip("{").partition("/")[0]


def test_the_table_of_other_libraries_has_every_source():
    sources = {line.partition(": ")[2].lstrip("{").partition("/")[0] for line in EXAMPLES}
    assert sources == LIBRARIES.keys()
    assert f"| {len(composer.Mmseg.names)} decode heads" in TEXT
    assert len(composer.Smp.names) == 12


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of its own that has what the README's commands name."""
    (tmp_path / "specs").symlink_to(ROOT / "specs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("spec", "error"), WRONG.values(), ids=WRONG)
def test_the_errors_are_those_shown(spec, error, here, capsys):
    (here / "model.yaml").write_text(spec, encoding="utf-8")

    assert main(["check", "model.yaml"]) == 1
    assert capsys.readouterr().out == error


def test_the_first_spec_is_the_one_that_is_run():
    assert composer.reads(MODEL) == composer.read(ROOT / "specs" / "convnext-unet.yaml")


def test_a_line_makes_the_first_spec_one_for_six_bands():
    (line,) = re.findall(r"`(input: .*?)` on a line of its own", TEXT)
    typed = composer.infer(composer.reads(f"{line}\n{MODEL}"))

    assert typed.graph.inputs[0][1].channels == 6
    assert typed.shape("head", 64, 64) == ("b", 4, 64, 64)


def test_the_module_of_ones_own_gives_what_it_gave_alone():
    shown = {}
    exec(compile(CUSTOM, "README.md", "exec"), shown)
    image = torch.rand(1, 6, 64, 48, generator=torch.Generator().manual_seed(0))

    assert torch.equal(shown["model"].encoder(image), shown["stem"](image))
    assert shown["model"].eval()(image).output.shape == (1, 2, 64, 48)


def test_the_graph_of_any_shape_has_two_outputs():
    typed = composer.infer(composer.reads(GRAPH))

    assert [typed.shape(end, 100, 100) for end in typed.ends] == [("b", 9, 100, 100), ("b", 1, 100, 100)]


def test_the_first_command_draws_a_picture(here):
    (command,) = re.findall(r"^python -m composer (.*)$", "\n".join(blocks("sh")), flags=re.MULTILINE)

    assert main(command.split()) == 0
    assert (here / "prediction.png").stat().st_size > 10_000


def test_the_python_gives_what_is_shown(here):
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    parser = doctest.DocTestParser()

    result = runner.run(parser.get_doctest("\n".join(blocks("pycon")), {}, "README", "README.md", 0))

    assert (result.failed, result.attempted) == (0, 11)


def test_the_part_of_ones_own_keeps_the_laws(here):
    """Through the plugin, by the command that is shown; it is named where composer is not installed."""
    (here / "my_parts.py").write_text(PATCHES, encoding="utf-8")
    (command,) = re.findall(r"`pytest (--composer-parts .*?)`", TEXT)
    installed = any(entry.value == PLUGIN for entry in entry_points(group="pytest11"))
    options = ["-p", "no:cacheprovider", "-q", *([] if installed else ["-p", PLUGIN])]
    alone = "import sys, pytest; sys.path.remove(''); sys.exit(pytest.main())"  # -m would find the module here
    ran = subprocess.run(
        [sys.executable, "-c", alone, *options, *command.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.splitlines()[-1].startswith("9 passed")


WRONG_ENCODERS = {
    "a stride in its own pixels": (
        ("encoder.patch * image[0].stride", "encoder.patch"),
        ("it raises RuntimeError: Calculated padded input size per channel: (8 x 8).", "(3 channels, stride 2)"),
    ),
    "padding that is not declared": (
        ("encoder.patch)\n", "encoder.patch, encoder.patch // 2)\n"),
        ("its outputs differ from its contract.\n", "  expected  1 × 64 × 1 × 1\n  got       1 × 64 × 2 × 2"),
    ),
    "frames that are not rejected": (
        ('!= ["b c h w"]', 'not in (["b c h w"], ["b c t h w"])'),
        ("it raises RuntimeError: Expected 3D (unbatched) or 4D (batched)", "(3 channels, stride 1, 3 frames)"),
    ),
    "channels that are not rejected": (
        ("Conv2d(image[0].channels", "Conv2d(3"),
        ("it raises RuntimeError: Given groups=1, weight of size [64, 3, 16, 16]", "(1 channel, stride 1)"),
    ),
}


@pytest.mark.parametrize(("change", "told"), WRONG_ENCODERS.values(), ids=WRONG_ENCODERS)
def test_a_mistake_in_the_encoder_of_ones_own_is_caught(change, told):
    shown = {}
    exec(compile(PATCHES.replace(*change), "README.md", "exec"), shown)

    with pytest.raises(ContractViolation) as caught:
        check_contract(shown["Patches"], laws=["shapes"])
    assert str(caught.value).startswith(f"Patches(patch=16) breaks the law 'shapes': {told[0]}")
    assert told[1] in str(caught.value)


def test_the_encoder_of_ones_own_rejects_frames_and_several_features():
    shown = {}
    exec(compile(PATCHES, "README.md", "exec"), shown)
    expected = composer.Rejection(code="layout", expected="takes one image without frames")
    pixels = composer.Feature(channels=5)

    assert composer.contract(shown["Patches"](), (composer.Image(frames=2).feature,)) == expected
    assert composer.contract(shown["Patches"](), (pixels, pixels)) == expected
    assert composer.contract(shown["Patches"](patch=8), (composer.Image(stride=2).feature,)).features[0].stride == 16


def test_the_code_of_the_readme_of_the_kit_runs(here):
    """Each block, one after the other; the message it shows is that of a module with one wrong number."""
    necks, *others = blocks("python", KIT)
    shown = {}
    exec(compile("\n\n".join((necks, *others)), "composer/testing/README.md", "exec"), shown)
    assert set(shown["composer_checks"]) == {shown["Doubler"]}

    with pytest.raises(ContractViolation) as caught:
        exec(compile(necks.replace("scale_factor=2", "scale_factor=3"), "composer/testing/README.md", "exec"), {})
    assert f"{caught.value}\n" == blocks("text", KIT)[0]


def test_the_readme_of_the_kit_has_every_law_and_option():
    rows = re.findall(r"^\| (`.*?`) \|", KIT, flags=re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert names[: len(ALL_LAWS)] == list(ALL_LAWS)
    assert set(names[len(ALL_LAWS) :]) == {field.name for field in fields(ContractCheck)} - {"part"}
    assert f"{DEFAULT_EXAMPLES} examples" in KIT


def test_the_part_of_ones_own_is_there_for_every_text_once_its_package_is_installed(here, monkeypatch, capsys):
    entries = tomllib.loads(blocks("toml")[0])["project"]["entry-points"]["composer.parts"]
    lines = "\n".join(f"{name} = {value}" for name, value in entries.items())
    (here / "my_parts.py").write_text(PATCHES, encoding="utf-8")
    (here / "my_parts-0.1.dist-info").mkdir()
    (here / "my_parts-0.1.dist-info" / "METADATA").write_text("Name: my-parts\nVersion: 0.1\n", encoding="utf-8")
    (here / "my_parts-0.1.dist-info" / "entry_points.txt").write_text(f"[composer.parts]\n{lines}\n", encoding="utf-8")
    (here / "model.yaml").write_text(
        "encoder: {Patches: {patch: 32}}\ndecoder: {IdentityDecoder: {out_index: 0}}\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(here)
    monkeypatch.setitem(sys.modules, "my_parts", None)  # so that it is forgotten afterwards
    del sys.modules["my_parts"]

    assert main(["check", "model.yaml"]) == 0
    assert capsys.readouterr().out == "model.yaml: ok  decoder (b, 64, H, W); multiple of 32, at least 32, any shape\n"
