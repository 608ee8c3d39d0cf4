"""Checks of combinations of an experiment's keys, each of which is valid by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from atoll.clients.noprop.noprop_settings import is_noprop
from atoll.clients.tasks.directions import DIRECTIONS
from atoll.platform.config.privacy.canaries import are_examples
from atoll.platform.config.sections import StrategySettings
from atoll.platform.config.unlearning.problems import unlearning_problems

if TYPE_CHECKING:
    from atoll.platform.config.experiment import Experiment
    from atoll.platform.config.privacy.settings import PrivacySettings

# Ray counts shares in ten-thousandths, and several GPUs as whole ones.
SMALLEST_SHARE = 0.01
# Metrics of the server that every run has.
TAKEN = {*DIRECTIONS, *(f"validation_{name}" for name in DIRECTIONS), "per_class_accuracy"}

# Data sets that are nothing without a path, and what it is to be.
OF_A_PATH = {
    "folder": "a folder of images",
    "table": "a file of a table (CSV or Parquet), or a folder of them,",
}


def problems_of(experiment: Experiment) -> list[str]:
    """Return a line for each thing that cannot be, although each key is in order."""
    return [problem for check in CHECKS for problem in check(experiment)]


def _local_training(experiment: Experiment) -> Iterator[str]:
    client = experiment.client
    if client.epochs is not None and client.steps is not None:
        yield (
            f"client.steps = {client.steps}: client.epochs = {client.epochs} is set too; "
            "expected one of the two"
        )
    if client.vectorize is True and client.mods:
        yield (
            "client.vectorize = True: client.mods see one client at a time; expected 'auto' or "
            "false"
        )
    if client.vectorize is True and client.loss is not None:
        yield (
            f"client.vectorize = True: client.loss = {client.loss!r} is of one client at a time; "
            "expected 'auto' or false"
        )


def _poison(experiment: Experiment) -> Iterator[str]:
    poison = experiment.poison
    if poison is None or poison.attack == "none":
        return
    if experiment.client.vectorize is True:
        yield (
            "client.vectorize = True: [poison] is a mod, and mods see one client at a time; "
            "expected 'auto' or false"
        )
    if experiment.layers is not None:
        yield (
            f"poison.attack = {poison.attack!r}: with [layers] there are no clients; expected one "
            "of the two sections"
        )
    if poison.start_round > experiment.run.rounds:
        yield (
            f"poison.start_round = {poison.start_round}: there is no such round (with run.rounds "
            f"= {experiment.run.rounds}); expected one of them"
        )


def _cohort(experiment: Experiment) -> Iterator[str]:
    strategy, clients = experiment.strategy, experiment.data.clients
    at_most_all = ["min_train_nodes", "min_evaluate_nodes", "min_available_nodes", "cohort"]
    if strategy.name == "FedBuff":
        at_most_all.append("buffer_size")
    for key in at_most_all:
        value = strategy.arguments.get(key)
        if isinstance(value, int) and value > clients:
            yield (
                f"strategy.{key} = {value}: there are only data.clients = {clients}; "
                "expected at most as many"
            )


def _gpu_share(experiment: Experiment) -> Iterator[str]:
    gpus = experiment.ray.gpus_per_worker
    if gpus != "auto" and (0.0 < gpus < SMALLEST_SHARE or (gpus > 1.0 and gpus % 1.0)):
        yield (
            f"ray.gpus_per_worker = {gpus:g}: expected 0, a share from {SMALLEST_SHARE} to 1, or "
            "whole GPUs"
        )


def _no_training(experiment: Experiment) -> Iterator[str]:
    """Yield what would leave the initial parameters as they are, to the last round."""
    fraction = experiment.strategy.arguments.get("fraction_train")
    if fraction is not None and not isinstance(fraction, bool) and fraction == 0:
        yield (
            f"strategy.fraction_train = {fraction}: no client would train, and no round change the "
            "model; expected more than 0"
        )
    warmup, rounds = experiment.client.schedule.warmup_rounds, experiment.run.rounds
    if warmup >= rounds:
        yield (
            f"client.schedule.warmup_rounds = {warmup}: with run.rounds = {rounds} the learning "
            "rate is never reached; expected less than run.rounds"
        )


def _early_stopping(experiment: Experiment) -> Iterator[str]:
    stopping = experiment.run.early_stopping
    if stopping is not None and stopping.patience is None and stopping.target is None:
        yield "run.early_stopping: expected patience or target to be set"


def _kept_round(experiment: Experiment) -> Iterator[str]:
    keep, rounds = experiment.run.keep, experiment.run.rounds
    if isinstance(keep, int) and keep > rounds:
        yield (
            f"run.keep = {keep}: there is no such round (with run.rounds = {rounds}); expected "
            "'last', 'best' or one of them"
        )


def _capture(experiment: Experiment) -> Iterator[str]:
    capture = experiment.capture
    if capture is None:
        return
    nodes = () if capture.nodes == "all" else capture.nodes
    for key, values, last, name in (
        ("nodes", nodes, experiment.data.clients, "data.clients"),
        ("rounds", capture.rounds, experiment.run.rounds, "run.rounds"),
    ):
        beyond = [value for value in values if value > last]
        if beyond:
            yield (
                f"capture.{key} = {list(values)}: there is no {beyond[0]} (with {name} = {last}); "
                f"expected numbers from 1 to {last}"
            )


def _privacy(experiment: Experiment) -> Iterator[str]:
    """Yield what ``[privacy]`` cannot go with."""
    privacy, client = experiment.privacy, experiment.client
    if privacy is None:
        return
    if experiment.layers is not None:
        yield "privacy: is of a federation; expected none with [layers]"
    if privacy.mechanism == "tree" and privacy.sampling != "epochs":
        yield (
            f"privacy.sampling = {privacy.sampling!r}: the tree's noise is for clients that come "
            "once an epoch; expected 'epochs' with privacy.mechanism = 'tree'"
        )
    if privacy.mechanism == "tree" and privacy.clipping == "adaptive":
        yield (
            "privacy.clipping = 'adaptive': the tree's noise is for one norm in all rounds; "
            "expected 'fixed' with privacy.mechanism = 'tree'"
        )
    if privacy.accountant == "pld" and privacy.sampling == "fixed" and privacy.level == "client":
        yield (
            "privacy.accountant = 'pld': its distributions are of other draws; expected 'rdp' with "
            "privacy.sampling = 'fixed'"
        )
    if privacy.level == "client":
        return
    yield from _private_examples(privacy)
    mods = [mod if isinstance(mod, str) else mod.name for mod in client.mods]
    if "dp-sgd" in mods:
        yield (
            "client.mods has 'dp-sgd': privacy.level = 'example' adds it, with noise from the "
            "budget; expected one of the two"
        )
    if client.steps is not None:
        yield (
            f"client.steps = {client.steps}: with privacy.level = 'example' the uses of an example "
            "are passes; expected client.epochs"
        )


def _audit(experiment: Experiment) -> Iterator[str]:
    """Yield what ``[audit]`` cannot go with."""
    audit, clients = experiment.audit, experiment.data.clients
    if audit is None:
        return
    if audit.canaries >= clients and not are_examples(experiment):
        yield (
            f"audit.canaries = {audit.canaries}: there are data.clients = {clients}; expected "
            "fewer, so that some train"
        )
    if experiment.layers is not None:
        yield "audit: is of a federation; expected none with [layers]"


def _private_examples(privacy: PrivacySettings) -> Iterator[str]:
    """Yield keys of ``[privacy]`` that are of clients alone."""
    for key in ("clipping", "sampling", "mechanism", "accountant"):
        value, default = getattr(privacy, key), type(privacy).model_fields[key].default
        if value != default:
            yield (
                f"privacy.{key} = {value!r}: is of privacy.level = 'client'; expected {default!r} "
                "with 'example'"
            )


def _data_source(experiment: Experiment) -> Iterator[str]:
    data = experiment.data
    for dataset, expected in OF_A_PATH.items():
        if data.dataset == dataset and data.path is None:
            yield f"data.path is not set; expected {expected} for data.dataset = {dataset!r}"
    for key in ("target", "group"):
        value = getattr(data, key)
        if value is not None and key in data.options:
            yield (
                f"data.options.{key} = {data.options[key]!r}: data.{key} = {value!r} says it "
                "already; expected one of the two"
            )


def _layers(experiment: Experiment) -> Iterator[str]:
    """Yield what cannot be in an experiment with ``[layers]``."""
    model, client, layers = experiment.model, experiment.client, experiment.layers
    if layers is None:
        return
    if not is_noprop(model):
        yield (
            f"model.name = {model.name!r}: its layers cannot be trained apart; expected "
            "'noprop-dt', 'noprop-ct' or 'noprop-fm' with [layers]"
        )
    if experiment.strategy != StrategySettings():
        yield (
            f"strategy.name = {experiment.strategy.name!r}: with [layers] there is no federation; "
            "expected one of the two sections"
        )
    if experiment.data.clients != 1:
        yield (
            f"data.clients = {experiment.data.clients}: with [layers] all data are in one place; "
            "expected 1"
        )
    for key in ("proximal_mu", "mods", "memory_mb"):
        value = getattr(client, key)
        if value:
            shown = list(value) if isinstance(value, tuple) else value
            yield (f"client.{key} = {shown}: is of a federation; expected none with [layers]")
    if experiment.run.keep != "last":
        yield (
            f"run.keep = {experiment.run.keep!r}: with [layers] the last epoch's blocks alone are "
            "kept; expected 'last'"
        )
    if experiment.capture is not None:
        yield ("capture: with [layers] no client sends anything; expected one of the two sections")
    if is_noprop(model) and "ensemble" in layers.baselines and model.name.casefold() != "noprop-dt":
        yield (
            "layers.baselines has 'ensemble': it is of as many first blocks as NoProp-DT has "
            f"blocks; expected 'chain' and 'cnn' with model.name = {model.name!r}"
        )


# In the order in which their lines are shown.
def _own_functions(experiment: Experiment) -> Iterator[str]:
    """Yield what a loss and metrics of the user's own cannot go with."""
    loss, metrics = experiment.client.loss, experiment.run.metrics or ()
    if loss is not None and is_noprop(experiment.model):
        yield (
            f"client.loss = {loss!r}: model.name = {experiment.model.name!r} has a loss of its "
            "own; expected one without the other"
        )
    mods = [mod if isinstance(mod, str) else mod.name for mod in experiment.client.mods]
    if loss is not None and "mixup" in mods:
        yield (
            f"client.loss = {loss!r}: client.mods has 'mixup', which has a loss of its own; "
            "expected one without the other"
        )
    if loss is not None and experiment.capture is not None:
        yield (
            f"client.loss = {loss!r}: attacks on captures know the cross-entropy; expected no "
            "client.loss with [capture]"
        )
    if metrics and experiment.layers is not None:
        yield f"run.metrics = {list(metrics)}: are of a federation; expected none with [layers]"
    names = [metric.rpartition(":")[2].rpartition(".")[2] for metric in metrics]
    for name in names:
        if name in TAKEN or names.count(name) > 1:
            yield (
                f"run.metrics = {list(metrics)}: {name!r} is the name of another metric; expected "
                "functions of different names"
            )
            return


CHECKS: tuple[Callable[[Experiment], Iterable[str]], ...] = (
    _local_training,
    _own_functions,
    _poison,
    _cohort,
    _gpu_share,
    _no_training,
    _layers,
    _early_stopping,
    _kept_round,
    _capture,
    _privacy,
    _audit,
    unlearning_problems,
    _data_source,
)
