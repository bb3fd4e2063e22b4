"""Layers that several networks share."""

import torch
from torch import Tensor


class RisingReLU(torch.autograd.Function):
    """ReLU whose gradient, where the output is 0, still passes if it asks for a larger value.

    A gene that no input control expresses would otherwise stay at 0 for ever, though a perturbation induces it.
    """

    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        """max(x, 0)."""
        context.save_for_backward(x)
        return x.clamp_min(0)

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        """The gradient, except where it would push a negative value further down."""
        (x,) = context.saved_tensors  # type: ignore[attr-defined,unused-ignore]
        return gradient * ((x > 0) | (gradient < 0))
