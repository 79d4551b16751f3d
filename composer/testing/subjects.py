"""What is held to the laws: something that says what it gives before it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from composer.contracts import Outputs, Rejection
from composer.contracts.rules import compute_implied_sizes
from composer.sizes import Conflict, SizeConstraint, intersect
from composer.testing.broken import ContractUncheckable, format_error
from composer.testing.inputs import Inputs

Tensors = Sequence[Sequence[Tensor]]
"""A list of tensors for each input."""


class Subject(Protocol):
    """Something that takes features and gives features, and says what it gives before it runs."""

    @property
    def name(self) -> str:
        """What it is called in a failure."""

    def iter_candidates(self) -> Iterable[Inputs]:
        """What it is tried with."""

    def outcome(self, inputs: Inputs) -> Outputs | Rejection | None:
        """What it says of these inputs; None of those that it cannot be asked about."""

    def explain_rejection(self, inputs: Inputs) -> str:
        """Why it does not take these inputs, in its own words."""

    def fault(self, accepted: Sequence[Inputs], untaken: Sequence[Inputs]) -> str:
        """What shows already that it is wrong, before any law is tried; nothing where nothing does."""

    def has_input_gradients(self) -> bool:
        """Whether what lies before it in a model learns through it: it does not before an encoder."""

    def make(self, inputs: Inputs) -> nn.Module:
        """Its module for these inputs."""

    def call(self, network: nn.Module, inputs: Inputs, tensors: Tensors, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """What its module gives, called as a model calls it for an image of this size."""

    def has_expected_outputs(
        self, given: Sequence[Tensor], promise: Outputs, batch: int, height: int, width: int
    ) -> bool:
        """Whether tensors are what was promised."""


def run_query(subject: Subject, inputs: Inputs) -> Outputs | Rejection | None:
    """What a subject says of inputs. Raises CannotBeHeld where saying it fails: what is promised is not known then."""
    try:
        return subject.outcome(inputs)
    except Exception as error:
        what = (
            f"cannot check {subject.name}: for {'; '.join(inputs.sentences)}, its contract raises {format_error(error)}"
        )
        raise ContractUncheckable(what) from error


def to_tensors(out: Any) -> tuple[Tensor, ...]:
    """What a module gives, as a tuple. Raises TypeError where that is neither a tensor nor some of them."""
    given = (out,) if isinstance(out, Tensor) else tuple(out) if isinstance(out, Iterable) else (out,)
    if not all(isinstance(x, Tensor) for x in given) or isinstance(out, Mapping):
        kind = "None" if out is None else f"a {type(out).__name__}"
        raise TypeError(f"a list or a tuple of tensors is wanted, and it gives {kind}")
    return given


def find_valid_sizes(inputs: Inputs, promise: Outputs) -> SizeConstraint | None:
    """The image sizes that inputs, outputs and the part itself admit; None where there are none."""
    edges = (*inputs.edges, *promise.features)
    sizes = intersect([("part", promise.sizes), *(("edge", compute_implied_sizes(f)) for f in edges)])
    return None if isinstance(sizes, Conflict) else sizes
