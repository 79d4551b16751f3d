"""Record what code opens, fetches and starts, by Python's audit events."""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NETWORK_EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.Request")

_PROCESS_EVENTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn")


_SYSTEM_FOLDERS = ("/proc", "/sys", "/dev", "/etc", "/usr", "/lib")


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
            name, mode, flags = os.path.realpath(os.fsdecode(arguments[0])), *arguments[1:]
            writes = set(mode) & set("wax+") if isinstance(mode, str) else flags & (os.O_WRONLY | os.O_RDWR)
            is_harmless = name.endswith(".pyc") or ".pyc." in name or name.startswith("/dev")
            folders = self.writable if writes and not is_harmless else self.readable
            if not any(f"{name}{os.sep}".startswith(f"{folder}{os.sep}") for folder in folders):
                self.events.append(f"open {name!r} to {'write' if writes else 'read'}")


_RECORDER = _Recorder()


@contextmanager
def record_audit_events(*folders: str) -> Iterator[list[str]]:
    """Record connections, which fail, started programs, and files outside `folders`, in the list that it yields.

    Files of the environment and of the package may be read. Other threads are recorded too.
    """
    if not _RECORDER.is_installed:
        sys.addaudithook(_RECORDER.handle_event)
        _RECORDER.is_installed = True
    own = str(Path(__file__).parents[2])
    environment = [sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), *filter(None, sys.path)]
    cache = os.environ.get("COMPOSER_CACHE") or own
    _RECORDER.writable = tuple(map(os.path.realpath, folders))
    _RECORDER.readable = tuple(map(os.path.realpath, (*folders, *_SYSTEM_FOLDERS, *environment, own, cache)))
    tempfile.gettempdir()  # on its first call it writes to folders
    before, _RECORDER.events = _RECORDER.events, []
    try:
        yield _RECORDER.events
    finally:
        _RECORDER.events = before
