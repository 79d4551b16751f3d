"""Backbones of TerraTorch: the declaration. Their torch code is in `modules`."""

from composer.adapters.terratorch.parts import TerraTorch

PARTS = (TerraTorch,)
