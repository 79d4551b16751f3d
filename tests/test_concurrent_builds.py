"""Builds inside of builds, in threads, and after a fork: each in a process of its own, with a deadline."""

from __future__ import annotations

import subprocess
import sys

import pytest

SECONDS = 300
"""The deadline of a process that takes five seconds of a core. One that hangs would wait for ever."""

PRELUDE = """
import os, sys, threading, warnings
import torch
from attrs import frozen
from torch import nn
import composer

torch.set_num_threads(1)
ENDS = [composer.FCNDecoder(channels=8, num_convs=1), composer.SegmentationHead(num_classes=2)]
PLAIN = composer.chain(composer.Timm("test_resnet"), *ENDS)

@frozen(kw_only=True)
class Asking(composer.Neck):
    "Its module is made by ASK, and gives what it takes."

@composer.contract.register(Asking)
def _(neck, features):
    return features

@composer.module.register(Asking)
def _(neck, features):
    ASK()
    return nn.Linear(3, 3)

ASKING = composer.chain(composer.Timm("test_resnet"), Asking(), *ENDS)

def state(model):
    return torch.cat([x.double().flatten() for x in model.state_dict().values()])

def threads(*functions):
    every = [threading.Thread(target=function, daemon=True) for function in functions]
    for one in every: one.start()
    for one in every: one.join()
"""

PROGRAMS = {
    "builds and a load inside of a build": """
ASK = lambda: None
alone, saved = state(composer.build(ASKING, seed=3)), composer.build(PLAIN, seed=4)
composer.save(saved, sys.argv[1] + "/saved.safetensors")
limits = composer.Limits(parameters=10**6)
made = []
def ASK():
    made.append(composer.build(PLAIN, seed=4))
    made.append(composer.build(PLAIN, seed=4, limits=limits))
    made.append(composer.load(sys.argv[1] + "/saved.safetensors"))
assert torch.equal(state(composer.build(ASKING, seed=3)), alone)
assert torch.equal(state(composer.build(ASKING, seed=3, limits=limits)), alone)
assert [torch.equal(state(one), state(saved)) for one in made if not next(one.parameters()).is_meta] == [True] * 9
""",
    "a build that waits for one in another thread": """
ASK = lambda: None
alone, inner = state(composer.build(ASKING, seed=3)), state(composer.build(PLAIN, seed=4))
made = []
ASK = lambda: threads(lambda: made.append(composer.build(PLAIN, seed=4)))
assert torch.equal(state(composer.build(ASKING, seed=3)), alone)
assert torch.equal(state(made[0]), inner)
""",
    "a fork while another thread is in a build": """
alone = state(composer.build(PLAIN, seed=4))
inside, finished = threading.Event(), threading.Event()
def ASK():
    inside.set()
    finished.wait()
other = threading.Thread(target=composer.build, args=(ASKING,), daemon=True)
other.start()
inside.wait()
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(state(composer.build(PLAIN, seed=4)), alone) else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
finished.set()
other.join()
""",
    "processes that are forked while other threads build": """
import multiprocessing
alone, filters, stopped = state(composer.build(PLAIN, seed=4)), list(warnings.filters), threading.Event()
def build_on():
    while not stopped.is_set():
        composer.build(PLAIN)
others = [threading.Thread(target=build_on, daemon=True) for _ in range(2)]
for one in others: one.start()
def child():
    same = torch.equal(state(composer.build(PLAIN, seed=4)), alone)
    os._exit(0 if same and warnings.filters == filters and sys.stdout is sys.__stdout__ else 3)
children = [multiprocessing.get_context("fork").Process(target=child) for _ in range(6)]
for one in children: one.start()
for one in children: one.join()
stopped.set()
for one in others: one.join()
assert [one.exitcode for one in children] == [0] * 6
""",
    "a thread that draws while another builds": """
torch.manual_seed(7)
quiet = [torch.rand(5) for _ in range(20_000)]
alone = state(composer.build(PLAIN, seed=4))
torch.manual_seed(7)
drawn, built = [], []
def draw():
    while not built or len(drawn) < 100:
        drawn.append(torch.rand(5))
def build():
    for _ in range(4):
        last = composer.build(PLAIN, seed=4, verify=True)
    built.append(last)
threads(draw, build)
assert torch.equal(state(built[0]), alone)
assert torch.equal(torch.cat(drawn[:20_000]), torch.cat(quiet[: len(drawn)]))
""",
    "threads that build, and one that makes modules": """
found, alone, made, raised = list(warnings.filters), state(composer.build(PLAIN, seed=4)), [], []
def make():
    try:
        for _ in range(2_000): nn.Conv2d(1, 1, 1)
    except Exception as error:
        raised.append(error)
def build():
    for _ in range(5): made.append(composer.build(PLAIN, seed=4))
threads(make, build, build, build)
assert raised == []
assert [torch.equal(state(one), alone) for one in made] == [True] * 15
assert warnings.filters == found
""",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_it_ends_and_the_weights_are_the_same(program, tmp_path):
    told = subprocess.run(
        [sys.executable, "-c", PRELUDE + program, str(tmp_path)], capture_output=True, text=True, timeout=SECONDS
    )
    assert (told.returncode, told.stderr) == (0, "")
