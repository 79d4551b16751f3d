"""TerraTorch configs that were published: each comes to the recorded spec, or is refused with the recorded reasons.

Translating needs no TerraTorch. The specs are checked, and built without weights, where their libraries are installed.
"""

import pytest

import composer
from composer.terratorch.configs import read_config
from tests.golden import recording

RECORDED = recording.read("terratorch")

SPECS = {stem: entry["spec"] for stem, entry in RECORDED.items() if "spec" in entry}

CHECKED = {stem: entry["check"] for stem, entry in RECORDED.items() if entry.get("check")}
"""One spec needs TerraTorch and mmseg, which no environment has."""

LONG = {
    *("burn_scars.timm", "timm_convnext_in_chans", "timm_convnext_large", "timm_convnext_xlarge"),
    *("c63d421", "c8b8cd2", "ce4c439", "ce95174"),
}
"""Those whose network is found out about in ten seconds or more."""


THINKING = "c02ac43"
"""The one with a backbone that reads numbers while it is made, so that it is built with weights."""


def marked(stem, *marks, slow=LONG):
    return pytest.param(stem, id=stem, marks=[*marks, *([pytest.mark.slow] if stem in slow else ())])


def marked_by_libraries(stem):
    """A config with the marker of each library that checks and builds its spec."""
    text = "\n".join(SPECS[stem])
    marks = [getattr(pytest.mark, source) for source in ("mmseg", "terratorch") if f"{source}/" in text]
    return marked(stem, *marks, slow={*LONG, THINKING})


def test_every_config_is_recorded():
    assert RECORDED.keys() == recording.CONFIGS.keys()
    assert (len(SPECS), len(RECORDED)) == (141, 179)


@pytest.mark.parametrize("stem", [marked(stem) for stem in RECORDED])
def test_is_what_was_recorded(stem):
    recorded = {key: value for key, value in RECORDED[stem].items() if key != "check"}

    assert recording.import_config(stem) == recorded


@pytest.mark.parametrize("stem", [marked_by_libraries(stem) for stem in CHECKED])
def test_is_checked_as_was_recorded(stem):
    assert recording.check_config(stem) == CHECKED[stem]


@pytest.mark.parametrize("stem", [marked_by_libraries(stem) for stem in CHECKED if "error[" not in CHECKED[stem][0]])
def test_is_written_and_built(stem):
    typed = composer.infer(composer.reads("\n".join(SPECS[stem])))

    model = composer.build(typed, pretrained=False, device="cpu" if stem == THINKING else "meta")

    assert typed.graph == read_config(recording.CONFIGS[stem]).graph
    assert {name for name, _ in model.named_children()} == {
        node.name.split(".")[0].split("[")[0] for node in typed.order
    }
