"""One file for each foreign library, imported when a spec that names it is probed or built."""

from __future__ import annotations
