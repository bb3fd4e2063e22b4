"""Which device a process computes on. torch is looked at only where a model has already imported it."""

import os
import sys


def device() -> str:
    """``cuda`` when torch sees a GPU, else ``cpu``; imports torch. Products of matrices are :func:`deterministic`.

    A network asks for its device before it computes anything, in ``fit`` and in ``predict``.
    """
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    deterministic()
    return "cuda"


def deterministic() -> None:
    """Has cuBLAS sum the products of matrices in a fixed order, unless the user chose otherwise.

    cuBLAS reads this setting once, when it starts.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _used() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()


def name() -> str:
    """The device this process computed on: a GPU's name, or ``cpu``."""
    return sys.modules["torch"].cuda.get_device_name() if _used() else "cpu"


def peak_memory_mb() -> float:
    """Peak memory torch allocated on the GPU, in MB; 0 on the CPU."""
    return round(sys.modules["torch"].cuda.max_memory_allocated() / 2**20, 1) if _used() else 0.0
