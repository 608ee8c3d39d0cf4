"""A chunk's clients trained at once: their parameters stacked, one batched step for all.

Small models leave a processor waiting for Python; with stacked parameters ``torch.func.vmap``
turns many small products into one. Each client sees the batches that it would see alone, so the
results equal those of one after another to rounding. Clients with fewer steps than others stop
changing when they are done; short batches are padded with examples of weight zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord
from torch import Tensor, nn
from torch.func import functional_call, vmap

from atoll.clients.arrays import to_array
from atoll.clients.settings import ClientSettings
from atoll.clients.training import TrainingResult, UpdateRule, batches


def obstacle_to_vectorizing(model: nn.Module, image_shape: tuple[int, int, int]) -> str | None:
    """Return why clients of ``model`` cannot train together, or None if they can.

    Parameters
    ----------
    model : nn.Module
        The model.
    image_shape : tuple[int, int, int]
        Channels, height, width.
    """
    for name, module in model.named_modules():
        if getattr(module, "running_mean", None) is not None:
            return f"{name} ({type(module).__name__}) keeps running statistics"
    device = next(model.parameters()).device
    images = torch.zeros(2, 2, *image_shape, device=device)
    model.train()
    try:
        stacked = _stack(model, 2)
        logits = _forward(model)(stacked, images)
        torch.autograd.grad(logits.sum(), list(stacked.values()), allow_unused=True)
    except Exception as error:
        return f"vmap does not accept it ({str(error).strip().splitlines()[0][:120]})"
    return None


class VectorizedTrainer:
    """Trains several clients of one model at once.

    Parameters
    ----------
    model : nn.Module
        Its parameters are the global ones whenever :meth:`train` is called; they do not change.
    settings : ClientSettings
        ``[client]``.
    """

    def __init__(self, model: nn.Module, settings: ClientSettings) -> None:
        self._model = model
        self._settings = settings
        self._forward = _forward(model)

    def train(
        self,
        examples: Sequence[tuple[Tensor, Tensor]],
        *,
        learning_rate: float,
        generators: Sequence[torch.Generator],
        proximal_mu: float | None = None,
    ) -> list[tuple[ArrayRecord, TrainingResult]]:
        """Train one client per element of ``examples``.

        Parameters
        ----------
        examples : Sequence[tuple[Tensor, Tensor]]
            Each client's images (n, channels, height, width) and labels (n,); n may differ.
        learning_rate : float
            The round's learning rate.
        generators : Sequence[torch.Generator]
            Each client's, to shuffle its examples.
        proximal_mu : float, optional
            The weight of FedProx's term; by default that of the settings.
        """
        self._model.train()
        counts = [len(labels) for _, labels in examples]
        plan = _Plan(counts, self._settings, generators)
        images, labels = _pad(examples)
        stacked = _stack(self._model, len(examples))
        parameters = list(stacked.values())
        update = UpdateRule(parameters, self._settings, learning_rate, proximal_mu, per_client=True)
        rows = torch.arange(len(examples))[:, None]
        totals = torch.zeros(len(examples), device=images.device)
        for step in range(plan.steps):
            chosen, weights = plan.step(step, images.device)
            logits = self._forward(stacked, images[rows, chosen])
            losses = _mean_losses(logits, labels[rows, chosen], weights)
            gradients = torch.autograd.grad(losses.sum(), parameters)
            with torch.no_grad():
                self._apply(update, parameters, gradients, plan.active(step))
                totals += losses.detach() * weights.sum(1)
        return self._results(stacked, totals, plan, counts)

    @staticmethod
    def _apply(
        update: UpdateRule,
        parameters: list[Tensor],
        gradients: Sequence[Tensor],
        active: Tensor | None,
    ) -> None:
        if active is None:
            update.apply(gradients)
            return
        before = [parameter.detach().clone() for parameter in parameters]
        update.apply(gradients)
        for parameter, old in zip(parameters, before, strict=True):
            keep = active.to(parameter.device).view(-1, *[1] * (parameter.dim() - 1))
            parameter.copy_(torch.where(keep, parameter, old))

    def _results(
        self, stacked: dict[str, Tensor], totals: Tensor, plan: _Plan, counts: list[int]
    ) -> list[tuple[ArrayRecord, TrainingResult]]:
        values = {key: value.detach().cpu().numpy() for key, value in stacked.items()}
        shared = {
            key: to_array(value.cpu().numpy())
            for key, value in self._model.state_dict().items()
            if key not in values
        }
        order = list(self._model.state_dict())
        losses = (totals.cpu() / torch.tensor(plan.examples_seen)).tolist()
        results = []
        for client, count in enumerate(counts):
            own = {key: to_array(value[client]) for key, value in values.items()}
            arrays = ArrayRecord({key: own.get(key) or shared[key] for key in order})
            results.append((arrays, TrainingResult(losses[client], count, plan.taken[client])))
        return results


class _Plan:
    """Which examples each client uses in each step."""

    def __init__(
        self, counts: list[int], settings: ClientSettings, generators: Sequence[torch.Generator]
    ) -> None:
        per_client = [
            [chosen for chosen, _ in batches(count, settings, generator)]
            for count, generator in zip(counts, generators, strict=True)
        ]
        self.taken = [len(steps) for steps in per_client]
        self.steps = max(self.taken)
        self.examples_seen = [float(max(1, sum(map(len, steps)))) for steps in per_client]
        width = max(len(chosen) for steps in per_client for chosen in steps)
        self._chosen = np.zeros((self.steps, len(counts), width), np.int64)
        self._weights = np.zeros((self.steps, len(counts), width), np.float32)
        for client, steps in enumerate(per_client):
            for step, chosen in enumerate(steps):
                self._chosen[step, client, : len(chosen)] = chosen.numpy()
                self._weights[step, client, : len(chosen)] = 1.0
        self._fewest = min(self.taken)

    def step(self, step: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the examples (clients, batch) of a step, and their weights, 0 for padding."""
        chosen = torch.from_numpy(self._chosen[step]).to(device)
        return chosen, torch.from_numpy(self._weights[step]).to(device)

    def active(self, step: int) -> Tensor | None:
        """Return which clients have not ended before this step; None if none has."""
        if step < self._fewest:
            return None
        return torch.tensor(self.taken) > step


def _pad(examples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images = nn.utils.rnn.pad_sequence([images for images, _ in examples], batch_first=True)
    labels = nn.utils.rnn.pad_sequence([labels for _, labels in examples], batch_first=True)
    return images, labels


def _stack(model: nn.Module, clients: int) -> dict[str, Tensor]:
    return {
        key: p.detach().expand(clients, *p.shape).clone().requires_grad_()
        for key, p in model.named_parameters()
        if p.requires_grad
    }


def _forward(model: nn.Module):  # type: ignore[no-untyped-def]
    return vmap(partial(functional_call, model), in_dims=(0, 0), randomness="different")


def _mean_losses(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return each client's mean cross-entropy over the examples of weight one."""
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    totals = (losses.view_as(weights) * weights).sum(1)
    return totals / weights.sum(1).clamp_min(1.0)
