"""What parts promise: pure functions from a declaration and features to features. No torch here.

Each file argues the correctness of one kind of parts; the law that a promise is what a forward pass gives is tested
for all of them.
"""

from composer.contracts import aspp as aspp
from composer.contracts import decoders as decoders
from composer.contracts import encoders as encoders
from composer.contracts import heads as heads
from composer.contracts import joins as joins
from composer.contracts import mmseg as mmseg
from composer.contracts import necks as necks
from composer.contracts import pyramids as pyramids
from composer.contracts import smp as smp
from composer.contracts import temporal as temporal
from composer.contracts import tokens as tokens
from composer.contracts.dispatch import contract as contract
from composer.contracts.rules import ContractResult as ContractResult
from composer.contracts.rules import Kind as Kind
from composer.contracts.rules import Outputs as Outputs
from composer.contracts.rules import Rejection as Rejection
