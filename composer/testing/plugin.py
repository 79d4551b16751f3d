"""A plugin of pytest: `pytest --composer-parts my_package.necks` tests every part of a module, law by law.

It is loaded with every run of pytest where composer is installed, so that nothing is imported before the option is
used.
"""

from __future__ import annotations

import sys
import traceback
from argparse import ArgumentTypeError
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from composer.testing.checking import ClassifiedSubjects
    from composer.testing.discovery import DiscoveredPart


HELP = "hold every part of this module, or of a package, to the laws of composer.testing; may be given several times"


EXAMPLES_HELP = "how many runs of each part each law sees (default: 40)"


SKIPPED_LAWS = "composer: a law that was not tried"


FIXED_FIELDS = "composer: fields that stood still"


ACCEPTED_INPUTS = "composer: what was taken"


SECTIONS = {
    SKIPPED_LAWS: "laws that were not tried",
    FIXED_FIELDS: "fields that stood still",
    ACCEPTED_INPUTS: "what was taken",
}
"""What is told at the end; what was taken only with `-v`."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two options."""
    group = parser.getgroup("composer")
    group.addoption("--composer-parts", action="append", default=[], metavar="MODULE", help=HELP)
    group.addoption("--composer-examples", type=_parse_examples, default=40, metavar="N", help=EXAMPLES_HELP)


def _parse_examples(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"a whole number of at least 1 is needed (got {text})")
    return int(text)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Put the parts' tests behind all others, before `-k` and `-m` choose among them.

    Modules are also found in the folder in which pytest was called. Raises UsageError for one that cannot be imported,
    or has no parts.
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
    """Say what was not tried: whoever reads no further than `passed` reads that too."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    properties = [one for report in reports for one in getattr(report, "user_properties", ())]
    for key, title in SECTIONS.items():
        told = dict.fromkeys(value for name, value in properties if name == key)
        if told and (key != ACCEPTED_INPUTS or terminalreporter.verbosity > 0):
            terminalreporter.ensure_newline()
            terminalreporter.section(title)
            for line in told:
                terminalreporter.write_line(line)


def _discover_parts(name: str, examples: int) -> dict[str, dict[str, DiscoveredPart]]:
    from composer.testing.discovery import NoPartsError, find_parts

    try:
        return find_parts(name, examples)
    except NoPartsError as error:
        raise pytest.UsageError(f"--composer-parts: {error}") from error


def _get_failure_text(error: Exception) -> str:
    """The text of a failure, with what to write into the module that is tested."""
    return str(getattr(error, "said_to_modules", error))


class _ModuleCollector(pytest.Collector):
    """A module of which the parts are tested."""

    def __init__(self, *, parts: dict[str, DiscoveredPart], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts = parts

    def collect(self) -> Iterator[pytest.Collector]:
        """Its parts, as they are defined."""
        for name, found in self.parts.items():
            yield _PartCollector.from_parent(self, name=name, found=found)


class _PartCollector(pytest.Collector):
    """A part of the module: a class, of which declarations are drawn."""

    def __init__(self, *, found: DiscoveredPart, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.found = found
        self._held: ClassifiedSubjects | None = None
        self.hindered = ""
        """Why no law can be held, once a test has failed for that."""

    def collect(self) -> Iterator[pytest.Item]:
        """A test for each law; of plain necks all but that of refusals, which they do not have."""
        from composer.testing.checking import ALL_LAWS
        from composer.testing.laws import REJECTIONS_LAW
        from composer.testing.modules import is_plain_neck

        for law in ALL_LAWS:
            if law != REJECTIONS_LAW or not is_plain_neck(self.found.part):
                yield _LawItem.from_parent(self, name=law)

    def held(self) -> ClassifiedSubjects:
        """Declarations of the part, each with what it takes and what it refuses; found once for all laws."""
        from composer.testing.checking import collect_subjects

        if self._held is None:
            self._held = collect_subjects(self.found.part, self.found.options)
        return self._held


class _LawItem(pytest.Item):
    """One law, to which every declaration of the part is held."""

    parent: _PartCollector

    def runtest(self) -> None:
        """Raises ContractViolation with the smallest run found.

        What hinders all laws is a failure of the first one: no declaration, no module, a contract or a module that
        raises.
        """
        from composer.testing.checking import check_law
        from composer.testing.failures import ContractUncheckable, ContractViolation
        from composer.testing.strategies import UndrawableError

        options = self.parent.found.options
        if self.name not in options.held:
            pytest.skip("left out by composer_checks")
        if self.parent.hindered:
            pytest.skip(self.parent.hindered)
        try:
            held = self.parent.held()
            self._record_properties(held)
            untried = check_law(held, self.name, options.examples)
        except (ContractViolation, ContractUncheckable, UndrawableError) as error:
            raises = self.name == "shapes" and error.__cause__ is not None
            if raises or not isinstance(error, ContractViolation):
                self.parent.hindered = f"{_get_failure_text(error).splitlines()[0]} ({self.nodeid} fails for that)"
            raise
        if untried:
            self.user_properties.append((SKIPPED_LAWS, untried))
            pytest.skip(untried)

    def _record_properties(self, held: ClassifiedSubjects) -> None:
        from composer.testing.strategies import list_unvaried_fields

        part, options = self.parent.found.part, self.parent.found.options
        taken = [tried.taken for _, tried in held]
        more = f" (and {len(taken) - 1} with other fields)" if len(taken) > 1 else ""
        self.user_properties.append((ACCEPTED_INPUTS, f"{self.parent.nodeid}: {held[0][0].name}{more} {taken[0]}"))
        still = () if "__attrs_attrs__" not in vars(part) else list_unvaried_fields(part, **options.fields)
        if still:
            told = ", ".join(f'"{name}": […]' for name in still)
            say = f'composer_checks = {{{part.__name__}: {{"fields": {{{told}}}}}}}'
            self.user_properties.append((FIXED_FIELDS, f"{self.parent.nodeid}: {', '.join(still)}; say {say}"))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any, **kwargs: Any) -> Any:
        """What was promised and what came, and where it raised; how it came to that is told of anything else.

        With `--tb=long`, all of what was raised.
        """
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
            name = self.parent.found.part.__name__
            lines.append(f"  here that is said by the module: composer_checks = {{{name}: {{…}}}}")
        if cause is not None and self.config.getoption("tbstyle") == "long":
            lines += ["", "".join(traceback.format_exception(cause))]
        return "\n".join(lines)

    def reportinfo(self) -> tuple[str, None, str]:
        """Named after the part and the law."""
        return self.nodeid, None, f"{self.parent.name}::{self.name}"
