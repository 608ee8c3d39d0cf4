"""Sentences of the sentiment data as vectors: MiniLM's mean of token states, computed once.

``python -m benchmarks.accuracy.sentence_vectors FOLDER`` writes ``train.parquet`` and
``test.parquet``: a column a dimension (``v000`` to ``v383``), ``sentiment`` and ``source``, with
the split of the data set ``sentiment``. A network over these columns is a head on a frozen encoder,
at a hundredth of the encoder's cost in every step. ``experiments/sentiment-domains.toml`` trains on
them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from atoll.clients import ModelSettings, load_dataset
from atoll.clients.data.files.dataset import Dataset, Split
from atoll.clients.models.head import SplitModel
from atoll.clients.models.model_building import build_model

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description="Sentences as MiniLM's vectors.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    dataset = load_dataset("sentiment")
    model = build_model(ModelSettings(name="minilm"), dataset.inputs, dataset.task, 0)
    encoder = SplitModel(model.eval())
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        path = folder / f"{name}.parquet"
        pq.write_table(table_of(dataset, split, encoder), path)
        print(f"{path}: {len(split)} sentences")


def table_of(dataset: Dataset, split: Split, encoder: SplitModel) -> pa.Table:
    """Return the rows of a split."""
    assert split.domains is not None
    vectors = vectors_of(dataset.inputs.to_tensor(split.inputs), encoder).numpy()
    columns = {f"v{place:03d}": vectors[:, place] for place in range(vectors.shape[1])}
    columns["sentiment"] = [dataset.task.class_names[label] for label in split.labels]
    columns["source"] = [dataset.domains[domain] for domain in split.domains]
    return pa.table(columns)


@torch.no_grad()
def vectors_of(tokens: Tensor, encoder: SplitModel) -> Tensor:
    """Return the inputs of the model's head, shape (n, width), for tokens of shape (n, length)."""
    parts = []
    for batch in torch.split(tokens, BATCH):
        none = torch.zeros(len(batch), dtype=torch.int64)
        parts.append(encoder(batch, none, none).features)
    return torch.cat(parts)


if __name__ == "__main__":
    main()
