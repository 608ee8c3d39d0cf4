"""Training of a network on given examples by Adam, saved and resumed to the same bits.

Generators and priors are trained so. What a step draws derives from the seed and the step's
number, so a training that was interrupted ends as one that was not.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from atoll.clients.ranges import BatchSize, Iterations, Rate, Seed
from atoll.clients.settings import Section
from atoll.clients.training.optimizers import Adam
from atoll.files.atomic import atomic_file
from atoll.randomness import derive_seed

SAVE_EVERY = 250
# Decay of the moving average of parameters.
AVERAGING = 0.995


class StepSettings(Section):
    """Settings that every training has.

    Attributes
    ----------
    steps, batch_size : int
        Of the optimiser, Adam.
    learning_rate : float
        Where it starts, > 0; it falls along a cosine to 0.
    seed : int
        One seed, one network.
    """

    steps: Iterations = 3000
    batch_size: BatchSize = 64
    learning_rate: Rate = 2e-3
    seed: Seed = 0


class NetworkTraining(ABC):
    """A network in training.

    Parameters
    ----------
    settings : StepSettings
        The training's.
    kind : str
        Of the network, for the seeds of its steps.
    modules : Mapping[str, nn.Module]
        What is trained, by the name that it has in the state.
    examples : int
        How many there are to draw batches from.

    Attributes
    ----------
    step : int
        Steps taken.
    loss : Tensor or float
        The last step's, detached; NaN before the first.
    """

    def __init__(
        self, settings: StepSettings, kind: str, modules: Mapping[str, nn.Module], examples: int
    ) -> None:
        self.step = 0
        self.loss: Tensor | float = math.nan
        self._step_settings = settings
        self._kind = kind
        self._modules = dict(modules)
        self._examples = examples
        self._parameters: list[Tensor] = [
            parameter for module in modules.values() for parameter in module.parameters()
        ]
        self._optimizer = Adam(settings.learning_rate, 0.0)

    @abstractmethod
    def batch_loss(self, chosen: Tensor, random: torch.Generator) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        chosen : Tensor
            int64, shape (batch,): the examples' indices.
        random : torch.Generator
            Draws whatever else the step needs.

        Returns
        -------
        Tensor
            A scalar in the graph of the parameters.
        """

    def averages(self) -> list[Tensor]:
        """Return the moving average of each parameter, where one is kept; none by default."""
        return []

    def take_step(self) -> None:
        """Take one step of the optimiser."""
        settings = self._step_settings
        random = torch.Generator().manual_seed(
            derive_seed(settings.seed, f"{self._kind} step", self.step)
        )
        chosen = torch.randint(self._examples, (settings.batch_size,), generator=random)
        loss = self.batch_loss(chosen, random)
        gradients = torch.autograd.grad(loss, self._parameters)
        progress = self.step / settings.steps
        self._optimizer.learning_rate = (
            settings.learning_rate * (1 + math.cos(math.pi * progress)) / 2
        )
        with torch.no_grad():
            self._optimizer.step(self._parameters, list(gradients))
            if averages := self.averages():
                torch._foreach_lerp_(averages, self._parameters, 1 - AVERAGING)
        self.loss = loss.detach()
        self.step += 1

    def state(self) -> dict[str, Tensor]:
        """Return the state that :meth:`restore` resumes from."""
        moments = self._optimizer.state_dict()
        state = {"step": torch.tensor(self.step)}
        for prefix, module in self._modules.items():
            state |= {f"{prefix}.{name}": value for name, value in module.state_dict().items()}
        for moment in ("first", "second"):
            state |= {f"{moment}.{i}": value for i, value in enumerate(moments[moment])}
        return state | {f"average.{i}": value for i, value in enumerate(self.averages())}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state.

        Raises
        ------
        KeyError, RuntimeError
            If it is not the state of such a training.
        """
        for prefix, module in self._modules.items():
            module.load_state_dict(
                {name: state[f"{prefix}.{name}"] for name in module.state_dict()}
            )
        for i, average in enumerate(self.averages()):
            average.copy_(state[f"average.{i}"])
        self.step = int(state["step"])
        count = len(self._parameters) if self.step else 0
        self._optimizer.load_state_dict(
            {
                "steps": self.step,
                "first": [state[f"first.{i}"] for i in range(count)],
                "second": [state[f"second.{i}"] for i in range(count)],
            }
        )


def finish_training(
    training: NetworkTraining,
    steps: int,
    partial: Path,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Take the steps that are left; an interrupted training is resumed from its file.

    Parameters
    ----------
    training : NetworkTraining
        New, with the settings of the interrupted one.
    steps : int
        The last step.
    partial : Path
        The file of the state, written every 250 steps. The caller removes it when what was trained
        is on disk.
    on_step : callable, optional
        Told how many steps are done, and the loss.
    """
    _resume(training, partial)
    while training.step < steps:
        training.take_step()
        if training.step % SAVE_EVERY == 0:
            with atomic_file(partial, sync=False) as unfinished:
                save_file(
                    {name: value.contiguous() for name, value in training.state().items()},
                    unfinished,
                )
        if on_step is not None:
            on_step(training.step, float(training.loss))


def _resume(training: NetworkTraining, partial: Path) -> None:
    if not partial.exists():
        return
    try:
        training.restore(load_file(partial))
    except (OSError, SafetensorError, KeyError, RuntimeError):
        # It is restarted: the checkpoint cannot be resumed, and training takes minutes at most.
        partial.unlink(missing_ok=True)
