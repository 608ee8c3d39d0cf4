"""Checks of an experiment before anything starts, in the order in which they are made.

1. Each key by itself: types and ranges, when an
   :class:`~atoll.platform.config.experiment.Experiment` is made.
2. Keys together: ``CHECKS`` of :mod:`atoll.platform.config.consistency`, also then.
3. :data:`SETTINGS`: names and arguments, in a second, without data (:func:`check_settings`).
4. :data:`COMPONENTS`: data set, partition, model and strategy together (:func:`check_components`).

A run makes them all. A sweep makes the first three of each trial when it is planned, and the fourth
of each kind of trial before it starts; an arena does the same for its federations, and has further
checks (:mod:`atoll.platform.arenas.arena_checks`). What cannot be run is refused with an
:class:`~atoll.errors.InvalidExperimentError` that names the key, the value and what was expected;
what can be run and is probably not meant is a warning.
"""

from __future__ import annotations

from collections.abc import Callable

from flwr.serverapp.strategy import FedXgbBagging

from atoll.clients.arrays.travelling import travelling_state
from atoll.clients.data.catalog.loading import check_options
from atoll.clients.data.partitioning.domains import warn_of_unequal_classes
from atoll.clients.data.partitioning.partition import check_home_domains
from atoll.clients.data.partitioning.partitioners import check_partition
from atoll.clients.models.model_arguments import check_arguments
from atoll.clients.models.model_building import blank_outputs, warn_of_other_normalization
from atoll.clients.mods import check_mods
from atoll.clients.tasks.user_functions import (
    LOSS,
    METRICS,
    check_loss,
    check_metrics,
    find_function,
)
from atoll.errors import InvalidExperimentError
from atoll.extras import require
from atoll.platform.config.client_mods import check_mods_of, named_mods, with_references
from atoll.platform.config.combinations import warn_of_combinations
from atoll.platform.config.estimate import warn_of_a_long_run
from atoll.platform.config.experiment import Experiment
from atoll.platform.config.personal import (
    check_personal,
    check_personal_on,
    obstacle_to_batching,
    warn_of_evaluation,
)
from atoll.platform.config.poisoning import check_poison_on, check_poison_settings
from atoll.platform.config.privacy.budget import with_budget, with_private_examples
from atoll.platform.config.privacy.canaries import with_canaries
from atoll.platform.config.privacy.notes import warn_of_privacy
from atoll.platform.config.robust_aggregation import check_robust
from atoll.platform.config.strategy_wrappers import nested_strategies
from atoll.platform.runs.checks.objective_checks import check_objective, check_terms
from atoll.platform.runs.components import Components
from atoll.strategies import build_strategy
from atoll.strategies.alignment.alignment_checks import check_federation
from atoll.strategies.alignment.alignment_strategy import AlignmentStrategy
from atoll.strategies.layerwise.layerwise_checks import check_layerwise


def check_settings(experiment: Experiment) -> None:
    """Refuse, in a second, what can be refused without data or a cluster.

    Raises
    ------
    InvalidExperimentError
        With the key, the value and what was expected.
    """
    experiment = with_canaries(with_private_examples(experiment))
    for check in SETTINGS:
        check(experiment)


def check_components(components: Components) -> None:
    """Refuse what cannot be run with an experiment's data, partition, model and strategy.

    Raises
    ------
    InvalidExperimentError
        With the key, the value and what was expected.
    """
    for check in COMPONENTS:
        check(components)


def _check_tracking(experiment: Experiment) -> None:
    if experiment.log.tensorboard:
        require("tensorboardX", what="log.tensorboard")
    if experiment.log.mlflow is not False:
        require("mlflow", what="log.mlflow")
    if experiment.log.wandb:
        require("wandb", what="log.wandb")


def _check_strategy_and_mods(experiment: Experiment) -> None:
    strategy = build_strategy(experiment.strategy.name, experiment.strategy.arguments)
    if isinstance(strategy, FedXgbBagging):
        raise InvalidExperimentError(
            f"strategy.name = {experiment.strategy.name!r}: joins boosted trees, and an "
            "experiment's models are networks; expected another (run an XGBoost app with "
            "'atoll flower')"
        )
    check_mods_of(experiment, with_budget(strategy, experiment))
    check_poison_settings(experiment, strategy)


def _check_model(experiment: Experiment) -> None:
    check_arguments(experiment.model)


def _check_functions(experiment: Experiment) -> None:
    for metric in experiment.run.metrics or ():
        find_function(metric, METRICS)
    if experiment.client.loss is not None:
        find_function(experiment.client.loss, LOSS)


def _check_loss_and_metrics(made: Components) -> None:
    loss, metrics = made.experiment.client.loss, made.experiment.run.metrics or ()
    if loss is None and not metrics:
        return
    aligned = [s for s in nested_strategies(made.strategy) if isinstance(s, AlignmentStrategy)]
    if loss is not None and aligned:
        raise InvalidExperimentError(
            f"client.loss = {loss!r}: strategy.name = {type(aligned[0]).__name__!r} aligns "
            "moments of the cross-entropy; expected one without the other"
        )
    outputs = blank_outputs(made.model, made.dataset.inputs)
    targets = made.dataset.task.blank_targets(len(outputs))
    check_metrics(metrics, outputs, targets)
    if loss is not None:
        check_loss(loss, outputs, targets)


def _check_data(experiment: Experiment) -> None:
    data = experiment.data
    check_partition(data)
    check_home_domains(data)
    check_options(data.dataset, data.dataset_options)
    if data.path is not None and not data.path.exists():
        raise InvalidExperimentError(
            f"data.path = {str(data.path)!r}: no such file or folder; expected the data set's files"
        )


def _warn_of_domains(made: Components) -> None:
    warn_of_unequal_classes(made.dataset, made.experiment.data.held_out)


def _check_vectorized(made: Components) -> None:
    if made.experiment.client.vectorize is not True:
        return
    one_by_one = obstacle_to_batching(made.experiment)
    if one_by_one is not None:
        raise InvalidExperimentError(
            f"client.vectorize = True: {one_by_one}; expected 'auto' or false"
        )
    obstacle = made.obstacle_to_vectorizing()
    if obstacle is not None:
        raise InvalidExperimentError(
            f"client.vectorize = True: model.name = {made.experiment.model.name!r}: {obstacle}; "
            "expected 'auto' or false"
        )


def _warn_of_normalization(made: Components) -> None:
    warn_of_other_normalization(made.model, made.dataset)


def _warn_of_duration(made: Components) -> None:
    warn_of_a_long_run(made.experiment, made.model, made.dataset, made.partition.sizes)


def _check_alignment(made: Components) -> None:
    check_federation(made.strategy, made.model, made.dataset, made.partition)


def _check_mods_on_model(made: Components) -> None:
    check_mods(with_references(made.experiment.client).mods, made.model)


def _check_robust(made: Components) -> None:
    check_robust(made.strategy, len(made.partition))


def _check_poison(made: Components) -> None:
    check_poison_on(made.experiment, len(made.partition), made.dataset, made.model)


def _warn_of_mods(made: Components) -> None:
    warn_of_combinations(made.strategy, named_mods(made.experiment.client))


def _warn_of_guarantees(made: Components) -> None:
    client, rounds = with_references(made.experiment.client), made.experiment.run.rounds
    warn_of_privacy(client, made.strategy, made.partition.sizes, rounds)


def _check_buffers(made: Components) -> None:
    """Refuse buffers under central privacy: noise leaves running variances below zero."""
    privacy = made.experiment.privacy
    if privacy is None or privacy.level != "client":
        return
    trained = {name for name, _ in made.model.named_parameters()}
    buffers = sorted(travelling_state(made.model).keys() - trained)
    if buffers:
        raise InvalidExperimentError(
            f"model.name = {made.experiment.model.name!r}: {buffers[0]!r} is no parameter, and "
            "privacy.level = 'client' adds noise to all that clients send; expected a model "
            "without BatchNorm"
        )


def _check_blocks(made: Components) -> None:
    experiment = made.experiment
    if experiment.layers is None:
        check_layerwise(
            made.strategy,
            experiment.model,
            experiment.client,
            made.model,
            experiment.data.clients,
        )


def _check_personal(experiment: Experiment) -> None:
    check_personal(experiment)


def _check_personal_on_model(made: Components) -> None:
    check_personal_on(made.experiment, made.strategy, made.model)


def _warn_of_personal_evaluation(made: Components) -> None:
    warn_of_evaluation(made.experiment, made.strategy)


SETTINGS: tuple[Callable[[Experiment], None], ...] = (
    _check_tracking,
    _check_data,
    _check_model,
    _check_functions,
    _check_personal,
    _check_strategy_and_mods,
    check_objective,
)
COMPONENTS: tuple[Callable[[Components], None], ...] = (
    _warn_of_domains,
    _check_personal_on_model,
    _warn_of_personal_evaluation,
    _check_vectorized,
    _check_loss_and_metrics,
    check_terms,
    _warn_of_normalization,
    _warn_of_duration,
    _check_alignment,
    _check_mods_on_model,
    _check_poison,
    _check_robust,
    _warn_of_mods,
    _warn_of_guarantees,
    _check_buffers,
    _check_blocks,
)
