"""How the laws run a part: whatever a part raises is what it breaks the law with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from composer.testing.broken import CannotBeHeld, ContractBroken, said, shape, side_by_side, told
from composer.testing.cases import Case
from composer.testing.plain import Plain


def made(case: Case, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """Build the module. Raises CannotBeHeld where it cannot be built for inputs that were accepted."""
    try:
        return case.module(dtype, seed)
    except Exception as error:
        what = f"cannot build the module of {case.subject.name}: it raises {told(error)}\n  fed  {case}"
        raise CannotBeHeld(what) from error


def given(
    case: Case, law: str, network: nn.Module, tensors: Any, *, of: str = "", gradients: bool = False
) -> tuple[Tensor, ...]:
    """What a run gives. Raises ContractBroken where it raises; `of` says how it was run."""
    try:
        return (case.run_with_gradients if gradients else case.run)(network, tensors)
    except Exception as error:
        raise broken(case, law, f"{of}it raises {told(error)}") from error


def promised(case: Case, law: str, network: nn.Module, tensors: Any, *, of: str = "") -> tuple[Tensor, ...]:
    """What a run gives. Raises ContractBroken where that is not what was promised."""
    out = given(case, law, network, tensors, of=of)
    if case.agrees(out):
        return out
    if isinstance(case.subject, Plain):
        channels = [f.channels for f in case.promised()]
        got = ", ".join(shape(tuple(x.shape)) for x in out) or "nothing"
        raise broken(case, law, f"{of}it promises features of {channels} channels, and gives {got}")
    wanted = [f.shape(case.batch, case.height, case.width) for f in case.promised()]
    raise broken(case, law, f"{of}it gives something else than it promises", side_by_side(wanted, out))


def broken(case: Case, law: str, what: str, beside: str = "") -> ContractBroken:
    """The failure of a case."""
    return ContractBroken(law, said(case.subject.name, law, what, case, beside=beside))
