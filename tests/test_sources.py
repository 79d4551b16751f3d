"""Specs of parts of other libraries: what a check of them loads, and what it says where a library is not there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from composer.cli.main import main
from composer.encoder_info import _describe_cached

ROOT = Path(__file__).parents[1]
SPECS = sorted(ROOT.glob("specs/*.yaml"))
LIBRARIES = {"torch", "timm", "segmentation_models_pytorch", "mmcv", "mmseg", "transformers", "terratorch", "torchgeo"}
CHECK = f"""
import sys
from composer.__main__ import main
code = main(["check", *sys.argv[1:]])
print(code, sorted({LIBRARIES} & sys.modules.keys()))
"""


def of(*sources: str, but: tuple[str, ...] = ()) -> list[str]:
    """The specs that name a part of one of these sources, and of none of the others."""
    texts = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in SPECS}
    named = {file: set(re.findall(r"^[^#]*?(\w+)/\w", text, flags=re.MULTILINE)) for file, text in texts.items()}
    return [file for file, found in named.items() if found & set(sources) and not found & set(but)]


HERE = of("timm", "smp", "mmseg", but=("transformers", "terratorch"))
"""What the extra `test` is enough for: a check of mmseg's heads needs no mmseg."""

FEW = [f"specs/{name}.yaml" for name in ("resnet34-unet", "smp-segformer", "mmseg-upernet")]


@pytest.mark.parametrize(
    ("files", "loaded"),
    [
        pytest.param(FEW, "segmentation_models_pytorch", id="a few"),
        pytest.param(HERE, "segmentation_models_pytorch", marks=pytest.mark.slow, id="timm, smp and mmseg"),
        pytest.param(of("transformers"), "transformers", marks=pytest.mark.transformers, id="transformers"),
        pytest.param(of("terratorch"), "terratorch", marks=pytest.mark.terratorch, id="terratorch"),
        pytest.param(of("timm", "smp", "mmseg", "terratorch"), "terratorch", marks=pytest.mark.terratorch, id="all"),
    ],
)
def test_a_check_loads_no_library_once_facts_are_known(files, loaded, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPOSER_CACHE", str(tmp_path))
    monkeypatch.chdir(ROOT)
    _describe_cached.cache_clear()
    assert len(files) > 1
    assert main(["check", *files]) == 0
    # Facts were not known, or this would have failed in a process of its own.
    assert loaded in sys.modules
    run = subprocess.run([sys.executable, "-c", CHECK, *files], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "0 []"


@pytest.fixture
def nothing_installed(monkeypatch):
    """No library but timm is installed, and nothing is known of what was."""
    versions = {"timm": "timm-0"}
    monkeypatch.setattr("composer.encoder_info.Library.format_versions", lambda library: versions.get(library.package))
    monkeypatch.chdir(ROOT)
    _describe_cached.cache_clear()
    yield
    _describe_cached.cache_clear()


@pytest.mark.parametrize(
    ("file", "place", "part", "library", "requirement"),
    [
        ("smp-segformer", "3:10", "smp/mit_b0", "segmentation_models_pytorch", "segmentation-models-pytorch>=0.6"),
        ("transformers-swin", "4:3", "transformers/swin", "transformers", "transformers>=5.23"),
        ("prithvi-seasons", "4:10", "terratorch/prithvi_eo_tiny", "terratorch", "terratorch>=1.2.11,<2"),
    ],
)
@pytest.mark.usefixtures("nothing_installed")
def test_where_a_library_is_not_there_a_check_says_what_installs_it(file, place, part, library, requirement, capsys):
    assert main(["check", f"specs/{file}.yaml"]) == 1
    assert capsys.readouterr().out == (
        f"specs/{file}.yaml:{place}: error[install] encoder: {part} needs {library} (got no installation of it).\n"
        f"  fix: pip install '{requirement}'\n"
    )


@pytest.mark.parametrize("file", ["specs/mmseg-upernet.yaml", "specs/dpt-depth.yaml", "specs/bottleneck-unet.yaml"])
def test_decoders_are_known_without_their_library(file, monkeypatch, capsys):
    monkeypatch.setattr("composer.encoder_info.Library.is_installed", lambda library: library.package == "timm")
    monkeypatch.chdir(ROOT)
    assert main(["check", file]) == 0
    assert capsys.readouterr().out.startswith(f"{file}: ok  ")
