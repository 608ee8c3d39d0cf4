"""Small data sets of rows and of sequences, and victims of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from atoll.attacks.example_victims import example_victim
from atoll.attacks.victims import Victim
from atoll.clients.data.files.dataset import Dataset, Decoded, Split, write_dataset
from atoll.clients.data.inputs.kinds import AnyInputs
from atoll.clients.data.inputs.table import CategoryColumn, NumberColumn, TableInputs
from atoll.clients.data.inputs.tokens import TokenInputs
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.clients.tasks.classification import Classification
from atoll.clients.tasks.kinds import AnyTask
from atoll.clients.tasks.next_token import IGNORED, NextToken
from atoll.clients.tasks.regression import Regression

EXAMPLES, LENGTH, VOCABULARY = 40, 12, 30
TABLE = TableInputs(
    columns=(
        NumberColumn(name="age", mean=50.0, std=10.0),
        CategoryColumn(name="pain", categories=("", "none", "some", "typical"), known=(1, 2, 3)),
        NumberColumn(name="dose", mean=3.0, std=2.0, has_missing=True),
        CategoryColumn(name="sex", categories=("f", "m")),
    )
)
TOKENS = TokenInputs(length=LENGTH, vocabulary=VOCABULARY)
CLASSES = Classification(classes=("no", "yes"))


def _rows(generator: np.random.Generator) -> np.ndarray:
    dose = generator.normal(3.0, 2.0, EXAMPLES)
    dose[::5] = np.nan
    return np.stack(
        [
            generator.normal(50.0, 10.0, EXAMPLES),
            generator.integers(1, 4, EXAMPLES).astype(np.float64),
            dose,
            generator.integers(0, 2, EXAMPLES).astype(np.float64),
        ],
        1,
    )


def _sequences(generator: np.random.Generator) -> np.ndarray:
    tokens = generator.integers(1, VOCABULARY, (EXAMPLES, LENGTH)).astype(np.int32)
    lengths = generator.integers(5, LENGTH + 1, EXAMPLES)
    tokens[np.arange(LENGTH) >= lengths[:, None]] = 0
    return tokens


def _labels(task: AnyTask, inputs: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    if isinstance(task, NextToken):
        following = np.concatenate([inputs[:, 1:], np.zeros((EXAMPLES, 1))], 1).astype(np.int64)
        return np.where(following == 0, IGNORED, following)
    if isinstance(task, Regression):
        return generator.normal(size=EXAMPLES).astype(np.float32)
    return generator.integers(0, 2, EXAMPLES)


def dataset_of(folder: Path, inputs: AnyInputs, task: AnyTask, seed: int = 0) -> Dataset:
    """A data set of random examples."""
    generator = np.random.default_rng(seed)
    splits = []
    for _ in range(2):
        stored = _rows(generator) if isinstance(inputs, TableInputs) else _sequences(generator)
        splits.append(Split(stored, _labels(task, stored, generator)))
    folder.mkdir(parents=True, exist_ok=True)
    write_dataset(
        "random", Decoded(task=task, train=splits[0], test=splits[1], inputs=inputs), folder
    )
    return Dataset(folder)


def victim_of(
    dataset: Dataset,
    model: dict[str, object],
    *,
    examples: int = 1,
    seed: int = 0,
    **client: object,
) -> Victim:
    """A victim that takes one step on all of its examples, unless ``client`` says otherwise."""
    settings = {"batch_size": examples, "learning_rate": 0.1, **client}
    return example_victim(
        ModelSettings.model_validate(model),
        ClientSettings.model_validate(settings),
        examples=examples,
        seed=seed,
        dataset=dataset,
    )
