"""Scores of membership from a model alone: what it says of each candidate, and a reference model.

A passive server scores a client's messages (:mod:`atoll.attacks.membership.passive_scores`). Of a
client that has left there are no messages any more; whoever has the model can still ask it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from atoll.attacks.membership.candidate_signals import AT_ONCE, Candidates
from atoll.clients.tasks.task import Task

LOSS, GRADIENT_NORM, CALIBRATED = "loss", "gradient norm", "calibrated loss"


def model_losses(module: nn.Module, task: Task, candidates: Candidates) -> Tensor:
    """Return each candidate's loss at a model, in evaluation mode: float64, shape (n,)."""
    module.eval()
    with torch.no_grad():
        outputs = module(candidates.inputs).double()
        losses: Tensor = task.losses(outputs, candidates.labels).double()
    return losses


def gradient_norms(module: nn.Module, task: Task, candidates: Candidates) -> Tensor:
    """Return the norm of each candidate's gradient at a model, in evaluation mode: shape (n,)."""
    module.eval()
    parameters = {k: p.detach() for k, p in module.named_parameters() if p.requires_grad}
    fixed = {k: v.detach() for k, v in module.state_dict().items() if k not in parameters}

    def loss(values: Mapping[str, Tensor], example: Tensor, label: Tensor) -> Any:
        outputs = functional_call(module, {**fixed, **values}, (example[None],))
        return task.mean_loss(outputs, label[None])

    of_examples = vmap(grad(loss), (None, 0, 0))
    parts = []
    for start in range(0, len(candidates), AT_ONCE):
        chosen = slice(start, start + AT_ONCE)
        slopes = of_examples(parameters, candidates.inputs[chosen], candidates.labels[chosen])
        parts.append(torch.cat([slope.flatten(1) for slope in slopes.values()], 1).norm(dim=1))
    return torch.cat(parts).double()


def model_scores(
    module: nn.Module, task: Task, candidates: Candidates, reference: nn.Module | None = None
) -> dict[str, Tensor]:
    """Return scores of candidates, the larger the more likely a member.

    Parameters
    ----------
    module : nn.Module
        The model.
    task : Task
        What it predicts.
    candidates : Candidates
        Whom it is about.
    reference : nn.Module, optional
        A model that no candidate was trained on. Its loss says how hard a candidate is: the score
        "calibrated loss" is by how much the model's loss is below it (Watson et al., 2022).

    Returns
    -------
    dict[str, Tensor]
        By name, float64, shape (n,): "loss" (negative; Yeom et al., 2018), "gradient norm"
        (negative; Nasr et al., 2019), and "calibrated loss".

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from atoll.attacks.membership.candidate_signals import Candidates
    >>> from atoll.attacks.membership.model_scores import model_scores
    >>> from atoll.clients import Classification
    >>> asked = Candidates(torch.eye(2), torch.tensor([0, 1]))
    >>> scores = model_scores(nn.Linear(2, 2), Classification(classes=("a", "b")), asked)
    >>> sorted(scores), scores["loss"].shape
    (['gradient norm', 'loss'], torch.Size([2]))
    """
    losses = model_losses(module, task, candidates)
    scores = {LOSS: -losses, GRADIENT_NORM: -gradient_norms(module, task, candidates)}
    if reference is not None:
        scores[CALIBRATED] = model_losses(reference, task, candidates) - losses
    return scores
