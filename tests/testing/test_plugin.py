"""The plugin, as a third party meets it: a package of their own, and pytest with one option."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

NECKS = '''\
"""Three necks of a third party: two are sound, one is not."""

from attrs import evolve, field, frozen, validators
from torch import nn
from torch.nn import functional as F

import composer


def are_maps(features):
    return all(feature.axes == "b c h w" for feature in features)


NO_MAPS = composer.Rejection(code="layout", kind="wrong_output", expected="takes maps")


@frozen(kw_only=True)
class Squeeze(composer.Neck):
    """Every map with fewer channels."""

    channels: int = field(validator=validators.in_([4, 8]))


@composer.contract.register(Squeeze)
def _(neck, features):
    return [evolve(f, channels=neck.channels) for f in features] if are_maps(features) else NO_MAPS


@composer.module.register(Squeeze)
def _(neck, features):
    return SqueezeNet(neck, features)


class SqueezeNet(nn.Module):
    def __init__(self, neck, features):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(f.channels, neck.channels, 1) for f in features)

    def forward(self, features):
        return [conv(x) for conv, x in zip(self.convs, features, strict=True)]


class Smooth(nn.Module):
    """A plain neck: a mean of three by three."""

    def __init__(self, channel_list):
        super().__init__()

    def forward(self, features):
        return [F.avg_pool2d(x, 3, stride=1, padding=1) for x in features]

    def process_channel_list(self, channel_list):
        return channel_list


@frozen
class Halve(composer.Neck):
    """Half of every side; of an odd one, the larger half, which it does not say."""


@composer.contract.register(Halve)
def _(neck, features):
    return [evolve(f, stride=f.stride * 2, rounding="floor") for f in features] if are_maps(features) else NO_MAPS


@composer.module.register(Halve)
def _(neck, features):
    return HalveNet()


class HalveNet(nn.Module):
    def forward(self, features):
        return [F.max_pool2d(x, 2, ceil_mode=True) for x in features]
'''


@pytest.fixture
def package(tmp_path):
    """A package with a module of necks, and nothing else."""
    folder = tmp_path / "my_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("", encoding="utf-8")
    (folder / "necks.py").write_text(NECKS, encoding="utf-8")
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """pytest as its users run it, where composer is installed or beside it."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--composer-examples", "8", *PLUGIN]
    environment = {"PYTHONPATH": f"{folder}:{ROOT}", "PATH": "", "COMPOSER_CACHE": str(folder / "cache")}
    return subprocess.run(
        [*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


ROOT = Path(__file__).parents[2]
NAME = "composer.testing.plugin"
PLUGIN = () if any(entry.value == NAME for entry in entry_points(group="pytest11")) else ("-p", NAME)
"""Loaded by its entry point where composer is installed; of a checkout it is named."""


def test_two_necks_pass_and_one_is_caught(package):
    done = run(package, "--composer-parts", "my_package.necks", "-v")

    lines = [line.partition(" ")[::2] for line in done.stdout.splitlines() if line.startswith("my_package.necks::")]
    outcomes = {name: result.split()[0] for name, result in lines if name.count("::") == 2}
    assert {name for name, result in outcomes.items() if result == "FAILED"} == {"my_package.necks::Halve::shapes"}
    assert {name for name, result in outcomes.items() if result == "SKIPPED"} == {
        "my_package.necks::Halve::refusals",
        "my_package.necks::Squeeze::refusals",
    }
    assert sorted({name.rpartition("::")[0] for name in outcomes}) == [
        "my_package.necks::Halve",
        "my_package.necks::Smooth",
        "my_package.necks::Squeeze",
    ]
    assert len(outcomes) == 9 + 8 + 9
    assert done.returncode == 1


def test_a_failure_is_the_smallest_run_and_nothing_else(package):
    done = run(package, "--composer-parts", "my_package.necks", "-k", "Halve and shapes")

    said = done.stdout.partition("= FAILURES =")[2].partition("= short test summary")[0].splitlines()
    assert said[2:-1] == [
        "Halve() breaks the law 'shapes': its outputs differ from its contract.",
        '  input     map "b c h w" (11 channels, stride 2), 1 image of 4 × 6',
        "  expected  1 × 11 × 1 × 1",
        "  got       1 × 11 × 1 × 2",
    ]


def test_the_tests_of_a_package_run_beside_them(package):
    (package / "test_own.py").write_text("def test_own():\n    pass\n", encoding="utf-8")
    done = run(package, "--composer-parts", "my_package.necks", "-q", "-k", "own or (Smooth and shapes)")
    assert done.stdout.splitlines()[-1].startswith("2 passed, 25 deselected")
    assert (
        "collected 27 items / 25 deselected / 2 selected"
        in run(
            package, "--composer-parts", "my_package.necks", "--collect-only", "-k", "own or (Smooth and shapes)"
        ).stdout
    )


HINDERED = '''\
"""Parts that no law can be held to, each for another reason, and one that takes everything."""

from attrs import field, frozen
from torch import nn

import composer


@frozen
class Halving(composer.Neck):
    """Half of one channel is none."""


@composer.contract.register(Halving)
def _(neck, features):
    return [composer.Feature(channels=f.channels // 2, stride=f.stride or 1) for f in features]


@frozen
class Unmade(composer.Neck):
    """Its module cannot be made."""


@composer.contract.register(Unmade)
def _(neck, features):
    return features


@composer.module.register(Unmade)
def _(neck, features):
    raise OSError("no such kernel")


@frozen
class Picky(composer.Neck):
    """Takes nothing."""


@composer.contract.register(Picky)
def _(neck, features):
    return composer.Rejection(code="layout", kind="raises", expected="takes sound")


@frozen
class Unknown(composer.Neck):
    """What it may be is not said."""

    mode: object


@frozen
class Same(composer.Neck):
    """Gives what it takes."""


@composer.contract.register(Same)
def _(neck, features):
    return features


@composer.module.register(Same)
def _(neck, features):
    return SameNet()


class SameNet(nn.Module):
    def forward(self, features):
        return list(features)
'''


@pytest.fixture(scope="module")
def hindered(tmp_path_factory):
    """What pytest says of them."""
    folder = tmp_path_factory.mktemp("hindered")
    (folder / "parts.py").write_text(HINDERED, encoding="utf-8")
    return run(folder, "--composer-parts", "parts", "-v", "-rs").stdout


WHY = {
    "Halving": (
        'cannot check Halving(): for map "b c h w" (1 channel, stride 2), its contract raises ValueError: channels '
        "must be a whole number of at least 1 (got 0)"
    ),
    "Unmade": "cannot build the module of Unmade(): it raises OSError: no such kernel",
    "Picky": (
        "cannot check Picky(): it accepts none of the inputs that were tried (it takes sound); pass others, as in "
        "inputs=[((Feature(channels=8),),)]"
    ),
    "Unknown": (
        "cannot generate values of Unknown.mode: give the field a default, an annotation or a validator that lists its "
        "values, or call valid(Unknown, mode=[…])"
    ),
}


@pytest.mark.parametrize("part", WHY)
def test_what_hinders_every_law_fails_once_and_the_others_are_skipped_for_it(hindered, part):
    outcomes = [line.split()[1] for line in hindered.splitlines() if line.startswith(f"parts::{part}::")]
    assert outcomes == ["FAILED"] + ["SKIPPED"] * 8

    failures = hindered.partition("= FAILURES =")[2].partition("= short test summary")[0]
    assert failures.splitlines().count(WHY[part]) == 1
    skipped = [line for line in hindered.splitlines() if line.startswith("SKIPPED [8]")]
    assert sum(line.endswith(f": {WHY[part]} (see parts::{part}::shapes)") for line in skipped) == 1


def test_a_law_that_is_not_tried_is_skipped_and_told_at_the_end(hindered):
    assert [line.split()[1] for line in hindered.splitlines() if line.startswith("parts::Same::")] == [
        *["PASSED"] * 8,
        "SKIPPED",
    ]
    section = hindered.partition(" skipped laws ")[2].splitlines()[1]
    assert section == (
        "parts::Same: Same(): law 'refusals' skipped: no input that was tried is rejected as 'raises' or 'policy'; "
        "pass some that are, with the option inputs"
    )


WRONG = {
    "no such module": (
        "my_package.heads",
        (
            "cannot import my_package.heads (got ModuleNotFoundError: No module named 'my_package.heads'); run pytest "
            "in its folder, or set PYTHONPATH"
        ),
    ),
    "not frozen": (
        "my_package.forgotten",
        (
            "my_package.forgotten.NotFrozen is a part, but not an attrs class: decorate it with @attrs.frozen, or "
            "begin its name with an underscore"
        ),
    ),
}


@pytest.mark.parametrize(("module", "message"), WRONG.values(), ids=WRONG)
def test_a_module_without_parts_is_an_error(package, module, message):
    forgotten = "import composer\n\n\nclass NotFrozen(composer.Neck):\n    width: int = 4\n"
    (package / "my_package" / "forgotten.py").write_text(forgotten, encoding="utf-8")
    done = run(package, "--composer-parts", module)
    assert done.stderr.strip() == f"ERROR: --composer-parts: {message}"
    assert done.returncode == 4


def test_a_number_of_examples_that_makes_no_sense(package):
    done = run(package, "--composer-parts", "my_package.necks", "--composer-examples=0")
    assert done.stderr.strip() == "ERROR: --composer-parts: examples must be a whole number of at least 1 (got 0)"
    assert done.returncode == 4


def test_a_part_is_tested_once_however_often_its_module_is_named(package):
    named = ["--composer-parts", "my_package.necks", "--composer-parts", "my_package", "--composer-parts", "my_package"]
    done = run(package, *named, "--collect-only", "-q", "-k", "shapes")

    assert [line for line in done.stdout.splitlines() if "::" in line] == [
        f"my_package.necks::{name}::shapes" for name in ("Squeeze", "Smooth", "Halve")
    ]


TOLD = '''\
"""Parts that need to be told of, and what is told."""

from attrs import evolve, frozen
from torch import nn

import composer


@frozen
class Mode(composer.Neck):
    """Does nothing, in a way that cannot be known."""

    mode: str
    name: str = "mode"

    def __attrs_post_init__(self):
        assert self.mode in ("near", "far"), "there is near, and there is far"


@composer.contract.register(Mode)
def _(neck, features):
    if len(features) > 1:
        return composer.Rejection(code="count", kind="policy", expected="takes one")
    return features


@composer.module.register(Mode)
def _(neck, features):
    return ModeNet()


class ModeNet(nn.Module):
    def forward(self, features):
        return [x + 0 for x in features]


class Mixed(nn.Module):
    """A plain neck that needs an argument, and two cells."""

    def __init__(self, channel_list, width):
        super().__init__()
        self.width = width
        self.mixes = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channel_list)

    def process_channel_list(self, channel_list):
        return [self.width for _ in channel_list]

    def forward(self, features):
        return [mix(x) for mix, x in zip(self.mixes, features, strict=True)]

'''
CHECKS = """
composer_checks = {
    Mode: {"fields": {"mode": ["near", "far"]}, "without": ["memory"]},
    Mixed: {"arguments": {"width": 8}, "laws": ["shapes", "batch"], "examples": 3},
}
"""


def test_what_a_module_tells_of_its_parts_is_heeded(tmp_path):
    (tmp_path / "parts.py").write_text(TOLD + CHECKS, encoding="utf-8")
    done = run(tmp_path, "--composer-parts", "parts", "-v", "-rs")

    lines = [line.partition(" ")[::2] for line in done.stdout.splitlines() if line.startswith("parts::")]
    outcomes = {name: result.split()[0] for name, result in lines if name.count("::") == 2}
    assert {name for name, result in outcomes.items() if result == "SKIPPED"} == {
        "parts::Mode::memory",
        *(f"parts::Mixed::{law}" for law in ("inputs", "again", "itself", "memory", "precision", "gradients")),
    }
    assert set(outcomes.values()) == {"PASSED", "SKIPPED"}
    assert len(outcomes) == 9 + 8
    assert done.stdout.count("SKIPPED (left out by composer_checks)") == 7
    still = done.stdout.partition(" fields never varied ")[2].splitlines()[1]
    assert still == "parts::Mode: name; pass values with the option fields"
    taken = re.sub(r"\d+ of \d+", "N of M", done.stdout.partition(" accepted inputs ")[2])
    assert taken.splitlines()[1] == (
        "parts::Mode: Mode(mode='near', name='mode') (and 1 with other fields) accepted N of M inputs; not "
        '4 × map "b c h w" (11, 13, 17, 19 channels, stride 2) (it takes one)'
    )
    assert taken.splitlines()[2].startswith(
        'parts::Mixed: Mixed(width=8) accepted N of M inputs; not tokens "b n c" (11 channels, stride 2) (it raises '
    )


def test_what_is_not_told_is_said(tmp_path):
    (tmp_path / "parts.py").write_text(TOLD, encoding="utf-8")
    done = run(tmp_path, "--composer-parts", "parts")

    failures = done.stdout.partition("= FAILURES =")[2].partition("= short test summary")[0].splitlines()
    assert [line for line in failures if not line.startswith(("=", "_"))] == [
        (
            "cannot generate values of Mode.mode: give the field a default, an annotation or a validator that lists "
            "its values, or call valid(Mode, mode=[…])"
        ),
        (
            "cannot check Mixed(): it accepts none of the inputs that were tried (it raises TypeError: "
            "Mixed.__init__() missing 1 required positional argument: 'width'); pass others, as in "
            "inputs=[((Feature(channels=8),),)]"
        ),
    ]


RAISING = '''\
"""A neck that raises in a function of its own."""

from attrs import frozen
from torch import nn

import composer


@frozen
class Deep(composer.Neck):
    """Folds what is not square, and raises."""


@composer.contract.register(Deep)
def _(neck, features):
    return features


@composer.module.register(Deep)
def _(neck, features):
    return DeepNet()


class DeepNet(nn.Module):
    def forward(self, features):
        return [fold(x) for x in features]


def fold(x):
    return x.view(len(x), -1, 999)
'''


def test_where_a_module_raises_is_told_and_the_other_laws_wait_for_it(tmp_path):
    (tmp_path / "parts.py").write_text(RAISING, encoding="utf-8")
    done = run(tmp_path, "--composer-parts", "parts", "-rs", "--tb=long")

    failures = done.stdout.partition("= FAILURES =")[2].partition("= short test summary")[0].splitlines()
    assert failures[2:7] == [
        "Deep() breaks the law 'shapes': it raises RuntimeError: shape '[1, -1, 999]' is invalid for input of size 11.",
        '  input     map "b c h w" (11 channels, stride 2), 1 image of 2 × 2',
        "  at        parts.py:30, in fold",
        "",
        "Traceback (most recent call last):",
    ]
    assert "in fold\n    return x.view(len(x), -1, 999)\n" in done.stdout
    assert "= 1 failed, 8 skipped in " in done.stdout.splitlines()[-1]


def test_without_the_option_nothing_is_imported(package):
    (package / "test_own.py").write_text(
        "import sys\n\n\ndef test_own():\n    assert not {'torch', 'hypothesis'} & set(sys.modules)\n", encoding="utf-8"
    )
    done = run(package, "-q", "-p", "no:hypothesispytest")
    assert done.returncode == 0, done.stdout
