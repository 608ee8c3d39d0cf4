"""Quantisation of updates: signs, and few levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from atoll.attacks.defenses.base.defense import Compute, Defense, Estimate, Task
from atoll.attacks.defenses.base.tensors import straight_through

# Of the largest value: less is rounding, in a difference of float32 parameters.
TOLERANCE = 1e-4


class Sign(Defense):
    """Sign of each value, times the tensor's mean absolute value (scaled signSGD).

    Bernstein et al., 2018; with the scale of Karimireddy et al., 2019, so that updates add up.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import Sign, Task
    >>> update = [torch.tensor([3.0, -1.0])]
    >>> Sign().apply(Task(update), lambda task: update)
    [tensor([ 2., -2.])]
    """

    name: ClassVar[str] = "sign"
    is_mimicked: ClassVar[bool] = True

    def apply(self, task: Task, compute: Compute) -> list[Tensor]:
        """Keep the signs."""
        return [values.sign() * values.abs().mean() for values in compute(task)]

    @classmethod
    def estimate(cls, observed: Sequence[Tensor], model: nn.Module) -> Estimate:
        """Read each tensor's scale."""
        scales = [values.detach().abs().amax() for values in observed]
        return Estimate({"mean scale": float(torch.stack(scales).mean())}, scales)

    @classmethod
    def mimic(cls, gradient: Sequence[Tensor], estimate: Estimate) -> list[Tensor]:
        """Return signs times the scales, with the derivative of a soft sign.

        The soft sign is tanh(g / s), s being the gradient's mean size in the tensor.
        """
        mimicked = []
        for values, scale in zip(gradient, estimate.tensors, strict=True):
            size = values.detach().abs().mean().clamp_min(torch.finfo(values.dtype).tiny)
            soft = torch.tanh(values / size)
            mimicked.append(scale * straight_through(values.sign(), soft))
        return mimicked


class Quantization(Defense):
    """Stochastic rounding of each value to a level between 0 and its tensor's norm (QSGD).

    Alistarh et al., 2017: ``|v| / ||v||`` becomes a multiple of 1 / levels so that the expectation
    is v. An attacker who matches that expectation does what he would without the defense: most
    values lie below the first level, and to round his own to the nearest would make them zeros.

    Attributes
    ----------
    levels : int
        Number of levels above zero, at least 1.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import Quantization, Task
    >>> update = [torch.tensor([0.6, 0.8])]  # of norm 1, so that levels are multiples of 1/4
    >>> [sent] = Quantization(levels=4).apply(Task(update), lambda task: update)
    >>> bool(((sent * 4).round() == sent * 4).all()), bool(((sent - update[0]).abs() <= 0.25).all())
    (True, True)
    """

    name: ClassVar[str] = "quantization"

    levels: Annotated[int, Field(gt=0, le=2**20)] = 16

    def apply(self, task: Task, compute: Compute) -> list[Tensor]:
        """Quantise."""
        return [self._quantized(values, task) for values in compute(task)]

    def _quantized(self, values: Tensor, task: Task) -> Tensor:
        step = _step(values.norm(), self.levels)
        return values.sign() * self.rounded(values.abs() / step, task) * step

    def rounded(self, sizes: Tensor, task: Task) -> Tensor:
        """Return multiples of a step, not below 0, as whole numbers."""
        drawn = torch.rand(sizes.shape, generator=task.generator).to(sizes)
        return (sizes + drawn).floor()

    @classmethod
    def estimate(cls, observed: Sequence[Tensor], model: nn.Module) -> Estimate:
        """Read each tensor's step: the largest of which all values are multiples (0 if none is)."""
        steps = [values.new_tensor(common_step(values.detach())) for values in observed]
        return Estimate({"mean step": float(torch.stack(steps).mean())}, steps)


class NearestQuantization(Quantization):
    """Rounding of each value to the nearest level: as :class:`Quantization`, but biased.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import NearestQuantization, Task
    >>> update = [torch.tensor([0.6, 0.8])]  # of norm 1, so that levels are multiples of 1/4
    >>> NearestQuantization(levels=4).apply(Task(update), lambda task: update)
    [tensor([0.5000, 0.7500])]
    """

    name: ClassVar[str] = "nearest-quantization"
    is_mimicked: ClassVar[bool] = True

    def rounded(self, sizes: Tensor, task: Task) -> Tensor:
        """Return multiples of a step, not below 0, as whole numbers."""
        return sizes.round()

    @classmethod
    def mimic(cls, gradient: Sequence[Tensor], estimate: Estimate) -> list[Tensor]:
        """Round to the nearest level, with the derivative of the identity."""
        return [
            straight_through(_nearest(values, step), values)
            for values, step in zip(gradient, estimate.tensors, strict=True)
        ]


def _step(norm: Tensor, levels: int) -> Tensor:
    return (norm / levels).clamp_min(torch.finfo(norm.dtype).tiny)


def common_step(values: Tensor) -> float:
    """Return the largest number of which all ``values`` are multiples, to rounding; 0 for zeros."""
    sizes = torch.unique(values.double().abs())
    tolerance = TOLERANCE * float(sizes[-1])
    is_new = torch.diff(sizes, prepend=sizes.new_zeros(1)) > tolerance
    step = 0.0
    for size in sizes[is_new].tolist():
        larger, smaller = size, step
        while smaller > tolerance:
            larger, smaller = smaller, abs(larger - smaller * round(larger / smaller))
        step = larger
    return step


def _nearest(values: Tensor, step: Tensor) -> Tensor:
    safe = step.clamp_min(torch.finfo(step.dtype).tiny)
    return torch.where(step > 0, (values / safe).round() * safe, torch.zeros_like(values))
