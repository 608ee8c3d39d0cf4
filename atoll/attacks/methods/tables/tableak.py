"""TabLeak: inversion of updates of tables (Vero et al., ICML 2023, arXiv 2210.01785).

Categories are relaxed to a softmax, so that numbers and categories are optimised together. Several
restarts are matched with the best one, row by row, and their median is the answer: what many of
them agree on is likely right. How far they disagree in a cell, its entropy, says which cells can
be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from atoll.attacks.base.attack import Progress, Reconstruction
from atoll.attacks.base.group import Group
from atoll.attacks.base.optimization_attack import matching_objective
from atoll.attacks.base.prior_attack import PriorAttack, row_cost
from atoll.attacks.metrics.table_cells import TableMetrics
from atoll.attacks.optim.matching import COSTS
from atoll.attacks.optim.minimize import minimize
from atoll.attacks.optim.step_rules import step_rule
from atoll.attacks.threat.table_space import TableSpace
from atoll.clients.data.inputs.table import TableInputs
from atoll.clients.ranges import Iterations, Rate, Repetitions, Weight


class TabLeak(PriorAttack):
    """Adam on the sign of the gradient of relaxed rows' matching cost, pooled over restarts.

    Attributes
    ----------
    restarts : int
        The ensemble's size; the paper's is 30.
    steps : int
        Of the optimiser; the paper's are 1,500.
    learning_rate : float
        In standard deviations of numbers, and in logits of categories.
    rule : str
        "signed-adam" (the paper's) or "adam".
    cost : str
        A name in :data:`~atoll.attacks.optim.matching.COSTS`.
    prior_weight : float
        What the value of ``prior``, divided by the number of cells, counts for.
    pooling : "median", "mean" or "best"
        How restarts are put together; "best" takes the one of the least matching cost.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"table"})

    restarts: Repetitions = 30
    steps: Iterations = 1500
    learning_rate: Rate = 0.06
    rule: Literal["signed-adam", "adam"] = "signed-adam"
    cost: Literal["cosine", "layerwise-cosine", "l2"] = "cosine"
    prior_weight: Weight = 1.0
    pooling: Literal["median", "mean", "best"] = "median"

    def attack_group(self, group: Group, progress: Progress) -> list[Reconstruction]:
        """Attack observations that share their broadcast model."""
        space = _space_of(group)
        prior = self.prior_for(group.first)
        start = 2 * torch.special.ndtr(group.noise(group.first.num_examples, space.width)) - 1
        minimum = minimize(
            matching_objective(
                group,
                COSTS[self.cost],
                lambda values: space.relaxed(values[0]),
                [] if prior is None else [(self.prior_weight, row_cost(prior))],
            ),
            [start],
            step_rule(self.rule, self.learning_rate),
            self.steps,
            on_step=lambda done: progress(done, self.steps),
        )
        with torch.no_grad():
            rows = space.relaxed(minimum.values[0])
            costs = self._costs_of(group, space.hardened(rows)).nan_to_num(nan=torch.inf)
        results = []
        for victim in range(len(group.observations)):
            own = slice(victim * group.restarts, (victim + 1) * group.restarts)
            best = int(costs[own].argmin())
            pooled, entropy = self._pooled(space, rows[own].cpu(), best)
            results.append(
                Reconstruction(
                    examples=space.stored(pooled),
                    labels=group.labels[own][best].cpu(),
                    label_source=group.label_source,
                    cost=float(costs[own][best]),
                    cost_path=minimum.path[own][best].cpu(),
                    restart=best,
                    entropy=entropy,
                    prior=None if prior is None else prior.value(pooled),
                )
            )
        return results

    def _costs_of(self, group: Group, rows: Tensor) -> Tensor:
        """Return the matching costs of rows that are none relaxed: the restarts' ranks."""
        simulation = group.simulation
        updates = simulation.stacked(rows, group.labels, group.client_noise)
        return COSTS[self.cost](updates, group.targets)

    def _pooled(self, space: TableSpace, rows: Tensor, best: int) -> tuple[Tensor, Tensor | None]:
        """Return a victim's relaxed rows, (n, width), and the cells' entropy, from its restarts."""
        if self.pooling == "best" or len(rows) == 1:
            return rows[best], None
        aligned = _aligned(space, rows, best)
        pooled = aligned.median(0).values if self.pooling == "median" else aligned.mean(0)
        pooled = _normalized(space, pooled)
        return pooled, space.entropy(pooled, aligned[..., : space.numbers].std(0))


def _space_of(group: Group) -> TableSpace:
    inputs = group.first.inputs
    assert isinstance(inputs, TableInputs)
    return TableSpace(inputs)


def _aligned(space: TableSpace, rows: Tensor, best: int) -> Tensor:
    """Return restarts, (restarts, n, width), with their rows in the order of the best one's.

    A gradient does not say in which order its rows were; the rows are matched as metrics match
    them with the truth, by the cells that agree.
    """
    metrics = TableMetrics(space.inputs, torch.empty(0))
    stored: Sequence[Tensor] = [space.stored(own) for own in rows]
    return torch.stack(
        [own[metrics.assign(cells, stored[best])] for own, cells in zip(rows, stored, strict=True)]
    )


def _normalized(space: TableSpace, rows: Tensor) -> Tensor:
    """Return rows whose weights sum to 1 again: a median's do not."""
    at = space.inputs.number_width
    blocks = torch.split(rows[:, at:], list(space.inputs.cardinalities), -1)
    sums = [block / block.sum(-1, keepdim=True).clamp_min(1e-12) for block in blocks]
    return torch.cat([rows[:, :at], *sums], 1)
