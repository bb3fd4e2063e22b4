"""Files that torch itself writes, read without it: the same values, and the names of torch_geometric's objects."""

import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from trueshift.contract import ContractError  # noqa: E402
from trueshift.data.pickles import torch_file  # noqa: E402
from trueshift.data.sources import pdgrapher  # noqa: E402

KINDS = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]


def saved(folder: Path, content: Any, **options: Any) -> Path:
    torch.save(content, folder / "x.pt", **options)
    return folder / "x.pt"


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_values_as_torch_loads(tmp_path: Path, kind: str) -> None:
    values = (torch.arange(24).reshape(2, 3, 4) % 7).to(getattr(torch, kind))
    content = {
        "whole": values,
        "turned": values.permute(2, 0, 1),
        "part": values[:, 1:, ::2],
        "number": values[1, 2, 3],
        "none": values[:0],
        "spread": values[0, 0, :1].expand(5),
        "grad": values.float().requires_grad_(),
    }
    found = torch_file.read(saved(tmp_path, content))
    for name, expected in torch.load(tmp_path / "x.pt", weights_only=True).items():
        expected = expected.detach().float() if kind == "bfloat16" else expected.detach()
        assert found[name].dtype == expected.numpy().dtype
        np.testing.assert_array_equal(found[name], expected.numpy())


def test_folds_and_state_dicts(tmp_path: Path) -> None:
    lists = {f"{role}_index_{way}": None for role in ("train", "val", "test") for way in ("forward", "backward")}
    folds = {i: {**lists, "train_index_backward": np.arange(i), "val_index_backward": torch.arange(i)} for i in (1, 2)}
    found = torch_file.read(saved(tmp_path, folds))
    assert found[2]["train_index_backward"].tolist() == found[2]["val_index_backward"].tolist() == [0, 1]
    assert found[1]["test_index_forward"] is None
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    found = torch_file.read(saved(tmp_path, OrderedDict(network.state_dict())))
    assert list(found) == list(network.state_dict())
    np.testing.assert_array_equal(found["0.weight"], network[0].weight.detach().numpy())


def test_what_torch_wrote_before_1_6_and_parameters_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, [torch.zeros(2)], _use_new_zipfile_serialization=False)
    with pytest.raises(ContractError, match=r"x\.pt: not a zip archive, .* save it again with a newer one"):
        torch_file.read(path)
    for content, name in (
        (torch.nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"),
        (torch.nn.Parameter(torch.zeros(2)), r"torch\._utils\._rebuild_parameter"),
        (torch.zeros(2, 2).to_sparse(), r"torch\._utils\._rebuild_sparse_tensor"),
    ):
        with pytest.raises(ContractError, match=f"names '{name}'"):
            torch_file.read(saved(tmp_path, content))


@pytest.fixture
def geometric(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Stand-ins that pickle as torch_geometric's own objects do."""
    modules = {name: types.ModuleType(name) for name in ("torch_geometric.data.data", "torch_geometric.data.storage")}
    data, storage = modules.values()

    class GlobalStorage:
        def __init__(self, parent: Any, mapping: dict[str, Any]) -> None:
            self._mapping, self._parent = mapping, parent

    class DataEdgeAttr:
        pass

    class DataTensorAttr:
        pass

    class Data:
        def __init__(self, **attributes: Any) -> None:
            self.__dict__ |= {"_edge_attr_cls": DataEdgeAttr, "_tensor_attr_cls": DataTensorAttr}
            self.__dict__["_store"] = GlobalStorage(self, attributes)

    for module, kinds in ((data, (Data, DataEdgeAttr, DataTensorAttr)), (storage, (GlobalStorage,))):
        for kind in kinds:
            kind.__module__, kind.__qualname__ = module.__name__, kind.__name__
            setattr(module, kind.__name__, kind)
    for name, module in {"torch_geometric": types.ModuleType("torch_geometric"), **modules}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "torch_geometric.data", types.ModuleType("torch_geometric.data"))
    return data


def test_samples_of_pdgrapher(tmp_path: Path, geometric: types.ModuleType) -> None:
    genes = ["g1", "g2", "g3"]
    control = torch.tensor([0.25, 0.5, 0.75])
    samples = [
        geometric.Data(
            perturbagen_name=name,
            diseased=control.clone(),
            intervention=torch.zeros(3),
            treated=torch.full((3,), float(i)),
            gene_symbols=genes,
            mutations=torch.zeros(3),
        )
        for i, name in enumerate(["a", "b"])
    ]
    path = saved(tmp_path, samples)
    for name in [name for name in sys.modules if name.startswith("torch_geometric")]:
        del sys.modules[name]  # nothing of it is needed to read
    data = pdgrapher.read({"A549": path}, log=lambda _: None)
    assert data.X.tolist() == [[0, 0, 0], [1, 1, 1], [0.25, 0.5, 0.75]]
    assert data.obs["perturbation"].tolist() == ["a", "b", "control"] and data.var_names.tolist() == genes
    assert not [name for name in sys.modules if name.startswith("torch_geometric")]
