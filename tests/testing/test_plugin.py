"""The plugin, as its users meet it: a package of their own, and pytest with one option."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from composer.testing.checking import ALL_LAWS

PARTS = '''\
"""Parts of a third party: some keep the laws, some do not, and some cannot be checked."""

from attrs import evolve, field, frozen, validators
from torch import nn
from torch.nn import functional as F

import composer


class Mixed(nn.Module):
    """A plain neck that needs an argument."""

    def __init__(self, channel_list, width):
        super().__init__()
        self.width = width
        self.mixes = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channel_list)

    def process_channel_list(self, channel_list):
        return [self.width for _ in channel_list]

    def forward(self, features):
        return [mix(x) for mix, x in zip(self.mixes, features, strict=True)]


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, features):
        return [self.function(x) for x in features]


def register(neck, contract, function=lambda x: x + 0):
    composer.contract.register(neck)(contract)
    composer.module.register(neck)(lambda neck, features: Net(function))


def same(neck, features):
    return features


@frozen
class Halve(composer.Neck):
    """Half of every side; of an odd one, the larger half, which it does not promise."""


def halve(neck, features):
    if any(feature.axes != "b c h w" for feature in features):
        return composer.Rejection(code="layout", kind="wrong_output", expected="takes maps")
    return [evolve(f, stride=f.stride * 2, rounding="floor") for f in features]


register(Halve, halve, lambda x: F.max_pool2d(x, 2, ceil_mode=True))


@frozen
class Mode(composer.Neck):
    """Does nothing; the values of its first field cannot be known."""

    mode: str
    name: str = "mode"

    def __attrs_post_init__(self):
        assert self.mode in ("near", "far"), "mode must be near or far"


def mode(neck, features):
    one = composer.Rejection(code="count", kind="policy", expected="takes one")
    return features if len(features) == 1 else one


register(Mode, mode)


@frozen
class Same(composer.Neck):
    """Gives what it takes, whatever its field."""

    axis: int = field(validator=validators.in_([0, 1]))


register(Same, same)


@frozen
class Unmade(composer.Neck):
    """Its module cannot be made."""


def fail(neck, features):
    raise OSError("no such kernel")


register(Unmade, same)
composer.module.register(Unmade)(fail)


@frozen
class Deep(composer.Neck):
    """Raises in a function of its own."""


def fold(x):
    return x.view(len(x), -1, 999)


register(Deep, same, fold)

composer_checks = {
    Mode: {"fields": {"mode": ["near", "far"]}, "without": ["memory"]},
    Mixed: {"arguments": {"width": 8}, "laws": ["shapes", "batch"], "examples": 3},
}
'''


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A package with a module of parts, and a test of its own beside it."""
    folder = tmp_path_factory.mktemp("third_party")
    (folder / "parts").mkdir()
    (folder / "parts" / "__init__.py").write_text("", encoding="utf-8")
    (folder / "parts" / "all.py").write_text(PARTS, encoding="utf-8")
    (folder / "test_beside.py").write_text("def test_beside():\n    pass\n", encoding="utf-8")
    bare = "import sys\n\n\ndef test_bare():\n    assert not {'torch', 'hypothesis'} & set(sys.modules)\n"
    (folder / "bare.py").write_text(bare, encoding="utf-8")
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest as users do, where composer is installed or beside it."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *PLUGIN]
    environment = {"PYTHONPATH": f"{folder}:{ROOT}", "PATH": "", "COMPOSER_CACHE": str(folder / "cache")}
    return subprocess.run(
        [*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


ROOT = Path(__file__).parents[2]
NAME = "composer.testing.plugin"
PLUGIN = () if any(entry.value == NAME for entry in entry_points(group="pytest11")) else ("-p", NAME)
"""Loaded by its entry point where composer is installed; of a checkout it is named."""


@pytest.fixture(scope="module")
def said(package):
    """What pytest says of all the parts, each named twice."""
    named = ("--composer-parts", "parts.all", "--composer-parts", "parts", "--composer-examples", "4")
    return run(package, *named, "-v", "-rs", "--tb=long").stdout


def get_outcomes(said, part):
    lines = [line.split() for line in said.splitlines() if line.startswith(f"parts.all::{part}::")]
    return {line[0].rpartition("::")[2]: line[1] for line in lines}


SKIPPED = {"refusals": "SKIPPED"}
OUTCOMES = {"Halve": {"shapes": "FAILED", **SKIPPED}, "Mode": {}, "Mixed": {}, "Same": SKIPPED}


@pytest.mark.parametrize("part", OUTCOMES)
def test_each_part_has_a_test_for_each_law(said, part):
    outcomes = get_outcomes(said, part)

    assert {law: outcome for law, outcome in outcomes.items() if outcome != "PASSED"} == OUTCOMES[part]
    assert len(outcomes) == {"Mixed": 2, "Mode": 8}.get(part, 9)


def test_the_tests_of_a_package_run_beside_them(said):
    assert re.search(r"^test_beside.py::test_beside PASSED ", said, re.MULTILINE)
    assert "collected 47 items" in said


FAILURES = {
    "Halve": """\
Halve() breaks the law 'shapes': its outputs differ from its contract.
  input     map "b c h w" (11 channels, stride 2), 1 image of 4 × 6
  expected  1 × 11 × 1 × 1
  got       1 × 11 × 1 × 2
""",
    "Deep": """\
Deep() breaks the law 'shapes': it raises RuntimeError: shape '[1, -1, 999]' is invalid for input of size 11.
  input     map "b c h w" (11 channels, stride 2), 1 image of 2 × 2
  at        parts/all.py:105, in fold

Traceback (most recent call last):
""",
    "Unmade": """\
cannot build the module of Unmade(): it raises OSError: no such kernel
  input     map "b c h w" (11 channels, stride 2), 1 image of 2 × 2
  at        parts/all.py:""",
}


@pytest.mark.parametrize("part", FAILURES)
def test_a_failure_is_the_smallest_run_and_its_place(said, part):
    assert FAILURES[part] in said.partition("= FAILURES =")[2]


@pytest.mark.parametrize("part", ["Deep", "Unmade"])
def test_what_concerns_every_law_fails_once_and_the_others_are_skipped(said, part):
    assert get_outcomes(said, part) == {**dict.fromkeys(ALL_LAWS, "SKIPPED"), "shapes": "FAILED"}
    first = FAILURES[part].splitlines()[0]
    assert re.search(rf"^SKIPPED \[8\] .*: {re.escape(first)} \(see parts.all::{part}::shapes\)$", said, re.MULTILINE)


def test_what_was_not_checked_is_listed_at_the_end(said):
    skipped = said.partition(" skipped laws ")[2].partition(" fields never varied ")
    assert (
        "parts.all::Same: Same(axis=0): law 'refusals' skipped: no input that was tried is rejected as 'raises' or "
        "'policy'; pass some that are, with the option inputs\n"
    ) in skipped[0]
    fixed, _, accepted = skipped[2].partition(" accepted inputs ")
    assert "\nparts.all::Mode: name; pass values with the option fields\n" in fixed
    assert re.search(
        r"\nparts.all::Mode: Mode\(mode='near', name='mode'\) \(and 1 with other fields\) accepted \d+ of \d+ inputs; "
        r'not 4 × map "b c h w" \(11, 13, 17, 19 channels, stride 2\) \(it takes one\)\n',
        accepted,
    )


def test_a_wrong_option_is_an_error_of_usage(package):
    done = run(package, "--composer-parts", "parts", "--composer-examples=0")
    message = "composer_checks of parts.all::Halve: examples must be a whole number of at least 1 (got 0)"
    assert (done.returncode, done.stderr.strip()) == (4, f"ERROR: --composer-parts: {message}")


def test_without_the_option_nothing_is_imported(package):
    done = run(package, "-q", "-p", "no:hypothesispytest", "bare.py")
    assert done.returncode == 0, done.stdout
