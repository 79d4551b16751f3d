"""Tensors in files, of whoever wrote them: looked at first, then read. Nothing in a file is run."""

from __future__ import annotations
