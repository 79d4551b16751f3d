"""check_contract: check a part or a plain neck against the laws."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from inspect import Parameter, signature
from typing import Any

from attrs import field, fields, frozen
from hypothesis import HealthCheck, Phase, Verbosity, assume, given, settings
from hypothesis.errors import FailedHealthCheck, Flaky, Unsatisfiable
from torch import nn

from composer.layouts import Feature, Features
from composer.parts import Part, ProbedEncoder
from composer.parts.base import contract
from composer.parts.rules import Rejection
from composer.testing.failures import ContractUncheckable, ContractViolation, SkippedLawWarning, format_failure
from composer.testing.inputs import ClassifiedInputs, Inputs
from composer.testing.laws import LAWS, REJECTIONS_LAW, Law, check_forced_rejection
from composer.testing.modules import ModuleSubject, is_plain_neck
from composer.testing.runs import MAX_ELEMENTS, compute_min_elements, generate_cases, generate_rejected_cases
from composer.testing.strategies import FieldValues, sample_declarations
from composer.testing.subjects import PartSubject, Subject, classify_inputs

ALL_LAWS = (*LAWS, REJECTIONS_LAW)

DEFAULT_EXAMPLES = 20

MAX_DECLARATIONS = 6
"""Declarations of a class that are checked: the default one, and some with other fields."""

EXAMPLE_INPUTS = "[((Feature(channels=8),),)]"

INPUTS_HINT = "check_contract(…, inputs=…)"


def _convert_laws(names: Iterable[str]) -> tuple[str, ...]:
    if not isinstance(names, Iterable):
        raise TypeError(f"laws and without must be names of laws (got {names!r})")
    laws = (names,) if isinstance(names, str) else tuple(names)
    for name in laws:
        if name not in ALL_LAWS:
            raise ValueError(f"unknown law {name!r}: the laws are {', '.join(ALL_LAWS)}")
    return laws


def _convert_inputs(runs: Iterable[Sequence[Features] | Mapping[str, Features]] | None) -> tuple[Inputs, ...] | None:
    if runs is None:
        return None
    if not isinstance(runs, Iterable):
        raise TypeError(f"inputs must be a list of runs, as in inputs={EXAMPLE_INPUTS} (got {runs!r})")
    inputs = tuple(map(_convert_run, runs))
    if not inputs:
        raise ValueError(f"inputs must hold at least one run, as in inputs={EXAMPLE_INPUTS}")
    return inputs


def _convert_run(run: Sequence[Features] | Mapping[str, Features]) -> Inputs:
    several = run.values() if isinstance(run, Mapping) else run
    if not isinstance(several, Iterable) or not all(map(_are_features, several)):
        raise TypeError(
            f"each run in inputs must hold a tuple of features for each input, as in inputs={EXAMPLE_INPUTS} "
            f"(got {run!r})"
        )
    if isinstance(run, Mapping):
        return Inputs((), tuple((name, tuple(features)) for name, features in run.items()))
    return Inputs(tuple(map(tuple, run)))


def _are_features(thing: object) -> bool:
    return isinstance(thing, list | tuple) and all(isinstance(entry, Feature) for entry in thing)


def _check_count(number: Any) -> int:
    if type(number) is not int or number < 1:
        raise ValueError(f"examples and least must be whole numbers of at least 1 (got {number!r})")
    return number


def _convert_mapping(values: Any) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise TypeError(f"arguments and fields must be mappings of names to values (got {values!r})")
    return dict(values)


@frozen(kw_only=True)
class Options:
    """The options of `check_contract`, validated."""

    inputs: tuple[Inputs, ...] | None = field(default=None, converter=_convert_inputs)
    laws: tuple[str, ...] = field(default=ALL_LAWS, converter=_convert_laws)
    without: tuple[str, ...] = field(default=(), converter=_convert_laws)
    examples: int = field(default=DEFAULT_EXAMPLES, converter=_check_count)
    arguments: dict[str, Any] = field(factory=dict, converter=_convert_mapping)
    least: int = field(default=1, converter=_check_count)
    fields: dict[str, Any] = field(factory=dict, converter=_convert_mapping)

    def __attrs_post_init__(self) -> None:
        if not self.checked_laws:
            raise ValueError("laws minus without must leave at least one law to check")

    @property
    def checked_laws(self) -> tuple[str, ...]:
        """The laws to check."""
        return tuple(law for law in self.laws if law not in self.without)


def parse_options(options: Mapping[str, Any], examples: int) -> Options:
    """Return the options that a module has for a part. Raises TypeError and ValueError for invalid ones."""
    if not isinstance(options, Mapping):
        raise TypeError(f"options must be a mapping (got {options!r})")
    known = [option.name for option in fields(Options)]
    for name in options:
        if name not in known:
            raise TypeError(f"unknown option {name!r}: the options are {', '.join(known)}")
    return Options(**{"examples": examples, **options})


def check_contract(
    part: Part | type[Part] | nn.Module | type[nn.Module],
    *,
    inputs: Iterable[Sequence[Features] | Mapping[str, Features]] | None = None,
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
    that the part accepts, or those in `inputs` (for each run a sequence of inputs, or a mapping by name; each input is
    a tuple of features); sizes square and not, even and odd; batches of one to five. `laws` are names in `ALL_LAWS`;
    those in `without` are left out. An encoder for single images is also checked with frames. Torch's random state is
    kept.

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
        arguments=arguments or {},
        least=least,
        fields=fields or {},
    )
    subjects = collect_subjects(part, options)
    for law in options.checked_laws:
        if reason := check_law(subjects, law, options.examples):
            warnings.warn(reason, SkippedLawWarning, stacklevel=2)


ClassifiedSubjects = tuple[tuple[Subject, ClassifiedInputs], ...]
"""A plain neck, or declarations of a part, each with the inputs that it accepts and rejects."""


def collect_subjects(part: Any, options: Options) -> ClassifiedSubjects:
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
    subjects = (_build_module_subject(part, options),) if is_plain else _build_part_subjects(part, options)
    tried = tuple(
        (subject, classify_inputs(subject, subject.iter_candidates() if options.inputs is None else options.inputs))
        for subject in subjects
    )
    return tuple(one for one in tried if one[1].accepted) or tried[:1]


def _build_part_subjects(part: Part | type[Part], options: Options) -> tuple[Subject, ...]:
    parts = sample_declarations(part, MAX_DECLARATIONS, **options.fields) if isinstance(part, type) else (part,)
    if not isinstance(parts[0], ProbedEncoder) and contract.dispatch(type(parts[0])) is contract.dispatch(object):
        name = type(parts[0]).__name__
        raise ContractUncheckable(f"{name} has no contract. Register one: @composer.contract.register({name})")
    return tuple(map(PartSubject, parts))


def _build_module_subject(neck: nn.Module | type[nn.Module], options: Options) -> Subject:
    """Build the subject. Raises ContractUncheckable if the class does not accept these arguments."""
    subject = ModuleSubject(neck, options.arguments, options.least)
    if not isinstance(neck, type):
        return subject
    parameters = list(signature(neck).parameters.values())[1:]
    missing = [
        parameter.name
        for parameter in parameters
        if parameter.default is Parameter.empty
        and parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        and parameter.name not in options.arguments
    ]
    if missing:
        names = f"arguments {' and '.join(map(repr, missing))} are" if missing[1:] else f"argument {missing[0]!r} is"
        example = {**options.arguments, **dict.fromkeys(missing, 64)}
        value = ", ".join(f'"{name}": {value!r}' for name, value in example.items())
        what = f"cannot construct {neck.__name__}: {names} missing"
        raise ContractUncheckable(what, neck.__name__, "arguments", f"{{{value}}}")
    try:
        signature(neck).bind([8], **options.arguments)
    except TypeError as error:
        raise ContractUncheckable(f"cannot construct {subject.name}: {error}") from None
    return subject


def check_law(subjects: ClassifiedSubjects, law: str, examples: int = DEFAULT_EXAMPLES) -> str:
    """Check subjects against a law. Return why it was skipped for all of them, or an empty string.

    Raises as `check_contract` does.
    """
    check = _check_rejections if law == REJECTIONS_LAW else _check_accepted
    reasons = [check(subject, law, tried, examples) for subject, tried in subjects]
    return reasons[0] if all(reasons) else ""


def _check_accepted(subject: Subject, law: str, tried: ClassifiedInputs, examples: int) -> str:
    def fail(why: str) -> ContractUncheckable:
        return ContractUncheckable(f"cannot check {subject.name}: {why}", subject.name, "inputs", EXAMPLE_INPUTS)

    if not tried.accepted:
        raise fail(f"it accepts none of the inputs that were tried{f' ({tried.reason})' if tried.reason else ''}")
    if law == "shapes" and tried.fault:
        raise ContractViolation(law, format_failure(subject.name, law, tried.fault))
    fewest = compute_min_elements(subject, tried)
    if fewest is None:
        raise fail("no image size fits any input that it accepts")
    most = max(2 * fewest, MAX_ELEMENTS)
    try:
        _run_law(generate_cases(subject, tried, most), LAWS[law], examples)
    except Unsatisfiable:
        raise fail(f"almost every input that it accepts has more than {most:,} numbers") from None
    return ""


def _check_rejections(subject: Subject, law: str, tried: ClassifiedInputs, examples: int) -> str:
    if isinstance(subject, ModuleSubject):
        return ""
    skipped = f"{subject.name}: law '{law}' skipped:"
    if not tried.rejected:
        return f"{skipped} no input that was tried is rejected; pass some that are, {INPUTS_HINT}"
    outcomes = map(subject.infer, tried.rejected)
    if all(isinstance(outcome, Rejection) and outcome.kind == "wrong_output" for outcome in outcomes):
        return f"{skipped} all rejections are of kind 'wrong_output', which cannot be tested here"
    try:
        _run_law(generate_rejected_cases(subject, tried), check_forced_rejection, examples)
    except Unsatisfiable:
        return f"{skipped} rejected inputs have more than {MAX_ELEMENTS:,} numbers; pass smaller ones, {INPUTS_HINT}"
    return ""


def _run_law(cases: Any, law: Law, examples: int) -> None:
    """Run a law on cases of a strategy, and raise its own error for the smallest one that fails."""

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        verbosity=Verbosity.normal,
        backend="hypothesis",
    )
    def check_case(case: Any) -> None:
        assume(case is not None)
        law(case)

    try:
        given(cases)(check_case)()  # type: ignore[no-untyped-call]
    except (ContractViolation, ContractUncheckable) as error:
        vars(error).pop("__notes__", None)  # Hypothesis's; the text has all of it
        raise error.with_traceback(None) from error.__cause__
    except FailedHealthCheck as error:
        raise TypeError(
            "check_contract draws its own runs and cannot be called in a test of @given; check_contract(PartClass) "
            "draws declarations too"
        ) from error
    except Flaky as flaky:
        errors = (error for error in getattr(flaky, "exceptions", ()) if isinstance(error, ContractViolation))
        if (first := next(errors, None)) is None:
            raise
        raise first.with_traceback(None) from None
