"""Quality of a trained generator's samples, by a classifier that has never seen them.

The classifier is trained on the training split. It says how many samples it takes for their class,
and gives the features of the Frechet distance (of these features, not Inception's) to unseen
training images; beside it the same for real images and for class means. Run it:
python -m benchmarks.privacy.generators mnist [--generator-path FOLDER]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import sqrtm
from torch import Tensor, nn

from atoll.attacks.generators.trained_generator import load_trained
from atoll.clients.data.catalog.loading import load_dataset

STEPS, BATCH, JUDGED = 600, 128, 2000


def classifier(channels: int, size: int, classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in ((channels, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.ReLU()]
    flat = 64 * (-(-size // 8)) ** 2
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(flat, 64), nn.ReLU(), nn.Linear(64, classes)
    )


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    difference = first.mean(0) - second.mean(0)
    a, b = np.cov(first.T), np.cov(second.T)
    return float(difference @ difference + np.trace(a + b - 2 * np.real(sqrtm(a @ b))))


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
    torch.manual_seed(0)
    judge = classifier(pixels.shape[1], pixels.shape[2], classes)
    optimizer = torch.optim.Adam(judge.parameters(), 2e-3)
    known = len(labels) - 2 * JUDGED
    for _ in range(STEPS):
        chosen = torch.randint(known, (BATCH,))
        loss = F.cross_entropy(judge(pixels[chosen].float() / 255), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    real, other = (pixels[at : at + JUDGED].float() / 255 for at in (known, known + JUDGED))
    asked = torch.arange(JUDGED) % classes
    means = torch.stack([pixels[labels == c].float().mean(0) / 255 for c in range(classes)])

    @torch.no_grad()
    def judged(images: Tensor, wanted: Tensor) -> str:
        features = judge[:-2](images)
        accuracy = (judge[-2:](features).argmax(1) == wanted).float().mean()
        distance = frechet(features.double().numpy(), judge[:-2](real).double().numpy())
        return f"accuracy {float(accuracy):.3f}, Frechet distance {distance:.2f}"

    print("real images:", judged(other, labels[known + JUDGED :]))
    print("samples:    ", judged(generator.sample(asked, torch.Generator().manual_seed(0)), asked))
    print("class means:", judged(means[asked], asked))


if __name__ == "__main__":
    main()
