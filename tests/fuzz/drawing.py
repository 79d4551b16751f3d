"""Batches of texts that a seed draws, the same every time."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from tests.fuzz.grammar import texts
from tests.fuzz.mutating import generate_mutations
from tests.fuzz.seeds import list_seeds

TEXTS_PER_BATCH = 50
"""Texts that are drawn by one seed, one after the other."""


@st.composite
def generate_corrupted_texts(draw: st.DrawFn) -> str:
    """A text of the grammar with a few edits."""
    return draw(generate_mutations(draw(texts())))


def sample_batch(seed: int, number: int) -> list[str]:
    """The texts of one batch of a soak: of the grammar, of the grammar and spoilt, and of specs that are spoilt."""
    drawn: list[str] = []
    strategy = (texts(), generate_mutations(*list_seeds()), texts(), generate_corrupted_texts())[number % 4]
    quiet = settings(
        max_examples=TEXTS_PER_BATCH,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )

    @seeded(seed * 1_000_003 + number)
    @quiet
    @given(strategy)
    def collect(text: str) -> None:
        drawn.append(text)

    collect()
    return drawn
