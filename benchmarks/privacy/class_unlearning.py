"""A class unlearned by a generator: each repulsion term of Adapt-then-Unlearn beside a control.

``python -m benchmarks.privacy.class_unlearning`` trains a generator of the digits' training split
(kept in the cache), removes a class by each term with three seeds, and prints the table of
docs/results/unlearning.md. A judge that has learnt from other images says which class a sample is
of; the Frechet distance of its features is to real images of the other classes. ``--seconds`` ends
it after a while; the same command continues; ``--table`` prints what there is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atoll.attacks.generators.class_unlearning import ClassUnlearningSettings, unlearn_class
from atoll.attacks.generators.sample_judge import SampleJudge, as_tensor
from atoll.attacks.generators.trained_generator import load_trained, train_generator
from atoll.attacks.generators.vae_training import TrainingSettings
from atoll.clients.data.catalog.loading import load_dataset
from atoll.platform.unlearning.class_unlearning_run import judged
from benchmarks.accuracy.recorded import commit, date_and_commit, run_missing
from benchmarks.paths import ROOT
from benchmarks.privacy.unlearning import interval

DATASET, UNDESIRED = "digits", 3
TRAINING = TrainingSettings(steps=800, width=16, latent=8)
BEFORE = "before"
ROWS: tuple[str, ...] = (BEFORE, "none", "il2", "nl2", "el2")
SEEDS = (0, 1, 2)
LABELS = {"none": "none: other classes alone (control)"}
FIGURES = {
    "share": "samples taken for the class",
    "share_asked": "of those asked to be of it",
    "accuracy": "others taken for theirs",
    "distance": "Frechet distance",
}


def figures_of(repulsion: str, seed: int) -> dict[str, Any]:
    """Return what the judge says of a generator after a term's repulsion."""
    torch.set_num_threads(1)
    dataset = load_dataset(DATASET)
    folder = train_generator(dataset, TRAINING, "train")
    generator = load_trained(DATASET, folder)
    images, labels = dataset.train.images, dataset.train.labels
    if repulsion != BEFORE:
        given = {"repulsion": repulsion, "seed": seed}
        settings = ClassUnlearningSettings.model_validate(given)
        made = unlearn_class(generator, TRAINING, images, labels, UNDESIRED, settings)
    else:
        made = generator
    half = np.random.default_rng(seed).permutation(len(labels))
    known, left = half[: len(half) // 2], half[len(half) // 2 :]
    judge = SampleJudge(images[known], labels[known], len(dataset.classes), seed=seed)
    real = as_tensor(images[left[labels[left] != UNDESIRED]])
    return {"commit": commit(), **vars(judged(made, judge, UNDESIRED, real))}


def table(trials: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield f"| repulsion | {' | '.join(FIGURES.values())} |"
    yield f"|---|{'---|' * len(FIGURES)}"
    for repulsion in ROWS:
        own = [trial for trial in trials if trial["repulsion"] == repulsion]
        if own:
            cells = [interval([trial[name] for trial in own]) for name in FIGURES]
            yield f"| {LABELS.get(repulsion, repulsion)} | {' | '.join(cells)} |"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=ROOT / "runs" / "class_unlearning.json")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if not arguments.table:
        arguments.results.parent.mkdir(parents=True, exist_ok=True)
        keys = [(repulsion, seed) for seed in SEEDS for repulsion in ROWS]
        names = ("repulsion", "seed")
        run_missing(keys, names, figures_of, arguments.results, arguments.seconds)
    trials = json.loads(arguments.results.read_text())
    print(f"{len(trials)} trials, {date_and_commit()}")
    print("\n".join(table(trials)))


if __name__ == "__main__":
    main()
