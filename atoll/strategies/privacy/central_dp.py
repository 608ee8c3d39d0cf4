"""Central differential privacy around a strategy of the mean.

Each client's update is clipped to a norm, the sum gets Gaussian noise, and is divided by the
expected size of the cohort (McMahan et al., "Learning Differentially Private Recurrent Language
Models", 2018). Clients weigh the same, and the divisor does not depend on who answers: both are
what the accountant takes for granted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from atoll.flower.arrays import array_record, to_array, view
from atoll.privacy.accounting import Mechanism
from atoll.privacy.kinds import DELTA, EPSILON, Accountant, Sampling
from atoll.strategies.privacy.clipping import next_norm, noise_beside_counts
from atoll.strategies.privacy.cohorts import draw_cohort
from atoll.strategies.privacy.noise import fresh_noise, tree_noise
from atoll.strategies.strategy_wrapper import StrategyWrapper

# The count's noise by the cohort, of adaptive clipping (Andrew et al., 2021, section 3.1).
COUNT_NOISE = 0.05
# Metrics of a round that this strategy adds.
NORM, CLIPPED = "clipping_norm", "clipped_share"

Vector = dict[str, NDArray[np.float64]]


class CentralDP(StrategyWrapper):
    """Another strategy, which gets the clipped and noisy mean of the clients' updates.

    The models that it makes keep client-level differential privacy towards everybody but the
    server. Metrics that clients report (losses) are outside of the guarantee.

    Parameters
    ----------
    strategy : FedAvg
        One of Flower's that uses the weighted mean alone; ``fraction_train`` and
        ``min_train_nodes`` say how large a cohort is.
    clients : int
        The number of clients, of all rounds.
    noise_multiplier : float
        The noise's deviation by the clipping norm; with adaptive clipping, that of the updates and
        of the count together.
    delta : float
        At which epsilon is reported.
    clipping_norm : float
        The largest L2 norm of an update, over all parameters; with adaptive clipping the first.
    quantile : float, optional
        The share of updates whose norm adaptive clipping keeps below the clipping norm; by default
        the norm is fixed.
    clipping_rate : float
        The step of adaptive clipping.
    sampling : "fixed", "poisson" or "epochs"
        How a round's clients are drawn.
    mechanism : "gaussian" or "tree"
        Noise that is fresh each round, or that of DP-FTRL's tree, which starts again each epoch.
    accountant : "rdp" or "pld"
        See :class:`atoll.privacy.accounting.Mechanism`.
    seed : int
        What cohorts and noise derive from: whoever knows it can take the noise off.

    Examples
    --------
    >>> from flwr.serverapp.strategy import FedAvg
    >>> from atoll.strategies import CentralDP
    >>> inner = FedAvg(fraction_train=0.2, fraction_evaluate=0.0)
    >>> strategy = CentralDP(
    ...     inner, clients=100, noise_multiplier=2.0, delta=1e-5, sampling="poisson"
    ... )
    >>> strategy.cohort, round(strategy.epsilon(25), 2)
    (20, 2.76)
    """

    def __init__(
        self,
        strategy: FedAvg,
        clients: int,
        noise_multiplier: float,
        delta: float,
        clipping_norm: float = 1.0,
        quantile: float | None = None,
        clipping_rate: float = 0.2,
        sampling: Sampling = "fixed",
        mechanism: Literal["gaussian", "tree"] = "gaussian",
        accountant: Accountant = "rdp",
        seed: int = 0,
    ) -> None:
        self.strategy: FedAvg = strategy
        self.clients = clients
        self.noise_multiplier = noise_multiplier
        self.delta = delta
        self.clipping_norm = clipping_norm
        self.quantile = quantile
        self.clipping_rate = clipping_rate
        self.sampling: Sampling = sampling
        self.mechanism = mechanism
        self.accountant: Accountant = accountant
        self.seed = seed
        # Whoever runs the federation again with other noise draws the same cohorts.
        self.noise_seed = seed
        self._broadcast: ArrayRecord | None = None

    # --- what is claimed -----------------------------------------------------------------------

    @property
    def cohort(self) -> int:
        """The number of clients that a round is expected to have."""
        return cohort_of(self.strategy, self.clients)

    @property
    def accounted(self) -> Mechanism:
        """What the accountant takes a round for."""
        return Mechanism(
            self.noise_multiplier,
            self.sampling,
            self.cohort / self.clients,
            rounds_per_epoch=self.clients // self.cohort,
            tree=self.mechanism == "tree",
            accountant=self.accountant,
        )

    def epsilon(self, rounds: int) -> float:
        """Return the epsilon that a number of rounds spend."""
        return self.accounted.epsilon(rounds, self.delta)

    # --- Flower's Strategy ---------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the strategy's messages to the clients that are drawn."""
        self._broadcast = arrays
        nodes = sorted(grid.get_node_ids())
        if len(nodes) != self.clients:
            raise ValueError(
                f"there are {len(nodes)} clients; expected {self.clients}, as accounted"
            )
        chosen = draw_cohort(nodes, self.sampling, self.cohort, server_round, self.seed)
        with _everybody_of(self.strategy, len(chosen)):
            cohort = _Cohort(chosen)
            return list(self.strategy.configure_train(server_round, arrays, config, cohort))  # type: ignore[arg-type]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Give the strategy the noisy mean as the one reply; a round without replies has noise."""
        broadcast, self._broadcast = self._broadcast, None
        assert broadcast is not None
        answered = [reply for reply in replies if not reply.has_error()]
        answered.sort(key=lambda reply: reply.metadata.src_node_id)
        before = {name: view(array).astype(np.float64) for name, array in broadcast.items()}
        total, norms = self._clipped_sum(before, answered)
        noise = self._noise(server_round, {name: values.shape for name, values in before.items()})
        mean = {
            name: to_array((before[name] + (total[name] + noise[name]) / self.cohort).astype(dtype))
            for name, dtype in ((name, view(array).dtype) for name, array in broadcast.items())
        }
        metrics = _mean_metrics(answered, self.strategy.weighted_by_key)
        aggregated, found = self.strategy.aggregate_train(
            server_round, [_reply(array_record(mean), metrics)]
        )
        told = MetricRecord() if found is None else found
        told[EPSILON], told[DELTA] = self.epsilon(server_round), self.delta
        told[NORM] = self.clipping_norm
        told[CLIPPED] = sum(norm > self.clipping_norm for norm in norms) / max(len(norms), 1)
        self._adapt(server_round, norms)
        return aggregated, told

    # --- the mechanism -------------------------------------------------------------------------

    def _clipped_sum(
        self, before: Vector, replies: Sequence[Message]
    ) -> tuple[Vector, list[float]]:
        """Return the sum of the clipped updates, in the order of node ids, and their norms."""
        total = {name: np.zeros_like(values) for name, values in before.items()}
        norms = []
        for reply in replies:
            [arrays] = reply.content.array_records.values()
            update = {name: view(arrays[name]) - values for name, values in before.items()}
            norm = math.sqrt(sum(float(np.vdot(u, u)) for u in update.values()))
            norms.append(norm)
            if not math.isfinite(norm):
                continue
            scale = min(1.0, self.clipping_norm / norm) if norm else 1.0
            for name, values in update.items():
                total[name] += scale * values
        return total, norms

    @property
    def _count_deviation(self) -> float:
        return COUNT_NOISE * self.cohort

    def _noise(self, server_round: int, shapes: dict[str, tuple[int, ...]]) -> Vector:
        multiplier = self.noise_multiplier
        if self.quantile is not None:
            multiplier = noise_beside_counts(multiplier, self._count_deviation)
        deviation = multiplier * self.clipping_norm
        if self.mechanism == "tree":
            epoch = self.clients // self.cohort
            return tree_noise(shapes, deviation, server_round, epoch, self.noise_seed)
        return fresh_noise(shapes, deviation, server_round, self.noise_seed)

    def _adapt(self, server_round: int, norms: Sequence[float]) -> None:
        if self.quantile is None:
            return
        self.clipping_norm = next_norm(
            self.clipping_norm,
            norms,
            cohort=self.cohort,
            quantile=self.quantile,
            rate=self.clipping_rate,
            count_deviation=self._count_deviation,
            server_round=server_round,
            seed=self.noise_seed,
        )


def cohort_of(strategy: FedAvg, clients: int) -> int:
    """Return how many clients Flower's strategies draw: of all, a fraction, and at least some."""
    return min(max(int(clients * strategy.fraction_train), strategy.min_train_nodes, 1), clients)


class _Cohort:
    """All that a strategy of Flower's asks a grid for, of the drawn clients alone."""

    def __init__(self, nodes: Sequence[int]) -> None:
        self._nodes = nodes

    def get_node_ids(self) -> list[int]:
        """Return the drawn clients."""
        return list(self._nodes)


@contextmanager
def _everybody_of(strategy: FedAvg, clients: int) -> Iterator[None]:
    """Within this context the strategy takes every client that it is shown."""
    keys = ("fraction_train", "min_train_nodes", "min_available_nodes")
    earlier = {key: getattr(strategy, key) for key in keys}
    vars(strategy).update(zip(keys, (1.0, clients, clients), strict=True))
    try:
        yield
    finally:
        vars(strategy).update(earlier)


def _reply(arrays: ArrayRecord, metrics: MetricRecord) -> Message:
    """Return a reply that stands for all clients'; it is never sent."""
    asked = Message(RecordDict(), dst_node_id=1, message_type="train")
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=asked)


def _mean_metrics(replies: Sequence[Message], weight: str) -> MetricRecord:
    """Return the plain mean of the numbers that every client reports, and a weight of one."""
    records = [r for reply in replies for r in reply.content.metric_records.values()]
    shared = set.intersection(*(set(record) for record in records)) if records else set()
    found = MetricRecord()
    for name in sorted(shared - {weight}):
        values = [record[name] for record in records]
        if all(isinstance(value, int | float) for value in values):
            found[name] = float(np.mean(values))
    found[weight] = 1.0
    return found
