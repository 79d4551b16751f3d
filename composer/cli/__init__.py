"""What `python -m composer` does, a file for each command and for each thing that several of them need."""

from __future__ import annotations
