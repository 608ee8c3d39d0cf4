"""One step of local training on a small model, for the tests of defenses."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atoll.attacks.defenses.base.defense import Task
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ModelSettings
from atoll.clients.tasks.losses import mean_loss
from atoll.clients.training.gradients import gradients_of
from atoll.clients.training.step_mods import LocalStep

SHAPE, CLASSES = (1, 8, 8), 10


def a_model(name: str = "lenet", seed: int = 0, **arguments: object) -> nn.Module:
    settings = ModelSettings(name=name, **arguments)  # type: ignore[arg-type]
    return build_model(settings, SHAPE, CLASSES, seed)


def a_step(
    model: nn.Module, examples: int = 4, seed: int = 0, inputs: Tensor | None = None
) -> LocalStep:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(examples, *SHAPE, generator=generator) if inputs is None else inputs
    labels = torch.randint(CLASSES, (examples,), generator=generator)

    def objective() -> tuple[Tensor, Tensor]:
        loss = mean_loss(model(images), labels)
        return loss, loss

    parameters = [p for p in model.parameters() if p.requires_grad]
    return LocalStep(model, parameters, images, labels, examples, objective)


def a_task(step: LocalStep, server_round: int = 1, seed: int = 0) -> Task:
    task = Task(step.parameters, server_round, step)
    torch.manual_seed(seed)
    assert task.generator is not None  # drawn now, so that the model's randomness is another
    return task


def gradient(task: Task) -> list[Tensor]:
    assert task.step is not None
    return list(gradients_of(task.step.objective()[0], task.step.parameters))


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([values.flatten() for values in tensors])
