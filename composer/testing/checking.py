"""check_contract: a part, or a plain neck, held to every law."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis.errors import Flaky, Unsatisfiable
from torch import nn

from composer.contracts import Promise, Refusal
from composer.feature import Features
from composer.parts import Part
from composer.testing.broken import CannotBeHeld, ContractBroken, UntriedWarning, said
from composer.testing.cases import FEW_NUMBERS, MOST_NUMBERS, cases, fewest_numbers, refused_cases
from composer.testing.declared import Declared
from composer.testing.fields import declarations
from composer.testing.inputs import Inputs, Tried
from composer.testing.laws import LAWS, REFUSALS, Law, real_refusals
from composer.testing.plain import Plain, is_plain
from composer.testing.subjects import Subject, asked

EXAMPLES = 40
DECLARATIONS = 6
"""How many declarations of a part the plugin holds to each law: the plainest, and some with other fields."""

SAY = "check_contract(…, inputs=…)"
ALL_LAWS = (*LAWS, REFUSALS)


def check_contract(
    part: Part | nn.Module | type[nn.Module],
    *,
    inputs: Iterable[Sequence[Features] | Mapping[str, Features]] | None = None,
    laws: Iterable[str] = ALL_LAWS,
    examples: int = EXAMPLES,
    arguments: Mapping[str, Any] | None = None,
) -> None:
    """Hold a part to the laws: its contract's promises against its module's forward passes.

    The part is a declaration; or a plain neck in TerraTorch's style, the class or the module, that says in
    `process_channel_list` how many channels it gives (`arguments` are then those of its class beside the channels).
    Each law sees `examples` runs: over all layouts, pyramids, widths, prefixes, frames and roundings that the part
    takes (or over `inputs`: for each run a sequence of inputs, or a mapping of those by name; each input a tuple of
    features), sizes square and not, odd ones, batches of one to three. The runs are the same every time. `laws` are
    names in `LAWS`, or "refusals". A part whose contract takes inputs by name is fed them by name, two where any name
    will do; an encoder of stills is fed frames too, which it runs on one by one, as in a model.

    Raises ContractBroken for the first law that is broken, with the smallest run found that breaks it; CannotBeHeld,
    which is one, where the part takes nothing of all that it was tried with, its contract raises, or no module can be
    made. Warns with UntriedWarning where it refuses nothing of it, so that nothing is known of its refusals. Raises
    ValueError for a law that there is not. Torch's random state is left as it was.
    """
    subject: Subject = Declared(part) if isinstance(part, Part) else Plain(part, dict(arguments or {}))
    tried = _sorted(subject, subject.candidates() if inputs is None else map(_inputs, inputs))
    for law in laws:
        if untried := check_law(subject, law, tried, examples):
            warnings.warn(untried, UntriedWarning, stacklevel=2)


def _inputs(given: Sequence[Features] | Mapping[str, Features]) -> Inputs:
    if isinstance(given, Mapping):
        return Inputs((), tuple((name, tuple(features)) for name, features in given.items()))
    return Inputs(tuple(map(tuple, given)))


def subjects_of(part: type[Any]) -> tuple[tuple[Subject, Tried], ...]:
    """A plain neck, or declarations of a part with various fields, each with what it takes and what it refuses.

    Declarations that take nothing are left out where others take something.
    """
    if is_plain(part):
        plain = Plain(part)
        return ((plain, _sorted(plain, plain.candidates())),)
    drawn = [Declared(one) for one in declarations(part, DECLARATIONS)]
    tried = [(subject, _sorted(subject, subject.candidates())) for subject in drawn]
    return tuple(one for one in tried if one[1].accepted) or tuple(tried[:1])


def _sorted(subject: Subject, candidates: Iterable[Inputs]) -> Tried:
    accepted, refused, unknown = [], [], []
    for inputs in candidates:
        outcome = asked(subject, inputs)
        if isinstance(outcome, Promise):
            accepted.append(inputs)
        elif isinstance(outcome, Refusal):
            refused.append(inputs)
        else:
            unknown.append(inputs)
    reason = subject.why_not((*refused, *unknown)[0]) if not accepted and (refused or unknown) else ""
    return Tried(tuple(accepted), tuple(refused), reason)


def check_law(subject: Subject, law: str, tried: Tried, examples: int = EXAMPLES) -> str:
    """Hold a subject to one law, in `examples` runs. Gives why it was not tried, or nothing where it was.

    Raises as `check_contract` does.
    """
    if law not in ALL_LAWS:
        raise ValueError(f"there is no law {law!r}: the laws are {', '.join(ALL_LAWS)}")
    if law == REFUSALS:
        return "" if isinstance(subject, Plain) else _check_refusals(subject, tried, examples)
    check_taken(subject, law, tried)
    most = fewest_numbers(subject, tried)
    if most is None:
        what = f"no image size suits anything that it takes; say what it takes, {SAY}"
        raise CannotBeHeld(law, said(subject.name, law, what))
    most = max(2 * most, MOST_NUMBERS)
    try:
        _hold(cases(subject, tried, most), LAWS[law], examples)
    except Unsatisfiable:
        what = f"hardly anything that it takes has at most {most:,} numbers; say something smaller, {SAY}"
        raise CannotBeHeld(law, said(subject.name, law, what)) from None
    return ""


def check_taken(subject: Subject, law: str, tried: Tried) -> None:
    """Raises CannotBeHeld where a subject takes nothing of all that it was tried with."""
    if not tried.accepted:
        because = f" ({tried.reason})" if tried.reason else ""
        what = f"it takes nothing of all that it was tried with{because}; say what it takes, {SAY}"
        raise CannotBeHeld(law, said(subject.name, law, what))


def _check_refusals(subject: Subject, tried: Tried, examples: int) -> str:
    untried = f"{subject.name} is not held to the law '{REFUSALS}': "
    if not tried.refused:
        return f"{untried}it refuses nothing of all that it was tried with; say what it refuses, {SAY}."
    try:
        _hold(refused_cases(subject, tried), real_refusals, examples)
    except Unsatisfiable:
        return f"{untried}all that it refuses has more than {FEW_NUMBERS:,} numbers; say something smaller, {SAY}."
    return ""


def _hold(drawn: Any, law: Law, examples: int) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(drawn)
    def holds(case: Any) -> None:
        assume(case is not None)
        law(case)

    try:
        holds()
    except ContractBroken as broken:
        # Without what Hypothesis notes: the text says all of it.
        raise type(broken)(broken.law, str(broken)) from broken.__cause__
    except Flaky as flaky:
        found = [one for one in getattr(flaky, "exceptions", ()) if isinstance(one, ContractBroken)]
        if not found:
            raise
        raise type(found[0])(found[0].law, str(found[0])) from None
