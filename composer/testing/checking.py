"""check_contract: check a part or a plain neck against the laws."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from attrs import field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.errors import FailedHealthCheck
from torch import nn

from composer.layouts import Feature, Features, WholeNumber
from composer.parts import Part, ProbedEncoder
from composer.parts.base import contract
from composer.testing.drawing import Subject, build_subject, generate_forced_runs, generate_runs
from composer.testing.failures import ContractUncheckable, ContractViolation, LawError, SkippedLawWarning
from composer.testing.inputs import Inputs
from composer.testing.laws import LAWS, REJECTIONS_LAW, check_forced_rejection
from composer.testing.modules import PlainNeck, is_plain_neck
from composer.testing.runs import Run
from composer.testing.strategies import REPEATABLE, FieldValues, sample_declarations

ALL_LAWS = (*LAWS, REJECTIONS_LAW)

DEFAULT_EXAMPLES = 20

MAX_DECLARATIONS = 6
"""Declarations of a class that are checked: the default one, and some with other fields."""

EXAMPLE_INPUTS = "inputs=[((Feature(channels=8),),)]"

InputsByRun = Iterable[Sequence[Features] | Mapping[str, Features]]
"""For each run a sequence of inputs, or a mapping by name; each input is a tuple of features."""


def _convert_laws(names: Any) -> tuple[str, ...]:
    laws = (names,) if isinstance(names, str) else tuple(names)
    for name in laws:
        if name not in ALL_LAWS:
            raise ValueError(f"unknown law {name!r}: the laws are {', '.join(ALL_LAWS)}")
    return laws


def _convert_inputs(runs: InputsByRun | None) -> tuple[Inputs, ...] | None:
    if runs is None:
        return None
    inputs = tuple(map(_convert_run, runs))
    if not inputs:
        raise ValueError(f"inputs must hold at least one run, as in {EXAMPLE_INPUTS}")
    return inputs


def _convert_run(run: Any) -> Inputs:
    named = run if isinstance(run, Mapping) else {}
    several = list(run.values() if named else run)
    if not all(isinstance(features, list | tuple) and set(map(type, features)) == {Feature} for features in several):
        raise TypeError(
            f"each run in inputs must hold a tuple of features for each input, as in {EXAMPLE_INPUTS} (got {run!r})"
        )
    features = tuple(map(tuple, several))
    return Inputs((), tuple(zip(named, features, strict=True))) if named else Inputs(features)


def _convert_mapping(values: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict(values or {})


@frozen(kw_only=True)
class Options:
    """The options of `check_contract`, validated. Raises TypeError and ValueError for invalid ones."""

    inputs: tuple[Inputs, ...] | None = field(default=None, converter=_convert_inputs)
    laws: tuple[str, ...] = field(default=ALL_LAWS, converter=_convert_laws)
    without: tuple[str, ...] = field(default=(), converter=_convert_laws)
    examples: int = field(default=DEFAULT_EXAMPLES, validator=WholeNumber())
    arguments: dict[str, Any] = field(factory=dict, converter=_convert_mapping)
    least: int = field(default=1, validator=WholeNumber())
    fields: dict[str, Any] = field(factory=dict, converter=_convert_mapping)

    def __attrs_post_init__(self) -> None:
        if not self.checked_laws:
            raise ValueError("laws minus without must leave at least one law to check")

    @property
    def checked_laws(self) -> tuple[str, ...]:
        """The laws to check."""
        return tuple(law for law in self.laws if law not in self.without)


def check_contract(
    part: Part | type[Part] | nn.Module | type[nn.Module],
    *,
    inputs: InputsByRun | None = None,
    laws: Iterable[str] = ALL_LAWS,
    without: Iterable[str] = (),
    examples: int = DEFAULT_EXAMPLES,
    arguments: Mapping[str, Any] | None = None,
    least: int = 1,
    fields: Mapping[str, FieldValues] | None = None,
) -> None:
    """Check a part against the laws: what its contract promises against what its module returns.

    `part` is a declaration; the class of one, of which a few declarations are drawn, as `valid` does, with `fields`;
    or a plain neck in TerraTorch's style, a module or its class, with `process_channel_list`. `arguments` are those of
    its class after the channels, and `least` is the smallest number of cells a side of its inputs.

        check_contract(Doubler)  # a few of its declarations
        check_contract(Resize, fields={"mode": ["nearest", "bilinear"]})
        check_contract(TopTokens(count=4), inputs=[((Feature(channels=8, stride=16, axes="b n c"),),)])
        check_contract(PlainNeck, arguments={"out_channels": 8}, without=["precision"])

    Each law checks `examples` runs, the same every time: all layouts, pyramids, widths, prefixes, frames and roundings
    that the part accepts, or those in `inputs`; sizes square and not, even and odd; batches of one to five. `laws` are
    names in `ALL_LAWS`; those in `without` are left out. Torch's random state is kept.

    Raises ContractViolation for the first law that is broken, with the smallest failing run; ContractUncheckable if the
    part accepts no inputs, its contract raises, or its module cannot be built; UndrawableError if no values of a field
    are known; ValueError and TypeError for invalid options, and TypeError within a test of `@given`. Warns with
    SkippedLawWarning if there are no rejections to check.
    """
    options = Options(
        inputs=inputs,
        laws=laws,
        without=without,
        examples=examples,
        arguments=arguments,
        least=least,
        fields=fields,
    )
    subjects = collect_subjects(part, options)
    for law in options.checked_laws:
        if reason := check_law(subjects, law, options.examples):
            warnings.warn(reason, SkippedLawWarning, stacklevel=2)


def collect_subjects(part: Any, options: Options) -> tuple[Subject, ...]:
    """Return the declarations to check, or the plain neck, with their inputs.

    Declarations that accept nothing are left out if others accept something. Raises TypeError for something that is
    not a part, and for options of another kind of part.
    """
    is_class, is_plain = isinstance(part, type), is_plain_neck(part)
    is_part = issubclass(part, Part) if isinstance(part, type) else isinstance(part, Part)
    if not is_part and not is_plain:
        raise TypeError(f"part must be a declaration, its class, or a neck with process_channel_list (got {part!r})")
    if options.fields and not (is_part and is_class):
        raise TypeError(f"option 'fields' needs the class of a declaration (got {part!r})")
    if options.arguments and not (is_plain and is_class):
        raise TypeError(f"option 'arguments' needs the class of a plain neck (got {part!r})")
    if options.least > 1 and not is_plain:
        raise TypeError(f"option 'least' needs a plain neck; in a contract, return Outputs(sizes=…) (got {part!r})")
    if is_plain:
        parts: Sequence[Part] = [PlainNeck(part, options.arguments, options.least)]
    else:
        parts = sample_declarations(part, MAX_DECLARATIONS, **options.fields) if is_class else [part]
    if not isinstance(parts[0], ProbedEncoder) and contract.dispatch(type(parts[0])) is contract.dispatch(object):
        name = type(parts[0]).__name__
        raise ContractUncheckable(f"{name} has no contract. Register one: @composer.contract.register({name})")
    subjects = [build_subject(one, options.inputs) for one in parts]
    return tuple(subject for subject in subjects if subject.accepted) or tuple(subjects[:1])


def check_law(subjects: Sequence[Subject], law: str, examples: int = DEFAULT_EXAMPLES) -> str:
    """Check subjects against a law. Return why it was skipped for all of them, or an empty string.

    Raises as `check_contract` does.
    """
    for subject in subjects:
        if law != REJECTIONS_LAW and not subject.accepted:
            what = f"it accepts none of the inputs that were tried ({subject.reason})"
            raise ContractUncheckable(f"cannot check {subject.part!r}: {what}; pass others, as in {EXAMPLE_INPUTS}")
    is_checked = False
    for subject in subjects:
        if law != REJECTIONS_LAW:
            _check_runs(generate_runs(subject), law, examples)
        elif subject.rejected:
            _check_runs(generate_forced_runs(subject), law, examples)
        is_checked |= law != REJECTIONS_LAW or bool(subject.rejected) or isinstance(subject.part, PlainNeck)
    what = "no input that was tried is rejected as 'raises' or 'policy'; pass some that are, with the option inputs"
    return "" if is_checked else f"{subjects[0].part!r}: law '{law}' skipped: {what}"


def _check_runs(runs: st.SearchStrategy[Run], law: str, examples: int) -> None:
    """Check a law on runs of a strategy. Raises ContractViolation for the smallest one that breaks it."""
    check = check_forced_rejection if law == REJECTIONS_LAW else LAWS[law]

    def check_run(run: Run) -> None:
        try:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                check(run)
        except LawError as error:
            text = f"{run.part!r} breaks the law '{law}': {error}.\n  input  {run}"
            raise ContractViolation(law, f"{text}\n{error.table}".rstrip()) from error.__cause__

    try:
        settings(REPEATABLE, max_examples=examples)(given(runs)(check_run))()
    except (ContractViolation, ContractUncheckable) as error:
        vars(error).pop("__notes__", None)  # Hypothesis's; the text has all of it
        raise error.with_traceback(None) from error.__cause__
    except FailedHealthCheck as error:
        raise TypeError(
            "check_contract draws its own runs and cannot be called in a test of @given; check_contract(PartClass) "
            "draws declarations too"
        ) from error
