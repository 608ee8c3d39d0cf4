"""DP-SGD: per-example gradient clipping and Gaussian noise (Abadi et al., 2016)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from flwr.app import Context
from torch import Tensor, nn

from atoll.attacks.defenses.base.defense import Compute, Task
from atoll.attacks.defenses.base.observed import BoundedDefense
from atoll.attacks.defenses.base.privacy_accounting import count_uses, gaussian_epsilon
from atoll.clients.ranges import Delta, NoiseMultiplier, Norm
from atoll.clients.training.step_mods import LocalStep
from atoll.extras import OptionalModule, require

opacus = OptionalModule("opacus", "dp-sgd")
optimizers = OptionalModule("opacus.optimizers", "dp-sgd")
validators = OptionalModule("opacus.validators", "dp-sgd")


class DPSGD(BoundedDefense):
    """Opacus's per-sample clipping and noise, on each step.

    The reply's metrics get ``epsilon``: what a client's rounds have spent so far, for the removal
    of one example's gradient from every step that it is in (zero-out adjacency, Kairouz et al.,
    2021). An example is in one step a pass, so a pass is one use of the data.

    Attributes
    ----------
    clipping_norm : float
        The largest L2 norm of an example's gradient.
    noise_multiplier : float
        The noise's deviation on the sum is noise_multiplier * clipping_norm.
    delta : float
        Delta at which epsilon is reported, in (0, 1).

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from atoll.attacks import DPSGD
    >>> defense = DPSGD(clipping_norm=1.0, noise_multiplier=1.1, delta=1e-5)
    >>> try:
    ...     defense.check_model(nn.BatchNorm2d(3))
    ... except ValueError as error:
    ...     print(type(error).__name__)
    ValueError
    """

    name: ClassVar[str] = "dp-sgd"

    acts_on: Literal["step"] = "step"
    clipping_norm: Norm = 1.0
    noise_multiplier: NoiseMultiplier = 1.0
    delta: Delta = 1e-5

    def model_post_init(self, context: Any, /) -> None:
        """Refuse to go without Opacus."""
        require("opacus", what=self.name)

    def check_model(self, model: nn.Module) -> None:
        """Refuse layers that mix examples (BatchNorm) or have no per-sample gradients."""
        problems = validators.ModuleValidator.validate(model, strict=False)
        if problems:
            raise ValueError(f"{problems[0]}; expected a model without such layers")

    def apply(self, task: Task, compute: Compute) -> list[Tensor]:
        """Compute the clipped and noisy mean of the examples' gradients."""
        step = task.step
        assert step is not None
        parameters = list(step.parameters)
        # Opacus's own rule for convolutions reads inputs as if they were laid out channels first,
        # and the weights of some of our networks make them channels last.
        hooked = opacus.GradSampleModule(step.model, strict=False, force_functorch=True)
        try:
            with warnings.catch_warnings():
                # The hook of the first layer, whose input is the image, has nothing to wait for.
                warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
                # Opacus takes an embedding's whole numbers for mixed precision.
                warnings.filterwarnings("ignore", "In C[A-Z]+ autocast, but", UserWarning)
                gradient = compute(task)
            _give_unused_zeros(parameters, gradient, len(step.labels))
            optimizer = optimizers.DPOptimizer(
                torch.optim.SGD(parameters),
                noise_multiplier=self.noise_multiplier,
                max_grad_norm=self.clipping_norm,
                expected_batch_size=len(step.labels),
                generator=_on_device_of(task.generator, parameters[0]),
            )
            optimizer.clip_and_accumulate()
            optimizer.add_noise()
            optimizer.scale_grad()
            return [cast(Tensor, parameter.grad) for parameter in parameters]
        finally:
            hooked.to_standard_module()
            for parameter in parameters:
                parameter.grad = parameter.summed_grad = None  # type: ignore[attr-defined]

    def metrics(self, context: Context, steps: Sequence[LocalStep]) -> dict[str, float]:
        """Return the epsilon that the client's rounds have spent."""
        seen = sum(len(step.labels) for step in steps)
        passes = math.ceil(seen / steps[0].examples) if steps else 0
        uses = count_uses(context, self.name, passes)
        return {"epsilon": gaussian_epsilon(self.noise_multiplier, uses, self.delta)}


def _give_unused_zeros(
    parameters: Sequence[Tensor], gradient: Sequence[Tensor], examples: int
) -> None:
    """Give parameters that no layer used per-sample gradients of zero; they get noise as others.

    Raises
    ------
    ValueError
        If one has a gradient, and none of each example: no layer of Opacus's kind holds it.
    """
    for parameter, values in zip(parameters, gradient, strict=True):
        if getattr(parameter, "grad_sample", None) is not None:
            continue
        if bool(values.any()):
            raise ValueError(
                f"a parameter of shape {tuple(parameter.shape)} has no per-sample gradients; "
                "expected it in a layer of its own"
            )
        parameter.grad_sample = values.new_zeros(examples, *values.shape)  # type: ignore[attr-defined]


def _on_device_of(generator: torch.Generator, parameter: Tensor) -> torch.Generator:
    """Return a generator where ``parameter`` is: Opacus draws there."""
    if parameter.device.type == "cpu":
        return generator
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator(parameter.device).manual_seed(seed)
