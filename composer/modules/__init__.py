"""Torch code of the built-in parts: `module` is to a part what `contract` is, with weights.

Mathematics, names of weights and initialisation are TerraTorch's, so that its checkpoints fit.
"""

from composer.modules import decoders as decoders
from composer.modules import encoders as encoders
from composer.modules import necks as necks
from composer.modules.base import module as module
