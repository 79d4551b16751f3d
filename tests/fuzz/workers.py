"""Processes that answer texts, each within limits of time and memory. What kills or stops one is told, not suffered."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from attrs import define, evolve, field, frozen

MAX_EXTRA_MEGABYTES = 4096
"""What a worker may take besides what it takes when it begins."""


_MAX_START_SECONDS = 300.0


_WALL_CLOCK_FACTOR = 10
"""Seconds of a core to begin, and of the clock for each of a core."""


@frozen
class Job:
    """One batch of a soak, from its text `skip` on; or, where they are given, `texts` of its own."""

    seed: int = 0
    number: int = 0
    skip: int = 0
    texts: tuple[str, ...] | None = None


@frozen
class Message:
    """What a worker says: that it begins a `text`, what became of it, or that its job is `done`."""

    kind: str
    text: str = ""
    verdict: str = ""
    codes: tuple[str, ...] = ()
    law: str = ""
    mark: str = ""
    said: str = ""
    seconds: float = 0.0


@define
class Worker:
    """A process and what it is at.

    It is stopped, and that told, where a text takes more than `limit` seconds of a core, or ten times as many of the
    clock: on a busy machine a process may wait for long.
    """

    cache: str
    limit: float
    target: Callable[[Connection, str], None] = field(factory=lambda: run_worker)
    job: Job | None = None
    text: str = ""
    process: Any = None
    connection: Connection | None = None
    since: float = field(factory=time.monotonic)
    spent: float = 0.0

    def start_job(self, job: Job) -> None:
        """Begin a job, in a process of its own where there is none yet."""
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.connection, theirs = context.Pipe()
            self.process = context.Process(target=self.target, args=(theirs, self.cache), daemon=True)
            self.process.start()
            theirs.close()
        assert self.connection is not None
        self.job = job
        self._start_text("")
        self.connection.send(job)

    def read_message(self) -> Message | None:
        """The next that the process tells, or how it ended; None where it says nothing yet."""
        assert self.connection is not None
        try:
            if self.connection.poll():
                told: Message = self.connection.recv()
                self._start_text(told.text if told.kind == "text" else "")
                return told
        except (EOFError, OSError):
            self.process.join(5)
            code = self.process.exitcode
            return self._report_end("dies", f"the process ended with {code}", str(code))
        # While the process begins and while it draws, it takes its time.
        limit = self.limit if self.text else max(self.limit, _MAX_START_SECONDS)
        if self._read_cpu_seconds() - self.spent > limit or time.monotonic() - self.since > _WALL_CLOCK_FACTOR * limit:
            return self._report_end("hangs", f"no answer after {limit:.0f} s", "time")
        return None

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = self.connection = None

    def _start_text(self, text: str) -> None:
        self.text, self.since, self.spent = text, time.monotonic(), self._read_cpu_seconds()

    def _read_cpu_seconds(self) -> float:
        """The seconds of a core that the process has had."""
        try:
            with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
                fields = file.read().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, IndexError, ValueError):
            return self.spent

    def _report_end(self, law: str, said: str, mark: str) -> Message:
        self.stop()
        text, self.text = self.text, ""
        return Message("answer", text, "found", (), f"no text {law}", mark, said)


def run_worker(connection: Connection, cache: str) -> None:
    """Answer texts until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ |= {"COMPOSER_CACHE": cache, "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, as long as the process
    import torch

    from tests.fuzz.drawing import sample_batch

    torch.set_num_threads(1)
    _limit_worker_memory()
    while True:
        try:
            job: Job = connection.recv()
        except (EOFError, OSError):
            return
        try:
            texts = job.texts or sample_batch(job.seed, job.number)[job.skip :]
        except Exception:
            said = traceback.format_exc()
            connection.send(Message("answer", "", "found", (), "texts are drawn", said.splitlines()[-1], said))
            texts = ()
        for text in texts:
            connection.send(Message("text", text))
            begun = time.process_time()
            told = _evaluate_safely(text, cache)
            connection.send(evolve(told, seconds=time.process_time() - begun))
        connection.send(Message("done"))


def _evaluate_safely(text: str, cache: str) -> Message:
    from tests.fuzz.answering import WrongAnswerError, evaluate_text

    try:
        answer = evaluate_text(text, cache)
    except WrongAnswerError as wrong:
        return Message("answer", text, "found", (), wrong.law, wrong.mark, traceback.format_exc())
    except Exception as error:
        return Message("answer", text, "found", (), "the question itself", type(error).__name__, traceback.format_exc())
    return Message("answer", text, answer.verdict, answer.codes)


def _limit_worker_memory() -> None:
    """What the process has now, and so much more."""
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    most = now + MAX_EXTRA_MEGABYTES * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
