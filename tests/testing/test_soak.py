"""The soak: counted, kept, gone on with, stopped; what dies or hangs is a finding; findings are made small."""

from __future__ import annotations

import json
import os
import time

import attrs
import pytest

from tests.fuzz import drawing, soak
from tests.fuzz.__main__ import main
from tests.fuzz.reducing import reduce_text
from tests.fuzz.tally import Stats, get_versions, load_stats
from tests.fuzz.workers import Job, Message, Worker


class Scripted:
    """In place of a worker: answers as it is told, in this process. `boom` is a finding."""

    stop_after = None

    def __init__(self, cache, limit):
        self.job, self.connection, self.process, self.said = None, None, "alive", []

    def give(self, job):
        self.job = job
        texts = job.texts or [f"{job.number}.{at}" for at in range(job.skip, 4)]
        self.said = [told for text in texts for told in (Message("text", text), verdict(text))] + [Message("done")]

    def hear(self):
        if Scripted.stop_after is not None and Scripted.stop_after < 1:
            raise KeyboardInterrupt
        if not self.said or (not self.job.texts and self.job.number > 3):
            return None
        told = self.said.pop(0)
        if Scripted.stop_after is not None and told.kind == "answer":
            Scripted.stop_after -= 1
        return told

    def stop(self):
        self.process = None


def verdict(text):
    if "2.1" in text or "3." in text:
        return Message("answer", text, "found", (), "a law", "a cause", "a traceback", 2.5)
    return Message("answer", text, *(("refused", ("type",)) if text.endswith("0") else ("run", ())))


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(soak, "Worker", Scripted)
    monkeypatch.setattr(soak, "wait", lambda *_, **__: time.sleep(0.01))
    monkeypatch.setattr(Scripted, "stop_after", None)


def soaked(folder, *arguments):
    return main(["soak", "--minutes", "0.02", "--folder", str(folder), *arguments])


def test_a_soak_counts_and_tells_what_it_found(scripted, tmp_path, capsys):
    code = soaked(tmp_path, "--seed", "7", "--jobs", "2")

    tally = load_stats(tmp_path / "state.json")
    assert code == 1
    assert tally.verdicts == {"refused": 3, "run": 8, "found": 5}
    assert (tally.codes, tally.times) == ({"type": 3}, {"a law | a cause": 5})
    assert tally.slowest == 2.5
    said = " ".join(capsys.readouterr().out.split())
    assert "16 texts of seed 7" in said
    assert "1 finding in" in said


def test_a_finding_is_written_as_it_was_met_and_as_small_as_it_goes(scripted, tmp_path):
    soaked(tmp_path, "--seed", "7")

    assert (tmp_path / "001.met.yaml").read_text("utf-8") == "2.1"
    assert (tmp_path / "001.txt").read_text("utf-8") == "a law\na cause\n\na traceback\n"
    assert (tmp_path / "001.yaml").read_text("utf-8") == "2.1"
    assert sorted(os.listdir(tmp_path)) == ["001.met.yaml", "001.txt", "001.yaml", "state.json"]


def test_a_soak_that_is_stopped_goes_on_where_it_was(scripted, tmp_path, monkeypatch):
    state = tmp_path / "kept.json"
    monkeypatch.setattr(Scripted, "stop_after", 6)
    assert soaked(tmp_path, "--seed", "7", "--resume", str(state)) == 0
    stopped = load_stats(state)
    monkeypatch.setattr(Scripted, "stop_after", None)
    soaked(tmp_path, "--resume", str(state))

    assert (stopped.texts, stopped.begun) == (6, {1: 2})
    assert load_stats(state).texts == 16
    assert load_stats(state).verdicts == {"refused": 3, "run": 8, "found": 5}


def test_nothing_found_is_no_failure(scripted, tmp_path, monkeypatch):
    monkeypatch.setattr(Scripted, "stop_after", 3)
    assert soaked(tmp_path) == 0


def test_a_finding_is_never_written_over(scripted, tmp_path):
    (tmp_path / "001.met.yaml").write_text("of another soak", encoding="utf-8")
    soaked(tmp_path, "--seed", "7")

    assert (tmp_path / "001.met.yaml").read_text("utf-8") == "of another soak"
    assert (tmp_path / "002.met.yaml").read_text("utf-8") == "2.1"


def test_a_soak_is_never_written_over(scripted, tmp_path, capsys):
    soaked(tmp_path, "--seed", "3")
    before = (tmp_path / "state.json").read_bytes()
    capsys.readouterr()

    assert soaked(tmp_path, "--seed", "4") == 2
    assert (tmp_path / "state.json").read_bytes() == before
    state = tmp_path / "state.json"
    assert capsys.readouterr().out == (
        f"error: {state} is the state of a soak; go on with it, --resume {state}, or give another --folder\n"
    )


def test_a_soak_in_which_nothing_was_tried_is_told(scripted, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Scripted, "stop_after", 0)
    assert soaked(tmp_path, "--seed", "3") == 2
    assert capsys.readouterr().out.splitlines()[-1] == "nothing was tried: it ended before a text was answered"

    monkeypatch.setattr(Scripted, "stop_after", 3)
    assert soaked(tmp_path, "--seed", "4") == 0  # of what tried nothing there is nothing to keep
    assert load_stats(tmp_path / "state.json").seed == 4


STATE = json.dumps(attrs.asdict(Stats(3)))
NO_STATE = {
    "empty": ("", "JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
    "no keys": ("{}", "KeyError: 'begun'"),
    "a list": ("[]", "TypeError: list indices must be integers or slices, not str"),
    "begun is a number": ('{"seed": 1, "begun": 3}', "AttributeError: 'int' object has no attribute 'items'"),
    "next is a text": (STATE.replace('"next": 0', '"next": "0"'), "ValueError: next must be a whole number (got '0')"),
    "seconds are a text": (
        STATE.replace('"seconds": 0.0', '"seconds": "0"'),
        "ValueError: seconds must be a number (got '0')",
    ),
    "a count is a text": (
        STATE.replace('"codes": {}', '"codes": {"type": "3"}'),
        "ValueError: codes must hold whole numbers (got {'type': '3'})",
    ),
    "a finding is a number": (
        STATE.replace('"found": {}', '"found": {"a": {"law": 3, "mark": "", "said": "", "text": ""}}'),
        "ValueError: law must be a text (got 3)",
    ),
}


@pytest.mark.parametrize(("text", "why"), NO_STATE.values(), ids=NO_STATE)
def test_a_state_that_is_none_is_told(scripted, tmp_path, text, why, capsys):
    state = tmp_path / "state.json"
    state.write_text(text, encoding="utf-8")

    assert soaked(tmp_path, "--resume", str(state)) == 2
    assert capsys.readouterr().out == f"error: {state} holds no state of a soak (got {why})\n"


def test_a_folder_for_a_state_is_told(scripted, tmp_path, capsys):
    assert soaked(tmp_path, "--resume", str(tmp_path)) == 2
    assert capsys.readouterr().out == (
        f"error: {tmp_path} holds no state of a soak (got IsADirectoryError: [Errno 21] Is a directory: '{tmp_path}')\n"
    )


def test_a_file_for_a_folder_is_told(scripted, tmp_path, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")

    assert soaked(tmp_path / "file") == 2
    assert capsys.readouterr().out == f"error: {tmp_path / 'file'} cannot be a folder (got File exists)\n"


def test_a_state_of_other_versions_is_told(scripted, tmp_path, capsys):
    state = tmp_path / "state.json"
    Stats(3, versions={"composer-vision": "0.0", "hypothesis": "1.0"}).save(state)

    assert soaked(tmp_path, "--resume", str(state)) == 2
    here = ", ".join(f"{name} {one}" for name, one in get_versions().items())
    assert capsys.readouterr().out == (
        f"error: {state} is of composer-vision 0.0, hypothesis 1.0, which draw other texts than {here}; begin a new "
        "soak in another --folder\n"
    )


def test_another_seed_than_that_of_the_state_is_told(scripted, tmp_path, capsys):
    state = tmp_path / "state.json"
    Stats(3).save(state)

    assert soaked(tmp_path, "--resume", str(state), "--seed", "4") == 2
    assert capsys.readouterr().out == f"error: {state} is of seed 3; leave --seed out\n"


def test_a_state_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    state = tmp_path / "state.json"
    Stats(3).save(state)
    monkeypatch.setattr(json, "dumps", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Stats(4).save(state)

    assert load_stats(state) == Stats(3)
    assert os.listdir(tmp_path) == ["state.json"]


SENSELESS = {
    "--minutes 0": "argument --minutes: a number above 0 is needed (got 0)",
    "--minutes nan": "argument --minutes: a number above 0 is needed (got nan)",
    "--limit abc": "argument --limit: a number above 0 is needed (got abc)",
    "--jobs 0": "argument -j/--jobs: a whole number from 1 to 64 is needed (got 0)",
    "--jobs 65": "argument -j/--jobs: a whole number from 1 to 64 is needed (got 65)",
    "--seed x": "argument --seed: a whole number is needed (got x)",
}


@pytest.mark.parametrize(("arguments", "message"), SENSELESS.items(), ids=SENSELESS)
def test_arguments_that_make_no_sense(scripted, arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        soaked(tmp_path, *arguments.split())
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"python -m composer.testing soak: error: {message}"


# --- texts are drawn by a seed


@pytest.fixture
def _few(monkeypatch):
    monkeypatch.setattr(drawing, "TEXTS_PER_BATCH", 12)


@pytest.mark.usefixtures("_few")
@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_seed_draws_the_same_texts_again(number):
    drawn = drawing.sample_batch(5, number)
    assert len(drawn) == 12
    assert drawing.sample_batch(5, number) == drawn


@pytest.mark.usefixtures("_few")
def test_batches_differ():
    assert drawing.sample_batch(5, 1) != drawing.sample_batch(5, 2) != drawing.sample_batch(6, 2)


# --- processes


def dying(connection, _cache):
    connection.recv()
    connection.send(Message("text", "a: b"))
    os.abort()


def hanging(connection, _cache):
    connection.recv()
    connection.send(Message("text", "a: b"))
    time.sleep(600)


def spinning(connection, _cache):
    connection.recv()
    connection.send(Message("text", "a: b"))
    while True:
        pass


def heard(worker):
    """All that a worker tells until it is done or gone."""
    tolds = []
    while not (tolds and (tolds[-1].kind == "done" or worker.process is None)):
        told = worker.read_message()
        tolds += [] if told is None else [told]
        time.sleep(0.02)
    return tolds


@pytest.mark.parametrize(
    ("target", "law", "said"),
    [
        (dying, "no text dies", "the process ended with -6"),
        (hanging, "no text hangs", "no answer after 0 s"),
        (spinning, "no text hangs", "no answer after 0 s"),
    ],
    ids=["dies", "waits", "spins"],
)
def test_a_process_that_dies_or_hangs_is_a_finding_with_its_text(target, law, said):
    worker = Worker("", 0.3, target)
    worker.start_job(Job())
    answer = heard(worker)[-1]

    assert (answer.verdict, answer.text, answer.law, answer.said) == ("found", "a: b", law, said)
    assert worker.process is None


def test_a_process_answers_texts_and_goes_on(tmp_path):
    worker = Worker(str(tmp_path), 120.0)
    worker.start_job(Job(texts=("encoder: 5\n", "a: \ud800", "encoder: timm/test_vit\nhead: EmbeddingHead\n")))
    first = heard(worker)
    worker.start_job(Job(texts=("encoder: timm/test_vit\n",)))
    second = heard(worker)
    worker.stop()

    assert [(told.verdict, told.codes) for told in first + second if told.kind == "answer"] == [
        ("refused", ("type",)),
        ("refused", ("yaml",)),
        ("run", ()),
        ("refused", ("output",)),
    ]


# --- findings are made small


@pytest.mark.parametrize(
    ("text", "shows", "smallest"),
    [
        ("a\nb\nc\nd\n", lambda text: "c" in text, "c"),
        ("one: two\nthree: {four: 5}\n", lambda text: "four" in text and ":" in text, ":four"),
        ("x" * 100, lambda text: len(text) > 9, "x" * 10),
        ("abc", lambda text: text == "abc", "abc"),
        ("", lambda text: True, ""),
    ],
    ids=["lines", "words", "signs", "nothing to leave out", "empty"],
)
def test_a_text_is_made_smaller_while_it_shows_the_same(text, shows, smallest):
    assert reduce_text(text, shows) == smallest


def test_making_it_smaller_has_an_end():
    asked = []
    reduce_text("a b c d " * 100, lambda text: not asked.append(text) and "zz" in text, tries=10)
    assert len(asked) == 10
