"""What a piece of code opens, fetches and starts, as Python's audit events tell it."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SEEN: list[str] | None = None
"""Where it is put down what happens; None while nobody watches. A hook cannot be taken away again."""

_HOOKED = False
_FETCHING = ("socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.Request")
_STARTING = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn")


@contextmanager
def watched(*folders: str | os.PathLike[str]) -> Iterator[list[str]]:
    """Within it, what is reached outside of the environment is put down in the list that it gives.

    That is: a connection, a program that is started, a file that is read elsewhere than in the environment, the
    package and `folders`, and one that is written elsewhere than in `folders`. Connections are refused too. Others of
    the process are watched as well, so that nothing else should run in it.
    """
    global _SEEN, _HOOKED
    if not _HOOKED:
        sys.addaudithook(_hook)
        _HOOKED = True
    _Allowed.written = tuple(os.path.realpath(folder) for folder in folders)
    _Allowed.read = (*_Allowed.written, *_environment())
    tempfile.gettempdir()  # the first time, it looks for a folder that it can write to
    before, _SEEN = _SEEN, []
    seen = _SEEN
    try:
        yield seen
    finally:
        _SEEN = before


class _Allowed:
    written: tuple[str, ...] = ()
    read: tuple[str, ...] = ()


def _environment() -> tuple[str, ...]:
    own = str(Path(__file__).parents[2])
    folders = [
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
        own,
        *sysconfig.get_paths().values(),
        *site.getsitepackages(),
    ]
    devices = ["/proc", "/sys", "/dev", "/etc", "/usr", "/lib", os.environ.get("COMPOSER_CACHE") or own]
    return tuple({os.path.realpath(folder) for folder in (*folders, *devices, *filter(None, sys.path))})


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _SEEN is None:
        return
    if event in _FETCHING:
        _SEEN.append(f"{event} {arguments[-1]!r}")
        raise PermissionError(f"nothing is fetched here (got {event})")
    if event in _STARTING:
        _SEEN.append(f"{event} {arguments[0]!r}")
    if event == "open":
        _opened(*arguments)


def _opened(path: Any, mode: Any, flags: Any) -> None:
    """Put a file down that is opened where it should not be. A number is a file that is open already."""
    if not isinstance(path, str | bytes | os.PathLike):
        return
    name = os.path.realpath(os.fsdecode(path))
    writes = any(sign in mode for sign in "wax+") if isinstance(mode, str) else bool(flags & (os.O_WRONLY | os.O_RDWR))
    cached = name.endswith(".pyc") or ".pyc." in name
    inside = (
        _Allowed.written + (_Allowed.read if cached or name.startswith("/dev") else ()) if writes else _Allowed.read
    )
    if not any(name == folder or name.startswith(f"{folder}{os.sep}") for folder in inside):
        assert _SEEN is not None
        _SEEN.append(f"open {name!r} to {'write' if writes else 'read'}")
