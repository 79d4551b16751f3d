"""mmseg's decode heads: declarations and contracts. Their torch code is in `modules`."""

from composer.adapters.mmseg import contracts as _contracts  # noqa: F401, registers the contract of Mmseg
from composer.adapters.mmseg.parts import Mmseg

PARTS = (Mmseg,)
