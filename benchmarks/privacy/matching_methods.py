"""Ways of matching gradients on one model: pixels, FedLeak's options and a generator's features.

For ``benchmarks.privacy.inversions --only matching``. Every victim has an untrained model of its
own. The total variation of every method is chosen by the same search on other images. The generator
is trained on the public half of the test split, which neither a client nor the gallery of
identification has an image of. A trial is a block of victims, attacked together, so first answers
for every method come early.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from atoll.attacks.base.attack_building import build_attack
from atoll.attacks.generators.trained_generator import ABOUT, load_trained, train_into
from atoll.attacks.generators.vae_training import TrainingSettings
from atoll.attacks.metrics.lpips import LPIPS
from atoll.attacks.victims import attack_victims, observe_victims, references_of
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.files.dataset import Dataset
from benchmarks.accuracy.recorded import commit, run_missing
from benchmarks.privacy.example_clients import half_width, victims_of

# Total variations that the search tries.
VARIATIONS = (1e-3, 1e-2, 3e-2)
# Of the ball around each of GIFD's stages.
RADIUS, LEAST_RADIUS = 0.1, 0.01
PIXELS: Mapping[str, Mapping[str, Any]] = {
    "Inverting Gradients": {},
    "half of the entries matched": {"matched": 0.5},
    "tenth of the entries matched": {"matched": 0.1},
    "gradient regularization 0.5": {"regularization": 0.5},
}
GENERATIVE = ("GIFD", "GIFD, radii that fall")
METHODS = (*PIXELS, *GENERATIVE)
MODELS: Mapping[str, Mapping[str, Any]] = {
    "resnet8": {"name": "resnet8", "norm": "frozen", "init": "he"},
    "resnet18, quarter width": {"name": "resnet18", "norm": "frozen", "init": "he", "width": 16},
}
# Victims of the search have seeds from here on.
OTHERS = 1000
KEY = ("dataset", "model", "method", "restarts", "steps", "tv", "first", "victims")
METRICS = ("psnr", "ssim", "lpips", "identified")
Trials = Sequence[Mapping[str, Any]]
Key = tuple[str, str, str, int, int, float, int, int]


def attack_of(method: str, steps: int, restarts: int, tv: float, generator: Path) -> Any:
    """Return a method's attack, with as many steps in all.

    Parameters
    ----------
    method : str
        One of ``METHODS``.
    steps, restarts : int
        Of the optimiser, over all stages; GIFD's last stage has what does not divide.
    tv : float
        What total variation counts for.
    generator : Path
        The folder of GIFD's generator.
    """
    shared = {"restarts": restarts, "tv": tv}
    if method in PIXELS:
        settings = {"steps": steps, **shared, **PIXELS[method]}
        return build_attack("inverting-gradients", settings)
    stages = load_trained(generator.name, generator).stages
    each = [steps // stages] * (stages - 1)
    radius: Any = RADIUS
    if method == "GIFD, radii that fall":
        radius = np.geomspace(RADIUS, LEAST_RADIUS, stages).tolist()
    own = {"generator": str(generator.resolve()), "steps": [*each, steps - sum(each)]}
    return build_attack("gifd", {**shared, **own, "radius": radius})


def make_generator(dataset: Dataset, settings: TrainingSettings, folder: Path) -> None:
    """Train a generator on the public half of the test split, unless it is there.

    Parameters
    ----------
    dataset : Dataset
        Of images.
    settings : TrainingSettings
        Steps and sizes.
    folder : Path
        Where it is kept.
    """
    if (folder / ABOUT).is_file():
        return
    images, labels = dataset.test.images[::2], dataset.test.labels[::2]
    train_into(folder, dataset, images, labels, settings, "test")


def figures_by(generator: Path) -> Callable[..., dict[str, Any]]:
    """Return what attacks a block of victims, and measures each image."""
    perceptual = lru_cache(maxsize=1)(partial(LPIPS, "alexnet"))

    def figures(
        name: str,
        model: str,
        method: str,
        restarts: int,
        steps: int,
        tv: float,
        first: int,
        victims: int,
    ) -> dict[str, Any]:
        dataset = load_dataset(name)
        attack = attack_of(method, steps, restarts, tv, generator)
        attacked = victims_of(dataset, MODELS[model], 1, range(first, first + victims))
        seen = observe_victims(attacked, attack)
        done = attack_victims(
            method,
            attack,
            attacked,
            seen,
            candidates=references_of(dataset).candidates,
            lpips=perceptual(),
        )
        rows = [row for one in done for row in one.rows]
        of_all = {metric: [float(row[metric]) for row in rows] for metric in METRICS}
        seconds = rows[0]["cpu_seconds"] / len(rows)
        return {**of_all, "cpu seconds": round(seconds, 1), "commit": commit()}

    return figures


def best_variation(trials: Trials, model: str, method: str, restarts: int) -> float:
    """Return the total variation with the largest mean PSNR on the images of the search."""
    own = _of(trials, model, method, restarts)
    found: dict[float, list[float]] = {}
    for trial in own:
        if trial["first"] >= OTHERS:
            found.setdefault(trial["tv"], []).extend(trial["psnr"])
    return max(found, key=lambda tv: fmean(found[tv]))


def run_matching(given: argparse.Namespace, out: Path) -> None:
    """Run the search, and then the victims by blocks; what the file has is not run again."""
    name = given.datasets[0]
    if any(method in GENERATIVE for method in given.methods):
        settings = TrainingSettings(steps=given.generator_steps)
        make_generator(load_dataset(name), settings, given.generator)
    figures, ends = figures_by(given.generator), time.monotonic() + given.seconds
    cells = list(product(given.models, given.restarts, given.methods))
    search: list[Key] = [
        (name, model, method, restarts, given.steps, tv, OTHERS, given.others)
        for model, restarts, method in cells
        for tv in VARIATIONS
    ]
    run_missing(search, KEY, figures, out, given.seconds)
    trials = json.loads(out.read_text())
    if not set(search) <= {tuple(trial[name] for name in KEY) for trial in trials}:
        return
    victims: list[Key] = [
        (name, model, method, n, given.steps, best_variation(trials, model, method, n), first, size)
        for first in range(0, given.victims, given.block)
        for model, n, method in cells
        for size in (min(given.block, given.victims - first),)
    ]
    run_missing(victims, KEY, figures, out, ends - time.monotonic())


def _of(trials: Trials, model: str, method: str, restarts: int) -> list[Mapping[str, Any]]:
    wanted = {"model": model, "method": method, "restarts": restarts}
    return [t for t in trials if all(t[name] == value for name, value in wanted.items())]


def matching_lines(trials: Trials) -> list[str]:
    """Return the lines of a table a model: means over the victims that every method has.

    Parameters
    ----------
    trials : Sequence[Mapping]
        Those of a file.
    """
    lines = []
    for model in dict.fromkeys(trial["model"] for trial in trials):
        lines += ["", f"{model}", "", *_model_lines(trials, model)]
    return lines


def _model_lines(trials: Trials, model: str) -> list[str]:
    header = ("method", "restarts", "tv", "victims", "PSNR, dB", "over the first", "SSIM")
    lines = [f"| {' | '.join((*header, 'LPIPS', 'identified', 'CPU s an image'))} |"]
    lines.append("|---" * 10 + "|")
    first: list[float] | None = None
    cells = [(t["method"], t["restarts"]) for t in trials if t["model"] == model]
    for method, restarts in dict.fromkeys(cells):
        own = [t for t in _of(trials, model, method, restarts) if t["first"] < OTHERS]
        if not own:
            continue
        own = sorted(own, key=lambda trial: int(trial["first"]))
        every = {name: [value for t in own for value in t[name]] for name in METRICS}
        psnr, identified = every["psnr"], sum(every["identified"])
        first = first or psnr
        over = [a - b for a, b in zip(psnr, first, strict=False)]
        cells_of_row = (
            method,
            f"{restarts}",
            f"{own[0]['tv']:g}",
            f"{len(psnr)}",
            f"{fmean(psnr):.2f}",
            f"{fmean(over):+.2f} ± {half_width(over):.2f}",
            f"{fmean(every['ssim']):.3f}",
            f"{fmean(every['lpips']):.3f}",
            f"{identified:.0f} of {len(psnr)}",
            f"{fmean(t['cpu seconds'] for t in own):.1f}",
        )
        lines.append(f"| {' | '.join(cells_of_row)} |")
    return lines
