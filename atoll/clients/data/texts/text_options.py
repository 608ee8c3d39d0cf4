"""Options of texts of the user's own (``[data.options]``)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from atoll.clients.data.texts.tokenizers import CHARACTERS
from atoll.clients.ranges import Seed, Share
from atoll.clients.sections import FilePath, Section
from atoll.clients.tasks.regression import RegressionLoss

Name = Annotated[str, Field(min_length=1)]


class TextOptions(Section):
    """Options of texts.

    Attributes
    ----------
    text : str
        The column of texts.
    target : str or None
        The column that is to be predicted; ``data.target`` sets it. Without one it is the text's
        next token.
    group : str or None
        The column of natural clients (authors, users); ``data.group`` sets it. In a folder of
        files it is the files' names by default.
    tokenizer : str
        "characters", "minilm", or the path of a ``tokenizer.json``.
    length : int
        Tokens of a sequence: longer texts are cut, or for the next token cut into several.
    task : str
        "classification", "regression" or "auto": a number with a fraction, or with more than 20
        different values, is a regression.
    loss : str or None
        Of a regression: "squared", "absolute", "huber" or "poisson"; it makes "auto" one.
    test_fraction : float
        The share of each group's texts that is for test.
    test_path : Path or None
        A file, or a folder of files, with the test texts, in place of a fraction.
    seed : int
        Decides which texts are for test.
    """

    text: Name = "text"
    target: Name | None = None
    group: Name | None = None
    tokenizer: Name = CHARACTERS
    length: Annotated[int, Field(ge=2, le=100_000)] = 128
    task: Literal["auto", "classification", "regression"] = "auto"
    loss: RegressionLoss | None = None
    test_fraction: Share = 0.2
    test_path: FilePath | None = None
    seed: Seed = 0
