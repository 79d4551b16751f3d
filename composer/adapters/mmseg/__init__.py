"""mmseg's decode heads: declarations and contracts. Their torch code is in `modules`."""

from composer.adapters.mmseg.parts import Mmseg

PARTS = (Mmseg,)
