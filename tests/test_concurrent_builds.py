"""Builds inside of builds, in threads, and after a fork: each ends, and its weights are those of a build alone."""

from __future__ import annotations

import os
import sys
import time
from threading import Event, Thread

import pytest
import torch
from attrs import frozen
from torch import nn

import composer

SECONDS = 120
"""The deadline of what takes a second. A build that hangs would wait for ever."""

ENDS = [composer.FCNDecoder(channels=8, num_convs=1), composer.SegmentationHead(num_classes=2)]
PLAIN = composer.chain(composer.Timm("test_resnet"), *ENDS)
CALLS = []
"""What the module of `Calling` calls when it is made."""


@frozen(kw_only=True)
class Calling(composer.Neck):
    """Calls every function in `CALLS` when it is built, and gives what it takes."""


@composer.contract.register(Calling)
def _(neck, features):
    return features


@composer.module.register(Calling)
def _(neck, features):
    for function in CALLS:
        function()
    return nn.Linear(3, 3)


CALLING = composer.chain(composer.Timm("test_resnet"), Calling(), *ENDS)


def state(model):
    return torch.cat([x.double().flatten() for x in model.state_dict().values()])


@pytest.fixture(scope="module")
def alone():
    """The weights of `PLAIN` after seed 4 and of `CALLING` after seed 3, each built alone."""
    return state(composer.build(PLAIN, seed=4)), state(composer.build(CALLING, seed=3))


@pytest.fixture
def call(monkeypatch):
    """Lets `Calling` call a function."""
    return lambda function: monkeypatch.setattr(sys.modules[__name__], "CALLS", [function])


def run_threads(*functions):
    threads = [Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert [thread.is_alive() for thread in threads] == [False] * len(threads)


def test_builds_and_a_load_inside_of_a_build(alone, call, tmp_path):
    limits = composer.Limits(parameters=10**6)
    composer.save(composer.build(PLAIN, seed=4), tmp_path / "saved.safetensors")
    made = []

    def build_inside():
        made.append(composer.build(PLAIN, seed=4))
        made.append(composer.build(PLAIN, seed=4, limits=limits))
        made.append(composer.load(tmp_path / "saved.safetensors"))

    call(build_inside)
    assert torch.equal(state(composer.build(CALLING, seed=3)), alone[1])
    assert torch.equal(state(composer.build(CALLING, seed=3, limits=limits)), alone[1])
    assert [torch.equal(state(one), alone[0]) for one in made if not next(one.parameters()).is_meta] == [True] * 9


def test_a_build_that_waits_for_one_in_another_thread(alone, call):
    made = []
    call(lambda: run_threads(lambda: made.append(composer.build(PLAIN, seed=4))))
    assert torch.equal(state(composer.build(CALLING, seed=3)), alone[1])
    assert torch.equal(state(made[0]), alone[0])


def test_a_fork_while_another_thread_is_in_a_build(alone, call):
    inside, finished = Event(), Event()
    call(lambda: (inside.set(), finished.wait(SECONDS)))
    other = Thread(target=composer.build, args=(CALLING,), daemon=True)
    other.start()
    assert inside.wait(SECONDS)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(state(composer.build(PLAIN, seed=4)), alone[0]) else 3)
    deadline = time.monotonic() + SECONDS
    ended, status = 0, None
    while not ended and time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    finished.set()
    other.join(SECONDS)
    if not ended:
        os.kill(child, 9)
    assert (ended, status) == (child, 0)


def test_a_thread_that_draws_while_another_builds(alone):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        expected = torch.rand(200, 5)
        torch.manual_seed(7)
        drawn, built = [], []

        def draw():
            while not built or len(drawn) < 200:
                drawn.append(torch.rand(5))

        run_threads(draw, lambda: built.append(composer.build(PLAIN, seed=4, verify=True)))
    assert torch.equal(state(built[0]), alone[0])
    assert torch.equal(torch.stack(drawn[:200]), expected)
