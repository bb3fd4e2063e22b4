"""Each test holds one reason for the adapter; when one fails, that part of it can go."""

import inspect
import sys

import pytest

pytest.importorskip("scvi")

import scvi.module.base
import torch
from scvi.module._constants import MODULE_KEYS

from trueshift.models.scvi_compat import Scgenvae, scgen


def test_scgen_still_cannot_be_imported_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "scgen"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError, match=r"scvi\._compat"):
        import scgen  # noqa: F401


def test_scvi_tools_still_lacks_the_loss_recorder_and_is_left_as_it_was() -> None:
    assert not hasattr(scvi.module.base, "LossRecorder")
    assert "scvi._compat" not in sys.modules


def test_the_module_of_scgen_still_refuses_keywords_of_the_training_plan() -> None:
    assert list(inspect.signature(scgen.SCGENVAE._get_inference_input).parameters) == ["self", "tensors"]
    assert "full_forward_pass" in inspect.getsource(scvi.train.TrainingPlan.forward)


def test_the_module_of_scgen_still_names_its_latent_the_old_way() -> None:
    x = torch.ones(3, 5)
    old = scgen.SCGENVAE(5, n_hidden=4, n_latent=2).eval().inference(x)
    assert not {MODULE_KEYS.QZM_KEY, MODULE_KEYS.QZV_KEY} & set(old)
    new = Scgenvae(5, n_hidden=4, n_latent=2).eval().inference(x)
    assert torch.equal(new[MODULE_KEYS.QZM_KEY], new["qz_m"])
    assert torch.equal(new[MODULE_KEYS.QZV_KEY], new["qz_v"])


def test_the_loss_is_half_the_squared_error_plus_half_the_weighted_divergence() -> None:
    module = Scgenvae(5, n_hidden=4, n_latent=2, kl_weight=0.3).eval()
    x = torch.rand(6, 5)
    outputs, generated, loss = module({"X": x})
    mean, variance = outputs["qzm"], outputs["qzv"]
    divergence = 0.5 * (variance + mean**2 - 1 - variance.log()).sum(1)
    squared = ((x - generated["px"]) ** 2).sum(1)
    assert torch.allclose(loss.loss, (0.5 * squared + 0.5 * 0.3 * divergence).mean(), rtol=1e-5)
