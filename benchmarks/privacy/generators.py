"""Quality of a trained generator's samples, by a classifier that has never seen them.

The classifier is trained on the training split. It says how many samples it takes for their class,
and gives the features of the Frechet distance (of these features, not Inception's) to unseen
training images; beside it the same for real images and for class means. Run it:
python -m benchmarks.privacy.generators mnist [--generator-path FOLDER]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from atoll.attacks.generators.sample_judge import SampleJudge
from atoll.attacks.generators.trained_generator import load_trained
from atoll.clients.data.catalog.loading import load_dataset

JUDGED = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--generator-path", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load_dataset(given.dataset)
    generator = load_trained(given.dataset, given.generator_path)
    pixels = torch.from_numpy(dataset.train.images.copy()).permute(0, 3, 1, 2)
    labels = torch.from_numpy(dataset.train.labels.copy())
    classes = len(dataset.classes)
    known = len(labels) - 2 * JUDGED
    judge = SampleJudge(dataset.train.images[:known], dataset.train.labels[:known], classes)
    real, other = (pixels[at : at + JUDGED].float() / 255 for at in (known, known + JUDGED))
    asked = torch.arange(JUDGED) % classes
    means = torch.stack([pixels[labels == c].float().mean(0) / 255 for c in range(classes)])

    def judged(images: Tensor, wanted: Tensor) -> str:
        accuracy = float((judge.classes_of(images) == wanted).float().mean())
        return f"accuracy {accuracy:.3f}, Frechet distance {judge.distance(images, real):.2f}"

    print("real images:", judged(other, labels[known + JUDGED :]))
    print("samples:    ", judged(generator.sample(asked, torch.Generator().manual_seed(0)), asked))
    print("class means:", judged(means[asked], asked))


if __name__ == "__main__":
    main()
