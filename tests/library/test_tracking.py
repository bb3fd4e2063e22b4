import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from trueshift import tracking
from trueshift.contract import ContractError
from trueshift.tracking import Run, cost

SOURCE = str(Path(__file__).parents[2] / "src")


def test_a_line_a_step(capsys):
    with Run() as run:
        run.log(10, loss=0.123456789, val=2)
        run.log(20, loss=1e-9)
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"step 10  loss 0.12346  val 2  \d+\.\d s", first)
    assert re.fullmatch(r"step 20  loss 1e-09  \d+\.\d s  \S+ step/s", second)


def test_steps_per_second(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 5.0])
    monkeypatch.setattr(tracking.time, "monotonic", lambda: next(clock))
    run = Run()
    run.log(100, loss=1)
    run.log(300, loss=1)
    assert capsys.readouterr().out.splitlines()[1] == "step 300  loss 1  5.0 s  50 step/s"


def test_resume_folder_is_passed_on(tmp_path):
    assert Run(resume=tmp_path).resume == tmp_path
    assert Run().resume is None


def python(code: str, folder: Path, **env: str) -> subprocess.CompletedProcess:
    """Runs code in a fresh process without key, home or terminal."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**kept, "PYTHONPATH": SOURCE, "HOME": str(folder), "NETRC": str(folder / "netrc"), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_wandb_offline_writes_a_run_and_touches_no_network(tmp_path):
    code = """
from pathlib import Path
from trueshift.tracking import Run
with Run(wandb="offline", folder=Path("kept"), config={"rank": 3}, project="p", name="n", group="g") as run:
    run.log(1, loss=2.0)
    run.log(2, loss=1.0)
"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        done = python(code, tmp_path, WANDB_BASE_URL=address, HTTPS_PROXY=address, HTTP_PROXY=address)
        with pytest.raises(TimeoutError):
            server.accept()
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["step", "1"], ["step", "2"]]
    assert not done.stderr
    (file,) = tmp_path.glob("kept/wandb/offline-run-*/run-*.wandb")
    assert b"loss" in file.read_bytes()
    assert b"rank" in file.read_bytes()


def test_disabled_tracking_does_not_import_wandb(tmp_path):
    code = """
import sys
from trueshift.tracking import Run
with Run(wandb="disabled") as run:
    run.log(1, loss=2.0)
assert "wandb" not in sys.modules
"""
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "wandb").exists()


def test_a_training_without_a_curve_is_not_tracked(tmp_path):
    code = """
import sys
from trueshift.tracking import Run
with Run(wandb="offline"):
    pass
assert "wandb" not in sys.modules
"""
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert not done.stdout
    assert not list(tmp_path.rglob("*.wandb"))


def test_online_without_a_key_is_an_error_and_no_question(tmp_path):
    code = """
from trueshift.tracking import Run
with Run(wandb="online", project="p") as run:
    run.log(1, loss=2.0)
"""
    done = python(code, tmp_path)
    assert done.returncode == 1
    assert "ContractError: wandb is online but has no key" in done.stderr


def test_wandb_missing_from_the_environment_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ContractError, match="wandb is not installed"):
        Run(wandb="offline").log(1, loss=1)


def test_a_failed_training_closes_its_run_as_failed(monkeypatch):
    codes = []

    class Started:
        def log(self, values, step):
            pass

        def finish(self, exit_code):
            codes.append(exit_code)

    for error in (None, RuntimeError):
        run = Run()
        run._wandb = Started()
        try:
            with run:
                if error:
                    raise error
        except RuntimeError:
            pass
    assert codes == [0, 1]


def test_cost_is_written_when_the_block_ends_well(tmp_path):
    path = tmp_path / "cost.json"
    with cost("train", path, cpu_fallback="no driver"):
        held = bytearray(60_000_000)
    found = json.loads(path.read_text())
    assert list(found) == ["stage", "seconds", "peak_rss_mb", "gpu_peak_mb", "device", "cpu_fallback"]
    assert found["stage"] == "train"
    assert 0 <= found["seconds"] < 10
    assert found["peak_rss_mb"] > len(held) / 2**20
    assert found["device"]
    assert found["cpu_fallback"] == "no driver"


def test_cost_of_a_failed_block_is_not_written(tmp_path):
    with pytest.raises(RuntimeError), cost("train", tmp_path / "cost.json"):
        raise RuntimeError
    assert not (tmp_path / "cost.json").exists()
