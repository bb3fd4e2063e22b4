"""Which device a network computes on, and the order of its sums there."""

import sys
from types import SimpleNamespace

import pytest

from trueshift import gpu

SETTING = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture
def torch_with(monkeypatch: pytest.MonkeyPatch):
    """A function that puts a torch in place which sees a GPU, or none."""
    monkeypatch.delenv(SETTING, raising=False)

    def place(available: bool) -> None:
        cuda = SimpleNamespace(is_available=lambda: available)
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))

    return place


def test_sums_on_a_gpu_have_a_fixed_order(torch_with, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_with(True)
    assert gpu.device() == "cuda"
    assert gpu.os.environ[SETTING] == ":4096:8"
    monkeypatch.setenv(SETTING, ":16:8")
    gpu.device()
    assert gpu.os.environ[SETTING] == ":16:8", "the user's own choice stays"


def test_a_cpu_needs_no_setting(torch_with) -> None:
    torch_with(False)
    assert gpu.device() == "cpu"
    assert SETTING not in gpu.os.environ
