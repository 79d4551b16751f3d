"""The backbones of transformers: what they give, and they themselves. Importing this registers their module."""

from composer.adapters.transformers import networks as _networks  # noqa: F401, registers the module of Transformers
from composer.adapters.transformers.configs import list_networks
from composer.adapters.transformers.probes import probe

__all__ = ["list_networks", "probe"]
