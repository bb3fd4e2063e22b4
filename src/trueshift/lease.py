"""Leases of GPUs: whole devices, taken before torch is imported and held until the process ends.

Snakemake counts GPUs but hands none out, so jobs of one host agree among themselves: one lock file per device, named by
its UUID. The kernel drops a lock when the last process that inherited it is gone, however it died; nothing has to be
cleaned up, and a device whose job left a child behind stays taken until the child ends.
"""

import contextlib
import csv
import fcntl
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from trueshift.contract import ContractError

VISIBLE = "CUDA_VISIBLE_DEVICES"
PATIENCE = 60.0  # seconds: a job that just ended may still be seen on its device
LOOK_EVERY = 0.2  # seconds

_REMEDY_MIG = (
    "Trueshift leases whole GPUs. Switch MIG off (nvidia-smi --mig 0), "
    f"or leave such devices out of {VISIBLE} and of --resources gpu"
)


@dataclass(frozen=True)
class Device:
    """A GPU as nvidia-smi lists it; ``mig`` says whether it is cut into instances."""

    index: str
    uuid: str
    name: str
    mig: bool


class NoGPU(Exception):  # noqa: N818 - not an error: the CPU computes instead
    """There is no GPU to lease; the text says why."""


# --- what the host has --------------------------------------------------------------------------------


def _nvidia_smi(query: str) -> list[list[str]]:
    """The rows of one query; raises :class:`NoGPU` where there is no driver."""
    if not shutil.which("nvidia-smi"):
        raise NoGPU("nvidia-smi is not installed")
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines() or [f"status {done.returncode}"]
        raise NoGPU(f"nvidia-smi fails: {said[0]}")
    return [[cell.strip() for cell in row] for row in csv.reader(done.stdout.splitlines()) if row]


def devices() -> list[Device]:
    """The GPUs that this process may use: all of the host, or those in ``CUDA_VISIBLE_DEVICES`` (indices or UUIDs)."""
    visible = os.environ.get(VISIBLE)
    wanted = None if visible is None else [name.strip() for name in visible.split(",") if name.strip()]
    if wanted is not None and (not wanted or wanted[0] in ("-1", "NoDevFiles")):
        raise NoGPU(f"{VISIBLE}={visible} hides all GPUs")
    listed = _nvidia_smi("--query-gpu=index,uuid,name,mig.mode.current")
    host = [Device(index, uuid, name, mig == "Enabled") for index, uuid, name, mig in listed]
    if not host:
        raise NoGPU("nvidia-smi lists no GPU")
    if wanted is None:
        return host
    chosen = []
    for name in wanted:
        found = [device for device in host if name == device.index or (len(name) > 4 and device.uuid.startswith(name))]
        if name.startswith("MIG"):
            raise ContractError(f"{VISIBLE}={visible}: {name} is a MIG instance; {_REMEDY_MIG}")
        if len(found) != 1:
            known = ", ".join(f"{device.index} ({device.uuid})" for device in host)
            raise ContractError(f"{VISIBLE}={visible}: there is no GPU {name}; this host has {known}")
        chosen += found
    return chosen


def _foreign(taken: list[Device]) -> dict[str, str]:
    """By UUID, who computes on devices of which this process holds the locks: no job of ours, so somebody else."""
    ours = {device.uuid for device in taken}
    rows = _nvidia_smi("--query-compute-apps=gpu_uuid,pid,process_name")
    return {uuid: f"process {pid} ({name})" for uuid, pid, name in rows if uuid in ours}


# --- leases -------------------------------------------------------------------------------------------


def lock_folder() -> Path:
    """The folder of the lock files: ``TRUESHIFT_LEASES``, else one for all users below the host's temporary folder."""
    given = os.environ.get("TRUESHIFT_LEASES")
    folder = Path(given) if given else Path(tempfile.gettempdir(), "trueshift-gpu-leases")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        folder.chmod(0o1777)  # like /tmp: anyone may add a lock, only its owner remove it
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise ContractError(f"{folder} is no folder (a link?); remove it, or set TRUESHIFT_LEASES to a folder of yours")
    return folder


def _open(name: str) -> int:
    """A descriptor of a lock file. Locks need no right to write: another user's file will do, a link will not."""
    path = lock_folder() / name
    try:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o444))
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is no plain file")
    except OSError as error:
        raise ContractError(
            f"{path}: the lock of a GPU cannot be opened ({error}); set TRUESHIFT_LEASES to a folder of yours, "
            "the same for all your runs on this host"
        ) from error
    os.set_inheritable(descriptor, True)  # a child that outlives its parent keeps the device taken
    return descriptor


def _take(count: int, candidates: list[Device]) -> tuple[list[Device], dict[str, str]]:
    """Locks ``count`` candidates that nobody uses, or none; also who uses those that could be locked but not taken."""
    taken: dict[Device, int] = {}
    for device in candidates:
        descriptor = _open(f"{device.uuid}.lock")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken[device] = descriptor
        except BlockingIOError:
            os.close(descriptor)
    foreign = _foreign(list(taken)) if len(taken) >= count else {}
    free = [device for device in taken if device.uuid not in foreign]
    kept = free[:count] if len(free) >= count else []
    for device, descriptor in taken.items():
        if device not in kept:
            os.close(descriptor)
    return kept, foreign


def lease(count: int) -> str:
    """Takes ``count`` whole GPUs for the rest of this process and shows torch no others; waits for them if need be.

    All are taken at once or none, and those who wait are served one after the other, so nobody holds what another
    needs while waiting. Returns why the CPU computes instead, or nothing. With ``count`` 0 all GPUs are hidden.
    In a SLURM job that was given exactly ``count`` devices, SLURM has leased them already. Raises
    :class:`ContractError` where there are too few whole GPUs, or somebody else computes on them.
    """
    if "torch" in sys.modules:
        raise RuntimeError("GPUs are leased before torch is imported")
    if count == 0:
        os.environ[VISIBLE] = ""
        return ""
    try:
        visible = devices()
        usable = [device for device in visible if not device.mig]
        if len(usable) < count:
            cut = "; the others are in MIG mode: " + _REMEDY_MIG if len(usable) < len(visible) else ""
            raise ContractError(f"a job wants {count} GPUs, but only {len(usable)} may be leased here{cut}")
        if "SLURM_JOB_ID" in os.environ and os.environ.get(VISIBLE) and len(usable) == count:
            print(f"GPU: {_words(usable)}, given by SLURM", flush=True)
            return ""
        leased = _wait(count, usable)
    except NoGPU as reason:
        print(f"GPU: {reason}; computing on the CPU", flush=True)
        os.environ[VISIBLE] = ""
        return str(reason)
    os.environ[VISIBLE] = ",".join(device.uuid for device in leased)
    print(f"GPU: {_words(leased)}", flush=True)
    return ""


def _wait(count: int, usable: list[Device]) -> list[Device]:
    queue = _open("queue.lock")
    try:
        fcntl.flock(queue, fcntl.LOCK_EX)
        start, said = time.monotonic(), False
        while True:
            taken, foreign = _take(count, usable)
            if taken:
                return taken
            if len(usable) - len(foreign) < count and time.monotonic() - start > PATIENCE:
                used = "; ".join(f"{uuid} by {who}" for uuid, who in foreign.items())
                raise ContractError(
                    f"a job wants {count} GPUs, but others compute on them: {used}. "
                    f"Wait, or leave them out of {VISIBLE} and of --resources gpu"
                )
            if not said:
                print(f"GPU: waiting for {count} of {_words(usable)}", flush=True)
                said = True
            time.sleep(LOOK_EVERY)
    finally:
        os.close(queue)


def _words(chosen: list[Device]) -> str:
    return ", ".join(f"{device.index} ({device.name}, {device.uuid})" for device in chosen)
