"""Leases on a host whose GPUs a made-up nvidia-smi lists: who gets which device, who waits, and what is refused."""

import contextlib
import fcntl
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest

from trueshift import lease as module
from trueshift.contract import ContractError
from trueshift.lease import VISIBLE, lease

NVIDIA_SMI = """#!/bin/sh
case "$1" in
  --query-gpu=*) cat {folder}/gpus ;;
  --query-compute-apps=*) cat {folder}/apps ;;
  *) exit 2 ;;
esac
"""


def uuid(index):
    return f"GPU-{index}aaaaaaa-0000-0000-0000-00000000000{index}"


class Host:
    """A host with GPUs; its lock folder and PATH are those of the test."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.environment = folder, monkeypatch
        program = folder / "bin/nvidia-smi"
        program.parent.mkdir()
        program.write_text(NVIDIA_SMI.format(folder=folder))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
        monkeypatch.setenv("TRUESHIFT_LEASES", str(folder / "leases"))
        monkeypatch.setattr(module, "PATIENCE", 0.5)
        for name in (VISIBLE, "SLURM_JOB_ID"):
            monkeypatch.delenv(name, raising=False)
        self.has(4)
        self.used({})

    def has(self, count, mig=()):
        """``count`` GPUs, those in ``mig`` cut into instances."""
        modes = {index: "Enabled" if index in mig else "Disabled" for index in range(count)}
        rows = [f"{index}, {uuid(index)}, NVIDIA A100, {mode}" for index, mode in modes.items()]
        (self.folder / "gpus").write_text("".join(f"{row}\n" for row in rows))

    def used(self, by):
        """Programs that compute on devices, by index."""
        rows = [f"{uuid(index)}, 4711, {name}\n" for index, name in by.items()]
        (self.folder / "apps").write_text("".join(rows))


@pytest.fixture
def host(tmp_path, monkeypatch):
    return Host(tmp_path, monkeypatch)


def in_child(function, *arguments):
    """Runs a function in a process of its own, whose leases end with it; returns its result as text."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = str(function(*arguments))
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(write, answer.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


def leased(count):
    """What a process sees after its lease."""
    fallback = lease(count)
    return os.environ.get(VISIBLE) + (f" ({fallback})" if fallback else "")


@contextlib.contextmanager
def holder(count, forks=False):
    """A process that holds ``count`` GPUs until the block ends; with ``forks`` only its child is alive by then."""
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        lease(count)
        if forks and os.fork():
            os._exit(0)
        os.write(write, f"{os.getpid()}".encode())
        signal.pause()
    process = int(os.read(read, 20))
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        os.waitpid(parent, 0)


def test_a_job_sees_only_what_it_leased(host):
    assert in_child(leased, 2) == f"{uuid(0)},{uuid(1)}"


def test_a_job_without_gpu_sees_none(host):
    assert in_child(leased, 0) == ""


def test_two_jobs_never_share(host):
    with holder(3):
        assert in_child(leased, 1) == uuid(3)


def test_a_lease_ends_with_its_process_however_that_dies(host):
    with holder(4) as process:
        os.kill(process, signal.SIGKILL)
        assert in_child(leased, 4).count("GPU-") == 4


def test_a_child_that_outlives_its_job_keeps_the_device(host):
    host.has(2)
    with holder(1, forks=True):
        assert in_child(leased, 1) == uuid(1)


def test_who_wants_more_than_is_free_waits_holding_nothing(host):
    with holder(2):
        waiting = os.fork()
        if waiting == 0:
            lease(3)
            (host.folder / "served").touch()
            os._exit(0)
        deadline = time.monotonic() + 10
        while not queue_is_taken(host.folder) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert free(host.folder) == {uuid(2), uuid(3)}
        assert not (host.folder / "served").exists()
    os.waitpid(waiting, 0)
    assert (host.folder / "served").exists()


def queue_is_taken(folder):
    path = folder / "leases/queue.lock"
    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def free(folder):
    """The devices whose lock nobody holds, looked at until some are: a waiting job tries them now and then."""
    for _ in range(200):
        found = set()
        for path in folder.glob("leases/GPU-*.lock"):
            with path.open() as file, contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found.add(path.stem)
        if len(found) == 2:
            return found
        time.sleep(0.01)
    return set()


@pytest.mark.parametrize(
    ("visible", "count", "seen"),
    [("2,3", 2, f"{uuid(2)},{uuid(3)}"), (uuid(1), 1, uuid(1)), ("GPU-1aaa", 1, uuid(1)), ("3,0", 1, uuid(3))],
)
def test_only_what_the_caller_shows_is_leased(host, visible, count, seen):
    host.environment.setenv(VISIBLE, visible)
    assert in_child(leased, count) == seen


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles"])
def test_hidden_gpus_stay_hidden_and_the_log_says_so(host, visible, capfd):
    host.environment.setenv(VISIBLE, visible)
    assert "hides all GPUs" in in_child(leased, 1)
    assert "computing on the CPU" in capfd.readouterr().out


def test_without_a_driver_the_cpu_computes_and_the_log_says_why(host, capfd):
    (host.folder / "bin/nvidia-smi").unlink()
    assert in_child(leased, 1) == " (nvidia-smi is not installed)"
    (host.folder / "bin/nvidia-smi").write_text("#!/bin/sh\necho 'no NVIDIA driver is running'\nexit 9\n")
    (host.folder / "bin/nvidia-smi").chmod(0o755)
    assert "no NVIDIA driver is running" in in_child(leased, 1)
    assert "computing on the CPU" in capfd.readouterr().out


def test_slurm_has_leased_what_it_gave(host):
    host.environment.setenv("SLURM_JOB_ID", "17")
    host.environment.setenv(VISIBLE, "1,2")
    with holder(2):
        assert in_child(leased, 2) == "1,2", "left as SLURM set it, though another step holds leases"
        host.environment.setenv(VISIBLE, "0,1,2")
        assert in_child(leased, 1) in (uuid(0), uuid(1), uuid(2)), (
            "more than asked for: jobs of the allocation share it"
        )


def test_more_than_there_are_is_refused_at_once(host):
    assert "wants 5 GPUs, but only 4 may be leased" in in_child(leased, 5)
    host.environment.setenv(VISIBLE, "0,7")
    assert "there is no GPU 7; this host has 0 (GPU-0" in in_child(leased, 1)


def test_devices_in_mig_mode_are_refused(host):
    host.has(2, mig={0, 1})
    assert "MIG mode: Trueshift leases whole GPUs. Switch MIG off" in in_child(leased, 1)
    host.has(2, mig={0})
    assert in_child(leased, 1) == uuid(1)
    host.environment.setenv(VISIBLE, "MIG-11111111-2222")
    assert "is a MIG instance" in in_child(leased, 1)


def test_devices_that_others_compute_on_are_left_alone_or_refused(host):
    host.used({0: "/usr/bin/other", 2: "/usr/bin/other"})
    assert in_child(leased, 2) == f"{uuid(1)},{uuid(3)}"
    answer = in_child(leased, 3)
    assert f"others compute on them: {uuid(0)} by process 4711 (/usr/bin/other)" in answer


def test_the_lock_folder_may_be_nobody_elses_link(host):
    (host.folder / "elsewhere").mkdir()
    (host.folder / "leases").symlink_to(host.folder / "elsewhere")
    assert "is no folder (a link?)" in in_child(leased, 1)
    (host.folder / "leases").unlink()
    (host.folder / "leases").mkdir()
    (host.folder / "target").touch()
    (host.folder / "leases" / f"{uuid(0)}.lock").symlink_to(host.folder / "target")
    assert "set TRUESHIFT_LEASES to a folder of yours" in in_child(leased, 1)


@pytest.mark.skipif(os.getuid() != 0, reason="NEEDS ROOT: becomes another user")
def test_every_user_can_lock_what_another_made(monkeypatch):
    def as_nobody():
        os.setuid(65534)
        return leased(1)

    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to others
        Path(folder).chmod(0o755)
        host = Host(Path(folder), monkeypatch)
        with holder(1):
            assert in_child(as_nobody) == uuid(1)
        assert (host.folder / "leases").stat().st_mode & 0o1777 == 0o1777


def test_a_lease_after_torch_is_a_mistake_of_ours(host, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", object())
    with pytest.raises(RuntimeError, match="before torch"):
        lease(1)


def test_the_message_of_a_contract_error_is_one_line(host):
    with pytest.raises(ContractError) as raised:
        lease(9)
    assert "\n" not in str(raised.value)
