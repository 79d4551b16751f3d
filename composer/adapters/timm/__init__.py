"""timm's networks as encoders: what they give, and the networks themselves. Importing this registers their modules."""

from composer.adapters.timm import weights as _weights  # noqa: F401, registers the module of Timm
from composer.adapters.timm.networks import list_networks
from composer.adapters.timm.probes import probe

__all__ = ["list_networks", "probe"]
