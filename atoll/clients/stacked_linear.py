"""Linear layers of many clients at once, with weight gradients in the weights' own layout.

``vmap`` alone lowers a linear layer to ``bmm(x, W^T)``, whose gradient comes back as a transposed
view. Reading that across the rows costs more than the product itself (on one core, 8 clients of
784 x 200: 5.7 ms for gradient and update against 1 ms), so the gradient is written as g^T x here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class _Linear(torch.autograd.Function):
    """Map x (..., n, i) and W (..., o, i) to x W^T."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return torch.matmul(x, weight.mT)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        of_x = torch.matmul(gradient, weight) if ctx.needs_input_grad[0] else None
        of_weight = torch.matmul(gradient.mT, x) if ctx.needs_input_grad[1] else None
        return of_x, of_weight

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, int | None], x: Tensor, weight: Tensor
    ) -> tuple[Tensor, int]:
        stacked = [
            value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
            for value, dim in zip((x, weight), in_dims, strict=True)
        ]
        return _linear(*stacked), 0


_linear = cast(Callable[[Tensor, Tensor], Tensor], _Linear.apply)


class StackedLinearLayers(TorchFunctionMode):
    """While entered, linear layers on matrices (under ``vmap``) are computed as above."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Replace ``F.linear`` and nothing else."""
        if func is F.linear and len(args) == 3 and args[0].dim() == 2:
            x, weight, bias = args
            product = _linear(x, weight)
            return product if bias is None else product + bias
        return func(*args, **(kwargs or {}))
