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

_EVENTS: list[str] | None = None
"""Where it is put down what happens; None while nobody watches. A hook cannot be taken away again."""


_HOOK_INSTALLED = False


_NETWORK_EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.Request")


_PROCESS_EVENTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn")


@contextmanager
def record_audit_events(*folders: str | os.PathLike[str]) -> Iterator[list[str]]:
    """Within it, what is reached outside of the environment is put down in the list that it gives.

    That is: a connection, a program that is started, a file that is read elsewhere than in the environment, the
    package and `folders`, and one that is written elsewhere than in `folders`. Connections are refused too. Others of
    the process are watched as well, so that nothing else should run in it.
    """
    global _EVENTS, _HOOK_INSTALLED
    if not _HOOK_INSTALLED:
        sys.addaudithook(_handle_event)
        _HOOK_INSTALLED = True
    _AllowedPaths.written = tuple(os.path.realpath(folder) for folder in folders)
    _AllowedPaths.read = (*_AllowedPaths.written, *_list_environment_paths())
    tempfile.gettempdir()  # the first time, it looks for a folder that it can write to
    before, _EVENTS = _EVENTS, []
    seen = _EVENTS
    try:
        yield seen
    finally:
        _EVENTS = before


class _AllowedPaths:
    written: tuple[str, ...] = ()
    read: tuple[str, ...] = ()


def _list_environment_paths() -> tuple[str, ...]:
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


def _handle_event(event: str, arguments: tuple[Any, ...]) -> None:
    if _EVENTS is None:
        return
    if event in _NETWORK_EVENTS:
        _EVENTS.append(f"{event} {arguments[-1]!r}")
        raise PermissionError(f"nothing is fetched here (got {event})")
    if event in _PROCESS_EVENTS:
        _EVENTS.append(f"{event} {arguments[0]!r}")
    if event == "open":
        _record_open(*arguments)


def _record_open(path: Any, mode: Any, flags: Any) -> None:
    """Put a file down that is opened where it should not be. A number is a file that is open already."""
    if not isinstance(path, str | bytes | os.PathLike):
        return
    name = os.path.realpath(os.fsdecode(path))
    writes = any(sign in mode for sign in "wax+") if isinstance(mode, str) else bool(flags & (os.O_WRONLY | os.O_RDWR))
    cached = name.endswith(".pyc") or ".pyc." in name
    inside = (
        _AllowedPaths.written + (_AllowedPaths.read if cached or name.startswith("/dev") else ())
        if writes
        else _AllowedPaths.read
    )
    if not any(name == folder or name.startswith(f"{folder}{os.sep}") for folder in inside):
        assert _EVENTS is not None
        _EVENTS.append(f"open {name!r} to {'write' if writes else 'read'}")
