"""Checks of a federation before it starts, for strategies that align domains."""

from __future__ import annotations

import logging

import numpy as np
from flwr.serverapp.strategy import Strategy
from torch import nn

from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.inputs.base import Inputs
from atoll.clients.data.inputs.table import TableInputs
from atoll.clients.data.partitioning.partition import Partition
from atoll.clients.models.head import try_head
from atoll.clients.models.images.gaussian_model import GaussianHead
from atoll.errors import InvalidExperimentError
from atoll.strategies.alignment.alignment_strategy import AlignmentStrategy
from atoll.strategies.alignment.methods.hessians import CMA
from atoll.strategies.alignment.methods.reweighting import Mixup

logger = logging.getLogger("atoll")


def check_federation(
    strategy: Strategy, model: nn.Module, dataset: Dataset, partition: Partition
) -> None:
    """Refuse a federation that an alignment strategy cannot do anything with.

    Parameters
    ----------
    strategy : Strategy
        Any; others than alignment strategies are not looked at.
    model, dataset, partition
        Of the federation.

    Raises
    ------
    InvalidExperimentError
        If the clients hold too few domains, or the model's head is not what the method needs.
    """
    if not isinstance(strategy, AlignmentStrategy):
        return
    _check_domains(strategy, domains_held(dataset, partition))
    _check_task(strategy, dataset)
    classes = len(dataset.classes)
    if isinstance(strategy, CMA) and strategy.classes != classes:
        raise InvalidExperimentError(
            f"strategy.classes = {strategy.classes}: the data have {classes} classes; expected "
            f"{classes}"
        )
    if strategy.measures or strategy.diagnostics_every:
        _check_head(strategy, model, dataset)
    _warn_of_layers(strategy, model)


def domains_held(dataset: Dataset, partition: Partition) -> list[str]:
    """Return the domains of which some client has examples; without any, each client is one."""
    clients = [client for client in range(len(partition)) if partition.sizes[client]]
    domains = dataset.train.domains
    if domains is None:
        return [f"client {client}" for client in clients]
    held = np.unique(np.concatenate([domains[partition.indices(client)] for client in clients]))
    return [dataset.domains[index] for index in held]


def _check_domains(strategy: AlignmentStrategy, held: list[str]) -> None:
    if len(held) < strategy.min_domains:
        names = ", ".join(map(repr, held)) or "none"
        raise InvalidExperimentError(
            f"strategy.name = {type(strategy).__name__!r}: the clients hold {len(held)} domain"
            f"{'' if len(held) == 1 else 's'} ({names}); expected at least "
            f"{strategy.min_domains}, one domain alone has nothing to be aligned with"
        )


def _check_task(strategy: AlignmentStrategy, dataset: Dataset) -> None:
    name = type(strategy).__name__
    if dataset.task.output_loss is None:
        raise InvalidExperimentError(
            f"strategy.name = {name!r}: alignment needs one prediction an example, and the task of "
            f"data.dataset = {dataset.name!r} is {dataset.task.kind}; expected another strategy"
        )
    if isinstance(strategy, Mixup) and not is_mixable(dataset.inputs):
        raise InvalidExperimentError(
            f"strategy.name = {name!r}: it mixes inputs, and those of data.dataset = "
            f"{dataset.name!r} are {dataset.inputs.described}; expected images, or numbers alone"
        )


def is_mixable(inputs: Inputs) -> bool:
    """Tell whether convex combinations of inputs are inputs: categories and tokens have none."""
    if isinstance(inputs, TableInputs):
        return not inputs.cardinalities
    return inputs.dtype.is_floating_point


def _check_head(strategy: AlignmentStrategy, model: nn.Module, dataset: Dataset) -> None:
    name = type(strategy).__name__
    try:
        split = try_head(model, dataset.inputs, dataset.task)
    except ValueError as error:
        raise InvalidExperimentError(
            f"strategy.name = {name!r} with this model: {error}; expected a model that ends in "
            "its head"
        ) from error
    if strategy.needs_linear_head and not split.has_linear_head:
        raise InvalidExperimentError(
            f"strategy.name = {name!r}: it has a closed form for a linear head only, and the "
            f"model's head is a {type(split.head).__name__}; expected a model that ends in one "
            "Linear layer"
        )

    if strategy.needs_gaussian_head and not isinstance(split.head, GaussianHead):
        raise InvalidExperimentError(
            f"strategy.name = {name!r}: it needs a model that draws its representation from a "
            f"Gaussian, and the model's head is a {type(split.head).__name__}; expected model.name "
            "= 'gaussian', with this model as model.body"
        )


def _warn_of_layers(strategy: AlignmentStrategy, model: nn.Module) -> None:
    """Warn of layers by which a client's moments depend on more than its examples.

    Raises
    ------
    InvalidExperimentError
        If BatchNorm's statistics would never be updated.
    """
    was_training = model.training
    model.train()
    training = [module for module in model.modules() if module.training]
    model.train(was_training)
    name = type(strategy).__name__
    has_batch_norm = any(getattr(module, "running_mean", None) is not None for module in training)
    if has_batch_norm and strategy.client_update == "gradient":
        raise InvalidExperimentError(
            f"strategy.client_update = 'gradient' with strategy.name = {name!r}: the model has "
            "BatchNorm layers in training mode, and clients that reply with gradients leave the "
            "statistics that it is evaluated with at their first values; expected frozen layers, "
            "GroupNorm, or another client_update"
        )
    if has_batch_norm:
        logger.warning(
            "the model has BatchNorm layers in training mode: an example's moments then depend on "
            "the others of its batch, and %s is no longer exactly the centralised method (freeze "
            "them, or use GroupNorm)",
            name,
        )
    if strategy.has_penalty and any(isinstance(module, GaussianHead) for module in training):
        logger.warning(
            "the model draws its representation: moments and training draw differently, and %s is "
            "the centralised method on average only",
            name,
        )
    if any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in training):
        logger.warning(
            "the model has Dropout layers: moments and training draw different masks, and %s is "
            "the centralised method on average only",
            name,
        )
