"""The plugin, as a third party meets it: a package of their own, and pytest with one option."""

from __future__ import annotations

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


NO_MAPS = composer.Refusal(code="layout", kind="lies", expected="takes maps")


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
    outcomes = {name: result.split()[0] for name, result in lines}
    assert {name for name, result in outcomes.items() if result == "FAILED"} == {"my_package.necks::Halve::shapes"}
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
        "Halve() breaks the law 'shapes': it gives something else than it promises.",
        '  fed  map "b c h w" (11 channels, stride 2), of 1 image of 4 × 6',
        "  promised        got",
        "  1 × 11 × 1 × 1  1 × 11 × 1 × 2  ←",
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
    return composer.Refusal(code="layout", kind="impossible", expected="takes sound")


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
        "Halving() breaks the law 'shapes': asked about map \"b c h w\" (1 channel, stride 2), its contract raises "
        "ValueError: channels must be a whole number of at least 1 (got 0)."
    ),
    "Unmade": ("Unmade() breaks the law 'shapes': no module can be made, it raises OSError: no such kernel."),
    "Picky": (
        "Picky() breaks the law 'shapes': it takes nothing of all that it was tried with (it takes sound); say what it "
        "takes, check_contract(…, inputs=…)."
    ),
    "Unknown": (
        "too little is known of Unknown.mode to draw it: give it a default, or an annotation or a validator that lists "
        "what it takes; or say valid(Unknown, mode=…)"
    ),
}


@pytest.mark.parametrize("part", WHY)
def test_what_hinders_every_law_fails_once_and_the_others_are_skipped_for_it(hindered, part):
    outcomes = [line.split()[1] for line in hindered.splitlines() if line.startswith(f"parts::{part}::")]
    assert outcomes == ["FAILED"] + ["SKIPPED"] * 8

    failures = hindered.partition("= FAILURES =")[2].partition("= short test summary")[0]
    assert failures.splitlines().count(WHY[part]) == 1
    skipped = [line for line in hindered.splitlines() if line.startswith("SKIPPED [8]")]
    assert sum(line.endswith(f": {WHY[part]} (parts::{part}::shapes fails for that)") for line in skipped) == 1


def test_a_law_that_is_not_tried_is_skipped_and_told_at_the_end(hindered):
    assert [line.split()[1] for line in hindered.splitlines() if line.startswith("parts::Same::")] == [
        *["PASSED"] * 8,
        "SKIPPED",
    ]
    section = hindered.partition(" laws that were not tried ")[2].splitlines()[1]
    assert section == (
        "Same() is not held to the law 'refusals': it refuses nothing of all that it was tried with; say what it "
        "refuses, check_contract(…, inputs=…)."
    )


WRONG = {
    "no such module": (
        "my_package.heads",
        (
            "my_package.heads cannot be imported (got ModuleNotFoundError: No module named 'my_package.heads'); run "
            "pytest where it can be, or set PYTHONPATH"
        ),
    ),
    "no parts": (
        "my_package",
        (
            "my_package has no parts: a class that derives from composer.Encoder, Neck, Decoder or Head, or a module "
            "with process_channel_list"
        ),
    ),
}


@pytest.mark.parametrize(("module", "message"), WRONG.values(), ids=WRONG)
def test_a_module_without_parts_is_an_error(package, module, message):
    done = run(package, "--composer-parts", module)
    assert done.stderr.strip() == f"ERROR: --composer-parts: {message}"
    assert done.returncode == 4


def test_without_the_option_nothing_is_imported(package):
    (package / "test_own.py").write_text(
        "import sys\n\n\ndef test_own():\n    assert not {'torch', 'hypothesis'} & set(sys.modules)\n", encoding="utf-8"
    )
    done = run(package, "-q", "-p", "no:hypothesispytest")
    assert done.returncode == 0, done.stdout
