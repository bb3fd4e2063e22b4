"""scgen 2.1.0, the newest release on PyPI, made to work on scvi-tools 1.4: all that is needed, in one place.

What scvi-tools has dropped or changed since scgen was written, each held by a test that fails once it is back:

* ``scvi._compat`` (it held ``Literal``) and ``scvi.module.base.LossRecorder`` (now ``LossOutput``, with other names of
  arguments) are gone: scgen cannot be imported. They are provided while it is, and taken away again.
* training plans now pass keywords to ``_get_inference_input``, which scgen's module does not take;
* the mean and variance of the latent are now looked up as ``qzm`` and ``qzv``; scgen has ``qz_m`` and ``qz_v``.

And what it does not do yet: a saved model holds NumPy arrays, which only a reader that runs pickled code can read.
"""

import sys
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import scvi.module.base
import torch


def _loss_recorder(loss: torch.Tensor, reconstruction_loss: torch.Tensor, kl_local: torch.Tensor) -> Any:
    return scvi.module.base.LossOutput(loss=loss, reconstruction_loss=reconstruction_loss, kl_local=kl_local)


@contextmanager
def _dropped_names() -> Iterator[None]:
    compat = ModuleType("scvi._compat")
    compat.Literal = typing.Literal  # type: ignore[attr-defined]
    sys.modules["scvi._compat"] = compat
    scvi.module.base.LossRecorder = _loss_recorder
    try:
        yield
    finally:
        del sys.modules["scvi._compat"], scvi.module.base.LossRecorder


with _dropped_names():
    import scgen


class Scgenvae(scgen.SCGENVAE):
    """scgen's module, an autoencoder of expression, with what scvi-tools asks of a module today."""

    def _get_inference_input(self, tensors: dict[str, torch.Tensor], **_: Any) -> dict[str, torch.Tensor]:
        return super()._get_inference_input(tensors)

    def inference(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Encodes expression (N, G): ``z`` is drawn from a normal, mean ``qzm`` and variance ``qzv``, all (N, D)."""
        outputs = super().inference(x)
        return {**outputs, "qzm": outputs["qz_m"], "qzv": outputs["qz_v"]}


class Scgen(scgen.SCGEN):
    """scgen's model on :class:`Scgenvae`; arguments as there, by name: the package saves them from the signature."""

    def __init__(
        self,
        adata: Any,
        n_hidden: int = 800,
        n_latent: int = 100,
        n_layers: int = 2,
        dropout_rate: float = 0.2,
        **model_kwargs: Any,
    ) -> None:
        sizes = {"n_hidden": n_hidden, "n_latent": n_latent, "n_layers": n_layers, "dropout_rate": dropout_rate}
        super().__init__(adata, **sizes, **model_kwargs)
        self.module = Scgenvae(n_input=adata.n_vars, **sizes, **model_kwargs)

    def saved(self) -> dict[str, Any]:
        """What the package's own ``save`` writes, its arrays as lists.

        Written by ``torch.save`` it is still read by the package's ``load``, and by ``torch.load`` without pickled
        code. Left out: losses by epoch, which are logged, the date, and a random name.
        """
        written: list[dict[str, Any]] = []
        to_disk = torch.save
        torch.save = lambda content, *_, **__: written.append(content)
        try:
            with TemporaryDirectory() as folder:
                self.save(folder, overwrite=True)
        finally:
            torch.save = to_disk
        content = _plain(written[0])
        for name in ("history_", "run_id_", "run_name_"):
            content["attr_dict"].pop(name, None)
        content["attr_dict"]["registry_"].pop("_scvi_uuid", None)
        return content


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
