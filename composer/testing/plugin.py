"""Pytest plugin: `pytest --composer-parts my_package.necks` checks every part of a module, one test for each law.

Pytest loads it in every run where composer is installed, so nothing else is imported until the option is used.
"""

from __future__ import annotations

import sys
import traceback
from argparse import ArgumentTypeError
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from composer.testing.checking import ClassifiedSubjects
    from composer.testing.discovery import DiscoveredPart

HELP = "check every part of this module or package against the laws of composer.testing; repeatable"

EXAMPLES_HELP = "runs of each part for each law (default: 20)"

SKIPPED_LAWS, FIXED_FIELDS, ACCEPTED_INPUTS = "skipped laws", "fields never varied", "accepted inputs"
"""Sections at the end of a run; the last one needs `-v`."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two options."""
    group = parser.getgroup("composer")
    group.addoption("--composer-parts", action="append", default=[], metavar="MODULE", help=HELP)
    group.addoption("--composer-examples", type=_parse_examples, default=20, metavar="N", help=EXAMPLES_HELP)


def _parse_examples(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"a whole number of at least 1 is needed (got {text})")
    return int(text)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Append the tests of the parts, before `-k` and `-m` select tests.

    Modules in the current folder are found too. Raises UsageError for a module that cannot be imported or has no parts.
    """
    names = session.config.getoption("--composer-parts")
    here = str(session.config.invocation_params.dir)
    if names and here not in sys.path:
        sys.path.insert(0, here)
    found: dict[str, dict[str, DiscoveredPart]] = {}
    for name in names:
        for module, parts in _discover_parts(name, session.config.getoption("--composer-examples")).items():
            found.setdefault(module, parts)
    for module, parts in found.items():
        items.extend(session.genitems(_ModuleCollector.from_parent(session, name=module, nodeid=module, parts=parts)))


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


def _discover_parts(name: str, examples: int) -> dict[str, dict[str, DiscoveredPart]]:
    from composer.testing.discovery import NoPartsError, find_parts

    try:
        return find_parts(name, examples)
    except NoPartsError as error:
        raise pytest.UsageError(f"--composer-parts: {error}") from error


def _get_failure_text(error: Exception) -> str:
    return str(getattr(error, "text_for_modules", error))


def _format_field_hint(name: str, fields: Iterable[str]) -> str:
    values = ", ".join(f'"{field}": […]' for field in fields)
    return f'Add to your module: composer_checks = {{{name}: {{"fields": {{{values}}}}}}}'


class _ModuleCollector(pytest.Collector):
    """A module with parts."""

    def __init__(self, *, parts: dict[str, DiscoveredPart], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts = parts

    def collect(self) -> Iterator[pytest.Collector]:
        """Yield its parts, in order of definition."""
        for name, found in self.parts.items():
            yield _PartCollector.from_parent(self, name=name, found=found)


class _PartCollector(pytest.Collector):
    """A part of a module: a class, of which declarations are drawn."""

    def __init__(self, *, found: DiscoveredPart, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.found = found
        self.blocker = ""
        """Why no law can be checked, once a test has failed for it."""
        self._subjects: ClassifiedSubjects | None = None

    def collect(self) -> Iterator[pytest.Item]:
        """Yield a test for each law; plain necks reject nothing, so they have no law of refusals."""
        from composer.testing.checking import ALL_LAWS
        from composer.testing.laws import REJECTIONS_LAW
        from composer.testing.modules import is_plain_neck

        for law in ALL_LAWS:
            if law != REJECTIONS_LAW or not is_plain_neck(self.found.part):
                yield _LawItem.from_parent(self, name=law)

    def get_subjects(self) -> ClassifiedSubjects:
        """Return declarations of the part with their inputs; they are collected once for all laws."""
        from composer.testing.checking import collect_subjects

        if self._subjects is None:
            self._subjects = collect_subjects(self.found.part, self.found.options)
        return self._subjects


class _LawItem(pytest.Item):
    """One law, for every declaration of a part."""

    parent: _PartCollector

    def runtest(self) -> None:
        """Check the law. Raises ContractViolation with the smallest failing run.

        An error that affects all laws (no declaration, no module, a contract or a module that raises) fails the first
        one, and the others are skipped.
        """
        from composer.testing.checking import check_law
        from composer.testing.failures import ContractUncheckable, ContractViolation
        from composer.testing.strategies import UndrawableError

        options = self.parent.found.options
        if self.name not in options.checked_laws:
            pytest.skip("left out by composer_checks")
        if self.parent.blocker:
            pytest.skip(self.parent.blocker)
        try:
            subjects = self.parent.get_subjects()
            self._record_properties(subjects)
            reason = check_law(subjects, self.name, options.examples)
        except (ContractViolation, ContractUncheckable, UndrawableError) as error:
            raises = self.name == "shapes" and error.__cause__ is not None
            if raises or not isinstance(error, ContractViolation):
                self.parent.blocker = f"{_get_failure_text(error).splitlines()[0]} (see {self.nodeid})"
            raise
        if reason:
            self.user_properties.append((f"composer: {SKIPPED_LAWS}", reason))
            pytest.skip(reason)

    def _record_properties(self, subjects: ClassifiedSubjects) -> None:
        from composer.testing.strategies import list_unvaried_fields

        part, options, node = self.parent.found.part, self.parent.found.options, self.parent.nodeid
        subject, tried = subjects[0]
        more = f" (and {len(subjects) - 1} with other fields)" if len(subjects) > 1 else ""
        self.user_properties.append((f"composer: {ACCEPTED_INPUTS}", f"{node}: {subject.name}{more} {tried.summary}"))
        fixed = () if "__attrs_attrs__" not in vars(part) else list_unvaried_fields(part, **options.fields)
        if fixed:
            hint = _format_field_hint(part.__name__, fixed)
            self.user_properties.append((f"composer: {FIXED_FIELDS}", f"{node}: {', '.join(fixed)}. {hint}"))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any, **kwargs: Any) -> Any:
        """Return the message of a violation and where it was raised; with `--tb=long`, the traceback of its cause."""
        from composer.testing.failures import ContractUncheckable, ContractViolation, locate_error
        from composer.testing.strategies import UndrawableError

        error = excinfo.value
        if not isinstance(error, ContractViolation | ContractUncheckable | UndrawableError):
            return super().repr_failure(excinfo, *args, **kwargs)
        lines = [_get_failure_text(error)]
        cause = error.__cause__
        if cause is not None and locate_error(cause):
            lines.append(f"  at   {locate_error(cause)}")
        if isinstance(error, UndrawableError):
            lines.append(f"  {_format_field_hint(self.parent.found.part.__name__, ['…'])}")
        if cause is not None and self.config.getoption("tbstyle") == "long":
            lines += ["", "".join(traceback.format_exception(cause))]
        return "\n".join(lines)

    def reportinfo(self) -> tuple[str, None, str]:
        """Return the name of the part and the law."""
        return self.nodeid, None, f"{self.parent.name}::{self.name}"
