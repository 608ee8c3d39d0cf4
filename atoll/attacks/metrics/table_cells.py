"""Metrics of reconstructed rows of a table: the cells that are right.

A category is right if it is the true one, and a number if it is within 0.319 standard deviations
of the true one (Vero et al., 2023, "TabLeak: Tabular Data Leakage in Federated Learning"); a
missing number is right if it is missing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atoll.attacks.metrics.example_metrics import Columns, ExampleMetrics, hungarian
from atoll.clients.data.inputs.table import NumberColumn, TableInputs

# In standard deviations of a column.
TOLERANCE = 0.319
# The share of a victim's cells, those of least entropy, that an attacker trusts.
TRUSTED = 0.25
# Distance of a number from one that is missing, in standard deviations.
MISSING = 1.0


def cells_right(inputs: TableInputs, found: Tensor, truth: Tensor) -> Tensor:
    """Return which cells are right.

    Parameters
    ----------
    inputs : TableInputs
        The columns, with the numbers' standard deviations.
    found, truth : Tensor
        Rows as they are stored: float64, shape (..., columns); they are broadcast.

    Returns
    -------
    Tensor
        bool, shape (..., columns).

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import cells_right
    >>> from atoll.clients import CategoryColumn, NumberColumn, TableInputs
    >>> age = NumberColumn(name="age", mean=50.0, std=10.0)
    >>> sex = CategoryColumn(name="sex", categories=("female", "male"))
    >>> inputs = TableInputs(columns=(age, sex))
    >>> found = torch.tensor([[43.1, 1.0], [47.0, 0.0]], dtype=torch.float64)
    >>> cells_right(inputs, found, torch.tensor([40.0, 1.0], dtype=torch.float64))
    tensor([[ True,  True],
            [False, False]])
    """
    # A little more than the tolerance: 0.319 * 10 is not the 3.19 that a difference comes to.
    return _distances(inputs, found, truth) <= TOLERANCE * (1 + 1e-9)


def _distances(inputs: TableInputs, found: Tensor, truth: Tensor) -> Tensor:
    """Return how far cells are, numbers in standard deviations, and 0 or 1 for categories."""
    stds = torch.tensor([c.std if isinstance(c, NumberColumn) else 1.0 for c in inputs.columns])
    differences = (found - truth).abs() / stds.double()
    is_number = torch.tensor([isinstance(c, NumberColumn) for c in inputs.columns])
    lacking = found.isnan() != truth.isnan()
    far = torch.where(lacking, MISSING, differences.nan_to_num(nan=0.0))
    return torch.where(is_number, far, (found != truth).double())


class TableMetrics(ExampleMetrics):
    """Metrics of rows: right cells, by kind of column and by entropy, and right rows.

    Parameters
    ----------
    inputs : TableInputs
        What a row is.
    candidates : Tensor
        Rows that a reconstruction is told from: float64, shape (n, columns).
    """

    def __init__(self, inputs: TableInputs, candidates: Tensor) -> None:
        self._inputs, self._candidates = inputs, candidates
        self._is_number = torch.tensor([isinstance(c, NumberColumn) for c in inputs.columns])

    def assign(self, found: Tensor, truth: Tensor) -> Tensor:
        """Return which row stands for each true one: the fewest wrong cells, then the nearest."""
        pairs = truth[:, None], found[None]
        wrong = (~cells_right(self._inputs, pairs[1], pairs[0])).double().mean(-1)
        near = _distances(self._inputs, pairs[1], pairs[0]).clamp(max=1.0).mean(-1)
        return hungarian(wrong + 1e-3 * near)

    def columns(self, found: Tensor, truth: Tensor, entropy: Tensor | None) -> Columns:
        """Return the metrics of rows in the order of the truth."""
        right = cells_right(self._inputs, found, truth)
        trusted = None if entropy is None else self._trusted_accuracy(right, entropy)
        return {
            "cell_accuracy": right.double().mean(1).tolist(),
            "number_accuracy": self._share(right, self._is_number),
            "category_accuracy": self._share(right, ~self._is_number),
            "trusted_accuracy": [trusted] * len(truth),
            "exact_match": right.all(1).tolist(),
            "identified": self._identified(found, truth),
        }

    def _share(self, right: Tensor, of: Tensor) -> list[float] | list[None]:
        return right[:, of].double().mean(1).tolist() if bool(of.any()) else [None] * len(right)

    def _trusted_accuracy(self, right: Tensor, entropy: Tensor) -> float:
        """Return the share of right cells among the victim's cells of least entropy.

        Numbers and categories are ranked apart: their entropies are of different units.
        """
        chosen = []
        for of in (self._is_number, ~self._is_number):
            cells, order = right[:, of].flatten(), entropy[:, of].flatten().argsort(stable=True)
            if len(cells):
                chosen.append(cells[order[: max(1, round(TRUSTED * len(cells)))]])
        return float(torch.cat(chosen).double().mean())

    def _identified(self, found: Tensor, truth: Tensor) -> list[bool]:
        own = _distances(self._inputs, found, truth).clamp(max=1.0).mean(1)
        others = _distances(self._inputs, found[:, None], self._candidates[None])
        if not len(self._candidates):
            return [True] * len(found)
        return (own < others.clamp(max=1.0).mean(2).amin(1)).tolist()
