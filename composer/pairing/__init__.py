"""Which encoder goes with which decoder, and what stands between: the contracts asked for every pair. No torch here."""

from composer.pairing.alike import alike as alike
from composer.pairing.alike import of as of
from composer.pairing.cells import VERDICTS as VERDICTS
from composer.pairing.cells import Cell as Cell
from composer.pairing.cells import Verdict as Verdict
from composer.pairing.cells import row as row
from composer.pairing.columns import columns as columns
from composer.pairing.columns import declared as declared
