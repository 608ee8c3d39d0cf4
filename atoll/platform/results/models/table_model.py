"""A run's model with its preprocessing: rows of a table in, the task's outputs out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.inputs.table import FARTHEST, CategoryColumn, NumberColumn, TableInputs
from atoll.clients.tasks.kinds import AnyTask
from atoll.errors import DataUnavailableError
from atoll.platform.results.models.prepared_model import ModelFormat, PreparedModel, stored_tensor
from atoll.platform.results.models.table_rows import stored_rows


class TableModel(PreparedModel):
    """A run's network behind the standardisation and the categories of its table.

    Parameters
    ----------
    network : nn.Module
        The network, with a run's parameters; it is put into evaluation mode.
    inputs : TableInputs
        The columns, with the statistics of the run's clients.
    task : Task
        What is predicted.

    Attributes
    ----------
    numbers, flagged, categories : Tensor
        Buffers: places of the number columns, of those with missing values, and of the category
        columns.
    means, deviations : Tensor
        Buffers: of each number column, float64.
    sizes, starts : Tensor
        Buffers: of each category column, how many categories it has, and where its codes start.
    codes : Tensor
        Buffer: what the network is given for every category, one column after the other.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from atoll import TableModel
    >>> from atoll.clients import CategoryColumn, NumberColumn, Regression, TableInputs
    >>> age = NumberColumn(name="age", mean=50.0, std=10.0)
    >>> pain = CategoryColumn(name="pain", categories=("", "none", "some"))
    >>> inputs = TableInputs(columns=(age, pain))
    >>> model = TableModel(nn.Linear(2, 1), inputs, Regression())
    >>> model.predict([{"age": 61, "pain": "some"}, {"age": None, "pain": "odd"}]).values.shape
    (2,)
    >>> model(torch.tensor([[61.0, 2]], dtype=torch.float64)).shape
    torch.Size([1, 1])
    """

    input_name = "rows"
    numbers: Tensor
    means: Tensor
    deviations: Tensor
    flagged: Tensor
    categories: Tensor
    sizes: Tensor
    starts: Tensor
    codes: Tensor

    def __init__(self, network: nn.Module, inputs: TableInputs, task: AnyTask) -> None:
        super().__init__(network, ModelFormat(inputs, task))
        self.inputs = ModelFormat(inputs, task)
        columns = list(enumerate(inputs.columns))
        numbers = [(place, c) for place, c in columns if isinstance(c, NumberColumn)]
        categories = [(place, c) for place, c in columns if isinstance(c, CategoryColumn)]
        sizes = [len(column.categories) for _, column in categories]
        starts = [sum(sizes[:k]) for k in range(len(sizes))]
        # What a model is given for every stored category, one column after the other.
        codes = torch.zeros(max(1, sum(sizes)))
        for start, size, (_, column) in zip(starts, sizes, categories, strict=True):
            known = range(size) if column.known is None else column.known
            places = torch.tensor([start + place for place in known], dtype=torch.int64)
            codes[places] = torch.arange(1.0, len(known) + 1)
        flagged = [place for place, column in numbers if column.has_missing]
        for name, values, dtype in (
            ("numbers", [place for place, _ in numbers], torch.int64),
            ("means", [column.mean for _, column in numbers], torch.float64),
            ("deviations", [column.std for _, column in numbers], torch.float64),
            ("flagged", flagged, torch.int64),
            ("categories", [place for place, _ in categories], torch.int64),
            ("sizes", sizes, torch.float64),
            ("starts", starts, torch.int64),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=dtype, device=self.device))
        self.register_buffer("codes", codes.to(self.device))
        self.eval()

    def forward(self, rows: Tensor) -> Tensor:
        """Return the network's outputs for stored rows.

        Parameters
        ----------
        rows : Tensor
            float64, shape (n, columns): numbers as they are, NaN for a missing one; categories
            as places in the column's ``categories``, any other number for an unseen one.
        """
        numbers = (rows.index_select(1, self.numbers) - self.means) / self.deviations
        numbers = torch.nan_to_num(numbers).clamp(-FARTHEST, FARTHEST)
        flags = torch.isnan(rows.index_select(1, self.flagged))
        places = rows.index_select(1, self.categories)
        is_seen = (places >= 0) & (places < self.sizes)
        places = torch.where(is_seen, places, torch.zeros_like(places)).long()
        codes = self.codes[(places + self.starts).clamp_max(len(self.codes) - 1)]
        codes = torch.where(is_seen, codes, torch.zeros_like(codes))
        outputs: Tensor = self.network(torch.cat([numbers.float(), flags.float(), codes], 1))
        return outputs

    def tensor_of(self, examples: Any) -> Tensor:
        """Return rows as :meth:`forward` takes them.

        Parameters
        ----------
        examples : table, list of dicts, dict, Tensor, NDArray or Split
            An Arrow or pandas table, or dicts, with the columns' names and values as in the
            user's file; or stored rows.
        """
        inputs = self.inputs.inputs
        assert isinstance(inputs, TableInputs)
        stored = stored_tensor(examples, inputs)
        if stored is None:
            return torch.from_numpy(stored_rows(examples, inputs))
        if stored.is_complex():
            raise DataUnavailableError(f"examples are of {stored.dtype}; expected real numbers")
        return stored.double()

    def example(self, count: int) -> Tensor:
        """Return rows of means and first categories."""
        row = torch.zeros(len(self._columns), dtype=torch.float64)
        row[self.numbers.cpu()] = self.means.cpu()
        return row.repeat(count, 1)

    def described(self) -> dict[str, Any]:
        """Return how rows are standardised; the columns are in the description of the inputs."""
        return {
            "columns": [column.name for column in self._columns],
            "preprocessing": {
                "input": "stored rows, float64, shape (n, columns): numbers, NaN for a missing "
                "one; categories as places in the column's categories, -1 for an unseen one",
            },
        }

    def preprocessing_tensors(self) -> dict[str, Tensor]:
        """Return means and deviations of the number columns."""
        return {"mean": self.means, "std": self.deviations}

    def check_dataset(self, dataset: Dataset) -> None:
        """Refuse a table with other columns or categories: its stored places mean others."""
        super().check_dataset(dataset)
        assert isinstance(dataset.inputs, TableInputs)
        found = [_meaning(column) for column in dataset.inputs.columns]
        for own, other in zip([_meaning(c) for c in self._columns], found, strict=False):
            if own != other:
                raise DataUnavailableError(
                    f"{dataset.directory}: its column {other[1]!r} ({other[0]}) is not the run's "
                    f"{own[1]!r} ({own[0]}) with the same categories; expected the run's columns "
                    "(predict takes rows by their columns' names)"
                )
        self.check_split(dataset.test)

    @property
    def _columns(self) -> tuple[NumberColumn | CategoryColumn, ...]:
        assert isinstance(self.inputs.inputs, TableInputs)
        return self.inputs.inputs.columns


def _meaning(column: NumberColumn | CategoryColumn) -> tuple[str, str, tuple[str, ...]]:
    """Return what a column's stored numbers mean."""
    categories = column.categories if isinstance(column, CategoryColumn) else ()
    return column.kind, column.name, categories
