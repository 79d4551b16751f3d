"""The parts of a module and of a package, and what is told of them; what hides a part, or is none, is an error."""

from __future__ import annotations

import sys

import pytest

from composer.testing.checking import ALL_LAWS, find_parts

SOME = "import attrs, composer\n\n\n@attrs.frozen\nclass Some(composer.Neck):\n    width: int = 4\n\n\n"
FILES = {
    "__init__": "",
    "some": SOME,
    "empty": "",
    "lacking": "import math\nimport nowhere\n",
    "typo": "a b\n",
    "forgotten": "import composer\n\n\nclass NotFrozen(composer.Neck):\n    width: int = 4\n",
    "lost": f"{SOME}class Wider(Some):\n    width: int = 8\n",
    "option": f'{SOME}composer_checks = {{Some: {{"withot": []}}}}\n',
}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes files of a package, which can then be imported, and is forgotten afterwards."""

    def write(files):
        for name, text in files.items():
            file = tmp_path / "my_package" / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")

    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield write
    for name in set(sys.modules) - before:
        if name.startswith("my_package"):
            del sys.modules[name]


UNFROZEN = "is a part, but not an attrs class: decorate it with @attrs.frozen, or begin its name with an underscore"
WRONG = {
    "heads": (
        "cannot import my_package.heads (got ModuleNotFoundError: No module named 'my_package.heads'); run pytest in "
        "its folder, or set PYTHONPATH"
    ),
    "empty": (
        "my_package.empty has no parts: it needs a class derived from composer.Encoder, Neck, Decoder or Head, or a "
        "module with process_channel_list"
    ),
    "lacking": (
        "cannot import my_package.lacking (got ModuleNotFoundError: No module named 'nowhere')\n"
        "  at   my_package/lacking.py:2, in <module>"
    ),
    "typo": (
        "cannot import my_package.typo (got SyntaxError: invalid syntax (typo.py, line 1))\n  at   my_package.typo"
    ),
    "forgotten": f"my_package.forgotten.NotFrozen {UNFROZEN}",
    "lost": f"my_package.lost.Wider {UNFROZEN}",
    "option": (
        "composer_checks of my_package.option::Some: ContractCheck.__init__() got an unexpected keyword argument "
        "'withot'"
    ),
}


@pytest.mark.parametrize(("module", "message"), WRONG.items(), ids=WRONG)
def test_what_hides_a_part_is_an_error(written, module, message):
    written(FILES)
    with pytest.raises(ValueError, match="my_package") as caught:
        find_parts(f"my_package.{module}")
    assert str(caught.value) == message


PACKAGE = {
    "__init__": "from ._kept import Kept\n\nAgain = Kept\n",
    "_kept": f"{SOME.replace('Some', 'Kept')}composer_checks = {{Kept: {{'without': 'precision'}}}}\n",
    "more/__init__": "from .bases import Some\n",
    "more/deep": SOME.replace("Some", "Deep"),
    "more/bases": "import composer\nclass Base(composer.Neck): ...\n" + SOME.replace("composer.Neck", "Base"),
    "more/tests/__init__": "",
    "more/tests/parts": SOME.replace("Some", "Tested"),
    "test_it": "raise ImportError\n",
    "conftest": "raise ImportError\n",
    "__main__": "raise SystemExit(3)\n",
}


def test_a_package_is_looked_through_and_each_part_found_once(written):
    written(PACKAGE)
    found = find_parts("my_package", 7)
    kept, _, deep = found.values()

    assert list(found) == ["my_package::Kept", "my_package.more::Some", "my_package.more.deep::Deep"]
    assert (deep.checked_laws, deep.examples) == (ALL_LAWS, 7)
    assert kept.checked_laws == tuple(law for law in ALL_LAWS if law != "precision")


def test_a_module_has_the_word_about_the_parts_that_it_brings(written):
    told = "from ._kept import Kept\n\ncomposer_checks = {Kept: {'laws': ['shapes'], 'examples': 3}}\n"
    written({**PACKAGE, "__init__": told})
    check = find_parts("my_package", 7)["my_package::Kept"]

    assert (check.checked_laws, check.examples) == (("shapes",), 3)
