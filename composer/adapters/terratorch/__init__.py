"""The backbones of TerraTorch: what they give, and they themselves. Importing this registers their module."""

from composer.adapters.terratorch import weights as _weights  # noqa: F401, registers the module of TerraTorch
from composer.adapters.terratorch.probes import probe

__all__ = ["probe"]
