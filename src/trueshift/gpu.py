"""Which device a process computes on. torch is looked at only where a model has already imported it."""

import sys


def device() -> str:
    """``cuda`` when torch sees a GPU, else ``cpu``; imports torch."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _used() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()


def name() -> str:
    """The device this process computed on: a GPU's name, or ``cpu``."""
    return sys.modules["torch"].cuda.get_device_name() if _used() else "cpu"


def peak_memory_mb() -> float:
    """Peak memory torch allocated on the GPU, in MB; 0 on the CPU."""
    return round(sys.modules["torch"].cuda.max_memory_allocated() / 2**20, 1) if _used() else 0.0
