"""The networks of chemCPA and their two losses.

Written from the description of Hetzel et al. 2022, "Predicting cellular responses to novel drug perturbations at a
single-cell resolution", NeurIPS. In shapes: B rows, G genes, D latent, K drugs given to the rows of a batch (none to a
control, two to a row with a combination), F features of a drug.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from trueshift.networks.layers import RisingReLU

LEAST_VARIANCE = 1e-6


class Norm(nn.BatchNorm1d):
    """Batch normalisation that takes its running statistics where there are no two rows to take others from."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, H) → (N, H)."""
        if len(x) > 1:
            return super().forward(x)
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def mlp(inputs: int, width: int, depth: int, outputs: int) -> nn.Sequential:
    """``depth`` hidden layers of ``width``, each a linear map, batch normalisation and ReLU; then a linear map."""
    parts: list[nn.Module] = []
    for _ in range(depth):
        parts += [nn.Linear(inputs, width), Norm(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*parts, nn.Linear(inputs, outputs))


@dataclass(frozen=True)
class Batch:
    """Rows to learn from or to start from.

    ``x`` (B, G) expression, ``context`` (B,) codes; ``drugs`` (K, F) standardised features, ``dose`` (K,) scaled doses
    and ``row`` (K,) the row that each drug was given to. ``label`` (B,), the class of the drug adversary, is read in
    training alone.
    """

    x: Tensor
    context: Tensor
    drugs: Tensor
    dose: Tensor
    row: Tensor
    label: Tensor


class ChemCPANetwork(nn.Module):
    """Encoder, decoder, drug encoder, doser and one embedding per context.

    ``genes`` G and ``features`` F are widths, ``contexts`` a number; ``nonnegative`` rectifies the decoded mean, for
    expression that is never below 0.
    """

    def __init__(
        self,
        *,
        genes: int,
        features: int,
        contexts: int,
        latent: int,
        hidden: int,
        layers: int,
        drug_hidden: int,
        drug_layers: int,
        doser_hidden: int,
        doser_layers: int,
        nonnegative: bool,
    ) -> None:
        super().__init__()
        self.nonnegative = nonnegative
        self.encoder = mlp(genes, hidden, layers, latent)
        self.decoder = mlp(latent, hidden, layers, 2 * genes)
        self.drug = mlp(features, drug_hidden, drug_layers, latent)
        self.doser = mlp(features + 1, doser_hidden, doser_layers, 1)
        self.context = nn.Embedding(contexts, latent)

    def start_at(self, mean: Tensor, variance: Tensor) -> None:
        """Sets the last bias so that an untrained decoder stands at these means and variances of genes, (G,) each."""
        last = self.decoder[-1]
        with torch.no_grad():
            last.bias.copy_(torch.cat([mean, variance.clamp_min(1e-3).expm1().log()]))  # the inverse of softplus

    def strength(self, drugs: Tensor, dose: Tensor) -> Tensor:
        """How much of a drug's vector its dose brings, s in (0, 1): drugs (K, F), scaled dose (K,) → (K, 1)."""
        return torch.sigmoid(self.doser(torch.cat([drugs, dose[:, None]], dim=1)))

    def latent(self, basal: Tensor, batch: Batch) -> Tensor:
        """z = basal + Σ s(drug, dose)·e(drug) over the drugs of each row + e(context), (B, D)."""
        z = basal + self.context(batch.context)
        if len(batch.drugs):
            effects = self.strength(batch.drugs, batch.dose) * self.drug(batch.drugs)  # (K, D)
            z = z.index_add(0, batch.row, effects)
        return z

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each gene, (B, G) twice."""
        mean, raw = self.decoder(z).chunk(2, dim=1)
        return RisingReLU.apply(mean) if self.nonnegative else mean, functional.softplus(raw)

    def forward(self, batch: Batch) -> Tensor:
        """The expected expression of the rows, had they been given the drugs of the batch, (B, G)."""
        return self.decode(self.latent(self.encoder(batch.x), batch))[0]


class Adversaries(nn.Module):
    """Classifiers of the basal latent: one tells the perturbation (controls are a class), one the context."""

    def __init__(self, *, latent: int, labels: int, contexts: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.drug = mlp(latent, hidden, layers, labels)
        self.context = mlp(latent, hidden, layers, contexts)

    def forward(self, basal: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the perturbation (B, labels) and of the context (B, contexts)."""
        return self.drug(basal), self.context(basal)


def autoencoder_loss(
    network: ChemCPANetwork, adversaries: Adversaries, batch: Batch, drug_weight: float, context_weight: float
) -> tuple[Tensor, Tensor]:
    """What the autoencoder lowers, and the part of it that is the Gaussian NLL of the rows' own expression.

    NLL − ``drug_weight``·CE(perturbation) − ``context_weight``·CE(context): it is to reconstruct from a basal latent
    that tells the adversaries nothing.
    """
    basal = network.encoder(batch.x)
    mean, variance = network.decode(network.latent(basal, batch))
    nll = functional.gaussian_nll_loss(mean, batch.x, variance, eps=LEAST_VARIANCE)
    drug, context = adversaries(basal)
    drug_loss = functional.cross_entropy(drug, batch.label)
    context_loss = functional.cross_entropy(context, batch.context)
    return nll - drug_weight * drug_loss - context_weight * context_loss, nll


def adversary_loss(
    adversaries: Adversaries, basal: Tensor, label: Tensor, context: Tensor, penalty_weight: float
) -> Tensor:
    """What the adversaries lower: both cross-entropies and, weighted, both gradient penalties. ``basal`` (B, D)."""
    basal = basal.detach().requires_grad_()
    loss = basal.new_zeros(())
    for logits, truth in zip(adversaries(basal), (label, context), strict=True):
        loss = loss + functional.cross_entropy(logits, truth) + penalty_weight * gradient_penalty(logits, basal)
    return loss


def gradient_penalty(logits: Tensor, basal: Tensor) -> Tensor:
    """The mean over rows and latent dimensions of (∂ Σ logits / ∂ basal)², to be differentiated again."""
    (slope,) = torch.autograd.grad(logits.sum(), basal, create_graph=True)
    return slope.square().mean()
