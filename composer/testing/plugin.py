"""Pytest plugin: `pytest --composer-parts my_package.necks` checks every part of a module, one test for each law.

Pytest loads it in every run where composer is installed, so nothing else is imported until the option is used.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from composer.testing.checking import ContractCheck

SKIPPED_LAWS, FIXED_FIELDS, ACCEPTED_INPUTS = "skipped laws", "fields never varied", "accepted inputs"
"""Sections at the end of a run; the last one needs `-v`."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two options."""
    group = parser.getgroup("composer")
    parts_help = "check every part of this module or package against the laws of composer.testing; repeatable"
    group.addoption("--composer-parts", action="append", default=[], metavar="MODULE", help=parts_help)
    examples_help = "runs of each part for each law (default: 16)"
    group.addoption("--composer-examples", type=int, default=16, metavar="N", help=examples_help)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Append the tests of the parts, before `-k` and `-m` select tests.

    Modules in the current folder are found too. Raises UsageError for a module that cannot be imported or has no parts.
    """
    names = session.config.getoption("--composer-parts")
    if not names:
        return
    from composer.testing.checking import find_parts

    here = str(session.config.invocation_params.dir)
    if here not in sys.path:
        sys.path.insert(0, here)
    found: dict[str, ContractCheck] = {}
    try:
        for name in names:
            found |= find_parts(name, session.config.getoption("--composer-examples"))
    except ValueError as error:
        raise pytest.UsageError(f"--composer-parts: {error}") from error
    for nodeid, check in found.items():
        name = nodeid.rpartition("::")[2]
        items.extend(session.genitems(_PartCollector.from_parent(session, name=name, nodeid=nodeid, check=check)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was not checked, and with `-v` the accepted inputs."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    properties = [entry for report in reports for entry in getattr(report, "user_properties", ())]
    for title in (SKIPPED_LAWS, FIXED_FIELDS, ACCEPTED_INPUTS):
        lines = dict.fromkeys(value for key, value in properties if key == f"composer: {title}")
        if lines and (title != ACCEPTED_INPUTS or terminalreporter.verbosity > 0):
            terminalreporter.ensure_newline()
            terminalreporter.section(title)
            for line in lines:
                terminalreporter.write_line(line)


class _PartCollector(pytest.Collector):
    """A part of a module: a class, of which declarations are drawn."""

    def __init__(self, *, check: ContractCheck, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.check = check
        self.blocker = ""
        """Why no law can be checked, once a test has failed for it."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield a test for each law that is checked."""
        for law in self.check.checked_laws:
            yield _LawItem.from_parent(self, name=law)


class _LawItem(pytest.Item):
    """One law, for every declaration of a part."""

    parent: _PartCollector

    def runtest(self) -> None:
        """Check the law. Raises ContractViolation with the smallest failing run.

        An error that affects all laws (no declaration, no module, a contract or a module that raises) fails the first
        one, and the others are skipped.
        """
        from composer.testing.failures import ContractUncheckable, ContractViolation

        check = self.parent.check
        if self.parent.blocker:
            pytest.skip(self.parent.blocker)
        try:
            self._record(ACCEPTED_INPUTS, check.describe_inputs())
            if fixed := check.list_fixed_fields():
                self._record(FIXED_FIELDS, f"{', '.join(fixed)}; pass values with the option fields")
            reason = check.check_law(self.name)
        except (ContractViolation, ContractUncheckable) as error:
            raises = self.name == "shapes" and error.__cause__ is not None
            if raises or isinstance(error, ContractUncheckable):
                self.parent.blocker = f"{str(error).splitlines()[0]} (see {self.nodeid})"
            raise
        if reason:
            self._record(SKIPPED_LAWS, reason)
            pytest.skip(reason)

    def _record(self, section: str, line: str) -> None:
        self.user_properties.append((f"composer: {section}", f"{self.parent.nodeid}: {line}"))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any, **kwargs: Any) -> Any:
        """Return the message of a violation and where it was raised; with `--tb=long`, the traceback of its cause."""
        from composer.testing.failures import ContractUncheckable, ContractViolation, locate_error

        error = excinfo.value
        if not isinstance(error, ContractViolation | ContractUncheckable):
            return super().repr_failure(excinfo, *args, **kwargs)
        lines = [str(error)]
        if error.__cause__ is not None and (place := locate_error(error.__cause__)):
            lines.append(f"  at        {place}")
        if error.__cause__ is not None and self.config.getoption("tbstyle") == "long":
            lines += ["", "".join(traceback.format_exception(error.__cause__))]
        return "\n".join(lines)

    def reportinfo(self) -> tuple[str, None, str]:
        """Return the name of the part and the law."""
        return self.nodeid, None, f"{self.parent.name}::{self.name}"
