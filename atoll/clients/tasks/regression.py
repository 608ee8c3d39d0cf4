"""Regression: a number to predict, by a squared, absolute, Huber or Poisson loss."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from atoll.clients.tasks.output_loss import OutputLoss
from atoll.clients.tasks.task import Measured, Metrics, Task

RegressionLoss = Literal["squared", "absolute", "huber", "poisson"]


class _NumberLoss(OutputLoss):
    """Loss of a regression, by its one output."""

    def __init__(self, task: Regression) -> None:
        self._task = task

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._task.losses(outputs, targets)

    def residuals(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self._task.loss == "poisson":
            return outputs.exp() - targets.to(outputs).unsqueeze(-1)
        errors = self._errors(outputs, targets)
        if self._task.loss == "squared":
            return errors
        return errors.sign() if self._task.loss == "absolute" else errors.clamp(-1, 1)

    def curvatures(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self._task.loss == "poisson":
            return outputs.exp()
        if self._task.loss == "squared":
            return torch.ones_like(outputs)
        if self._task.loss == "absolute":
            return torch.zeros_like(outputs)
        return (self._errors(outputs, targets).abs() < 1).to(outputs)

    def _errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs - self._task.standardised(targets.to(outputs)).unsqueeze(-1)


class Regression(Task):
    """Task of one number an example.

    A model's output is in units of ``scale`` around ``center``, which the federation computes from
    sums over the clients' targets. With the Poisson loss the output is the logarithm of the
    expected count, and there is neither.

    Attributes
    ----------
    loss : str
        "squared" (half the squared error), "absolute", "huber" (threshold 1, in units of
        ``scale``) or "poisson".
    center, scale : float
        By which targets are standardised.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import Regression
    >>> task = Regression(center=10.0, scale=2.0)
    >>> outputs, targets = torch.tensor([[0.0], [1.0]]), torch.tensor([10.0, 14.0])
    >>> task.predictions(outputs).tolist(), task.losses(outputs, targets).tolist()
    ([10.0, 12.0], [0.0, 0.5])
    >>> task.summarise(task.measure(outputs, targets))["mae"]
    1.0
    """

    kind: Literal["regression"] = "regression"
    loss: RegressionLoss = "squared"
    center: float = 0.0
    scale: Annotated[float, Field(gt=0.0)] = 1.0

    @property
    def outputs(self) -> int:
        """One."""
        return 1

    @property
    def metrics(self) -> tuple[str, ...]:
        """The one that goes with the loss first."""
        if self.loss == "poisson":
            return ("deviance", "mae", "rmse", "r2", "loss")
        if self.loss == "squared":
            return ("rmse", "mae", "r2", "loss")
        return ("mae", "rmse", "r2", "loss")

    @property
    def means(self) -> tuple[str, ...]:
        """The loss, the absolute error and, of counts, the deviance."""
        return ("loss", "mae", "deviance") if self.loss == "poisson" else ("loss", "mae")

    @property
    def output_loss(self) -> OutputLoss:
        """The loss of one number."""
        return _NumberLoss(self)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's loss, in standardised units."""
        found = outputs.squeeze(-1)
        if self.loss == "poisson":
            return F.poisson_nll_loss(found, targets.to(found), reduction="none")
        wanted = self.standardised(targets.to(found))
        if self.loss == "squared":
            return 0.5 * (found - wanted).square()
        if self.loss == "absolute":
            return (found - wanted).abs()
        return F.huber_loss(found, wanted, reduction="none")

    def standardised(self, targets: Tensor) -> Tensor:
        """Return targets in units of ``scale`` around ``center``."""
        return (targets - self.center) / self.scale

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return the expected numbers, in the units of the targets: shape (n,)."""
        found = outputs.squeeze(-1)
        return found.exp() if self.loss == "poisson" else found * self.scale + self.center

    def blank_targets(self, count: int) -> Tensor:
        """Return targets of 0: float32, shape (count,)."""
        return torch.zeros(count)

    def measure(self, outputs: Tensor, targets: Tensor) -> Measured:
        """Return sums of errors and of powers of the targets."""
        wanted = targets.double()
        errors = self.predictions(outputs.double()) - wanted
        centered = wanted - self.center
        columns = {
            "loss": self.losses(outputs.double(), wanted),
            "absolute": errors.abs(),
            "squared": errors.square(),
            "target": centered,
            "target_squared": centered.square(),
        }
        if self.loss == "poisson":
            rates = self.predictions(outputs.double())
            columns["deviance"] = 2 * (torch.special.xlogy(wanted, wanted / rates) + rates - wanted)
        sums = {name: np.array(float(column.sum())) for name, column in columns.items()}
        return Measured({"examples": np.array(len(targets)), **sums})

    def summarise(self, measured: Measured) -> Metrics:
        """Return the mean absolute and root mean squared error, R squared, and the loss."""
        sums = {name: float(value) for name, value in measured.sums.items()}
        examples = max(1.0, sums["examples"])
        spread = sums["target_squared"] - sums["target"] ** 2 / examples
        metrics: Metrics = {
            "mae": sums["absolute"] / examples,
            "rmse": float(np.sqrt(sums["squared"] / examples)),
            "r2": 1 - sums["squared"] / spread if spread > 0 else 0.0,
            "loss": sums["loss"] / examples,
        }
        if self.loss == "poisson":
            metrics["deviance"] = sums["deviance"] / examples
        return metrics
