"""``atoll run --dry-run``: what would run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import torch

from atoll.clients.data.files.dataset import Dataset
from atoll.clients.settings import ClientSettings
from atoll.platform.cli.output.columns import name_lines
from atoll.platform.cli.terminal import console
from atoll.platform.config.experiment import Experiment
from atoll.platform.config.privacy.notes import guarantees
from atoll.platform.config.strategy_wrappers import nested_strategies
from atoll.platform.runs.federation import Federation
from atoll.platform.runs.plan import RunPlan, plan_run


def show_plan(experiment: Experiment) -> None:
    """Show what would run; nothing is started or written."""
    width = console.width if console.is_terminal else None
    for line in name_lines(list(plan_lines(plan_run(experiment))), width):
        console.print(line, soft_wrap=True, markup=False, emoji=False)
    console.print("nothing was started")


def plan_lines(plan: RunPlan) -> Iterator[tuple[str, str]]:
    """Yield what a plan says: a word, and its text."""
    experiment, federation = plan.experiment, plan.federation
    data = experiment.data
    yield "data", _data(federation)
    yield "clients", _clients(plan)
    if data.held_out:
        yield "held out", ", ".join(sorted(data.held_out))
    frozen = plan.parameters - plan.trained
    described = federation.dataset.inputs.described
    yield (
        "model",
        f"{experiment.model.name}: {plan.parameters:,} parameters on {described}"
        + (f", {frozen:,} of them frozen" if frozen else "")
        + f"; {_size(plan.model_bytes)} a message",
    )
    takes_steps = getattr(federation.strategy, "client_update", None) != "gradient"
    yield "training", _training(experiment.client) if takes_steps else "gradients, no local steps"
    if experiment.layers is None:
        names = [type(inner).__name__ for inner in nested_strategies(federation.strategy)]
        yield "strategy", " around ".join(names)
    mods = [entry if isinstance(entry, str) else entry.name for entry in experiment.client.mods]
    if mods:
        yield "mods", ", ".join(mods)
    yield from (("privacy", line) for line in _privacy(plan))
    yield "rounds", _rounds(experiment)
    yield from _traffic(plan)
    yield "workers", _workers(experiment)
    yield "memory", _memory(plan)
    if experiment.capture is not None:
        capture = experiment.capture
        nodes = "all clients" if capture.nodes == "all" else f"nodes {list(capture.nodes)}"
        yield "capture", f"{nodes} in rounds {list(capture.rounds)}"
    yield "directory", f"{experiment.run.out / experiment.run.name} (or the next free name)"


def _data(federation: Federation) -> str:
    dataset = federation.dataset
    domains = f", domains {', '.join(dataset.domains)}" if dataset.domains else ""
    return (
        f"{dataset.name}: {len(dataset.train):,} + {len(dataset.test):,} examples, "
        f"{predicted(dataset)}{domains}"
    )


def predicted(dataset: Dataset) -> str:
    """Return what a data set's task is, in a word or two."""
    if dataset.classes:
        return f"{len(dataset.classes)} classes"
    return dataset.task.kind


def _clients(plan: RunPlan) -> str:
    sizes = plan.federation.partition.sizes
    held = sizes[sizes > 0]
    text = f"{len(sizes):,}, by {plan.experiment.data.partition.name}"
    if len(held):
        low, middle, high = int(held.min()), int(np.median(held)), int(held.max())
        text += (
            f"; {low:,} example{'s' if low > 1 else ''} each"
            if low == high
            else f"; {low:,} to {high:,} examples each, median {middle:,}"
        )
    empty = len(sizes) - len(held)
    return text + (f"; {empty:,} have none" if empty else "")


def _training(client: ClientSettings) -> str:
    amount, unit = (client.epochs or 1, "epoch") if client.steps is None else (client.steps, "step")
    return (
        f"{client.optimizer}, learning rate {client.learning_rate:g}, batches of "
        f"{client.batch_size}, {amount:,} {unit}{'s' if amount > 1 else ''} a round"
    )


def _privacy(plan: RunPlan) -> Iterator[str]:
    client, sizes = plan.federation.spec.client, plan.federation.partition.sizes
    for spent in guarantees(client, sizes, plan.experiment.run.rounds):
        yield (
            f"{spent.name}: epsilon {spent.epsilon:.3g} at delta {spent.delta:g}, after "
            f"{spent.uses} of a client that is in every round"
        )
    for inner in nested_strategies(plan.federation.strategy):
        noise = getattr(inner, "noise_multiplier", None)
        if noise is not None:
            yield f"{type(inner).__name__}: noise multiplier {noise:g}"


def _rounds(experiment: Experiment) -> str:
    run = experiment.run
    stopping = run.early_stopping
    until = "" if stopping is None else f"; stops early by {stopping.metric}"
    return (
        f"{run.rounds:,}; evaluation every {run.evaluate_every}, a checkpoint every "
        f"{run.checkpoint_every}{until}"
    )


def _traffic(plan: RunPlan) -> Iterator[tuple[str, str]]:
    for word, exchange in (("a round", plan.training), ("evaluation", plan.evaluation)):
        if exchange is None:
            if plan.experiment.layers is None:
                yield word, "the strategy says it when it runs"
            continue
        if not exchange.clients:
            yield word, "no client"
            continue
        text = f"{exchange.clients:,} clients, {_size(exchange.bytes_down)} down"
        if word == "evaluation":
            yield word, f"{text} (clients' own; the server's is of the test examples)"
        elif exchange.is_query:
            yield word, f"{text} in a query, before clients are asked to train"
        else:
            yield word, f"{text}, {_size(exchange.clients * plan.model_bytes)} up"


def _workers(experiment: Experiment) -> str:
    ray = experiment.ray
    address = ray.address or os.environ.get("RAY_ADDRESS")
    each = f"{ray.cpus_per_worker:g} CPU each"
    gpus = "" if ray.gpus_per_worker in ("auto", 0.0) else f" and {ray.gpus_per_worker:g} GPU"
    if ray.workers != "auto":
        return f"{ray.workers}, {each}{gpus}"
    if address not in (None, "local"):
        return f"as many as the cluster at {address} holds, {each}{gpus}"
    most = max(1, int((os.cpu_count() or 1) / ray.cpus_per_worker))
    cards = torch.cuda.device_count() if ray.gpus_per_worker == "auto" else 0
    on = f"; {cards} GPU, shared by what fits" if cards else ""
    return f"up to {most} on this machine, {each}{gpus}{on}"


def _memory(plan: RunPlan) -> str:
    batch = "" if plan.activations is None else f", {_size(plan.activations)} of it for a batch"
    return (
        f"about {_size(plan.worker_bytes)} a worker{batch}; {_size(plan.data_bytes)} of data once "
        "a machine"
    )


def _size(count: int) -> str:
    """Return bytes in decimal units."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count} bytes"
