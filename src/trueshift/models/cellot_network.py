"""The networks of CellOT: an autoencoder, and stacks of input-convex networks that are trained side by side.

Written from the description of Bunne et al. 2023, Nature Methods 20, 1759, and Makkuva et al. 2020 (ICML), no code of
theirs. P maps (one per perturbation) are one tensor with P in front: nothing in a loss or in Adam connects them, so
that they are what they would be if trained one after the other.
"""

import itertools
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

SLOPE = 0.2  # of the leaky ReLU below 0


class Autoencoder(nn.Module):
    """Expression (…, G) ↔ latent (…, D): ``hidden`` layers with ReLU on the way in, the same reversed on the way out.

    Expression is centred per gene and divided by one number, before the encoder and reversed after the decoder; the
    latent likewise (:meth:`standardise`). A shift and one scale of the latent leave the optimal map what it was.
    """

    def __init__(self, genes: int, latent: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.encoder, self.decoder = _mlp([genes, *hidden, latent]), _mlp([latent, *reversed(hidden), genes])
        for name, width in (("gene", genes), ("latent", latent)):
            self.register_buffer(f"{name}_mean", torch.zeros(width))
            self.register_buffer(f"{name}_scale", torch.ones(()))

    def standardise(self, what: str, mean: Tensor, variance: float) -> None:
        """Sets mean (G,) or (D,) and the square of the scale, for ``what``: gene or latent; 0 leaves the scale at 1."""
        self.get_buffer(f"{what}_mean").copy_(mean)
        self.get_buffer(f"{what}_scale").fill_(variance**0.5 if variance > 0 else 1.0)

    def scaled(self, x: Tensor) -> Tensor:
        """Expression in the units of the loss."""
        return (x - self.get_buffer("gene_mean")) / self.get_buffer("gene_scale")

    def encode(self, x: Tensor) -> Tensor:
        """(…, G) → (…, D)."""
        z = cast(Tensor, self.encoder(self.scaled(x)))
        return (z - self.get_buffer("latent_mean")) / self.get_buffer("latent_scale")

    def decode(self, z: Tensor) -> Tensor:
        """(…, D) → (…, G)."""
        x = cast(Tensor, self.decoder(z * self.get_buffer("latent_scale") + self.get_buffer("latent_mean")))
        return x * self.get_buffer("gene_scale") + self.get_buffer("gene_mean")

    def loss(self, x: Tensor) -> Tensor:
        """Mean squared error of the reconstruction, in units of the mean variance of a gene."""
        return functional.mse_loss(self.scaled(self.decode(self.encode(x))), self.scaled(x))


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    parts: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        parts += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class ConvexNetworks(nn.Module):
    """P input-convex networks on D inputs, of the same shape, each with weights of its own.

    z₀ = l(A₀x + b₀)², z_k = l(W_k z_{k−1} + A_k x + b_k), y = W z + A x, with l a leaky ReLU: convex in x while every
    W ≥ 0. (y has no constant: none of the losses depends on it.) ``hidden`` are the widths of z. A and W are drawn
    from U(0, ``spread``), b is 0.
    """

    def __init__(self, n: int, inputs: int, hidden: Sequence[int], spread: float = 0.1) -> None:
        super().__init__()
        widths = [*hidden, 1]
        self.A = nn.ParameterList(torch.rand(n, inputs, width) * spread for width in widths)
        self.W = nn.ParameterList(torch.rand(n, *pair) * spread for pair in itertools.pairwise(widths))
        self.b = nn.ParameterList(torch.zeros(n, 1, width) for width in hidden)

    def start_as_identity(self) -> None:
        """Sets weights with which y = ½‖x‖², so that the gradient is x; the first layer has 2 D units or more.

        Units i and D + i of the first layer see xᵢ and −xᵢ, and l(xᵢ)² + l(−xᵢ)² = (1 + SLOPE²) xᵢ². The W, random so
        that units of a layer part, pass them on; units beyond 2 D begin without a way out.
        """
        D = self.A[0].shape[1]
        with torch.no_grad():
            for A in self.A[1:]:
                A.zero_()
            for W in self.W:
                W.uniform_(0.5, 1.5).div_(W.shape[1])
            self.W[0][:, 2 * D :] = 0
            share = self.W[0]  # (P, H, 1) in the end: how much of each unit arrives
            for W in self.W[1:]:
                share = share @ W
            eye = torch.eye(D, device=share.device)
            both = torch.cat([eye, -eye], dim=1)  # (D, 2 D)
            self.A[0][:, :, : 2 * D] = both / (2 * (1 + SLOPE**2) * share[:, : 2 * D].mT).sqrt()

    def _layers(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """What goes into each leaky ReLU, shapes (P, B, H), and z of the last hidden layer."""
        u = torch.baddbmm(self.b[0], x, self.A[0])
        before, z = [u], functional.leaky_relu(u, SLOPE).square()
        for A, b, W in zip(self.A[1:-1], self.b[1:], self.W[:-1], strict=True):
            before.append(torch.baddbmm(b, x, A) + z @ W)
            z = functional.leaky_relu(before[-1], SLOPE)
        return before, z

    def value(self, x: Tensor) -> Tensor:
        """y, (P, B, D) → (P, B)."""
        _, z = self._layers(x)
        return (z @ self.W[-1] + x @ self.A[-1]).squeeze(-1)

    def gradient(self, x: Tensor) -> Tensor:
        """∇y, (P, B, D) → (P, B, D), written out by the chain rule: backward passes through it cost no second tape."""
        before, _ = self._layers(x)
        total = self.A[-1].mT  # (P, 1, D)
        back = self.W[-1].mT  # (P, 1, H): dy / dz of the layer below
        for u, A, W in zip(before[:0:-1], self.A[-2:0:-1], self.W[-2::-1], strict=True):
            back = back * torch.where(u > 0, 1.0, SLOPE)  # (P, B, H): dy / du
            total = total + back @ A.mT
            back = back @ W.mT
        u = before[0]
        return total + (back * 2 * torch.where(u > 0, u, SLOPE**2 * u)) @ self.A[0].mT

    def clamp(self) -> None:
        """Sets negative W to 0, which makes the networks convex."""
        with torch.no_grad():
            for W in self.W:
                W.clamp_(min=0)

    def negativity(self) -> Tensor:
        """Σ ‖min(W, 0)‖ over layers, Frobenius norms, shape (P,)."""
        return torch.stack([torch.linalg.vector_norm(functional.relu(-W), dim=(1, 2)) for W in self.W]).sum(0)

    def take(self, number: int) -> "ConvexNetworks":
        """A stack of one: a copy of the network ``number``."""
        _, inputs, first = self.A[0].shape
        one = ConvexNetworks(1, inputs, [first, *(b.shape[-1] for b in self.b[1:])])
        one.load_state_dict({name: value[number : number + 1] for name, value in self.state_dict().items()})
        return one


class Transport(nn.Module):
    """P maps T = ∇g, each with the potential f that it is trained against, and for each the best g seen so far.

    With x of the controls and y of the perturbed, f and g solve max_f min_g E[f(∇g(x)) − ⟨x, ∇g(x)⟩] − E f(y) over
    convex functions; ∇g then carries the distribution of x to that of y at the least mean squared distance.
    """

    def __init__(self, n: int, inputs: int, hidden: Sequence[int], start: str = "uniform") -> None:
        super().__init__()
        self.f, self.g, self.best = (ConvexNetworks(n, inputs, hidden) for _ in range(3))
        if start == "identity":
            for network in (self.f, self.g):
                network.start_as_identity()
        self.best.requires_grad_(False)
        self.register_buffer("best_value", torch.full((n,), torch.inf))

    def forward(self, x: Tensor) -> Tensor:
        """Moves x, (P, B, D) → (P, B, D), by the maps in training."""
        return self.g.gradient(x)

    def loss_g(self, x: Tensor) -> Tensor:
        """Mean over the batch of f(T(x)) − ⟨x, T(x)⟩, plus the penalty on negative W of g, shape (P,)."""
        moved = self(x)
        return (self.f.value(moved) - (x * moved).sum(-1)).mean(1) + self.g.negativity()

    def loss_f(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean over the batch of f(y) − f(T(x)), shape (P,), without a gradient to g."""
        with torch.no_grad():
            moved = self(x)
        return (self.f.value(y) - self.f.value(moved)).mean(1)

    def step(
        self, sources: Tensor, target: Tensor, optimizer_f: torch.optim.Optimizer, optimizer_g: torch.optim.Optimizer
    ) -> tuple[Tensor, Tensor]:
        """An outer iteration: g learns from all ``sources`` (I + 1, P, B, D) but the last, f from that and ``target``.

        Returns the last loss of g and that of f, shapes (P,).
        """
        self.f.requires_grad_(False)
        for x in sources[:-1]:
            optimizer_g.zero_grad()
            loss_g = self.loss_g(x)
            loss_g.sum().backward()
            optimizer_g.step()
        self.f.requires_grad_(True)
        optimizer_f.zero_grad()
        loss_f = self.loss_f(sources[-1], target)
        loss_f.sum().backward()
        optimizer_f.step()
        self.f.clamp()
        return loss_g.detach(), loss_f.detach()

    def keep(self, values: Tensor) -> None:
        """Remembers each map whose value, shape (P,), is below all that it had before."""
        seen = self.get_buffer("best_value")
        better = values < seen
        seen[better] = values[better]
        with torch.no_grad():
            for kept, new in zip(self.best.parameters(), self.g.parameters(), strict=True):
                kept[better] = new[better]
