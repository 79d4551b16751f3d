"""smp's encoders and decoders. Importing this registers their modules."""

from composer.adapters.smp import decoders as _decoders  # noqa: F401, registers the module of Smp
from composer.adapters.smp import weights as _weights  # noqa: F401, registers the module of SmpEncoder
from composer.adapters.smp.probes import probe

__all__ = ["probe"]
