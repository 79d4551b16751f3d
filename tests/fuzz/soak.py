"""Text after text in processes of their own, until the time is over or somebody stops it."""

from __future__ import annotations

import tempfile
import time
from multiprocessing.connection import wait
from pathlib import Path

from attrs import define
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from composer.layouts import format_count
from tests.fuzz.reducing import reduce_text
from tests.fuzz.tally import Finding, Stats
from tests.fuzz.workers import Job, Message, Worker

SAVE_INTERVAL = 10.0
"""Seconds between two states that are kept."""


_MAX_REDUCTION_SECONDS = 300.0
"""What making one finding smaller may take, in seconds."""


@define
class Soak:
    """A soak: so many `jobs`, `limit` seconds for a text, findings in `folder`, and the state in a file."""

    tally: Stats
    folder: Path
    state: Path
    jobs: int = 1
    limit: float = 60.0

    def run(self, minutes: float) -> None:
        """Try texts for so many minutes, or until KeyboardInterrupt; the tally is kept either way."""
        with tempfile.TemporaryDirectory(prefix="composer-soak-") as cache:
            workers = [Worker(cache, self.limit) for _ in range(self.jobs)]
            before, start = self.tally.seconds, time.monotonic()
            try:
                self._run_until(start + 60 * minutes, workers, before)
            except KeyboardInterrupt:
                pass
            finally:
                self.tally.seconds = before + time.monotonic() - start
                for worker in workers:
                    worker.stop()
                self.tally.save(self.state)

    def _run_until(self, end: float, workers: list[Worker], before: float) -> None:
        begun = time.monotonic()
        saved = begun
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns) as progress:
            task = progress.add_task("texts")
            for worker in workers:
                worker.start_job(self._pick_job(workers))
            while time.monotonic() < end:
                wait([worker.connection for worker in workers if worker.connection is not None], timeout=0.5)
                for worker in workers:
                    self._handle_messages(worker, workers)
                self.tally.seconds = before + time.monotonic() - begun
                if time.monotonic() - saved > SAVE_INTERVAL:
                    saved = time.monotonic()
                    self.tally.save(self.state)
                progress.update(task, description=self._format_progress())

    def _format_progress(self) -> str:
        tally = self.tally
        return (
            f"{format_count(tally.texts, 'text', form=',')}: {tally.verdicts['refused']:,} refused, "
            f"{tally.verdicts['accepted']:,} accepted, "
            f"{tally.verdicts['run']:,} run, {tally.verdicts['found']:,} found ({format_count(len(tally.found), 'kind')})"
        )

    def _pick_job(self, workers: list[Worker]) -> Job:
        """A batch that an earlier run began and nobody is at, or a new one."""
        taken = {worker.job.number for worker in workers if worker.job is not None}
        left = [number for number in self.tally.begun if number not in taken]
        number = left[0] if left else self.tally.next
        if not left:
            self.tally.next += 1
        skip = self.tally.begun.setdefault(number, 0)
        return Job(self.tally.seed, number, skip)

    def _handle_messages(self, worker: Worker, workers: list[Worker]) -> None:
        while (told := worker.read_message()) is not None:
            assert worker.job is not None
            number = worker.job.number
            if told.kind == "answer":
                finding = self.tally.record(number, told)
                if finding is not None:
                    self._write_finding(finding)
            if told.kind == "done":
                del self.tally.begun[number]
                worker.job = None
            if told.kind == "done" or worker.process is None:
                worker.job = None
                worker.start_job(self._pick_job(workers))

    def _write_finding(self, finding: Finding) -> None:
        """The text as it was met, what is said of it, and the smallest that shows the same."""
        name = self._find_free_name()
        (self.folder / f"{name}.met.yaml").write_bytes(finding.text.encode(errors="surrogatepass"))
        said = f"{finding.law}\n{finding.mark}\n\n{finding.said}\n"
        (self.folder / f"{name}.txt").write_bytes(said.encode(errors="backslashreplace"))
        smallest = self._reduce_finding(finding)
        (self.folder / f"{name}.yaml").write_bytes(smallest.encode(errors="surrogatepass"))

    def _find_free_name(self) -> str:
        """A name for a finding that is not among those which the folder holds."""
        number = len(self.tally.found)
        while list(self.folder.glob(f"{number:03}.*")):
            number += 1
        return f"{number:03}"

    def _reduce_finding(self, finding: Finding) -> str:
        end = time.monotonic() + _MAX_REDUCTION_SECONDS
        with tempfile.TemporaryDirectory(prefix="composer-soak-") as cache:
            worker = Worker(cache, self.limit)

            def is_reproduced(text: str) -> bool:
                if time.monotonic() > end:
                    return False
                told = _run_text(worker, text)
                return (told.law, told.mark) == (finding.law, finding.mark)

            try:
                return (
                    reduce_text(finding.text, is_reproduced)
                    if finding.text and is_reproduced(finding.text)
                    else finding.text
                )
            finally:
                worker.stop()


def _run_text(worker: Worker, text: str) -> Message:
    """What becomes of one text."""
    worker.start_job(Job(texts=(text,)))
    answer = Message("answer")
    while True:
        told = worker.read_message()
        if told is None:
            wait([worker.connection] if worker.connection is not None else [], timeout=0.2)
            continue
        if told.kind == "answer":
            answer = told
        if told.kind == "done" or worker.process is None:
            return answer
