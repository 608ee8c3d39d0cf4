"""``atoll train-generator``: our generator of a data set, its progress and a picture of samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console

from atoll.attacks.generators.trained_generator import (
    SplitName,
    generator_folder,
    load_trained,
    train_generator,
)
from atoll.attacks.generators.vae_training import TrainingSettings
from atoll.clients.data.catalog.loading import load_dataset
from atoll.files.atomic import replacing
from atoll.platform.attack_runs.attack_run import parse_settings
from atoll.platform.attack_runs.training_progress import TrainingProgress
from atoll.validation import validated

SAMPLES = "samples.png"
SAMPLES_A_CLASS = 10


def run_training(
    name: str,
    path: Path | None,
    split: SplitName,
    overrides: Sequence[str],
    *,
    seed: int,
    threads: int,
    console: Console,
) -> Path:
    """Train a generator, unless it is in the cache, and draw samples of it.

    Parameters
    ----------
    name, path
        As for :func:`~atoll.clients.data.catalog.loading.load_dataset`.
    split : "test" or "train"
        Which examples it sees.
    overrides : Sequence[str]
        ``KEY=VALUE`` of :class:`~atoll.attacks.generators.vae_training.TrainingSettings`.
    seed : int
        One seed, one generator.
    threads : int
        Of the processor.
    console : Console
        Where progress goes.

    Returns
    -------
    Path
        The generator's folder.

    Raises
    ------
    InvalidExperimentError
        If a setting is wrong.
    DataUnavailableError
        If the data set cannot be had.
    """
    settings = validated(TrainingSettings, {**parse_settings(overrides), "seed": seed})
    dataset = load_dataset(name, path)
    if not (generator_folder(dataset, settings, split) / "generator.json").is_file():
        console.print(
            f"a generator of {dataset.name} from its {split} split, {settings.steps:,} steps"
        )
    torch.set_num_threads(threads)
    with TrainingProgress(console, settings.steps, " nats a pixel") as progress:
        folder = train_generator(dataset, settings, split, on_step=progress.on_step)
    generator = load_trained(name, folder)
    labels = torch.arange(len(dataset.classes)).repeat_interleave(SAMPLES_A_CLASS)
    images = generator.sample(labels, torch.Generator().manual_seed(seed))
    _save_grid(images, SAMPLES_A_CLASS, folder / SAMPLES)
    console.print(f"generator and samples: {folder}", soft_wrap=True)
    return folder


def _save_grid(images: torch.Tensor, columns: int, path: Path) -> None:
    rows = images.clamp(0, 1).reshape(-1, columns, *images.shape[1:])
    _, _, channels, height, width = rows.shape
    grid = rows.permute(0, 3, 1, 4, 2).reshape(len(rows) * height, columns * width, channels)
    pixels = (grid * 255).round().byte().numpy()
    with replacing(path) as partial:
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(partial, format="PNG")
