"""What holds for all tests: a cache of their own, one thread, and hypothesis without a clock."""

import os
import secrets
import shutil
import tempfile

import pytest
import torch
from hypothesis import settings

settings.register_profile("composer", deadline=None)
settings.load_profile("composer")

CACHE = "COMPOSER_CACHE"
SAMPLE = "COMPOSER_SAMPLE"
"""The seed by which networks and pairs are drawn, another one for every run; given in the environment, it is kept."""


def pytest_configure(config):
    """Facts about networks are kept in a folder of this run; the workers of xdist inherit it."""
    # More threads than free cores wait for each other: small convolutions then take ten times as long.
    torch.set_num_threads(1)
    if not hasattr(config, "workerinput"):
        os.environ[CACHE] = tempfile.mkdtemp(prefix="composer-tests-")
        os.environ.setdefault(SAMPLE, secrets.token_hex(4))


@pytest.fixture
def exact():
    """Double precision, so that two ways to compute a thing agree."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def pytest_report_header():
    """What draws the same sample again."""
    return f"sample: {SAMPLE}={os.environ[SAMPLE]}"


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ[CACHE], ignore_errors=True)
