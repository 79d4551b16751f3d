"""Backbones of transformers: the declaration. Their torch code is in `modules`."""

from composer.adapters.transformers.parts import Transformers

PARTS = (Transformers,)
