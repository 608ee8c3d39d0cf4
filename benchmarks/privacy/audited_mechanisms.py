"""Private mechanisms whose epsilon is audited, and the same mechanisms broken on purpose.

Each has an experiment with canaries that is run, and an experiment that says what is claimed: the
same one, but for mechanisms that are broken. Those of clients have 300 clients, 250 of which are
canaries; DP-SGD has a client with 250 canary examples. The claim of a broken mechanism is that of
the right one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atoll import Experiment, run_audit
from atoll.attacks.audits.canary_clients import direction, is_included
from atoll.attacks.captures.capture_files import find_captures, read_capture
from atoll.platform.attack_runs.audit_run import claim_of
from atoll.platform.config.privacy.budget import with_private_examples
from atoll.platform.config.privacy.canaries import canary_nodes
from atoll.platform.config.sections import CaptureSettings
from atoll.platform.reports.tables import Cell, Table
from atoll.platform.runs.federation import prepare
from atoll.privacy.one_run import audit_scores
from atoll.privacy.one_shot import one_shot_epsilon
from atoll.strategies.privacy.central_dp import CentralDP

CLIENTS, CANARIES, ROUNDS = 300, 250, 5
DELTA, CONFIDENCE = 1e-5, 0.95
# A budget for mechanisms that are broken: no round is refused.
NO_LIMIT = 1e6
# The canaries' norm where no clipping norm says it.
NORM = 10.0
Tables = dict[str, Any]
FEDAVG = {"name": "FedAvg", "fraction_train": 1.0, "fraction_evaluate": 0.0}


@dataclass(frozen=True)
class Audited:
    """A mechanism to be audited.

    Attributes
    ----------
    tables : Mapping
        Sections of its experiment that are its own.
    broken : callable or None
        Returns the sections of the experiment that is run in its place, from the noise multiplier
        of the right one.
    sees_updates : bool
        Whether the auditor has each client's updates, as the server does, and not the released
        model alone.
    """

    tables: Mapping[str, Any]
    broken: Callable[[float], Tables] | None = None
    sees_updates: bool = False


def central(epsilon: float, fraction: float = 1.0, **privacy: Any) -> Tables:
    """Return the sections of a budget of clients."""
    return {
        "privacy": {"epsilon": epsilon, "delta": DELTA, "sampling": "poisson", **privacy},
        "strategy": {**FEDAVG, "fraction_train": fraction},
    }


def dp_sgd(epsilon: float, **privacy: Any) -> Tables:
    """Return the sections of a budget of examples."""
    return {
        "data": {"dataset": "digits", "clients": 2, "examples_per_client": CANARIES},
        "client": {"learning_rate": 0.1, "batch_size": 50, "epochs": 1},
        "privacy": {"epsilon": epsilon, "delta": DELTA, "level": "example", **privacy},
    }


def local(epsilon: float, divided_by: float = 1.0, mods: Sequence[Any] = ()) -> Tables:
    """Return the sections of local privacy with a budget a round, or a fraction of its noise."""
    arguments = {"name": "local-dp", "clipping_norm": 1.0, "epsilon": epsilon, "delta": DELTA}
    if divided_by != 1.0:
        arguments["sensitivity"] = 2.0 / divided_by
    client = {"learning_rate": 0.1, "batch_size": 8, "mods": [*mods, arguments]}
    return {"client": client, "audit": {"canaries": CANARIES, "norm": NORM}}


def flowers(name: str, noise: float, mods: Sequence[Any] = ()) -> Tables:
    """Return the sections of one of Flower's strategies of central privacy."""
    own = {"noise_multiplier": noise, "clipping_norm": 1.0, "num_sampled_clients": CLIENTS}
    return {
        "strategy": {"name": f"DifferentialPrivacy{name}", "strategy": FEDAVG, **own},
        "client": {"learning_rate": 0.1, "batch_size": 8, "mods": [*mods]},
        "audit": {"canaries": CANARIES, "norm": NORM},
    }


SECURE = ("secure-aggregation",)
SUMS = {"name": "SecAggPlus", "strategy": FEDAVG, "num_shares": 7, "max_weight": 8.0}
# With all clients in each round and this noise, five rounds of a Gaussian mechanism have epsilon 8.
NOISE = 1.343
MECHANISMS: dict[str, Audited] = {
    "central, everybody, epsilon 1": Audited(central(1.0)),
    "central, everybody, epsilon 8": Audited(central(8.0)),
    "central, everybody, epsilon 30": Audited(central(30.0)),
    "central, a fifth a round, epsilon 8": Audited(central(8.0, 0.2)),
    "central, DP-FTRL, epsilon 8": Audited(central(8.0, 0.2, sampling="epochs", mechanism="tree")),
    "Flower's server-side clipping": Audited(flowers("ServerSideFixedClipping", NOISE)),
    "Flower's client-side clipping": Audited(
        flowers("ClientSideFixedClipping", NOISE, ["fixedclipping_mod"])
    ),
    "DP-SGD, epsilon 1": Audited(dp_sgd(1.0)),
    "DP-SGD, epsilon 8": Audited(dp_sgd(8.0)),
    "DP-SGD, epsilon 30": Audited(dp_sgd(30.0)),
    "local, epsilon 1 a round": Audited(local(1.0), sees_updates=True),
    "local, epsilon 8 a round": Audited(local(8.0), sees_updates=True),
    "secure aggregation": Audited(
        {
            "strategy": SUMS,
            "client": {"learning_rate": 0.1, "batch_size": 8, "mods": [*SECURE]},
            "audit": {"canaries": CANARIES, "norm": 1.0},
        }
    ),
    "secure aggregation, local, epsilon 8 a round": Audited(
        {**local(8.0, mods=SECURE), "strategy": SUMS}
    ),
    "broken central: a tenth of the noise": Audited(
        central(1.0), lambda noise: central(NO_LIMIT, noise_multiplier=noise / 10)
    ),
    # Ten times the clipping norm and the same noise: canaries are as long as that.
    "broken central: no clipping": Audited(
        central(1.0),
        lambda noise: {
            **central(NO_LIMIT, noise_multiplier=noise / 10, clipping_norm=NORM),
            "audit": {"canaries": CANARIES, "norm": NORM},
        },
    ),
    "broken central: accounted for a twentieth": Audited(
        central(1.0, 0.05), lambda noise: central(NO_LIMIT, noise_multiplier=noise)
    ),
    "broken DP-SGD: a tenth of the noise": Audited(
        dp_sgd(1.0), lambda noise: dp_sgd(NO_LIMIT, noise_multiplier=noise / 10)
    ),
    "broken local: a tenth of the noise": Audited(
        local(1.0), lambda noise: local(1.0, divided_by=10.0), sees_updates=True
    ),
}


def experiment_of(tables: Mapping[str, Any], seed: int) -> Experiment:
    """Return the experiment of a mechanism's sections."""
    own: Tables = {
        "run": {"name": "audit", "seed": seed, "rounds": ROUNDS, "evaluate_every": ROUNDS},
        "data": {"dataset": "digits", "clients": CLIENTS},
        "model": {"name": "mlp", "hidden": [64]},
        "client": {"learning_rate": 0.1, "batch_size": 8},
        "strategy": FEDAVG,
        "audit": {"canaries": CANARIES},
        "ray": {"workers": 1},
        "log": {"progress": False},
    }
    return Experiment.from_dict({**own, **tables})


def noise_of(right: Experiment) -> float:
    """Return the noise multiplier that a budget gives; nan without a budget."""
    strategy = prepare(right).strategy
    if isinstance(strategy, CentralDP):
        return strategy.noise_multiplier
    if right.privacy is None:
        return math.nan
    added = with_private_examples(right).client.mods[-1]
    assert not isinstance(added, str)
    return float(added.arguments["noise_multiplier"])


def experiments_of(name: str, seed: int) -> tuple[Experiment, Experiment]:
    """Return the experiment that is run, and that whose epsilon is claimed.

    Parameters
    ----------
    name : str
        A key of ``MECHANISMS``.
    seed : int
        The run's.
    """
    audited = MECHANISMS[name]
    right = experiment_of(audited.tables, seed)
    if audited.broken is None:
        return right, right
    return experiment_of(audited.broken(noise_of(right)), seed), right


def audit_figures(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Return what the audit of a mechanism says.

    Parameters
    ----------
    name : str
        A key of ``MECHANISMS``.
    seed : int
        The run's.
    folder : Path
        Where the run directory is put.
    """
    audited, (given, right) = MECHANISMS[name], experiments_of(name, seed)
    if audited.sees_updates:
        nodes, rounds = tuple(canary_nodes(given)), tuple(range(1, ROUNDS + 1))
        capture = CaptureSettings(nodes=nodes, rounds=rounds)
        given = given.model_copy(update={"capture": capture})
    number = list(MECHANISMS).index(name)
    found = run_audit(given, out=folder / f"audit-{number}-{seed}")
    claim, _ = claim_of(right, prepare(right), ROUNDS)
    if audited.sees_updates:
        return {"claim": claim, **seen_by_the_server(found.directory, given)}
    return {
        "claim": claim,
        "bound": found.bound,
        "estimate": found.estimate,
        "right": found.right,
        "guesses": found.guesses,
    }


def seen_by_the_server(directory: Path, experiment: Experiment) -> dict[str, Any]:
    """Return the figures of an auditor who has every update of each canary.

    Parameters
    ----------
    directory : Path
        Of the run, which captured the canaries.
    experiment : Experiment
        Which was run.
    """
    seed, sums = experiment.run.seed, dict[int, dict[str, NDArray[np.float64]]]()
    for capture in map(read_capture, find_captures(directory)):
        own = sums.setdefault(capture.node_id, {})
        for name, sent in capture.broadcast.items():
            change = (capture.update[name].double() - sent.double()).numpy()
            own[name] = own.get(name, 0.0) + change
    nodes = canary_nodes(experiment)
    cosines = np.array([canary_cosine(sums[node], seed, node) for node in nodes])
    coins = [is_included(seed, node) for node in nodes]
    bound = audit_scores(cosines, coins, DELTA, CONFIDENCE)
    numbers = sum(values.size for values in sums[nodes.start].values())
    return {
        "bound": bound.epsilon,
        "estimate": one_shot_epsilon(cosines[coins], numbers, DELTA),
        "right": bound.right,
        "guesses": bound.guesses,
    }


def canary_cosine(change: Mapping[str, NDArray[np.float64]], seed: int, node: int) -> float:
    """Return the cosine of a canary's direction with what it changed."""
    drawn = direction({name: values.shape for name, values in change.items()}, seed, node)
    along = sum(float(np.vdot(values, drawn[name])) for name, values in change.items())
    norm = math.sqrt(sum(float(np.vdot(values, values)) for values in change.values()))
    return along / max(norm, np.finfo(np.float64).tiny)


def audit_table(trials: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row a mechanism: means over the seeds, and the range of the bound.

    Parameters
    ----------
    trials : Sequence[Mapping]
        Figures with their mechanism and seed.
    """
    rows: list[list[Cell]] = []
    for name in dict.fromkeys(trial["mechanism"] for trial in trials):
        own = [trial for trial in trials if trial["mechanism"] == name]
        claim, bounds = own[0]["claim"], [trial["bound"] for trial in own]
        refuted = sum(claim is not None and bound > claim for bound in bounds)
        rows.append(
            [
                name,
                "none" if claim is None else f"{claim:.2f}",
                f"{fmean(bounds):.2f} ({min(bounds):.2f} to {max(bounds):.2f})",
                f"{fmean(trial['estimate'] for trial in own):.2f}",
                f"{fmean(trial['right'] / trial['guesses'] for trial in own):.2f}",
                "-" if claim is None else f"{refuted} of {len(own)}",
            ]
        )
    header = ["mechanism", "claim", "bound", "one-shot estimate", "guesses right", "refuted"]
    return Table("audits", header, rows)
