"""Methods that combine the domains' gradients on the server, in one step of it a round.

The gradients are moments too, so a domain may be split over clients, and several may lie on one;
clients take no steps of their own.
"""

from __future__ import annotations

import copy
import random
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from torch import Tensor

from atoll.clients.moments.statistics import Gradient, Loss
from atoll.flower.arrays import view
from atoll.strategies.alignment.alignment_strategy import AlignmentStrategy
from atoll.strategies.alignment.moments.moment_exchange import MomentExchange, NodesFailedError
from atoll.strategies.alignment.server_optimizer import ServerOptimizer, flat_to_arrays
from atoll.strategies.strategy_fields import Count, Fraction, NonNegative, Positive


class DomainGradients:
    """The gradients of domains' losses at any parameters.

    Parameters
    ----------
    exchange : MomentExchange
        To the nodes of the round.
    counts : mapping
        By node, its examples by domain.

    Attributes
    ----------
    counts : mapping
        As given.
    names : tuple[str, ...]
        The domains, in alphabetical order.
    parameters : list[str]
        The names of the trainable parameters, known after the first gradient.
    loss : dict[str, float]
        Each domain's loss where its gradient was last asked for.
    """

    def __init__(self, exchange: MomentExchange, counts: Mapping[int, Mapping[str, int]]) -> None:
        self.exchange, self.counts = exchange, counts
        self._held = {node: tuple(sorted(held)) for node, held in counts.items() if held}
        self.names = tuple(sorted({name for held in self._held.values() for name in held}))
        self.parameters: list[str] = []
        self.loss: dict[str, float] = {}

    def at(self, arrays: ArrayRecord, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the gradient of each named domain's loss: float64, shape (parameters,)."""
        wanted = set(names)
        nodes = {node: held for node, held in self._held.items() if wanted & set(held)}
        answers = self.exchange.ask(nodes, (Gradient(), Loss()), arrays=arrays)
        found = {}
        for name in names:
            parts = [answer for answer in answers.values() if name in answer.counts]
            count = sum(answer.counts[name] for answer in parts)
            totals = [answer.sums[0, name].double() for answer in parts]
            found[name] = torch.stack(totals).sum(0) / count
            self.loss[name] = sum(float(answer.sums[1, name]) for answer in parts) / count
            self.parameters = list(parts[0].parameters)
        return found

    def split(self, gradient: Tensor) -> list[Tensor]:
        """Return a flat gradient parameter by parameter, along its last dimension."""
        arrays = self.exchange.arrays
        sizes = [int(torch.Size(arrays[name].shape).numel()) for name in self.parameters]
        return list(torch.split(gradient, sizes, dim=-1))

    def to_arrays(self, gradient: Tensor) -> ArrayRecord:
        """Return a flat gradient under the names of the model's arrays."""
        return flat_to_arrays(gradient, self.parameters, self.exchange.arrays)

    def flat_parameters(self, arrays: ArrayRecord) -> Tensor:
        """Return the trainable parameters as one vector."""
        parts = [torch.tensor(view(arrays[name])).double() for name in self.parameters]
        return torch.cat([part.reshape(-1) for part in parts])


@dataclass(kw_only=True, eq=False)
class GradientStrategy(AlignmentStrategy):
    """Strategy whose server steps along a method's function of the domains' gradients.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import torch
    >>> from atoll.strategies import DomainGradients, GradientStrategy
    >>> @dataclass(kw_only=True, eq=False)
    ... class MedianGradient(GradientStrategy):
    ...     '''A step along the entry-wise median of the domains' gradients.'''
    ...
    ...     def new_arrays(self, gradients: DomainGradients):
    ...         found = gradients.at(gradients.exchange.arrays, gradients.names)
    ...         return self.step(gradients, torch.stack(list(found.values())).median(0).values)
    >>> MedianGradient(server_learning_rate=0.1, l2=1e-4).client_update
    'gradient'
    """

    client_update: Literal["gradient"] = "gradient"
    server_optimizer: Literal["sgd", "adam"] = "adam"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._new_arrays: ArrayRecord | None = None

    @property
    def measures(self) -> bool:
        """Gradients are moments."""
        return True

    @abstractmethod
    def new_arrays(self, gradients: DomainGradients) -> ArrayRecord:
        """Return the parameters after the round."""

    def new_arrays_of_one(self, gradients: DomainGradients) -> ArrayRecord:
        """Return them after a round with one domain, which nothing can agree with: ERM's step."""
        (gradient,) = _at_broadcast(gradients).values()
        return self.step(gradients, gradient)

    def training_messages(
        self,
        server_round: int,
        exchange: MomentExchange,
        counts: Mapping[int, Mapping[str, int]],
        config: ConfigRecord,
    ) -> list[Message]:
        """Take the server's step; clients were queried for gradients, and train nothing."""
        gradients = DomainGradients(exchange, counts)
        is_alone = len(gradients.names) < self.min_domains
        if is_alone:
            self.warn_of_one_domain(gradients.names)
        self._diagnose(server_round, exchange, counts)
        before = copy.deepcopy(self.optimizer.state_dict())
        try:
            step = self.new_arrays_of_one if is_alone else self.new_arrays
            self._new_arrays = step(gradients)
        except NodesFailedError:
            # The round starts again, and so do the steps that were taken in it.
            self.optimizer.load_state_dict(before)
            raise
        losses = list(gradients.loss.values())
        self._report["loss"] = sum(losses) / len(losses)
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the parameters after the server's step."""
        arrays, self._new_arrays, self._broadcast = self._new_arrays, None, None
        return arrays, None if arrays is None else self._with_report(None)

    def step(self, gradients: DomainGradients, gradient: Tensor) -> ArrayRecord:
        """Take the server's step from the broadcast parameters, with the L2 term."""
        arrays = gradients.exchange.arrays
        if self.l2:
            gradient = gradient + 2 * self.l2 * gradients.flat_parameters(arrays)
        return self.optimizer.step(arrays, gradients.to_arrays(gradient), gradients.parameters)


@dataclass(kw_only=True, eq=False)
class ANDMask(GradientStrategy):
    """AND-mask: a step only where the domains' gradients agree in sign (Parascandolo et al., 2021).

    Parameters
    ----------
    tau : float
        Agreement ``|mean of signs|`` from which on a parameter moves, in [0, 1].

    Examples
    --------
    >>> import torch
    >>> from atoll.strategies import ANDMask
    >>> strategy = ANDMask(tau=1.0, server_learning_rate=0.1)
    >>> strategy.mask(torch.tensor([[1.0, -2.0, 3.0], [0.5, 2.0, 1.0]]))  # two domains
    tensor([1., 0., 1.], dtype=torch.float64)
    """

    tau: Fraction = 1.0

    def new_arrays(self, gradients: DomainGradients) -> ArrayRecord:
        """See :class:`ANDMask`."""
        found = torch.stack(list(_at_broadcast(gradients).values()))
        masked = [_rescaled(part, self.mask(part)) for part in gradients.split(found)]
        return self.step(gradients, torch.cat(masked))

    def mask(self, gradients: Tensor) -> Tensor:
        """Return the factor of each entry of the mean gradient.

        Parameters
        ----------
        gradients : Tensor
            Shape (domains, size of a parameter).
        """
        return (gradients.sign().mean(0).abs() >= self.tau).double()


@dataclass(kw_only=True, eq=False)
class SANDMask(ANDMask):
    """A smoothed AND-mask, by the variance over domains too (Shahtalebi et al., 2021).

    Parameters
    ----------
    tau : float
        Agreement from which on a parameter moves, in [0, 1].
    sharpness : float
        k in ``max(0, tanh(k / variance * (|mean of signs| - tau)))``.

    Examples
    --------
    >>> import torch
    >>> from atoll.strategies import SANDMask
    >>> strategy = SANDMask(tau=0.5, sharpness=1.0, server_learning_rate=0.1)
    >>> gradients = torch.tensor([[1.0, -2.0, 3.0], [0.5, 2.0, 1.0]])  # two domains
    >>> strategy.mask(gradients).round(decimals=3)
    tensor([0.9990, 0.0000, 0.2450])
    """

    sharpness: Positive = 10.0

    def mask(self, gradients: Tensor) -> Tensor:
        """See :class:`SANDMask`."""
        agreement = gradients.sign().mean(0).abs() - self.tau
        soft = torch.tanh(self.sharpness / gradients.var(0) * agreement).clamp_min(0.0)
        # 0/0 where the gradients are the same and the agreement is tau: 1e-17 as released.
        return torch.nan_to_num(soft, nan=1e-17)


@dataclass(kw_only=True, eq=False)
class MLDG(GradientStrategy):
    """Meta-learning (Li et al., 2018), first order as in DomainBed.

    The domains are dealt, in random order, into meta-training and meta-test ones; each of the
    former adds its gradient and beta times a meta-test domain's gradient after one step of a
    fresh optimiser.

    Parameters
    ----------
    beta : float
        Weight of the meta-test gradients, at least 0.
    meta_test : int
        Number of domains in the meta-test, at least 1.

    Examples
    --------
    >>> from atoll.strategies import MLDG
    >>> strategy = MLDG(beta=1.0, meta_test=2, server_learning_rate=1e-3)
    >>> strategy.client_update, strategy.server_optimizer  # clients take no steps of their own
    ('gradient', 'adam')
    """

    beta: NonNegative = 1.0
    meta_test: Count = 2

    def new_arrays(self, gradients: DomainGradients) -> ArrayRecord:
        """See :class:`MLDG`."""
        own = _at_broadcast(gradients)
        total = torch.zeros_like(next(iter(own.values())))
        for train, test in self._pairs(gradients.names):
            fresh = ServerOptimizer(
                self.server_optimizer, self.server_learning_rate or 0.0, self.server_weight_decay
            )
            ahead = fresh.step(
                gradients.exchange.arrays, gradients.to_arrays(own[train]), gradients.parameters
            )
            total += own[train] + self.beta * gradients.at(ahead, [test])[test]
        return self.step(gradients, total / len(own))

    def _pairs(self, names: Sequence[str]) -> list[tuple[str, str]]:
        order = random.sample(list(names), len(names))
        held_out = min(self.meta_test, len(order) - 1)
        train, test = order[: len(order) - held_out], order[len(order) - held_out :]
        return [(name, test[place % len(test)]) for place, name in enumerate(train)]


@dataclass(kw_only=True, eq=False)
class Fish(GradientStrategy):
    """Fish: steps along one domain after another, then part of the way there (Shi et al., 2022).

    The inner optimiser is the server's; its state stays from round to round.

    Parameters
    ----------
    epsilon : float
        Share of the way to the parameters after the steps, above 0.

    Examples
    --------
    >>> from atoll.strategies import build_strategy
    >>> strategy = build_strategy("Fish", {"epsilon": 0.5, "server_learning_rate": 1e-3})
    >>> strategy.client_update, strategy.server_optimizer  # clients take no steps of their own
    ('gradient', 'adam')
    """

    epsilon: Positive = 0.5

    def new_arrays(self, gradients: DomainGradients) -> ArrayRecord:
        """See :class:`Fish`."""
        start = arrays = gradients.exchange.arrays
        for name in gradients.names:
            gradient = gradients.at(arrays, [name])[name]
            if self.l2:
                gradient = gradient + 2 * self.l2 * gradients.flat_parameters(arrays)
            arrays = self.optimizer.step(
                arrays, gradients.to_arrays(gradient), gradients.parameters
            )
        way = gradients.flat_parameters(start) - gradients.flat_parameters(arrays)
        outer = ServerOptimizer("sgd", self.epsilon)
        return outer.step(start, gradients.to_arrays(way), gradients.parameters)

    def new_arrays_of_one(self, gradients: DomainGradients) -> ArrayRecord:
        """Return the parameters after part of the way along the one domain, as ever."""
        return self.new_arrays(gradients)


def _at_broadcast(gradients: DomainGradients) -> dict[str, Tensor]:
    return gradients.at(gradients.exchange.arrays, gradients.names)


def _rescaled(gradients: Tensor, mask: Tensor) -> Tensor:
    """Return the masked mean, larger by the share of what the mask leaves."""
    return mask * gradients.mean(0) / (1e-10 + mask.mean())
