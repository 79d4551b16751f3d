"""Reading and inferring: one spec, a thousand specs, and what importing composer costs."""

import os
import statistics
import subprocess
import sys
import time

import pytest

import composer

THOUSAND = 1000


def read_and_infer(text):
    """All that a check of a spec does."""
    return composer.infer(composer.reads(text))


@pytest.mark.parametrize("name", ["resnet50-upernet", "cover-and-height"])
def test_one_spec(benchmark, specs, name):
    """With the info of its encoder cached: the first look-up takes seconds, once for each machine."""
    read_and_infer(specs[name])
    benchmark(read_and_infer, specs[name])


def test_a_thousand_specs(benchmark, specs, note):
    """All specs again and again in one process."""
    texts = list(specs.values())
    thousand = [texts[i % len(texts)] for i in range(THOUSAND)]
    for text in texts:
        read_and_infer(text)

    def check_all():
        start = time.thread_time()
        for text in thousand:
            read_and_infer(text)
        return time.thread_time() - start

    seconds = benchmark.pedantic(check_all, rounds=3, warmup_rounds=1)
    note("read and infer a thousand specs", f"{seconds:.2f} s, {1e3 * seconds / THOUSAND:.2f} ms each")


IMPORTS = {
    "nothing": "pass",
    "composer": "import composer",
    "composer, and a spec read": "import composer; composer.reads('encoder: timm/resnet50\\ndecoder: FCNDecoder')",
    "torch": "import torch",
    "composer, and build looked up": "import composer; composer.build",
}


def seconds_of(code):
    """Time on the processor of a fresh interpreter that runs `code`."""
    process = subprocess.Popen([sys.executable, "-c", code])
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_utime + used.ru_stime


def test_importing(note):
    """Fresh interpreters, one after the other in turn; the least of five runs is the one least disturbed."""
    runs = [{label: seconds_of(code) for label, code in IMPORTS.items()} for _ in range(5)]
    least = {label: min(run[label] for run in runs) for label in IMPORTS}
    for label, seconds in least.items():
        note(f"python -c import, {label}", f"{1e3 * seconds:.0f} ms")
    ratio = statistics.median(run["composer, and a spec read"] / run["torch"] for run in runs)
    note("reading a spec, against importing torch", f"{ratio:.3f}")
