"""Two hundred jobs that want one to four of eight GPUs, a third of them killed: none is held twice, none leaks."""

import fcntl
import os
import random
import signal
import time

import pytest

from trueshift.lease import VISIBLE, devices, lease

GPUS, JOBS, AT_ONCE = 8, 200, 24
LISTING = "".join(f"{index}, GPU-{index:08d}-0000, NVIDIA A100, Disabled\n" for index in range(GPUS))


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host on which a made-up nvidia-smi lists eight GPUs, nobody else's programs on them."""
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncase $1 in --query-gpu=*) printf '%s' '{LISTING}' ;; esac\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("TRUESHIFT_LEASES", str(tmp_path / "leases"))
    monkeypatch.delenv(VISIBLE, raising=False)
    return tmp_path


def job(folder, number, count):
    """Leases, claims each device by a POSIX record lock, another mechanism than that of leases, and holds for a while.

    The claim fails if any other job, killed ones included, still has it. Never returns.
    """
    try:
        lease(count)
        held = os.environ[VISIBLE].split(",")
        assert len(set(held)) == count
        witnesses = [(folder / f"{uuid}.witness").open("w") for uuid in held]  # open until the end
        for witness in witnesses:
            fcntl.lockf(witness, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (folder / f"{number}.leased").write_text(" ".join(held))
        time.sleep(random.Random(number).uniform(0.01, 0.15))
        (folder / f"{number}.ended").touch()
    except BaseException as error:
        (folder / f"{number}.clash").write_text(f"{type(error).__name__}: {error}")
    os._exit(0)


def test_no_device_is_held_twice_and_none_leaks(host):
    draw = random.Random(0)
    waiting = [(number, draw.randint(1, 4), draw.random() < 1 / 3) for number in range(JOBS)]
    doomed = {number for number, _, killed in waiting if killed}
    running, due, killed = {}, {}, set()
    deadline = time.monotonic() + 300
    while waiting or running:
        assert time.monotonic() < deadline, "jobs wait for devices that nobody holds"
        while waiting and len(running) < AT_ONCE:
            number, count, _ = waiting.pop(0)
            process = os.fork()
            if process == 0:
                os.setpgid(0, 0)
                job(host, number, count)
            running[process] = number
            if number in doomed:  # some while they wait, some while they hold
                due[process] = time.monotonic() + draw.uniform(0, 1.5)
        for process in [process for process, when in due.items() if when < time.monotonic()]:
            os.kill(process, signal.SIGKILL)
            killed.add(running[process])
            del due[process]
        process, _ = os.waitpid(-1, os.WNOHANG)
        if process:
            del running[process]
            due.pop(process, None)
        time.sleep(0.001)
    clashes = {path.name: path.read_text() for path in host.glob("*.clash")}
    assert not clashes
    ended = {int(path.stem) for path in host.glob("*.ended")}
    assert ended >= set(range(JOBS)) - killed
    assert len(killed - ended) > JOBS / 10, "the kills came too late to mean anything"
    assert {path.read_text().count("GPU-") for path in host.glob("*.leased")} == {1, 2, 3, 4}
    child = os.fork()
    if child == 0:  # all eight can be had again
        job(host, JOBS, GPUS)
    os.waitpid(child, 0)
    assert (host / f"{JOBS}.ended").exists()
    assert len(devices()) == GPUS
