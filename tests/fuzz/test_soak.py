"""The soak: many texts of every kind. `python -m pytest -m slow tests/fuzz -n auto`; COMPOSER_SOAK is how many (2,000).

Hypothesis keeps failing texts in `.hypothesis`, replays them first, and shrinks them; a worker of xdist that dies is
replaced, and its test is reported.
"""

from __future__ import annotations

import os
import resource

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.grammar import texts
from tests.fuzz.mutations import generate_mutations
from tests.fuzz.oracle import evaluate_text
from tests.fuzz.seeds import list_seeds

SOAK = settings(
    max_examples=int(os.environ.get("COMPOSER_SOAK", "2000")), deadline=None, suppress_health_check=list(HealthCheck)
)
MAX_EXTRA_BYTES = 4 * 2**30

STRATEGIES = {
    "grammar": texts(),
    "mutated specs": generate_mutations(*list_seeds()),
    "mutated grammar": st.tuples(texts(), texts()).flatmap(lambda pair: generate_mutations(*pair)),
}


@pytest.fixture
def _limited_memory():
    """A text that takes too much memory ends with a MemoryError, not with the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_EXTRA_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.slow
@pytest.mark.usefixtures("_limited_memory")
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_every_text_ends_with_a_graph_or_a_spec_error(strategy):
    @SOAK
    @given(strategy)
    def holds(text):
        evaluate_text(text, os.environ["COMPOSER_CACHE"])

    holds()
