"""A plugin of pytest: `pytest --composer-parts my_package.necks` tests every part of a module, law by law.

It is loaded with every run of pytest where composer is installed, so that nothing is imported before the option is
used.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from composer.testing.inputs import Tried
    from composer.testing.subjects import Subject

HELP = "hold every part of this module to the laws of composer.testing; may be given several times"
EXAMPLES_HELP = "how many runs of each part each law sees (default: 40)"

UNTRIED = "composer: a law that was not tried"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two options."""
    group = parser.getgroup("composer")
    group.addoption("--composer-parts", action="append", default=[], metavar="MODULE", help=HELP)
    group.addoption("--composer-examples", type=int, default=40, metavar="N", help=EXAMPLES_HELP)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Put the parts' tests behind all others, before `-k` and `-m` choose among them.

    Modules are also found in the folder in which pytest was called. Raises UsageError for one that cannot be imported,
    or has no parts.
    """
    here = str(session.config.invocation_params.dir)
    if session.config.getoption("--composer-parts") and here not in sys.path:
        sys.path.insert(0, here)
    for name in session.config.getoption("--composer-parts"):
        items.extend(session.genitems(_Module.from_parent(session, name=name, nodeid=name, parts=_parts(name))))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say of which parts nothing was found to try a law with: whoever reads no further than `passed` reads that too."""
    skipped = terminalreporter.stats.get("skipped", ())
    untried = [told for report in skipped for name, told in report.user_properties if name == UNTRIED]
    if untried:
        terminalreporter.section("laws that were not tried")
        for told in untried:
            terminalreporter.write_line(told)


def _parts(name: str) -> dict[str, type[Any]]:
    from composer.testing.finding import NoPartsError, parts_in

    try:
        return dict(parts_in(name))
    except NoPartsError as error:
        raise pytest.UsageError(f"--composer-parts: {error}") from error


class _Module(pytest.Collector):
    """A module of which the parts are tested."""

    def __init__(self, *, parts: dict[str, type[Any]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts = parts

    def collect(self) -> Iterator[pytest.Collector]:
        """Its parts, as they are defined."""
        for name, part in self.parts.items():
            yield _Part.from_parent(self, name=name, part=part)


class _Part(pytest.Collector):
    """A part of the module: a class, of which declarations are drawn."""

    def __init__(self, *, part: type[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.part = part
        self._tried: tuple[tuple[Subject, Tried], ...] | None = None
        self.hindered = ""
        """Why no law can be held, once a test has failed for that."""

    def collect(self) -> Iterator[pytest.Item]:
        """A test for each law; of plain necks all but that of refusals, which they do not have."""
        from composer.testing.checking import ALL_LAWS
        from composer.testing.laws import REFUSALS
        from composer.testing.plain import is_plain

        for law in ALL_LAWS:
            if law != REFUSALS or not is_plain(self.part):
                yield _Law.from_parent(self, name=law)

    def tried(self) -> tuple[tuple[Subject, Tried], ...]:
        """Declarations of the part, each with what it takes and what it refuses; found once for all laws."""
        from composer.testing.checking import subjects_of

        if self._tried is None:
            self._tried = subjects_of(self.part)
        return self._tried


class _Law(pytest.Item):
    """One law, to which every declaration of the part is held."""

    parent: _Part

    def runtest(self) -> None:
        """Raises ContractBroken with the smallest run found. What hinders all laws is a failure of the first one."""
        from composer.testing.broken import CannotBeHeld
        from composer.testing.fields import UndrawableError

        if self.parent.hindered:
            pytest.skip(self.parent.hindered)
        try:
            untried = self._untried()
        except (CannotBeHeld, UndrawableError) as error:
            self.parent.hindered = f"{str(error).splitlines()[0]} ({self.nodeid} fails for that)"
            raise
        if untried:
            self.user_properties.append((UNTRIED, untried))
            pytest.skip(untried)

    def _untried(self) -> str:
        """Hold the part's declarations to the law. Gives why none of them was tried, or nothing where some were."""
        from composer.testing.checking import check_law, check_taken

        examples = self.config.getoption("--composer-examples")
        reasons = []
        for subject, tried in self.parent.tried():
            check_taken(subject, self.name, tried)
            reasons.append(check_law(subject, self.name, tried, examples))
        return reasons[0] if all(reasons) else ""

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any, **kwargs: Any) -> Any:
        """What was promised and what came; how it came to that is in the traceback of anything else."""
        from composer.testing.broken import ContractBroken
        from composer.testing.fields import UndrawableError

        if isinstance(excinfo.value, ContractBroken | UndrawableError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, *args, **kwargs)

    def reportinfo(self) -> tuple[str, None, str]:
        """Named after the part and the law."""
        return self.nodeid, None, f"{self.parent.name}::{self.name}"
