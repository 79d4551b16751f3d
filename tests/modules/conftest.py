"""What the tests of modules share."""

import pytest
import torch


@pytest.fixture
def exact():
    """Double precision, so that two ways to compute a thing agree."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
