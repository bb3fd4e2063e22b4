"""Epochs, early stopping and checkpoints that all networks share."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from trueshift.contract import ContractError  # noqa: E402
from trueshift.networks.training import Checkpoint, fingerprint, load_weights, shuffled_batches, train_epochs  # noqa: E402
from trueshift.tracking import Run  # noqa: E402


class KilledError(Exception):
    """Stands for a signal."""


def train(run: Run | None, epochs: int = 6, kill_at: int | None = None, losses: list[float] | None = None, **settings):
    """A linear network with dropout on random numbers; validation losses may be dictated."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.5))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    seen = []

    def epoch(number: int, rng: np.random.Generator) -> dict[str, float]:
        if number == kill_at:
            raise KilledError
        x = torch.from_numpy(rng.normal(size=(8, 3)).astype(np.float32))
        loss = (network(x) - x[:, :2]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        seen.append({name: value.clone() for name, value in network.state_dict().items()})
        return {"loss": loss.item()}

    parts = {"network": network, "optimizer": optimizer, "scheduler": scheduler}
    validate = None if losses is None else iter(losses).__next__
    arguments = {"name": "Test", "seed": 3, "run": run, "fingerprint": "f", "validate": validate, **settings}
    train_epochs(parts, epochs, epoch, **arguments)
    return network, seen


def equal(a: dict, b: dict) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kill_at", [1, 3, 5])
def test_killed_and_resumed_it_ends_with_the_same_bits(tmp_path: Path, kill_at: int) -> None:
    undisturbed, _ = train(None)
    with pytest.raises(KilledError):
        train(Run(resume=tmp_path), kill_at=kill_at)
    assert (tmp_path / "state.pt").exists()
    resumed, seen = train(Run(resume=tmp_path))
    assert len(seen) == 6 - kill_at, "the epochs before are not run again"
    assert equal(undisturbed.state_dict(), resumed.state_dict())


def test_a_finished_training_is_not_run_again(tmp_path: Path) -> None:
    first, _ = train(Run(resume=tmp_path))
    again, seen = train(Run(resume=tmp_path))
    assert not seen and equal(first.state_dict(), again.state_dict())
    Checkpoint(Run(resume=tmp_path), "Test", "f").discard()
    assert len(train(Run(resume=tmp_path))[1]) == 6


def test_another_fingerprint_or_a_damaged_file_starts_afresh(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(Run(resume=tmp_path))
    assert len(train(Run(resume=tmp_path), fingerprint="g")[1]) == 6
    assert "other settings or data" in capsys.readouterr().out
    content = bytearray((tmp_path / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "state.pt").write_bytes(content)
    assert len(train(Run(resume=tmp_path), fingerprint="g")[1]) == 6
    assert "damaged" in capsys.readouterr().out


def test_the_best_weights_on_validation_stay_and_patience_ends() -> None:
    network, seen = train(None, epochs=9, losses=[5, 2, 3, 4, 6, 1, 1, 1, 1], patience=3)
    assert len(seen) == 5, "three validations without a better one"
    assert equal(network.state_dict(), seen[1])
    network, seen = train(None, epochs=5, losses=[3, 2, 9], validate_every=2)
    assert len(seen) == 5 and equal(network.state_dict(), seen[3]), "validated after epochs 2, 4 and the last"
    network, seen = train(None)
    assert equal(network.state_dict(), seen[-1]), "without validation the last"
    assert not network.training


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    def epoch(number: int, rng: np.random.Generator) -> dict[str, float]:
        return {"loss": float("nan")}

    with pytest.raises(ContractError, match="not finite in epoch 1"):
        train_epochs({}, 2, epoch, name="Test", seed=0, run=None, fingerprint="")


def test_batches_hold_every_row_once_and_none_is_too_small() -> None:
    rng = np.random.default_rng(0)
    batches = shuffled_batches(rng, 21, 4, least=2)
    assert sorted(np.concatenate(batches)) == list(range(21))
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 5]
    assert [len(batch) for batch in shuffled_batches(rng, 3, 8, least=4)] == [3]


def test_a_fingerprint_tells_settings_and_arrays_apart() -> None:
    from scipy import sparse

    X = sparse.csr_matrix(np.eye(3))
    base = fingerprint({"a": 1}, X, np.arange(3))
    assert base == fingerprint({"a": 1}, X.copy(), np.arange(3))
    others = [fingerprint({"a": 2}, X, np.arange(3)), fingerprint({"a": 1}, 2 * X, np.arange(3))]
    others += [fingerprint({"a": 1}, X, np.arange(3.0)), fingerprint({"a": 1}, X, np.arange(3)[None])]
    assert len({base, *others}) == 5


def test_weights_of_another_size_name_their_file(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ContractError, match=r"weights\.pt: weights of other settings"):
        load_weights(torch.nn.Linear(3, 2), tmp_path / "weights.pt")
