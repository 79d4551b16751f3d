"""Who may import whom, read from the import statements; and that a check leaves torch alone, seen from outside."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import composer
import composer.parts
import composer.testing

PACKAGE = Path(__file__).parents[1] / "composer"

STAGES = (
    ("errors", "layouts", "sizes", "files", "limits", "process"),
    ("parts",),
    ("graph", "graph_checks"),
    ("spec",),
    ("neck_paths", "inference", "encoder_info", "fixes"),
    ("tensors",),
    ("modules", "resources"),
    ("execution", "model"),
    ("building",),
    ("weights",),
    ("adapters",),
    ("compatibility", "terratorch"),
    ("cli", "__main__"),
    ("testing",),
)
"""The stages from left to right. A module imports from its own stage and from those before it."""

TORCH_FREE = re.compile(
    r"composer\.((errors|layouts|sizes|files|limits|process|parts|graph|graph_checks|spec|neck_paths"
    r"|inference|encoder_info|fixes|compatibility|__init__|__main__)(\.|$)"
    r"|adapters\.(decoders|rejections)$|adapters\.(timm|smp|mmseg|transformers|terratorch)(\.(parts|contracts|levels|catalogue|translation))?$"
    r"|cli\.(__init__|main|terminal|check)$)"
)
"""What may not import torch, timm or einops when it is loaded, nor anything of ours that does."""

HEAVY = {"torch", "timm", "einops", "torchvision", "safetensors", "segmentation_models_pytorch", "mmseg"}
FOREIGN = {
    "timm": "timm",
    "huggingface_hub": "weights",
    "peft": "peft",
    "segmentation_models_pytorch": "smp",
    "transformers": "transformers",
    "mmseg": "mmseg",
    "mmcv": "mmseg",
    "mmengine": "mmseg",
    "terratorch": "terratorch",
    "torchgeo": "terratorch",
}
"""Foreign libraries, each with the one adapter that imports it: a file, or a folder."""

RANKS = {name: rank for rank, names in enumerate(STAGES) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))


def stage_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, *, loaded_only: bool) -> set[str]:
    """The dotted names that a file imports; with `loaded_only`, those that loading the file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = (ast.FunctionDef, ast.AsyncFunctionDef) if loaded_only else ()
    found: set[str] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, skipped) or (loaded_only and is_for_types(node)):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
        waiting += ast.iter_child_nodes(node)
    return found


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def own(names: set[str]) -> set[str]:
    """The stages that composer's own modules among `names` belong to."""
    return {name.split(".")[1] for name in names if name.startswith("composer.")}


def dotted(path: Path) -> str:
    """The name by which a file is imported."""
    name = ".".join(("composer", *path.relative_to(PACKAGE).with_suffix("").parts))
    return name.removesuffix(".__init__") if path.parent != PACKAGE else name


@pytest.mark.parametrize(
    # The public names come from every stage, when they are asked for.
    "path",
    [p for p in FILES if stage_of(p) != "__init__"],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_a_file_imports_from_its_own_stage_or_an_earlier_one(path):
    stage = stage_of(path)

    later = {other for other in own(imports(path, loaded_only=True)) if RANKS[other] > RANKS[stage]}

    assert later == set()


@pytest.mark.parametrize(
    "path", [p for p in FILES if TORCH_FREE.match(dotted(p))], ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_the_stages_before_building_load_no_torch(path):
    names = imports(path, loaded_only=True)

    assert {name.split(".")[0] for name in names} & HEAVY == set()
    assert [name for name in names if name.startswith("composer.") and not TORCH_FREE.match(name)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_foreign_library_is_imported_by_its_own_adapter_alone(path):
    roots = {name.split(".")[0] for name in imports(path, loaded_only=False)}

    assert {
        library for library in roots & FOREIGN.keys() if FOREIGN[library] not in (path.stem, path.parent.name)
    } == set()


def test_no_module_bears_a_public_name():
    """After an import, the module would hide the function."""
    assert {path.stem for path in FILES if path.parent == PACKAGE} & set(dir(composer)) == set()
    assert {path.stem for path in FILES if stage_of(path) == "testing"} & set(composer.testing.__all__) == set()


def test_public_parts_are_those_of_one_table():
    assert {*composer.parts.PUBLIC_NAMES} < {*composer.__all__} == {*dir(composer)}
    assert all(getattr(composer, name) is part for name, part in composer.parts.PUBLIC_NAMES.items())


def test_every_file_has_a_stage():
    assert {stage_of(path) for path in FILES} - {"__init__"} == set(RANKS)


SPECS = PACKAGE.parent / "specs"
SLOW = ("torch", "timm", "importlib.metadata", "rich")


def run_checks(cache: Path, *specs: Path) -> str:
    """The sum of the exit codes of checks in a new interpreter, and which slow modules they have loaded."""
    names = [str(spec) for spec in specs]
    code = f"from composer.__main__ import main; code = sum(main(['check', spec]) for spec in {names!r})"
    program = f"{code}; import sys; print(code, *(name for name in {SLOW} if name in sys.modules))"
    environment = {**os.environ, "COMPOSER_CACHE": str(cache)}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    return run.stdout.splitlines()[-1]


def test_checks_with_the_catalogue_load_neither_torch_nor_timm(tmp_path):
    foreign = re.compile(r"transformers/|terratorch/|encoder: \{?smp/")
    specs = [path for path in sorted(SPECS.glob("*.yaml")) if not foreign.search(path.read_text("utf-8"))]

    assert "torch" not in (loaded := run_checks(tmp_path, *specs))
    assert "timm" not in loaded
    assert loaded.startswith("0")


def test_a_check_of_built_in_parts_looks_for_no_others(tmp_path):
    """Loading importlib.metadata, and asking it, takes a tenth of the time that a check may take."""
    assert run_checks(tmp_path, SPECS / "convnext-unet.yaml") == "0"


def test_a_check_with_facts_on_disk_loads_neither_torch_nor_timm(tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text("encoder: {timm/test_resnet: {options: {drop_rate: 0.1}}}\n", encoding="utf-8")

    first, second = (run_checks(tmp_path, spec) for _ in range(2))

    # The first check shows that the second could have failed: the facts were not known, so torch was loaded.
    assert first.startswith("1 torch timm")
    assert "torch" not in second
