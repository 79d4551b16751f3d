"""smp's encoders and decoders: declarations and contracts. Their torch code is in `modules`."""

from composer.adapters.smp import contracts as _contracts  # noqa: F401, registers the contract of Smp
from composer.adapters.smp.parts import Smp, SmpEncoder

PARTS = (Smp, SmpEncoder)
