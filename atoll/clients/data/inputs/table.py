"""Inputs that are rows of a table: numbers and categories, with missing values."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from atoll.clients.data.inputs.base import Inputs

# So many deviations from the mean are cut off: float32 is to hold sums of squares.
FARTHEST = 1e12


class _Column(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: str


class NumberColumn(_Column):
    """Column of numbers; a missing one becomes the mean, and a flag says so.

    Attributes
    ----------
    name : str
        The column's name.
    kind : str
        "number".
    mean, std : float
        By which numbers are standardised: of the clients' training examples.
    has_missing : bool
        Whether some training examples lack it: a model is then given a flag, too.
    is_fixed : bool
        Whether ``mean`` and ``std`` stay as they are, whatever the clients' examples are.

    Examples
    --------
    >>> from atoll.clients import NumberColumn
    >>> NumberColumn(name="age", mean=54.0, std=9.5).has_missing
    False
    """

    kind: Literal["number"] = "number"
    mean: float = 0.0
    std: Annotated[float, Field(gt=0.0)] = 1.0
    has_missing: bool = False
    is_fixed: bool = False


class CategoryColumn(_Column):
    """Column of categories, stored as places in ``categories``.

    Attributes
    ----------
    name : str
        The column's name.
    kind : str
        "category".
    categories : tuple[str, ...]
        All that occur; "" for a missing one.
    known : tuple[int, ...] or None
        Places of those that clients' training examples have, ascending; None for all. A model is
        given 1 for the first of them, and 0 for every other category.

    Examples
    --------
    >>> from atoll.clients import CategoryColumn
    >>> CategoryColumn(name="sex", categories=("", "female", "male"), known=(1, 2)).cardinality
    3
    """

    kind: Literal["category"] = "category"
    categories: Annotated[tuple[str, ...], Field(strict=False)]
    known: Annotated[tuple[int, ...] | None, Field(strict=False)] = None

    @property
    def cardinality(self) -> int:
        """Number of values that a model is given: the known categories, and one for the rest."""
        return 1 + len(self.categories if self.known is None else self.known)


Column = Annotated[NumberColumn | CategoryColumn, Field(discriminator="kind")]


class TableInputs(Inputs):
    """Rows of a table: float64 stored, in the order of the columns; float32 given.

    A model's row has the standardised numbers first, then a flag (0 or 1) for each number column
    with missing values, then the categories' numbers.

    Attributes
    ----------
    columns : tuple[Column, ...]
        The columns.

    Examples
    --------
    >>> import numpy as np
    >>> from atoll.clients import CategoryColumn, NumberColumn, TableInputs
    >>> age = NumberColumn(name="age", mean=50.0, std=10.0, has_missing=True)
    >>> pain = CategoryColumn(name="pain", categories=("none", "some", "typical"), known=(0, 2))
    >>> inputs = TableInputs(columns=(age, pain))
    >>> inputs.to_tensor(np.array([[60.0, 2], [np.nan, 1]]))
    tensor([[1., 0., 2.],
            [0., 1., 0.]])
    >>> inputs.number_width, inputs.cardinalities
    (2, (3,))
    """

    kind: Literal["table"] = "table"
    columns: Annotated[tuple[Column, ...], Field(strict=False, min_length=1)]

    @property
    def shape(self) -> tuple[int]:
        """The width of a model's row."""
        return (self.number_width + len(self.cardinalities),)

    @property
    def stored_shape(self) -> tuple[int]:
        """The number of columns."""
        return (len(self.columns),)

    @property
    def stored_dtype(self) -> type[np.generic]:
        """Eight bytes a cell: differences of large numbers (dates) stay exact."""
        return np.float64

    @cached_property
    def number_width(self) -> int:
        """How many of a row's places are numbers or flags; the others are categories."""
        return len(self._numbers) + len(self._flagged)

    @cached_property
    def cardinalities(self) -> tuple[int, ...]:
        """Per category column the number of values that a model is given: 0, 1, ..."""
        return tuple(column.cardinality for _, column in self._categories)

    @cached_property
    def _numbers(self) -> list[tuple[int, NumberColumn]]:
        return [(k, c) for k, c in enumerate(self.columns) if isinstance(c, NumberColumn)]

    @cached_property
    def _categories(self) -> list[tuple[int, CategoryColumn]]:
        return [(k, c) for k, c in enumerate(self.columns) if isinstance(c, CategoryColumn)]

    @cached_property
    def _flagged(self) -> list[int]:
        return [place for place, column in self._numbers if column.has_missing]

    @cached_property
    def _scales(self) -> tuple[list[int], NDArray[np.float64], NDArray[np.float64]]:
        """Places of the number columns, their means and deviations."""
        columns = [column for _, column in self._numbers]
        return (
            [place for place, _ in self._numbers],
            np.array([column.mean for column in columns]),
            np.array([column.std for column in columns]),
        )

    @cached_property
    def _lookups(self) -> list[tuple[int, NDArray[np.float32]]]:
        """Per category column its place, and what a model is given for each stored value."""
        lookups = []
        for place, column in self._categories:
            found = np.zeros(len(column.categories), np.float32)
            known = range(len(found)) if column.known is None else column.known
            found[list(known)] = np.arange(1, len(known) + 1)
            lookups.append((place, found))
        return lookups

    def to_tensor(self, stored: NDArray[np.float64]) -> Tensor:
        """Return rows as a model is given them: float32, (n, width)."""
        places, means, deviations = self._scales
        numbers = np.nan_to_num((stored[:, places] - means) / deviations)
        numbers = numbers.clip(-FARTHEST, FARTHEST)
        flags = np.isnan(stored[:, self._flagged])
        codes = [found[stored[:, place].astype(np.int64)] for place, found in self._lookups]
        parts = [numbers, flags, *(code[:, None] for code in codes)]
        return torch.from_numpy(np.concatenate(parts, 1, dtype=np.float32))

    def varied(self, *counts: int, generator: torch.Generator) -> Tensor:
        """Return random rows, shape ``(*counts, width)``."""
        numbers = torch.randn(*counts, self.number_width, generator=generator)
        codes = [
            torch.randint(cardinality, (*counts, 1), generator=generator).float()
            for cardinality in self.cardinalities
        ]
        return torch.cat([numbers, *codes], -1)

    @property
    def described(self) -> str:
        """The kind and the columns."""
        numbers, categories = len(self._numbers), len(self._categories)
        return f"rows of {numbers} numbers and {categories} categories"
