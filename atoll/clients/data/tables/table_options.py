"""Options of a table (``[data.options]``)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from atoll.clients.ranges import Seed, Share
from atoll.clients.sections import FilePath, Section
from atoll.clients.tasks.regression import RegressionLoss

Name = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], Field(strict=False)]


class TableOptions(Section):
    """Options of a table.

    Attributes
    ----------
    target : str
        The column that is to be predicted; ``data.target`` sets it.
    group : str or None
        The column of natural clients (hospitals, users); ``data.group`` sets it. In a folder of
        files it is the files' names by default.
    numbers, categories : tuple[str, ...]
        Columns that are taken as such, whatever is found.
    drop : tuple[str, ...]
        Columns that are left out.
    task : str
        "classification", "regression" or "auto": a number with a fraction, or with more than 20
        different values, is a regression.
    loss : str or None
        Of a regression: "squared", "absolute", "huber" or "poisson"; it makes "auto" one.
    test_fraction : float
        The share of each group's rows that is for test.
    test_path : Path or None
        A file, or a folder of files, with the test rows, in place of a fraction.
    seed : int
        Decides which rows are for test.
    """

    target: Name
    group: Name | None = None
    numbers: Names = ()
    categories: Names = ()
    drop: Names = ()
    task: Literal["auto", "classification", "regression"] = "auto"
    loss: RegressionLoss | None = None
    test_fraction: Share = 0.2
    test_path: FilePath | None = None
    seed: Seed = 0
