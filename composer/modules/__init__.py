"""The torch code of the built-in parts: `module` is to a part what `contract` is, with weights.

Mathematics, names of weights and initialisation are TerraTorch's, so that its checkpoints fit.
"""

from composer.modules import aspp as aspp
from composer.modules import custom as custom
from composer.modules import decoders as decoders
from composer.modules import fcn as fcn
from composer.modules import fpn as fpn
from composer.modules import heads as heads
from composer.modules import necks as necks
from composer.modules import pyramids as pyramids
from composer.modules import temporal as temporal
from composer.modules import tokens as tokens
from composer.modules import unet as unet
from composer.modules import upernet as upernet
from composer.modules.dispatch import module as module
