"""``atoll train-prior``: a learned proximal network or a score network of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console

from atoll.attacks.generators.trained_generator import SplitName
from atoll.attacks.priors.prior_files import PriorKind
from atoll.attacks.priors.prior_training import PriorSettings, train_prior
from atoll.attacks.priors.proximal_training import ProximalSettings
from atoll.attacks.priors.score_training import ScoreSettings
from atoll.clients.data.catalog.loading import load_dataset
from atoll.errors import InvalidExperimentError
from atoll.platform.attack_runs.attack_run import parse_settings
from atoll.platform.attack_runs.training_progress import TrainingProgress
from atoll.validation import validated

SETTINGS: Mapping[PriorKind, type[PriorSettings]] = {
    "lpn": ProximalSettings,
    "diffusion": ScoreSettings,
}


def run_prior_training(
    name: str,
    path: Path | None,
    kind: PriorKind,
    split: SplitName,
    overrides: Sequence[str],
    out: Path,
    *,
    seed: int,
    threads: int,
    console: Console,
) -> None:
    """Train a prior and write its file.

    Parameters
    ----------
    name, path
        As for :func:`~atoll.clients.data.catalog.loading.load_dataset`.
    kind : "lpn" or "diffusion"
        Which prior.
    split : "test" or "train"
        Which examples it sees.
    overrides : Sequence[str]
        ``KEY=VALUE`` of the kind's settings.
    out : Path
        The file; it must not exist.
    seed : int
        One seed, one prior.
    threads : int
        Of the processor.
    console : Console
        Where progress goes.

    Raises
    ------
    InvalidExperimentError
        If a setting is wrong, or the file exists.
    DataUnavailableError
        If the data set cannot be had.
    """
    settings = validated(SETTINGS[kind], {**parse_settings(overrides), "seed": seed})
    if out.exists():
        raise InvalidExperimentError(f"--out {out}: exists; expected a new file")
    if not out.parent.is_dir():
        raise InvalidExperimentError(f"--out {out}: there is no folder {out.parent}")
    dataset = load_dataset(name, path)
    console.print(f"a prior ({kind}) of {dataset.name} from its {split} split")
    torch.set_num_threads(threads)
    with TrainingProgress(console, settings.steps) as progress:
        train_prior(dataset, settings, out, split, on_step=progress.on_step)
    console.print(f"prior: {out}", soft_wrap=True)
