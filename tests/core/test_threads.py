"""How threads wait: asleep while others want the cores, else spinning; and never another result."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from busy_machine import Machine

from oneshot_core import threads
from oneshot_core.tensors import seeded
from oneshot_core.threads import LATEST, ThreadWatch, TorchThreads, can_sleep

CPU = torch.device("cpu")
gnu_openmp = pytest.mark.skipif(not can_sleep(), reason="threads that can be made to sleep: GNU's OpenMP")


def follow(
    machine: Machine, steps: int, before: Callable[[int], None] = lambda _: None, kinds: str = "a"
) -> ThreadWatch:
    """Watch so many steps; `before` is called with the number of each, from 1."""
    with ThreadWatch(CPU, "search", machine) as watch:
        for number in range(1, steps + 1):
            before(number)
            watch.begin()
            watch.end(number, kinds[(number - 1) % len(kinds)])
        machine.log.append("end")
    return watch


def test_on_a_quiet_machine_threads_spin() -> None:
    machine = Machine(busy=False)
    assert follow(machine, 300).notes == ()
    assert machine.log == ["end"]


def test_on_a_busy_machine_threads_sleep_from_the_second_step_on() -> None:
    machine = Machine(busy=True)
    (note,) = follow(machine, 60).notes
    assert machine.log == ["sleep", "end", "spin"]  # spinning again for who comes next
    assert "from step 2 of the search on its threads slept" in note
    assert "(2 s a step, 12 s before)" in note


def test_threads_sleep_only_while_the_machine_is_busy() -> None:
    machine = Machine(busy=False)

    def change(number: int) -> None:
        machine.busy = 40 < number <= 100
        if number == 43:
            assert machine.asleep
        if number == 120:
            assert not machine.asleep

    follow(machine, 300, change)
    assert machine.log == ["sleep", "spin", "end"]


def test_a_machine_that_keeps_changing_does_not_make_threads_flap() -> None:
    machine = Machine()

    def change(number: int) -> None:
        machine.busy = number // 10 % 2 == 0

    follow(machine, 1000, change)
    assert len(machine.log) < 50


class SeemsCalm(Machine):
    """Sleeping threads get their core, yet spinning is slow: one thread of many that is pushed off."""

    def step(self) -> tuple[float, float, float]:
        return (2.0, 3.9, 0.01) if self.asleep else (12.0, 23.0, 1.0)


def test_where_spinning_stays_slow_it_is_tried_ever_more_rarely_and_for_one_step() -> None:
    machine = SeemsCalm()
    spinning: list[int] = []
    follow(machine, 600, lambda number: None if machine.asleep else spinning.append(number))
    assert spinning[0] == 1 and len(spinning) < 10
    gaps = [late - early for early, late in zip(spinning[1:], spinning[2:], strict=False)]
    assert gaps == sorted(gaps) and gaps[0] >= 16 and gaps[-1] == LATEST + 1


class SeemsBusy(Machine):
    """Spinning threads do not run all the time, by the work's nature, yet sleeping is slower."""

    def step(self) -> tuple[float, float, float]:
        return (1.5, 1.2, 0.0) if self.asleep else (1.0, 1.0, 0.0)


def test_where_sleeping_is_slower_threads_spin_again_and_it_is_tried_ever_more_rarely() -> None:
    machine = SeemsBusy()
    sleeping: list[int] = []
    watch = follow(machine, 600, lambda number: sleeping.append(number) if machine.asleep else None)
    assert watch.notes == ()
    assert machine.log[:2] == ["sleep", "spin"]
    assert len(sleeping) <= 3 * 8  # three steps each
    assert 500 - LATEST < sleeping[-1]


class TwoKinds(SeemsBusy):
    """Sleeping is faster, but long steps come when threads sleep first."""

    long = False

    def step(self) -> tuple[float, float, float]:
        factor = 10.0 if self.long else 1.0
        return (0.8 * factor, 0.6 * factor, 0.0) if self.asleep else (factor, factor, 0.0)


def test_steps_are_compared_with_those_of_their_kind() -> None:
    machine = TwoKinds()

    def change(number: int) -> None:
        machine.long = number > 2 and number % 2 == 0

    follow(machine, 12, change, kinds="aaab" + "ab" * 4)
    assert machine.log == ["sleep", "end", "spin"]


@pytest.mark.parametrize("kinds", ["aabbbbbbbbbb", "abbb"])
def test_kinds_that_were_seldom_seen_do_not_put_the_verdict_off_for_ever(kinds: str) -> None:
    machine = SeemsBusy()
    follow(machine, 12, kinds=kinds)
    assert machine.log[:2] == ["sleep", "spin"]
    machine = Machine()
    assert follow(machine, 12, kinds=kinds).notes


def test_threads_spin_again_after_an_error() -> None:
    machine = Machine()
    with pytest.raises(KeyboardInterrupt), ThreadWatch(CPU, "search", machine) as watch:
        for number in range(1, 5):
            watch.begin()
            watch.end(number)
        assert machine.asleep
        raise KeyboardInterrupt
    assert not machine.asleep


def test_nothing_is_done_on_other_devices_or_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchThreads, "read", lambda self: pytest.fail("read"))
    monkeypatch.setattr(threads, "can_sleep", lambda: True)
    alone = Machine()
    alone.count = 1
    for device, given in ((torch.device("cuda"), None), (torch.device("mps"), None), (CPU, alone)):
        with ThreadWatch(device, "search", given) as watch:
            watch.begin()
            watch.end(1)
        assert watch.notes == () and alone.log == []


def test_who_has_chosen_or_has_another_openmp_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in threads.USERS_CHOICE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(threads, "cpus", lambda: 16)
    monkeypatch.setattr(threads, "_LIBRARIES", tmp_path / "maps")
    assert not can_sleep()  # a system that does not tell
    (tmp_path / "maps").write_text("7f00-7f01 r-xp 0 fe:00 1 /x/torch/lib/libgomp.so.1\n")
    assert can_sleep()
    for name in threads.USERS_CHOICE:
        with monkeypatch.context() as changed:
            changed.setenv(name, "1")
            assert not can_sleep()
    with monkeypatch.context() as changed:
        changed.setattr(threads, "cpus", lambda: 1024)
        assert not can_sleep()
    with monkeypatch.context() as changed:
        changed.setattr(sys, "platform", "win32")
        assert not can_sleep()
    (tmp_path / "maps").write_text("/x/torch/lib/libgomp.so.1\n/opt/intel/libiomp5.so\n")
    assert not can_sleep()


# The real thing -------------------------------------------------------------------------------------------


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Two threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def tasks() -> int:
    """Threads of this process."""
    return len(list(Path("/proc/self/task").iterdir()))


def work() -> list[torch.Tensor]:
    """Gradients of convolutions and a large sum, which depend on the number of threads."""
    drawn = torch.randn(2, 16, 64, 64, generator=seeded(0, 0, "threads"))
    weight = torch.randn(16, 16, 3, 3, generator=seeded(0, 1, "threads")).requires_grad_(True)
    total = F.conv2d(drawn, weight, padding=1).square().mean()
    return [total.detach(), *torch.autograd.grad(total, [weight])]


@gnu_openmp
def test_there_are_more_threads_than_cpus_while_they_sleep(two_threads: None) -> None:
    spinning = work()
    found, before = TorchThreads(), tasks()
    for _ in range(2):
        found.sleep()
        found.sleep()  # already
        assert tasks() == before + 1 + (os.cpu_count() or 1)
        assert torch.get_num_threads() == 2
        asleep = work()
        assert all(torch.equal(one, other) for one, other in zip(spinning, asleep, strict=True))
        found.spin()
        found.spin()
        deadline = time.monotonic() + 60
        while tasks() > before and time.monotonic() < deadline:  # the system takes a moment
            time.sleep(0.01)
        assert tasks() == before and torch.get_num_threads() == 2


@gnu_openmp
def test_the_meter_runs_and_reading_it_costs_nothing(two_threads: None) -> None:
    found = TorchThreads()
    first = found.read()
    torch.randn(300, 300).matmul(torch.randn(300, 300))
    second = found.read()
    assert second.seconds > first.seconds and second.cpu_seconds >= first.cpu_seconds
    costs = []
    with ThreadWatch(CPU, "search") as watch:
        for number in range(1, 200):
            began = time.perf_counter()
            watch.begin()
            watch.end(number)
            costs.append(time.perf_counter() - began)
    assert min(costs) < 1e-4
