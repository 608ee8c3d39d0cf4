"""Space of the rows that a model of a table takes, relaxed so that they can be differentiated."""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from atoll.clients.data.inputs.table import CategoryColumn, NumberColumn, TableInputs

# In place of the logit of a value that no training example has.
NEVER = -1e9


class TableSpace:
    """Rows with weights in the place of categories, and the rows that they stand for.

    A relaxed row has the standardised numbers, the flags of missing numbers (in [0, 1]), and each
    category column's weights, which sum to 1: shape (..., width). Encoders of rows take it
    (:func:`~atoll.clients.encoders.soft_categories`).

    Parameters
    ----------
    inputs : TableInputs
        The columns.

    Attributes
    ----------
    width : int
        Of a relaxed row.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import TableSpace
    >>> from atoll.clients import CategoryColumn, NumberColumn, TableInputs
    >>> age = NumberColumn(name="age", mean=50.0, std=10.0)
    >>> pain = CategoryColumn(name="pain", categories=("none", "some"))
    >>> space = TableSpace(TableInputs(columns=(age, pain)))
    >>> rows = space.relaxed(torch.tensor([[0.5, 0.0, 0.0, 2.0]]))
    >>> rows.round(decimals=2), space.stored(rows)
    (tensor([[0.5000, 0.0000, 0.1200, 0.8800]]), tensor([[55.,  1.]], dtype=torch.float64))
    """

    def __init__(self, inputs: TableInputs) -> None:
        self.inputs = inputs
        self.width = inputs.number_width + sum(inputs.cardinalities)

    @cached_property
    def _columns(self) -> tuple[list[NumberColumn], list[CategoryColumn]]:
        columns = self.inputs.columns
        return (
            [column for column in columns if isinstance(column, NumberColumn)],
            [column for column in columns if isinstance(column, CategoryColumn)],
        )

    @cached_property
    def _flagged(self) -> list[int]:
        """Places of the number columns with flags, among the number columns."""
        return [place for place, column in enumerate(self._columns[0]) if column.has_missing]

    @property
    def numbers(self) -> int:
        """The number of number columns."""
        return len(self._columns[0])

    def relaxed(self, values: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the relaxed rows of unbounded values: shape (..., width).

        A number counts as far as its flag says that it is there; weights are a softmax over the
        values that training examples can have.
        """
        numbers, flags, logits = self._parts(values)
        shares = torch.sigmoid(flags)
        present = torch.ones_like(numbers)
        present[..., self._flagged] = 1 - shares
        weights = [torch.softmax(self._possible(block) / temperature, -1) for block in logits]
        return torch.cat([numbers * present, shares, *weights], -1)

    def hardened(self, rows: Tensor) -> Tensor:
        """Return the nearest rows that are none relaxed: shape (..., width)."""
        numbers, flags, weights = self._parts(rows)
        lacks = (flags > 0.5).to(rows.dtype)
        present = torch.ones_like(numbers)
        present[..., self._flagged] = 1 - lacks
        chosen = [F.one_hot(block.argmax(-1), block.shape[-1]).to(rows.dtype) for block in weights]
        return torch.cat([numbers * present, lacks, *chosen], -1)

    def stored(self, rows: Tensor) -> Tensor:
        """Return relaxed rows as they are stored: float64, shape (..., columns)."""
        numbers, flags, weights = self._parts(rows.double())
        number_columns, category_columns = self._columns
        means = torch.tensor([column.mean for column in number_columns]).double()
        stds = torch.tensor([column.std for column in number_columns]).double()
        cells = numbers * stds + means
        cells[..., self._flagged] = torch.where(flags > 0.5, torch.nan, cells[..., self._flagged])
        found = dict(zip((c.name for c in number_columns), cells.unbind(-1), strict=True))
        for column, block in zip(category_columns, weights, strict=True):
            found[column.name] = _places(column)[block.argmax(-1)].double()
        return torch.stack([found[column.name] for column in self.inputs.columns], -1)

    def of_stored(self, stored: Tensor) -> Tensor:
        """Return stored rows, shape (n, columns), as relaxed ones: float32, (n, width)."""
        rows = self.inputs.to_tensor(stored.numpy())
        at = self.inputs.number_width
        weights = [
            F.one_hot(rows[:, at + place].long(), cardinality).to(rows.dtype)
            for place, cardinality in enumerate(self.inputs.cardinalities)
        ]
        return torch.cat([rows[:, :at], *weights], 1)

    def entropy(self, rows: Tensor, deviations: Tensor) -> Tensor:
        """Return how uncertain each cell is: float64, shape (n, columns).

        Of a category it is the entropy of its weights over that of equal ones, in 0 .. 1. Of a
        number it is the differential entropy of a normal distribution, in nats, of the
        standardised number (Vero et al., 2023, sec. 4.3).

        Parameters
        ----------
        rows : Tensor
            Relaxed, shape (n, width).
        deviations : Tensor
            Standard deviations of the standardised numbers, shape (n, numbers).
        """
        _, _, weights = self._parts(rows.double())
        number_columns, category_columns = self._columns
        of_numbers = 0.5 + 0.5 * (2 * torch.pi * deviations.double().square() + 1e-12).log()
        found = dict(zip((c.name for c in number_columns), of_numbers.unbind(-1), strict=True))
        for column, block in zip(category_columns, weights, strict=True):
            values = max(2, block.shape[-1] - (block.shape[-1] > 1))
            uncertain = -torch.special.xlogy(block, block).sum(-1)
            found[column.name] = uncertain / torch.tensor(float(values)).log()
        return torch.stack([found[column.name] for column in self.inputs.columns], -1)

    def _parts(self, rows: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return numbers, flags, and each category column's block."""
        sizes = [self.numbers, len(self._flagged), *self.inputs.cardinalities]
        numbers, flags, *blocks = torch.split(rows, sizes, -1)
        return numbers, flags, tuple(blocks)

    @staticmethod
    def _possible(logits: Tensor) -> Tensor:
        """Return a column's logits without value 0, which no training example has."""
        if logits.shape[-1] == 1:
            return logits
        is_first = torch.arange(logits.shape[-1], device=logits.device) == 0
        return torch.where(is_first, NEVER, logits)


def _places(column: CategoryColumn) -> Tensor:
    """Return the stored place of each value that a model is given; of 0, the first unknown one."""
    count = len(column.categories)
    known = list(range(count)) if column.known is None else list(column.known)
    unknown = next((place for place in range(count) if place not in set(known)), 0)
    return torch.tensor([unknown, *known])
