"""Selection of a client's examples by scores that its node keeps: EL2N and GraNd.

Paul et al. (2021), "Deep Learning on a Data Diet", arXiv 2107.07075, definitions 2.1 and 2.3. The
paper averages over networks that begin with other random parameters; here the mean is over the
models that a client is sent.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from atoll.clients.data.client_inputs import ClientInputs
from atoll.clients.settings import SelectionSettings
from atoll.clients.tasks.losses import probabilities_of, targets_of
from atoll.clients.tasks.task import Task
from atoll.clients.training.objective.node_memory import NodeMemory
from atoll.clients.training.score_bins import bins_of, lowest_bin
from atoll.randomness import derive_seed

# The name of what a node keeps, and of what a message holds for its selection.
SELECTION = "selection"
# Examples that are scored at once.
BATCH = 256
Scores = Callable[[nn.Module, Task, Tensor, Tensor], Tensor]


def selected(
    settings: SelectionSettings,
    memory: NodeMemory,
    model: nn.Module,
    task: Task,
    inputs: ClientInputs,
    labels: Tensor,
    seed: int,
    counts: Tensor | None = None,
) -> Tensor | None:
    """Return which examples a client trains on; None for all.

    Parameters
    ----------
    settings : SelectionSettings
        ``[client.selection]``.
    memory : NodeMemory
        What the node keeps: the mean scores, and of how many rounds they are.
    model : nn.Module
        As it was sent; in evaluation mode while it scores, and as it was afterwards.
    task : Task
        What is predicted.
    inputs, labels : ClientInputs, Tensor
        The client's examples, shape (n, ...).
    seed : int
        Of random scores.
    counts : Tensor, optional
        With ``over = "federation"``: how many scores of all clients are in each bin.

    Returns
    -------
    Tensor or None
        int64, shape (k,), in order, at least 1: n minus the share that is dropped, rounded; with
        ``over = "federation"`` those of the lowest bin of these counts and higher ones.
    """
    kept = memory.read(labels.device)
    rounds = int(kept["rounds"]) if kept else 0
    if rounds < settings.score_rounds:
        now = _scores(settings, model, task, inputs, labels, seed)
        mean = now if not rounds else kept["scores"] + (now - kept["scores"]) / (rounds + 1)
        memory.write({"scores": mean, "rounds": torch.tensor(rounds + 1)})
        return None
    if counts is not None:
        lowest = lowest_bin(counts, settings.drop)
        count = max(1, int((bins_of(kept["scores"], settings) >= lowest).sum()))
    else:
        count = max(1, round((1.0 - settings.drop) * len(labels)))
    # Of equal scores the first examples stay.
    order = torch.argsort(kept["scores"], descending=True, stable=True)
    return order[:count].sort().values


def _scores(
    settings: SelectionSettings,
    model: nn.Module,
    task: Task,
    inputs: ClientInputs,
    labels: Tensor,
    seed: int,
) -> Tensor:
    if settings.score == "random":
        generator = torch.Generator().manual_seed(derive_seed(seed, "selection"))
        return torch.rand(len(labels), generator=generator).to(labels.device)
    score = el2n_scores if settings.score == "el2n" else grand_scores
    was_training = model.training
    model.eval()
    parts = [
        score(model, task, inputs[chosen], labels[chosen])
        for chosen in torch.split(torch.arange(len(labels)), BATCH)
        if len(chosen)
    ]
    model.train(was_training)
    return torch.cat(parts) if parts else torch.zeros(0, device=labels.device)


@torch.no_grad()
def el2n_scores(model: nn.Module, task: Task, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return ||p - y||_2 of each example, shape (n,): predicted probabilities minus the label."""
    outputs = model(inputs)
    errors = probabilities_of(outputs) - targets_of(outputs, labels)
    if errors.shape[-1] == 1:
        # One output for two classes: the other class errs as much.
        errors = torch.cat([errors, -errors], -1)
    norms: Tensor = torch.linalg.vector_norm(errors, dim=-1)
    return norms


def grand_scores(model: nn.Module, task: Task, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the norm of each example's gradient by the trained parameters, shape (n,)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    norms = []
    for place in range(len(labels)):
        loss = task.losses(model(inputs[place : place + 1]), labels[place : place + 1]).sum()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        norms.append(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
    return torch.stack(norms)
