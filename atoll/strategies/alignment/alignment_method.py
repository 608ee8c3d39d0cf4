"""Alignment method: the hooks by which one method differs from another, with their defaults."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from atoll.clients.moments.statistic import Statistic
from atoll.errors import InvalidExperimentError
from atoll.strategies.alignment.alignment_settings import AlignmentSettings
from atoll.strategies.alignment.moments.domain_moments import Domains
from atoll.strategies.alignment.moments.stored_moments import StoredMoments

logger = logging.getLogger("atoll")

# Probes of every round, where moments of different rounds are compared.
FIXED_SEED = 1


@dataclass(kw_only=True, eq=False)
class AlignmentMethod(AlignmentSettings):
    """Hooks of an alignment method, and the state that a method keeps from round to round.

    Attributes
    ----------
    memory : dict[str, Tensor]
        The method's own state (moving averages, weights of domains); in checkpoints.
    stored : dict[str, StoredMoments]
        The last moments of each domain, where stale moments are used; in checkpoints.
    """

    # Whether the penalty is a sum of spreads of statistics, as client_update "quadratic" needs.
    is_quadratic: ClassVar[bool] = False
    # Whether nothing but sums over clients is used, as secure aggregation needs.
    sums_suffice: ClassVar[bool] = True
    # Whether moments are needed even while the penalty's weight is 0.
    always_measures: ClassVar[bool] = False
    # Whether clients report the loss of the model that they trained.
    reports_loss_after: ClassVar[bool] = False
    # The fewest domains that the method makes sense for.
    min_domains: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_method()
        self.memory: dict[str, Tensor] = {}
        self.stored: dict[str, StoredMoments] = {}
        self._warned_of_one_domain = False
        self._warned_of_no_gradient = False

    def _check_method(self) -> None:
        if self.client_update == "quadratic" and not self.is_quadratic:
            raise InvalidExperimentError(
                f"strategy.client_update = 'quadratic': the penalty of {type(self).__name__} is "
                "not a squared distance of moments to their mean; expected 'cotangent' or "
                "'gradient'"
            )
        if self.mixup_alpha is not None and (self.l2 or self.measures):
            key = f"strategy.l2 = {self.l2:g}" if self.l2 else "strategy.name"
            raise InvalidExperimentError(
                f"{key}: {type(self).__name__} mixes a client's examples, which takes neither l2 "
                "nor a penalty; expected l2 = 0 (client.weight_decay decays too) and a method "
                "without moments"
            )

    def penalty(self, domains: Domains) -> Tensor:
        """Return the penalty, a scalar function of the domains' moments.

        State that lasts goes into :attr:`memory`.
        """
        return torch.zeros((), dtype=torch.float64)

    def local_terms(self) -> Sequence[tuple[Statistic, float]]:
        """Return statistics in each client's own loss with a fixed weight."""
        return ()

    @property
    def mixup_alpha(self) -> float | None:
        """The parameter of Mixup of a client's examples; None for no Mixup."""
        return None

    @property
    def needs_linear_head(self) -> bool:
        """Whether the method has a closed form for a linear head only."""
        return False

    @property
    def needs_gaussian_head(self) -> bool:
        """Whether the method needs a model with a Gaussian representation."""
        return False

    @property
    def has_penalty(self) -> bool:
        """Whether the method has a penalty over the moments of domains."""
        return type(self).penalty is not AlignmentMethod.penalty

    @property
    def measures(self) -> bool:
        """Whether the method asks clients for moments, or has them in their loss."""
        return self.has_penalty or bool(self.local_terms())

    def probe_seed(self) -> int:
        """Return the seed of a round's random vectors."""
        # Flower's strategies sample nodes from this generator, whose state is in checkpoints.
        return FIXED_SEED if self.stale_moments else random.getrandbits(62)

    def warn_of_one_domain(self, names: Sequence[str]) -> None:
        """Warn, once a run, that the clients of a round hold too few domains to align."""
        if not self._warned_of_one_domain:
            self._warned_of_one_domain = True
            logger.warning(
                "%s has nothing to align in rounds whose clients hold only the domain %s: they are "
                "rounds of ERM",
                type(self).__name__,
                ", ".join(names),
            )

    def warn_of_no_gradient(self) -> None:
        """Warn, once a run, that the method's own penalty is a constant."""
        if self.has_penalty and not self._warned_of_no_gradient:
            self._warned_of_no_gradient = True
            logger.warning(
                "the penalty of %s does not depend on the domains' moments (was one detached?), so "
                "it changes nothing",
                type(self).__name__,
            )
