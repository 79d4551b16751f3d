"""The commands of `python -m composer`, and what several of them share."""
