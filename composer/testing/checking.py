"""check_contract: hold a part or a plain neck to every law."""

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
from composer.testing.laws import LAWS, REJECTIONS_LAW, Law, check_forced_rejection
from composer.testing.modules import ModuleSubject, classify_inputs, is_plain_neck
from composer.testing.runs import MAX_ELEMENTS, compute_min_elements, generate_cases, generate_rejected_cases
from composer.testing.strategies import FieldValues, sample_declarations
from composer.testing.subjects import ClassifiedInputs, Inputs, PartSubject, Subject

DEFAULT_EXAMPLES = 40


ALL_LAWS = (*LAWS, REJECTIONS_LAW)


EXAMPLE_INPUTS = "[((Feature(channels=8),),)]"


INPUTS_EXAMPLE = f"inputs={EXAMPLE_INPUTS}"


def _convert_laws(names: Iterable[str]) -> tuple[str, ...]:
    if not isinstance(names, Iterable):
        raise TypeError(f"laws and without must be names of laws (got {names!r})")
    told = (names,) if isinstance(names, str) else tuple(names)
    for name in told:
        if name not in ALL_LAWS:
            raise ValueError(f"there is no law {name!r}: the laws are {', '.join(ALL_LAWS)}")
    return told


def _convert_inputs(runs: Iterable[Sequence[Features] | Mapping[str, Features]] | None) -> tuple[Inputs, ...] | None:
    if runs is None:
        return None
    if not isinstance(runs, Iterable):
        raise TypeError(
            f"inputs must hold what the part is fed, a run after the other, as in {INPUTS_EXAMPLE} (got {runs!r})"
        )
    told = tuple(map(_convert_run, runs))
    if not told:
        raise ValueError(f"inputs must hold what the part is fed in one run at least, as in {INPUTS_EXAMPLE}")
    return told


def _convert_run(given: Sequence[Features] | Mapping[str, Features]) -> Inputs:
    several = given.values() if isinstance(given, Mapping) else given
    if not isinstance(several, Iterable) or not all(map(_are_features, several)):
        raise TypeError(
            f"each of inputs must hold tuples of features, one for each input, as in {INPUTS_EXAMPLE} (got {given!r})"
        )
    if isinstance(given, Mapping):
        return Inputs((), tuple((name, tuple(features)) for name, features in given.items()))
    return Inputs(tuple(map(tuple, given)))


def _are_features(thing: object) -> bool:
    return isinstance(thing, list | tuple) and all(isinstance(one, Feature) for one in thing)


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
    """What a part is fed, which laws it is held to, in how many runs, and how it is made. See `check_contract`."""

    inputs: tuple[Inputs, ...] | None = field(default=None, converter=_convert_inputs)
    laws: tuple[str, ...] = field(default=ALL_LAWS, converter=_convert_laws)
    without: tuple[str, ...] = field(default=(), converter=_convert_laws)
    examples: int = field(default=DEFAULT_EXAMPLES, converter=_check_count)
    arguments: dict[str, Any] = field(factory=dict, converter=_convert_mapping)
    least: int = field(default=1, converter=_check_count)
    fields: dict[str, Any] = field(factory=dict, converter=_convert_mapping)

    def __attrs_post_init__(self) -> None:
        if not self.held:
            raise ValueError("laws, less those in without, must leave one law to hold the part to")

    @property
    def held(self) -> tuple[str, ...]:
        """The laws that the part is held to."""
        return tuple(law for law in self.laws if law not in self.without)


def parse_options(options: Mapping[str, Any], examples: int) -> Options:
    """Options as a module tells them. Raises TypeError and ValueError for what is none, with a sentence."""
    if not isinstance(options, Mapping):
        raise TypeError(f"a mapping of options is wanted (got {options!r})")
    known = [one.name for one in fields(Options)]
    for name in options:
        if name not in known:
            raise TypeError(f"there is no option {name!r}: the options are {', '.join(known)}")
    return Options(**{"examples": examples, **options})


MAX_DECLARATIONS = 6
"""How many declarations of a part are held to each law: the plainest, and some with other fields."""


INPUTS_HINT = "check_contract(…, inputs=…)"


ClassifiedSubjects = tuple[tuple[Subject, ClassifiedInputs], ...]
"""A plain neck, or declarations of a part, each with what it takes and what it refuses."""


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
    """Hold a part to the laws: its contract's promises against its module's forward passes.

    The part is a declaration; or the class of one, of which a few declarations are drawn, as `valid` draws them, by
    `fields`; or a plain neck in TerraTorch's style, the class or the module, that says in `process_channel_list` how
    many channels it gives. `arguments` are then those of its class beside the channels, and `least` is how many cells a
    side of what it is fed has at least.

        check_contract(Doubler)  # a few of its declarations
        check_contract(Resize, fields={"mode": ["nearest", "bilinear"]})
        check_contract(TopTokens(count=4), inputs=[((Feature(channels=8, stride=16, axes="b n c"),),)])
        check_contract(PlainNeck, arguments={"out_channels": 8}, without=["precision"])

    Each law sees `examples` runs: over all layouts, pyramids, widths, prefixes, frames and roundings that the part
    takes (or over `inputs`: for each run a sequence of inputs, or a mapping of those by name; each input a tuple of
    features), sizes square and not, odd ones, batches of one to five. The runs are the same every time. `laws` are
    names in `LAWS`, or "refusals"; those in `without` are left out. A part whose contract takes inputs by name is fed
    them by name, two where any name will do; an encoder of stills is fed frames too, which it runs on one by one, as in
    a model.

    Raises ContractViolation for the first law that is broken, with the smallest run found that breaks it; ContractUncheckable
    where the part cannot be checked: it accepts nothing of all that it was tried with, its contract raises, or its
    module cannot be built. Warns with SkippedLawWarning where nothing is known of its refusals. Raises ValueError for a
    law that there is not, for no law at all, for no inputs, and for `examples` and `least` below 1; UndrawableError for
    fields of a class that cannot be drawn; and TypeError for what is no part, for options that do not fit it, and in a
    test of `@given`.
    Torch's random state is left as it was.
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
    held = collect_subjects(part, options)
    for law in options.held:
        if untried := check_law(held, law, options.examples):
            warnings.warn(untried, SkippedLawWarning, stacklevel=2)


def collect_subjects(part: Any, options: Options) -> ClassifiedSubjects:
    """What of a part is held to the laws, each with what it takes: a plain neck, a declaration, or a few of a class.

    Declarations that take nothing are left out where others take something. Raises TypeError for what is no part, and
    for options that do not fit it.
    """
    is_class = isinstance(part, type) and issubclass(part, Part)
    if not (is_class or isinstance(part, Part) or is_plain_neck(part)):
        wanted = "a declaration or its class, or a plain neck, which has process_channel_list"
        raise TypeError(f"a part is wanted: {wanted} (got {part!r})")
    if options.fields and not is_class:
        raise TypeError(f"fields are drawn for the class of a part (got {part!r})")
    if options.arguments and not (isinstance(part, type) and is_plain_neck(part)):
        raise TypeError(f"arguments are those of the class of a plain neck (got {part!r})")
    if options.least > 1 and not is_plain_neck(part):
        raise TypeError(f"least is said of plain necks; a contract says it, Promise(sizes=…) (got {part!r})")
    tried = tuple(
        (subject, classify_inputs(subject, subject.iter_candidates() if options.inputs is None else options.inputs))
        for subject in _build_subjects(part, options)
    )
    return tuple(one for one in tried if one[1].accepted) or tried[:1]


def _build_subjects(part: Any, options: Options) -> tuple[Subject, ...]:
    if is_plain_neck(part):
        if isinstance(part, type):
            _check_arguments(part, options.arguments)
        return (ModuleSubject(part, options.arguments, options.least),)
    several = sample_declarations(part, MAX_DECLARATIONS, **options.fields) if isinstance(part, type) else (part,)
    one = several[0]
    if not isinstance(one, ProbedEncoder) and contract.dispatch(type(one)) is contract.dispatch(object):
        name = type(one).__name__
        raise ContractUncheckable(f"{name} has no contract. Register one: @composer.contract.register({name})")
    return tuple(map(PartSubject, several))


def _check_arguments(neck: type[nn.Module], arguments: Mapping[str, Any]) -> None:
    """Raises ContractUncheckable where a plain neck cannot be made of channels and of these arguments."""
    takes = signature(neck)
    more = [
        name
        for name, parameter in list(takes.parameters.items())[1:]
        if parameter.default is Parameter.empty
        and parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        and name not in arguments
    ]
    if more:
        several = f"arguments {' and '.join(map(repr, more))} are" if len(more) > 1 else f"argument {more[0]!r} is"
        shown = {**arguments, **dict.fromkeys(more, 64)}
        value = ", ".join(f'"{name}": {one!r}' for name, one in shown.items())
        what = f"cannot construct {neck.__name__}: {several} missing"
        raise ContractUncheckable(what, neck.__name__, "arguments", f"{{{value}}}")
    try:
        takes.bind([8], **arguments)
    except TypeError as error:
        raise ContractUncheckable(f"cannot construct {ModuleSubject(neck, arguments).name}: {error}") from None


def check_law(held: ClassifiedSubjects, law: str, examples: int = DEFAULT_EXAMPLES) -> str:
    """Hold declarations to one law, each in `examples` runs. Gives why none of them was tried, or nothing.

    Raises as `check_contract` does.
    """
    reasons = [_check_subject(subject, law, tried, examples) for subject, tried in held]
    return reasons[0] if all(reasons) else ""


def _check_subject(subject: Subject, law: str, tried: ClassifiedInputs, examples: int) -> str:
    if law == REJECTIONS_LAW:
        return "" if isinstance(subject, ModuleSubject) else _check_rejections(subject, tried, examples)
    _require_accepted_inputs(subject, tried)
    if law == "shapes" and tried.fault:
        raise ContractViolation(law, format_failure(subject.name, law, tried.fault))
    most = compute_min_elements(subject, tried)
    if most is None:
        raise _build_uncheckable_error(subject, "no image size fits any input that it accepts")
    most = max(2 * most, MAX_ELEMENTS)
    try:
        _run_law(generate_cases(subject, tried, most), LAWS[law], examples)
    except Unsatisfiable:
        raise _build_uncheckable_error(
            subject, f"almost every input that it accepts has more than {most:,} numbers"
        ) from None
    return ""


def _require_accepted_inputs(subject: Subject, tried: ClassifiedInputs) -> None:
    """Raise ContractUncheckable where a subject accepts nothing of all that it was tried with."""
    if not tried.accepted:
        because = f" ({tried.reason})" if tried.reason else ""
        raise _build_uncheckable_error(subject, f"it accepts none of the inputs that were tried{because}")


def _build_uncheckable_error(subject: Subject, why: str) -> ContractUncheckable:
    return ContractUncheckable(f"cannot check {subject.name}: {why}", subject.name, "inputs", EXAMPLE_INPUTS)


def _check_rejections(subject: Subject, tried: ClassifiedInputs, examples: int) -> str:
    untried = f"{subject.name} is not held to the law '{REJECTIONS_LAW}': "
    if not tried.refused:
        return f"{untried}it refuses nothing of all that it was tried with; say what it refuses, {INPUTS_HINT}."
    outcomes = map(subject.outcome, tried.refused)
    if all(isinstance(outcome, Rejection) and outcome.kind == "wrong_output" for outcome in outcomes):
        return f"{untried}of kind lies is all that it refuses, and there is nothing to compare what it would give with."
    try:
        _run_law(generate_rejected_cases(subject, tried), check_forced_rejection, examples)
    except Unsatisfiable:
        return f"{untried}all that it refuses has more than {MAX_ELEMENTS:,} numbers; say something smaller, {INPUTS_HINT}."
    return ""


def _run_law(drawn: Any, law: Law, examples: int) -> None:
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
        given(drawn)(check_case)()  # type: ignore[no-untyped-call]
    except (ContractViolation, ContractUncheckable) as error:
        vars(error).pop("__notes__", None)  # by Hypothesis; the text has it all
        raise error.with_traceback(None) from error.__cause__
    except FailedHealthCheck as error:
        raise TypeError(
            "check_contract draws runs itself, and may not stand in a test of @given; check_contract(PartClass) draws "
            "declarations too"
        ) from error
    except Flaky as flaky:
        found = [
            one for one in getattr(flaky, "exceptions", ()) if isinstance(one, ContractViolation | ContractUncheckable)
        ]
        if not found:
            raise
        raise found[0].with_traceback(None) from None
