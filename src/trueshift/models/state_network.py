"""The network of State ST: a transformer over sets of cells that knows no order.

Every token is a cell. There is no positional information and no causal mask, so that permuting the input cells permutes
the output cells and every cell attends to all others of its set. Written from the description of Adduri et al. 2025,
bioRxiv 2025.06.26.661135, methods; no code of theirs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from trueshift.networks.layers import RisingReLU


def mlp(inputs: int, hidden: int, outputs: int, layers: int, dropout: float) -> nn.Sequential:
    """``layers`` linear maps, with GELU and dropout between them."""
    parts: list[nn.Module] = []
    for _ in range(layers - 1):
        parts += [nn.Linear(inputs, hidden), nn.GELU(), nn.Dropout(dropout)]
        inputs = hidden
    return nn.Sequential(*parts, nn.Linear(inputs, outputs))


class Block(nn.Module):
    """A pre-norm transformer block without mask: self-attention over the cells of a set, then an MLP on each cell."""

    def __init__(self, hidden: int, heads: int, mlp_hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.mlp = mlp(hidden, mlp_hidden, hidden, 2, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, H) → (B, S, H)."""
        B, S, H = x.shape
        q, k, v = self.qkv(self.norm_attention(x)).view(B, S, 3, self.heads, H // self.heads).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v)  # (B, heads, S, H / heads)
        x = x + self.dropout(self.out(attended.transpose(1, 2).reshape(B, S, H)))
        return x + self.dropout(self.mlp(self.norm_mlp(x)))


class StateNetwork(nn.Module):
    """Predicts the perturbed cells of a set from its control cells.

    ``genes``, ``perturbations`` and ``batches`` are input widths: genes G, perturbation features P, batch labels (0: no
    batch encoder). ``residual`` says how the raw control enters the output beside the latent h:

    - ``none``: project(h + encoded control), which is always there;
    - ``control``: + raw control, so that the network predicts the difference;
    - ``bottleneck``: + raw control passed through G → G // 8 → G.

    ``nonnegative`` ends in a ReLU, for log-normalised expression.
    """

    def __init__(
        self,
        *,
        genes: int,
        perturbations: int,
        batches: int,
        hidden: int,
        layers: int,
        heads: int,
        mlp_hidden: int,
        encoder_layers: int,
        dropout: float,
        residual: str,
        nonnegative: bool,
    ) -> None:
        super().__init__()
        self.residual, self.nonnegative = residual, nonnegative
        self.encode_perturbation = mlp(perturbations, hidden, hidden, encoder_layers, dropout)
        self.encode_control = mlp(genes, hidden, hidden, encoder_layers, dropout)
        self.batch = nn.Parameter(0.02 * torch.randn(batches, hidden)) if batches else None
        self.blocks = nn.Sequential(*(Block(hidden, heads, mlp_hidden, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(hidden)
        self.project = mlp(hidden, hidden, genes, encoder_layers, dropout)
        if residual == "control":  # start at "no effect"
            for parameter in self.project[-1].parameters():
                nn.init.zeros_(parameter)
        narrow = max(1, genes // 8)
        self.bottleneck = mlp(genes, narrow, genes, 2, dropout) if residual == "bottleneck" else None

    def forward(self, control: Tensor, perturbation: Tensor, batch: Tensor) -> Tensor:
        """Control cells (B, S, G), perturbation (B, P) and batch index (B, S) → predicted cells (B, S, G).

        Batch 0 is "unknown": it stands at the mean of the known batches, which are 1, 2, ….
        """
        encoded = self.encode_control(control)  # (B, S, H)
        tokens = encoded + self.encode_perturbation(perturbation)[:, None]
        if self.batch is not None:
            table = torch.cat([self.batch.mean(0, keepdim=True), self.batch])
            tokens = tokens + functional.embedding(batch, table)
        output = self.project(self.norm(self.blocks(tokens)) + encoded)
        if self.residual == "control":
            output = output + control
        elif self.bottleneck is not None:
            output = output + self.bottleneck(control)
        return RisingReLU.apply(output) if self.nonnegative else output
