"""Data set as a user's callable returns it, with its schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from atoll.clients.tasks.regression import RegressionLoss

# What Atoll calls the columns of an example, to the names under which data sets have them.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "img"),
    "label": ("label", "labels", "target"),
    "domain": ("domain",),
    "group": ("group",),
}


@dataclass(frozen=True)
class LoadedData:
    """Data set as a user's callable returns it (``data.dataset = "my_data:load"``).

    A callable may return its examples alone. This says more of them: names of classes and
    domains, other columns, normalisation.

    Attributes
    ----------
    train : object
        The training examples: ``(images, labels)`` arrays, a mapping of columns to arrays, a table
        (Arrow, pandas, polars), a torch or a Hugging Face data set.
    test : object, optional
        The test examples, in any of these forms; by default a random fifth of the training
        examples, of each domain where there are domains.
    classes : Sequence[str], optional
        Names of the labels 0, 1, ...; by default those of the data set, or the distinct labels in
        their order.
    domains : Sequence[str], optional
        Names of the domains 0, 1, ..., in the same way.
    columns : Mapping[str, str]
        Names of columns where they are not "image", "label", "domain" and "group":
        ``{"label": "fine_label"}``.
    normalization : tuple of two sequences, optional
        Mean and standard deviation per channel, in units of [0, 1], by which a model's input is
        normalised; by default those of the training images.
    augmentation : str
        How training images are varied: "none", "domainbed".
    target : str, optional
        Of a table: the column that is to be predicted; by default that of the labels. It makes the
        examples rows of a table.
    group : str, optional
        Of a table: the column of natural clients; by default "group", if there is one.
    categories : Sequence[str]
        Of a table: columns that are categories although they are numbers.
    loss : str, optional
        Of a table: "squared", "absolute", "huber" or "poisson" makes the target a number to
        predict.

    Examples
    --------
    >>> import numpy as np
    >>> from atoll.clients import LoadedData
    >>> images, labels = np.zeros((6, 8, 8), np.uint8), np.array([0, 1, 2] * 2)
    >>> data = LoadedData(train=(images, labels), classes=["cat", "dog", "owl"])
    >>> data.classes
    ['cat', 'dog', 'owl']
    """

    train: Any
    test: Any = None
    classes: Sequence[str] | None = None
    domains: Sequence[str] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    normalization: tuple[Sequence[float], Sequence[float]] | None = None
    augmentation: str = "none"
    target: str | None = None
    group: str | None = None
    categories: Sequence[str] = ()
    loss: RegressionLoss | None = None
