"""The networks of MultiDCP: molecules, drug–gene attention, cells and doses, and what joins them.

Wu, Liu, Qiu & Xie 2022, "Deep learning prediction of chemical-induced dose-dependent and context-specific multiplex
phenotype responses and its application to personalized Alzheimer's disease drug repurposing", PLoS Computational
Biology 18, e1010367, written from the description; the graph convolution is that of Duvenaud et al. 2015, NeurIPS 28,
attention that of Vaswani et al. 2017, NeurIPS 30.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trueshift.models.molecular_graph import ATOM_FEATURES, BOND_FEATURES, MAX_DEGREE, GraphBatch, Neighbourhood


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear maps from each width to the next, with ReLU between them."""
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        parts += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class GraphConvolution(nn.Module):
    """One convolution with weights by degree: r'_a = ReLU(U r_a + H_d [Σ_i r_i, Σ_i e_ai] + b_d).

    i runs over the d neighbours of atom a, r are the codes of atoms and e the features of bonds. Atoms of more than
    five neighbours share the weights of those of five.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.own = nn.Linear(inputs, outputs, bias=False)
        bound = (inputs + BOND_FEATURES) ** -0.5
        weights = torch.empty(MAX_DEGREE + 1, inputs + BOND_FEATURES, outputs).uniform_(-bound, bound)
        self.weights = nn.Parameter(weights)
        self.bias = nn.Parameter(torch.zeros(MAX_DEGREE + 1, outputs))

    def forward(self, atoms: Tensor, bonds: Tensor, neighbourhoods: Sequence[Neighbourhood]) -> Tensor:
        """Codes of atoms (N, inputs) and features of bonds (M, 6) → codes of atoms (N, outputs)."""
        messages = []
        for group in neighbourhoods:
            near = torch.from_numpy(group.neighbours).to(atoms.device)  # (n, d)
            to_them = torch.from_numpy(group.bonds).to(atoms.device)
            sums = torch.cat([atoms[near].sum(1), bonds[to_them].sum(1)], 1)  # (n, inputs + 6)
            kind = min(group.degree, MAX_DEGREE)
            messages.append(torch.addmm(self.bias[kind], sums, self.weights[kind]))
        place = np.argsort(np.concatenate([group.atoms for group in neighbourhoods]))
        message = torch.cat(messages).index_select(0, torch.from_numpy(place).to(atoms.device))
        return functional.relu(self.own(atoms) + message)


class Fingerprint(nn.Module):
    """A code of ``width`` for every atom: the sum over convolutions of softmax(W r).

    Their sum over the atoms of a molecule is its neural fingerprint.
    """

    def __init__(self, convolutions: Sequence[int], width: int) -> None:
        super().__init__()
        steps = list(pairwise([ATOM_FEATURES, *convolutions]))
        self.convolutions = nn.ModuleList(GraphConvolution(*step) for step in steps)
        self.write = nn.ModuleList(nn.Linear(size, width) for size in convolutions)

    def forward(self, molecules: GraphBatch) -> tuple[Tensor, Tensor]:
        """Codes of the atoms of each molecule (D, A, W), zero where it has fewer than A, and which there are (D, A)."""
        device = self.write[0].weight.device
        atoms, bonds = (torch.from_numpy(x).to(device) for x in (molecules.atoms, molecules.bonds))
        code = torch.zeros((), device=device)
        for convolve, write in zip(self.convolutions, self.write, strict=True):
            atoms = convolve(atoms, bonds, molecules.neighbourhoods)
            code = code + write(atoms).softmax(-1)  # (N, W)
        D, A = len(molecules.sizes), int(molecules.sizes.max())
        place = torch.from_numpy(molecules.molecule * A + molecules.position).to(device)
        padded = code.new_zeros(D * A, code.shape[1]).index_copy(0, place, code)
        there = torch.arange(A) < torch.from_numpy(molecules.sizes)[:, None]
        return padded.view(D, A, -1), there.to(device)


class Attention(nn.Module):
    """Multi-head attention: queries look at keys, each head in its share of ``width``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, queries: Tensor, keys: Tensor, there: Tensor | None = None) -> Tensor:
        """(D, Q, W) and (D, K, W) → (D, Q, W); ``there`` (D, K) says which keys there are, without it all."""
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (D, heads, Q or K, W / heads)
            for project, x in ((self.query, queries), (self.key, keys), (self.value, keys))
        )
        mask = None if there is None else there[:, None, None]
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(attended.transpose(1, 2).flatten(2))


class DrugGeneLayer(nn.Module):
    """Genes look at one another (if ``gene_attention``) and at the atoms of a drug; then an MLP on each gene.

    After each follow dropout, the sum with what went in, and a layer norm.
    """

    def __init__(self, width: int, heads: int, mlp_hidden: int, dropout: float, gene_attention: bool) -> None:
        super().__init__()
        self.genes = Attention(width, heads) if gene_attention else None
        self.atoms = Attention(width, heads)
        self.mlp = mlp([width, mlp_hidden, width])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if gene_attention else 2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, genes: Tensor, atoms: Tensor, there: Tensor) -> Tensor:
        """Codes of genes (D, G, W), of atoms (D, A, W), and which atoms there are (D, A) → codes of genes (D, G, W)."""
        *first, second, third = self.norms
        if self.genes is not None:
            genes = first[0](genes + self.dropout(self.genes(genes, genes)))
        genes = second(genes + self.dropout(self.atoms(genes, atoms, there)))
        return third(genes + self.dropout(self.mlp(genes)))


class MultiDCPNetwork(nn.Module):
    """δ of every gene from a drug, a dose and the basal expression of a context; and an autoencoder of the latter.

    Every gene g has δ_g = w·ReLU(W [code of g given the drug, fingerprint of the drug, cell, dose] + b) + c, with the
    same w, W, b, c for all. Sizes: genes G, ``doses`` of the vocabulary K, ``width`` W of genes, atoms and
    fingerprints, ``head`` H of the hidden layer, ``cell`` the layers of the cell encoder, the last its code.
    """

    basal_mean: Tensor
    basal_scale: Tensor
    effect_scale: Tensor

    def __init__(
        self,
        *,
        genes: int,
        doses: int,
        convolutions: Sequence[int],
        width: int,
        layers: int,
        heads: int,
        mlp_hidden: int,
        dropout: float,
        gene_attention: bool,
        cell: Sequence[int],
        dose: int,
        head: int,
    ) -> None:
        super().__init__()
        self.register_buffer("basal_mean", torch.zeros(genes))
        self.register_buffer("basal_scale", torch.ones(()))
        self.register_buffer("effect_scale", torch.ones(()))
        self.fingerprint = Fingerprint(convolutions, width)
        self.genes = nn.Parameter(torch.randn(genes, width))
        self.layers = nn.ModuleList(
            DrugGeneLayer(width, heads, mlp_hidden, dropout, gene_attention) for _ in range(layers)
        )
        self.encode_cell = mlp([genes, *cell])
        self.decode_cell = mlp([cell[-1], cell[0], genes])
        self.encode_dose = nn.Linear(doses, dose)
        self.shares = [width, width, cell[-1], dose]
        self.hidden, self.out = nn.Linear(sum(self.shares), head), nn.Linear(head, 1)

    def forward(self, molecules: GraphBatch, drug: Tensor, dose: Tensor, basal: Tensor) -> Tensor:
        """D molecules, the molecule (B,), dose (B, K) and standardised basal expression (B, G) of each row → δ (B, G).

        δ is in units of ``effect_scale``. What depends on the drug alone is computed once for each: the attention,
        and the shares of the hidden layer that see its result and the fingerprint.
        """
        atoms, there = self.fingerprint(molecules)  # (D, A, W), (D, A)
        genes = self.genes.expand(len(atoms), -1, -1)
        for layer in self.layers:
            genes = layer(genes, atoms, there)  # (D, G, W)
        on_genes, on_drug, *on_row = self.hidden.weight.split(self.shares, dim=1)
        of_drug = genes @ on_genes.T + (atoms.sum(1) @ on_drug.T)[:, None]  # (D, G, H)
        row = torch.cat([self.encode_cell(basal), self.encode_dose(dose)], 1)
        of_row = functional.linear(row, torch.cat(on_row, 1), self.hidden.bias)  # (B, H)
        hidden = functional.relu(of_drug.index_select(0, drug) + of_row[:, None])  # (B, G, H)
        return self.out(hidden).squeeze(-1)

    def standardise(self, expression: Tensor) -> Tensor:
        """Expression (B, G) as the cell encoder takes it: centred gene by gene, in units of one scale."""
        return (expression - self.basal_mean) / self.basal_scale

    def reconstruct(self, basal: Tensor) -> Tensor:
        """Standardised expression (B, G) through the code of the cell and back."""
        return self.decode_cell(self.encode_cell(basal))
