"""Vectorised training of a chunk's clients: stacked parameters, one batched step for all.

With small models a processor spends most time in Python; with stacked parameters
``torch.func.vmap`` turns many small products into one. Each client sees the batches that it would
see alone, so the results equal those of sequential training to rounding. Clients are sorted by
their number of steps: finished clients are the last of the stack, and later steps leave them out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from flwr.app import ArrayRecord
from torch import Tensor, nn
from torch.func import functional_call, vmap

from atoll.clients.arrays.travelling import travelling_state
from atoll.clients.data.inputs.base import Inputs
from atoll.clients.settings import ClientSettings
from atoll.clients.tasks.task import Task
from atoll.clients.training.gradients import gradients_of
from atoll.clients.training.local_training import TrainingResult, UpdateRule
from atoll.clients.training.objective.client_objective import stacked_terms
from atoll.clients.training.stacked.client_batch import ClientBatch
from atoll.clients.training.stacked.fed_sgd import is_linear, one_step_sum
from atoll.clients.training.stacked.stacked_layers import Forward, stacked_linear_layers
from atoll.clients.training.stacked.summed_training import SummedTraining, add_stacked, zero_sum
from atoll.flower.arrays import array_record, to_array

# Stacked parameters up to this size stay in a processor's cache between a step's passes.
CACHED_BYTES = 8 << 20


def obstacle_to_vectorizing(model: nn.Module, inputs: Inputs) -> str | None:
    """Return why clients of ``model`` cannot train vectorised, or None if they can.

    Parameters
    ----------
    model : nn.Module
        The model; neither its buffers nor the global generators change.
    inputs : Inputs
        What the model is given.
    """
    for name, module in model.named_modules():
        if getattr(module, "running_mean", None) is not None:
            return f"{name} ({type(module).__name__}) keeps running statistics"
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    if len(names) > len(list(model.parameters())):
        return "it has one parameter under two names"
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        obstacle = _obstacle_on_trial(model, inputs)
        changed = [name for name, b in model.named_buffers() if not torch.equal(b, buffers[name])]
        return f"its buffer {changed[0]} changes in training" if changed else obstacle
    except Exception as error:
        return f"vmap does not accept it ({(str(error).strip().splitlines() or [''])[0][:120]})"
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])


def _obstacle_on_trial(model: nn.Module, inputs: Inputs) -> str | None:
    parameters = {key: p.detach() for key, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        return "it has no parameters to train"
    stacked = {key: torch.stack([p, p]).requires_grad_() for key, p in parameters.items()}
    device = next(iter(parameters.values())).device
    given = inputs.varied(2, 2, generator=torch.Generator().manual_seed(0)).to(device)
    # Tokens have no gradient.
    leaves = [given.requires_grad_()] if given.is_floating_point() else []
    model.train()
    with torch.random.fork_rng():
        outputs = _stacked_forward(model)(stacked, given)
        gradients = torch.autograd.grad(
            outputs[:, 0].sum(), [*stacked.values(), *leaves], allow_unused=True
        )
    # Short batches are padded, so an example must not depend on its neighbours.
    if leaves:
        of_inputs = gradients[-1]
        depends = of_inputs is not None and bool(of_inputs[:, 1].any())
    else:
        depends = _depends_on_neighbours(model, parameters, given[0])
    return "the examples of a batch depend on each other" if depends else None


def _depends_on_neighbours(model: nn.Module, parameters: dict[str, Tensor], pair: Tensor) -> bool:
    """Tell whether a pair's first output changes with the second example."""
    outputs = []
    for second in (pair[1:], pair[:1]):
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            outputs.append(functional_call(model, parameters, (torch.cat([pair[:1], second]),))[0])
    return not torch.equal(*outputs)


@dataclass
class _Group:
    """Clients whose parameters are stacked, trained."""

    clients: list[int]
    stacked: list[Tensor]
    results: list[TrainingResult]


class VectorizedTrainer:
    """Trainer of several clients of one model in one batch.

    Parameters
    ----------
    model : nn.Module
        Its parameters are the global ones whenever :meth:`train` is called; they do not change.
    settings : ClientSettings
        ``[client]``.
    task : Task
        Whose loss is descended.
    """

    def __init__(self, model: nn.Module, settings: ClientSettings, task: Task) -> None:
        self._model = model
        self._task = task
        self._settings = settings
        self._forward = _stacked_forward(model)
        self._global = {k: p.detach() for k, p in model.named_parameters() if p.requires_grad}
        self._buffers: list[Tensor] = []

    def train(self, batch: ClientBatch) -> list[tuple[ArrayRecord, TrainingResult]]:
        """Train the clients of a batch.

        Returns
        -------
        list[tuple[ArrayRecord, TrainingResult]]
            One a client, in the order of ``batch.counts``.
        """
        plans = batch.plans(self._settings)
        trained: dict[int, tuple[ArrayRecord, TrainingResult]] = {}
        for group in self._trained(batch, plans):
            records = self._records(group.stacked)
            trained.update(
                (client, (record, result))
                for client, record, result in zip(
                    group.clients, records, group.results, strict=True
                )
            )
        return [trained[client] for client in range(len(batch.counts))]

    def train_stacked(self, batch: ClientBatch) -> list[Tensor]:
        """Train as :meth:`train` does, and return the clients' parameters stacked.

        Returns
        -------
        list[Tensor]
            By trainable parameter, each (clients, *shape).
        """
        clients = len(batch.counts)
        trained = [p.new_empty(clients, *p.shape) for p in self._global.values()]
        for group in self._trained(batch, batch.plans(self._settings)):
            for parameters, values in zip(trained, group.stacked, strict=True):
                parameters[group.clients] = values
        return trained

    def train_and_sum(self, batch: ClientBatch) -> SummedTraining:
        """Train as :meth:`train` does, and return only the sum of the clients' models.

        Where every client takes one step that is linear in its gradient, that sum is one gradient
        at the global parameters, and no client's model is made (``fed_sgd.py``).
        """
        plans, counts = batch.plans(self._settings), batch.counts
        is_one_step = not batch.terms and all(len(plan) <= 1 for plan in plans)
        if is_one_step and batch.starts is None and is_linear(self._settings):
            self._model.train()
            return one_step_sum(self._model, self._settings, self._task, batch, plans)
        total = zero_sum(self._model)
        results: dict[int, TrainingResult] = {}
        for group in self._trained(batch, plans):
            results.update(zip(group.clients, group.results, strict=True))
            weights = [counts[client] for client in group.clients]
            stacked = dict(zip(self._global, group.stacked, strict=True))
            add_stacked(total, self._model, stacked, weights)
        return SummedTraining(total, [results[client] for client in range(len(counts))])

    def _trained(self, batch: ClientBatch, plans: list[list[Tensor]]) -> Iterator[_Group]:
        """Yield the clients in groups, trained; a group's memory is used again by the next."""
        self._model.train()
        by_steps = sorted(range(len(plans)), key=lambda client: len(plans[client]), reverse=True)
        for group in self._groups(by_steps):
            stacked = self._stacked(group, batch.starts)
            update = UpdateRule(
                stacked,
                self._settings,
                batch.learning_rate,
                batch.proximal_mu,
                per_client=True,
                terms=stacked_terms([batch.terms[client] for client in group])
                if batch.terms
                else None,
            )
            own_plans = [plans[client] for client in group]
            totals = self._run(update, batch.inputs, batch.labels, own_plans).tolist()
            results = [
                TrainingResult(total / max(1, sum(map(len, plan))), batch.counts[client], len(plan))
                for client, plan, total in zip(group, own_plans, totals, strict=True)
            ]
            if batch.terms:
                results = [
                    replace(
                        result,
                        extra=batch.terms[client].end(
                            [p[place] for p in stacked], result.steps, result.examples
                        ),
                    )
                    for place, (client, result) in enumerate(zip(group, results, strict=True))
                ]
            yield _Group(group, stacked, results)

    def _groups(self, clients: list[int]) -> list[list[int]]:
        """Cut the clients into equal groups whose parameters stay in the cache."""
        bytes_each = sum(p.nbytes for p in self._global.values())
        on_cpu = all(p.device.type == "cpu" for p in self._global.values())
        most = max(1, CACHED_BYTES // max(1, bytes_each)) if on_cpu else len(clients)
        size = -(-len(clients) // -(-len(clients) // most))
        return [clients[start : start + size] for start in range(0, len(clients), size)]

    def _stacked(self, group: list[int], starts: Sequence[Tensor] | None) -> list[Tensor]:
        """Return what each client starts with, in memory that is used again."""
        clients = len(group)
        if not self._buffers or len(self._buffers[0]) < clients:
            self._buffers = [p.new_empty(clients, *p.shape) for p in self._global.values()]
        stacked = [buffer[:clients] for buffer in self._buffers]
        given = self._global.values() if starts is None else [start[group] for start in starts]
        for copies, parameters in zip(stacked, given, strict=True):
            copies.copy_(parameters)
        return stacked

    def _run(
        self, update: UpdateRule, inputs: Tensor, labels: Tensor, plans: list[list[Tensor]]
    ) -> Tensor:
        """Take all steps of a group; return each client's summed loss."""
        totals = torch.zeros(len(plans), device=inputs.device)
        leaves: list[Tensor] = []
        for step in range(len(plans[0])):
            active = [plan[step] for plan in plans if len(plan) > step]
            if not leaves or len(active) < len(leaves[0]):
                update.keep_first(len(active))
                leaves = [p.detach().requires_grad_() for p in update.parameters]
            chosen, lengths = _pad(active)
            wanted = labels[chosen]
            outputs = self._forward(dict(zip(self._global, leaves, strict=True)), inputs[chosen])
            losses = self._task.losses(outputs.flatten(0, 1), wanted.flatten(0, 1))
            sums = _sum_of_first(losses.view(chosen.shape), lengths)
            sizes = lengths.to(sums.device)
            gradients = gradients_of((sums / sizes).sum(), leaves)
            with torch.no_grad():
                update.apply(gradients)
                totals[: len(active)] += sums.detach()
        return totals

    def _records(self, stacked: list[Tensor]) -> Iterator[ArrayRecord]:
        """Yield each client's model."""
        values = [tensor.cpu().numpy() for tensor in stacked]
        own = dict(zip(self._global, values, strict=True))
        state = travelling_state(self._model)
        shared = {
            key: to_array(tensor.cpu().numpy()) for key, tensor in state.items() if key not in own
        }
        order = list(state)
        for place in range(len(values[0])):
            yield array_record(
                {key: to_array(own[key][place]) if key in own else shared[key] for key in order}
            )


def _stacked_forward(model: nn.Module) -> Forward:
    """Return a function of parameters and inputs, both stacked, to the stacked outputs."""
    batched = vmap(partial(functional_call, model), in_dims=(0, 0), randomness="different")
    return stacked_linear_layers(model) or batched


def _pad(chosen: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the indices as one matrix, short rows filled up, and how long each row was."""
    lengths = torch.tensor([len(row) for row in chosen])
    width = int(lengths.max())
    rows = [
        row if len(row) == width else torch.cat([row, row[:1].expand(width - len(row))])
        for row in chosen
    ]
    return torch.stack(rows), lengths


def _sum_of_first(losses: Tensor, lengths: Tensor) -> Tensor:
    """Return the sum of each row's first ``lengths`` values."""
    width = losses.shape[1]
    if bool((lengths == width).all()):
        return losses.sum(1)
    is_own = torch.arange(width)[None] < lengths[:, None]
    return torch.where(is_own.to(losses.device), losses, 0.0).sum(1)
