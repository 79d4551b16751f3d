"""Contract tests for your own parts: laws, Hypothesis strategies, and a pytest plugin. Needs the extra `testing`.

Names are imported on first use, because pytest loads the plugin in every run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer.testing.checking import ALL_LAWS as ALL_LAWS
    from composer.testing.checking import check_contract as check_contract
    from composer.testing.failures import ContractUncheckable as ContractUncheckable
    from composer.testing.failures import ContractViolation as ContractViolation
    from composer.testing.failures import SkippedLawWarning as SkippedLawWarning
    from composer.testing.strategies import chains as chains
    from composer.testing.strategies import features as features
    from composer.testing.strategies import graphs as graphs
    from composer.testing.strategies import images as images
    from composer.testing.strategies import pyramids as pyramids
    from composer.testing.strategies import valid as valid

_NAMES_BY_MODULE = {
    "checking": "ALL_LAWS check_contract",
    "failures": "ContractUncheckable ContractViolation SkippedLawWarning",
    "strategies": "chains features graphs images pyramids valid",
}
_MODULE_BY_NAME = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names.split()}

__all__ = sorted(_MODULE_BY_NAME)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_BY_NAME:
        raise AttributeError(name)
    return getattr(import_module(f"composer.testing.{_MODULE_BY_NAME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_MODULE_BY_NAME)
