"""How the laws run a part: whatever a part raises is what it breaks the law with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from composer.testing.broken import (
    ContractUncheckable,
    ContractViolation,
    compare_shapes,
    format_error,
    format_failure,
    format_tensor_shape,
)
from composer.testing.cases import Case
from composer.testing.plain import ModuleSubject


def build_network(case: Case, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """Build the module. Raises CannotBeHeld where it cannot be built for inputs that were accepted."""
    try:
        return case.module(dtype, seed)
    except Exception as error:
        what = f"cannot build the module of {case.subject.name}: it raises {format_error(error)}\n  fed  {case}"
        raise ContractUncheckable(what) from error


def run_case(
    case: Case, law: str, network: nn.Module, tensors: Any, *, of: str = "", gradients: bool = False
) -> tuple[Tensor, ...]:
    """What a run gives. Raises ContractBroken where it raises; `of` says how it was run."""
    try:
        return (case.run_with_gradients if gradients else case.run)(network, tensors)
    except Exception as error:
        raise build_violation(case, law, f"{of}it raises {format_error(error)}") from error


def run_checked(case: Case, law: str, network: nn.Module, tensors: Any, *, of: str = "") -> tuple[Tensor, ...]:
    """What a run gives. Raises ContractBroken where that is not what was promised."""
    out = run_case(case, law, network, tensors, of=of)
    if case.has_expected_outputs(out):
        return out
    if isinstance(case.subject, ModuleSubject):
        channels = [f.channels for f in case.get_expected_features()]
        got = ", ".join(format_tensor_shape(tuple(x.shape)) for x in out) or "nothing"
        raise build_violation(case, law, f"{of}it promises features of {channels} channels, and gives {got}")
    wanted = [f.shape(case.batch, case.height, case.width) for f in case.get_expected_features()]
    raise build_violation(case, law, f"{of}it gives something else than it promises", compare_shapes(wanted, out))


def build_violation(case: Case, law: str, what: str, beside: str = "") -> ContractViolation:
    """The failure of a case."""
    return ContractViolation(law, format_failure(case.subject.name, law, what, case, beside=beside))
