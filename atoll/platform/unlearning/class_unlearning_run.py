"""``atoll unlearn-class``: a class removed from a trained generator, and its samples judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from atoll.attacks.generators.class_unlearning import ClassUnlearningSettings, unlearn_class
from atoll.attacks.generators.sample_judge import SampleJudge, as_tensor
from atoll.attacks.generators.staged_generator import StagedGenerator
from atoll.attacks.generators.trained_generator import (
    About,
    find_trained,
    load_trained,
    read_about,
    write_trained,
)
from atoll.attacks.generators.vae_training import TrainingSettings
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.files.dataset import Dataset, Split
from atoll.error_messages import closest
from atoll.errors import InvalidExperimentError
from atoll.extras import require
from atoll.platform.attack_runs.attack_run import parse_settings
from atoll.platform.attack_runs.training_progress import TrainingProgress
from atoll.platform.reports.tables import Cell, Table
from atoll.platform.runs.session import refuse_if_taken
from atoll.validation import validated

# Samples that the judge is shown, of all classes alike, and as many real images.
SAMPLES = 2000


@dataclass(frozen=True)
class Judged:
    """What a judge says of a generator's samples, as many of each class.

    Attributes
    ----------
    share : float
        Samples of all classes that it takes for the undesired one.
    share_asked : float
        The same of samples that were asked to be of that class.
    accuracy : float
        Samples of other classes that it takes for theirs.
    distance : float
        The Frechet distance of all samples to real images of the other classes.
    """

    share: float
    share_asked: float
    accuracy: float
    distance: float


@dataclass(frozen=True)
class ClassUnlearningResult:
    """Result of unlearning a class.

    Attributes
    ----------
    folder : Path
        The new generator's.
    undesired : str
        The class's name.
    before, after : Judged
        Samples of the original generator and of the new one.
    """

    folder: Path
    undesired: str
    before: Judged
    after: Judged

    def table(self) -> Table:
        """Return the figures before and after."""
        named = {
            f"samples taken for {self.undesired}": "share",
            f"of those asked to be {self.undesired}": "share_asked",
            "other classes taken for theirs": "accuracy",
            "Frechet distance to the others": "distance",
        }
        rows: list[list[Cell]] = [
            [title, getattr(self.before, name), getattr(self.after, name)]
            for title, name in named.items()
        ]
        title = f"{self.undesired} unlearned by a generator"
        return Table(title, ["figure", "before", "after"], rows)


def run_class_unlearning(
    generator: str,
    undesired: str,
    out: Path,
    overrides: Sequence[str] = (),
    *,
    path: Path | None = None,
    seed: int = 0,
    threads: int = 1,
    console: Console,
) -> ClassUnlearningResult:
    """Remove a class from a generator, and judge the samples of both.

    Parameters
    ----------
    generator : str
        A data set's name, or a generator's folder.
    undesired : str
        The class: its name, or its number from 0.
    out : Path
        The new generator's folder.
    overrides : Sequence[str]
        ``KEY=VALUE`` of the settings of the unlearning.
    path : Path, optional
        A folder with the data set's files.
    seed : int
        One seed, one generator.
    threads : int
        Of the processor.
    console : Console
        Where progress goes.

    Raises
    ------
    AtollError
        If there is no such generator or class, or a setting is wrong; before anything is trained.
    """
    require("scipy", what="atoll unlearn-class")
    given = {**parse_settings(overrides), "seed": seed}
    settings = validated(ClassUnlearningSettings, given)
    refuse_if_taken(out)
    folder = find_trained(generator)
    about = read_about(folder)
    original = load_trained(about.dataset, folder)
    dataset = load_dataset(about.dataset, path)
    number = class_number(dataset, undesired)
    examples = dataset.test if about.split == "test" else dataset.train
    torch.set_num_threads(threads)
    stages = {"encoder": settings.encoder_steps, "adapt": settings.adapt_steps}
    stages["unlearn"] = settings.steps
    done_before, done = {}, 0
    for stage, steps in stages.items():
        done_before[stage], done = done, done + steps
    with TrainingProgress(console, done, " nats a pixel") as progress:

        def on_step(stage: str, step: int, loss: float) -> None:
            progress.on_step(done_before[stage] + step, loss)

        training = TrainingSettings.model_validate(about.settings)
        images, labels = examples.images, examples.labels
        made = unlearn_class(original, training, images, labels, number, settings, on_step)
    judge, real = _judge_of(dataset, about, number)
    result = ClassUnlearningResult(
        out,
        dataset.classes[number],
        judged(original, judge, number, real),
        judged(made, judge, number, real),
    )
    described = {
        **about.model_dump(mode="json"),
        "unlearned_class": dataset.classes[number],
        "unlearning": settings.model_dump(mode="json"),
    }
    write_trained(out, made, original.seen, described)
    return result


def class_number(dataset: Dataset, undesired: str) -> int:
    """Return the number of a class that is named, or given by its number.

    Raises
    ------
    InvalidExperimentError
        If there is none.
    """
    names = list(dataset.classes)
    if undesired in names:
        return names.index(undesired)
    if undesired.isdecimal() and int(undesired) < len(names):
        return int(undesired)
    raise InvalidExperimentError(
        f"--class {undesired}: {dataset.name} has no such class; {closest(undesired, names)}"
    )


def judged(generator: StagedGenerator, judge: SampleJudge, undesired: int, real: Tensor) -> Judged:
    """Return what a judge says of a generator's samples.

    Parameters
    ----------
    generator : StagedGenerator
        The generator.
    judge : SampleJudge
        The judge.
    undesired : int
        The class that is to be gone.
    real : Tensor
        Real images of the other classes, shape (n, channels, height, width).
    """
    asked = torch.arange(SAMPLES) % (generator.classes or 1)
    with torch.no_grad():
        samples = generator.sample(asked, torch.Generator().manual_seed(0))
    predicted, is_other = judge.classes_of(samples), asked != undesired
    return Judged(
        share=_mean(predicted == undesired),
        share_asked=_mean(predicted[~is_other] == undesired),
        accuracy=_mean(predicted[is_other] == asked[is_other]),
        distance=judge.distance(samples, real),
    )


def _judge_of(dataset: Dataset, about: About, undesired: int) -> tuple[SampleJudge, Tensor]:
    """Return a judge, and real images of the other classes, of which it has seen none.

    They are of the split that the generator has not seen, where that is large enough.
    """
    unseen: Split = dataset.train if about.split == "test" else dataset.test
    order = np.random.default_rng(0).permutation(len(unseen))
    count = min(SAMPLES, len(order) // 3)
    known, left = order[count:], order[:count]
    judge = SampleJudge(unseen.images[known], unseen.labels[known], len(dataset.classes))
    return judge, as_tensor(unseen.images[left[unseen.labels[left] != undesired]])


def _mean(values: Tensor) -> float:
    return float(values.float().mean())
