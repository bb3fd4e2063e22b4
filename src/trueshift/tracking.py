"""Where a training reports: plain lines on stdout, wandb, and what it cost."""

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

from trueshift import gpu
from trueshift.contract import ContractError, write_json


class Run:
    """One training run. ``log`` prints a plain line and forwards it to wandb; ``resume`` is the folder for checkpoints.

    Modes of wandb: offline (never prompts, needs no key and no network), online, disabled. A model that logs nothing
    has no curve and leaves no run there.
    """

    def __init__(
        self,
        *,
        wandb: Literal["online", "offline", "disabled"] = "disabled",
        resume: Path | None = None,
        folder: Path | None = None,
        config: dict[str, Any] | None = None,
        **names: Any,
    ) -> None:
        self.resume = resume
        self._mode, self._folder, self._config, self._names = wandb, folder, config or {}, names
        self._wandb: Any = None
        self._start = time.monotonic()
        self._last: tuple[int, float] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if kind is None else 1)
            self._wandb = None

    def _start_wandb(self) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read at import: nothing is sent when offline
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise ContractError(
                "wandb is not installed in this environment; add it, or set wandb: disabled in config/config.yaml"
            ) from error
        if self._mode == "online" and not wandb.api.api_key:
            raise ContractError(
                "wandb is online but has no key: run `wandb login` or set WANDB_API_KEY, or set wandb: offline"
            )
        folder = self._folder or Path("wandb")
        folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            save_code=False,
            x_disable_stats=True,
            x_save_requirements=False,  # the environment is pinned by its file; reading it again costs .3 s
        )
        self._wandb = wandb.init(mode=self._mode, dir=folder, config=self._config, settings=settings, **self._names)

    def log(self, step: int, **values: float) -> None:
        """Reports named values at a step, with seconds since the start and steps per second since the last line."""
        now = time.monotonic() - self._start
        rate = ""
        if self._last and now > self._last[1] and step > self._last[0]:
            rate = f"  {(step - self._last[0]) / (now - self._last[1]):.3g} step/s"
        self._last = (step, now)
        print(
            f"step {step}  " + "  ".join(f"{k} {v:.5g}" for k, v in values.items()) + f"  {now:.1f} s{rate}", flush=True
        )
        if self._mode == "disabled":
            return
        if self._wandb is None:
            self._start_wandb()
        self._wandb.log(values, step=step)


@contextmanager
def cost(stage: str, path: Path, cpu_fallback: str = "") -> Iterator[None]:
    """Measures a block that ends well: stage, seconds, peak RSS (MB), peak GPU memory (MB) and device, as JSON.

    ``cpu_fallback`` says why a job that booked a GPU computed without one.
    """
    start = time.monotonic()
    yield
    write_json(
        {
            "stage": stage,
            "seconds": round(time.monotonic() - start, 3),
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "gpu_peak_mb": gpu.peak_memory_mb(),
            "device": gpu.name(),
            "cpu_fallback": cpu_fallback,
        },
        path,
    )
