"""What the adapters share: expression of bulk profiles around the training means of genes."""

import numpy as np
import pytest
from planted import make_query, make_train

from trueshift.models.base import Query, Training
from trueshift.models.biolord import Biolord
from trueshift.models.scgen import ScGen
from trueshift.models.scvi_training import gene_centre

SCGEN = {"n_hidden": 32, "n_latent": 8, "n_layers": 1, "epochs": 3}
BIOLORD = {"n_latent": 8, "n_attribute": 8, "decoder_width": 32, "decoder_depth": 1, "epochs": 3}


def profiles(offset: float):
    train = make_train(cells=8)
    train.uns["trueshift"] = {"kind": "profile"}
    train.X = train.X + np.linspace(0, offset, train.n_vars, dtype=np.float32)
    return train


@pytest.mark.parametrize(("cls", "settings"), [(ScGen, SCGEN), (Biolord, BIOLORD)])
def test_the_level_of_a_gene_does_not_matter_for_profiles(cls: type, settings: dict, tmp_path) -> None:
    answers = []
    for offset in (0.0, 8.0):
        train = profiles(offset)
        query = make_query(train, [("A", "P0"), ("hidden", "P1")], n_cells=1)
        cls(seed=1, **settings).fit(Training(train)).save(tmp_path)
        answers.append(cls(seed=1, **settings).load(tmp_path).predict(Query(query)).X)
    moved = np.linspace(0, 8, answers[0].shape[1])
    np.testing.assert_allclose(answers[1] - answers[0], np.broadcast_to(moved, answers[0].shape), atol=2e-2)


def test_cells_are_given_as_they_are() -> None:
    train = make_train()
    assert not gene_centre(train).any()
    train.uns["trueshift"]["kind"] = "profile"
    np.testing.assert_allclose(gene_centre(train), train.X.mean(axis=0), rtol=1e-5)
