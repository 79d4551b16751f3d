"""One package for each foreign library. Its parts are imported when a spec names one, the library when it is needed."""

from __future__ import annotations
