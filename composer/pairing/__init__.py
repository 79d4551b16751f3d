"""Which encoder goes with which decoder, and what stands between: the contracts asked for every pair. No torch here."""

from composer.pairing.alike import copy_for_encoder as copy_for_encoder
from composer.pairing.alike import group_equivalent as group_equivalent
from composer.pairing.cells import VERDICTS as VERDICTS
from composer.pairing.cells import PairResult as PairResult
from composer.pairing.cells import Verdict as Verdict
from composer.pairing.cells import evaluate_pairs as evaluate_pairs
from composer.pairing.columns import build_default_decoder as build_default_decoder
from composer.pairing.columns import list_decoder_names as list_decoder_names
