"""check_contract: a part, or a plain neck, held to every law."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis.errors import Flaky, Unsatisfiable
from torch import nn

from composer.contracts import Promise, Refusal
from composer.feature import Features, sentence
from composer.parts import Part
from composer.testing.broken import ContractBroken, said, told
from composer.testing.cases import cases, refused_cases
from composer.testing.declared import Declared
from composer.testing.fields import declarations
from composer.testing.inputs import Inputs
from composer.testing.laws import LAWS, REFUSALS, Law, real_refusals
from composer.testing.plain import Plain, is_plain
from composer.testing.subjects import Subject

EXAMPLES = 40
DECLARATIONS = 6
"""How many declarations of a part the plugin holds to each law: the plainest, and some with other fields."""

SHAPES = "shapes"
ALL_LAWS = (*LAWS, REFUSALS)


def check_contract(
    part: Part | nn.Module | type[nn.Module],
    *,
    inputs: Iterable[Sequence[Features]] | None = None,
    laws: Iterable[str] = ALL_LAWS,
    examples: int = EXAMPLES,
    arguments: Mapping[str, Any] | None = None,
) -> None:
    """Hold a part to the laws: its contract's promises against its module's forward passes.

    The part is a declaration; or a plain neck in TerraTorch's style, the class or the module, that says in
    `process_channel_list` how many channels it gives (`arguments` are then those of its class beside the channels).
    Each law sees `examples` runs: over all layouts, pyramids, widths, prefixes, frames and roundings that the part
    takes (or over `inputs`: for each run a sequence of inputs, each a tuple of features), sizes square and not, odd
    ones, batches of one to three. The runs are the same every time. `laws` are names in `LAWS`, or "refusals".

    Raises ContractBroken for the first law that is broken, with the smallest run found that breaks it; and where the
    part takes nothing of all that it was tried with. Raises ValueError for a law that there is not. Torch's random
    state is left as it was.
    """
    subject: Subject = Declared(part) if isinstance(part, Part) else Plain(part, dict(arguments or {}))
    tried = _sorted(subject, subject.candidates() if inputs is None else [Inputs(tuple(map(tuple, i))) for i in inputs])
    for law in laws:
        check_law(subject, law, tried, examples)


@frozen
class Tried:
    """What a subject was tried with, by what it says."""

    accepted: tuple[Inputs, ...]
    refused: tuple[Inputs, ...]
    reason: str = ""


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
        outcome = _asked(subject, inputs)
        if isinstance(outcome, Promise):
            accepted.append(inputs)
        elif isinstance(outcome, Refusal):
            refused.append(inputs)
        else:
            unknown.append(inputs)
    reason = subject.why_not((*refused, *unknown)[0]) if not accepted and (refused or unknown) else ""
    return Tried(tuple(accepted), tuple(refused), reason)


def _asked(subject: Subject, inputs: Inputs) -> Promise | Refusal | None:
    """What a subject says of inputs. Raises ContractBroken where saying it fails."""
    try:
        return subject.outcome(inputs)
    except Exception as error:
        what = f"asked about {'; '.join(map(sentence, inputs.all))}, its contract raises {told(error)}"
        raise ContractBroken(SHAPES, said(subject.name, SHAPES, what)) from error


def check_law(subject: Subject, law: str, tried: Tried, examples: int = EXAMPLES) -> None:
    """Hold a subject to one law, in `examples` runs. Raises as `check_contract` does."""
    if law not in ALL_LAWS:
        raise ValueError(f"there is no law {law!r}: the laws are {', '.join(ALL_LAWS)}")
    if law == REFUSALS:
        if tried.refused:
            _hold(refused_cases(subject, tried.refused), real_refusals, examples)
        return
    because = f" ({tried.reason})" if tried.reason else ""
    what = f"it takes nothing of all that it was tried with{because}; say what it takes, check_contract(…, inputs=…)"
    nothing = said(subject.name, law, what)
    if not tried.accepted:
        raise ContractBroken(law, nothing)
    try:
        _hold(cases(subject, tried.accepted), LAWS[law], examples)
    except Unsatisfiable:
        raise ContractBroken(law, nothing) from None


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
        raise ContractBroken(broken.law, str(broken)) from broken.__cause__
    except Flaky as flaky:
        found = [one for one in getattr(flaky, "exceptions", ()) if isinstance(one, ContractBroken)]
        if not found:
            raise
        raise ContractBroken(found[0].law, str(found[0])) from None
