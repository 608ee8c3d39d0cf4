"""PRECODE: the loss term of its variational bottleneck (Scheliga et al., WACV 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from torch import Tensor, nn

from atoll.attacks.defenses.base.defense import Compute, Estimate, Task
from atoll.attacks.defenses.base.observed import MaskedDefense
from atoll.clients.models.variational_bottleneck import find_bottleneck
from atoll.clients.ranges import Weight


class Precode(MaskedDefense):
    """Divergence of the bottleneck, times ``beta``, in each step's loss.

    The model has the bottleneck: ``[model] name = "precode"``, ``base = "lenet"``.

    Attributes
    ----------
    beta : float
        The divergence's weight.

    Examples
    --------
    >>> from torch import nn
    >>> from atoll.attacks import Precode
    >>> from atoll.clients import ModelSettings, build_model
    >>> model = build_model(ModelSettings(name="precode", base="mlp"), (1, 8, 8), 10, seed=0)
    >>> Precode(beta=0.001).check_model(model)  # has the bottleneck
    >>> try:
    ...     Precode().check_model(nn.Linear(2, 2))
    ... except ValueError as error:
    ...     print("refused")
    refused
    """

    name: ClassVar[str] = "precode"

    acts_on: Literal["step"] = "step"
    beta: Weight = 1e-3

    def check_model(self, model: nn.Module) -> None:
        """Refuse a model without the bottleneck."""
        find_bottleneck(model)

    def apply(self, task: Task, compute: Compute) -> list[Tensor]:
        """Compute the gradient of the loss with the divergence."""
        step = task.step
        assert step is not None
        bottleneck = find_bottleneck(step.model)

        def objective() -> tuple[Tensor, Tensor]:
            loss, cross_entropy = step.objective()
            return loss + self.beta * bottleneck.divergence, cross_entropy

        return compute(replace(task, step=replace(step, objective=objective)))

    @classmethod
    def estimate(cls, observed: Sequence[Tensor], model: nn.Module) -> Estimate:
        """Tell which parameters are the bottleneck's: the sample's noise is in their gradient."""
        own = {id(parameter) for parameter in find_bottleneck(model).parameters()}
        masks = [p.new_full((), float(id(p) not in own)) for p in model.parameters()]
        left = sum(p.numel() for p in model.parameters() if id(p) in own)
        return Estimate({"parameters left out": float(left)}, masks)
