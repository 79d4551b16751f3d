"""Record what code opens, fetches and starts, by Python's audit events."""

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

_NETWORK_EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.Request")

_PROCESS_EVENTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn")


class _Recorder:
    """The audit hook, which cannot be removed; `events` is None while nothing is recorded."""

    def __init__(self) -> None:
        self.events: list[str] | None = None
        self.is_installed = False
        self.writable: tuple[str, ...] = ()
        self.readable: tuple[str, ...] = ()

    def handle_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.events is None:
            return
        if event in _NETWORK_EVENTS:
            self.events.append(f"{event} {arguments[-1]!r}")
            raise PermissionError(f"no network here (got {event})")
        if event in _PROCESS_EVENTS:
            self.events.append(f"{event} {arguments[0]!r}")
        # A path that is a number is a file that is already open.
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            self._handle_open(os.path.realpath(os.fsdecode(arguments[0])), *arguments[1:])

    def _handle_open(self, name: str, mode: Any, flags: Any) -> None:
        writes = set(mode) & set("wax+") if isinstance(mode, str) else flags & (os.O_WRONLY | os.O_RDWR)
        is_bytecode = name.endswith(".pyc") or ".pyc." in name
        folders = self.writable if writes and not is_bytecode and not name.startswith("/dev") else self.readable
        if not any(name == folder or name.startswith(f"{folder}{os.sep}") for folder in folders):
            assert self.events is not None
            self.events.append(f"open {name!r} to {'write' if writes else 'read'}")


_RECORDER = _Recorder()


@contextmanager
def record_audit_events(*folders: str | os.PathLike[str]) -> Iterator[list[str]]:
    """Record connections, which fail, started programs, and files outside `folders`, in the list that it yields.

    Files of the environment and of the package may be read. Other threads are recorded too.
    """
    if not _RECORDER.is_installed:
        sys.addaudithook(_RECORDER.handle_event)
        _RECORDER.is_installed = True
    _RECORDER.writable = tuple(os.path.realpath(folder) for folder in folders)
    _RECORDER.readable = (*_RECORDER.writable, *_list_environment_paths())
    tempfile.gettempdir()  # on its first call it writes to folders
    before, _RECORDER.events = _RECORDER.events, []
    events = _RECORDER.events
    try:
        yield events
    finally:
        _RECORDER.events = before


def _list_environment_paths() -> set[str]:
    own = str(Path(__file__).parents[2])
    folders = [sys.prefix, sys.base_prefix, sys.exec_prefix, own, *sysconfig.get_paths().values()]
    system = ["/proc", "/sys", "/dev", "/etc", "/usr", "/lib", os.environ.get("COMPOSER_CACHE") or own]
    return {
        os.path.realpath(folder) for folder in (*folders, *site.getsitepackages(), *system, *filter(None, sys.path))
    }
