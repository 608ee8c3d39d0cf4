"""FedSGD: clients that take one plain step each, trained as one (McMahan et al., 2017, sec. 2).

Client i ends at w - lr g_i, with g_i its mean gradient at the shared parameters w. The weighted
sum of the clients' models, sum_i n_i (w - lr g_i), needs only sum_i n_i g_i: the gradient of one
weighted loss on all clients' examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atoll.clients.settings import ClientSettings
from atoll.clients.tasks.task import Task
from atoll.clients.training.gradients import gradients_of
from atoll.clients.training.local_training import TrainingResult
from atoll.clients.training.stacked.client_batch import ClientBatch
from atoll.clients.training.stacked.summed_training import SummedTraining, add_stacked, zero_sum

# Examples a pass: more fill the matrix units no better, and their activations leave the cache.
EXAMPLES_A_PASS = 320


def is_linear(settings: ClientSettings) -> bool:
    """Tell whether a client's first step is linear in its gradient.

    SGD's is, with momentum and weight decay too; FedProx's term has no gradient where it starts.
    """
    return settings.optimizer == "sgd" and settings.gradient_clip is None


def one_step_sum(
    model: nn.Module,
    settings: ClientSettings,
    task: Task,
    batch: ClientBatch,
    plans: Sequence[Sequence[Tensor]],
) -> SummedTraining:
    """Return the sum of the clients' models after at most one step.

    Parameters
    ----------
    model : nn.Module
        At the shared parameters; it does not change. No example's output may depend on another
        example.
    settings : ClientSettings
        ``[client]``; must be linear (:func:`is_linear`).
    task : Task
        Whose loss is descended.
    batch : ClientBatch
        The clients; a client's number of examples is its weight.
    plans : Sequence[Sequence[Tensor]]
        Per client the indices of its one batch, or nothing.
    """
    inputs, labels, counts = batch.inputs, batch.labels, batch.counts
    nothing = torch.empty(0, dtype=torch.int64)
    steps = [plan[0] if plan else nothing for plan in plans]
    lengths = torch.tensor([len(step) for step in steps])
    chosen = torch.cat(steps)
    shares = torch.tensor(counts, dtype=torch.float32) / lengths.clamp_min(1)
    weights = shares.repeat_interleave(lengths).to(inputs.device)
    parameters = {key: p for key, p in model.named_parameters() if p.requires_grad}
    gradients, losses = _weighted_gradient(model, task, parameters, inputs, labels, chosen, weights)
    total = zero_sum(model)
    add_stacked(total, model, {}, counts)
    for key, gradient in gradients.items():
        decayed = gradient.double() + settings.weight_decay * total.weight * (
            parameters[key].detach().double()
        )
        total.arrays[key] -= batch.learning_rate * decayed.cpu().numpy()
    of_clients = torch.zeros(len(counts)).index_add_(
        0, torch.arange(len(counts)).repeat_interleave(lengths), losses.cpu()
    )
    means = (of_clients / lengths.clamp_min(1)).tolist()
    results = [
        TrainingResult(mean, count, len(plan))
        for mean, count, plan in zip(means, counts, plans, strict=True)
    ]
    return SummedTraining(total, results)


def _weighted_gradient(
    model: nn.Module,
    task: Task,
    parameters: dict[str, nn.Parameter],
    inputs: Tensor,
    labels: Tensor,
    chosen: Tensor,
    weights: Tensor,
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the gradient of the weighted sum of the chosen examples' losses, and each loss."""
    gradients = {key: torch.zeros_like(p) for key, p in parameters.items()}
    losses = []
    for start in range(0, len(chosen), EXAMPLES_A_PASS):
        part = chosen[start : start + EXAMPLES_A_PASS]
        each = task.losses(model(inputs[part]), labels[part])
        loss = each @ weights[start : start + EXAMPLES_A_PASS]
        found = gradients_of(loss, list(parameters.values()))
        torch._foreach_add_(list(gradients.values()), list(found))
        losses.append(each.detach())
    return gradients, torch.cat(losses) if losses else weights.new_empty(0)
