"""mmseg's decode heads. Importing this imports mmseg, and registers the module of Mmseg."""

from composer.adapters.mmseg import heads as _heads  # noqa: F401, registers the module of Mmseg
