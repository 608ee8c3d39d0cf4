"""Training of priors on a data set's public split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from atoll.attacks.generators.network_training import finish_training
from atoll.attacks.generators.trained_generator import SplitName, image_hashes
from atoll.attacks.priors.prior_files import PriorAbout, PriorKind, write_prior
from atoll.attacks.priors.proximal_training import ProximalSettings, ProximalTraining
from atoll.attacks.priors.score_training import ScoreSettings, ScoreTraining
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.inputs.images import ImageInputs
from atoll.errors import InvalidExperimentError
from atoll.files.digests import sha256_of_json

PriorSettings = ProximalSettings | ScoreSettings


def train_prior(
    dataset: Dataset,
    settings: PriorSettings,
    path: Path,
    split: SplitName = "test",
    *,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train a prior of a data set's images, or resume an interrupted training; write its file.

    Until it is done, the state is in a hidden file beside it.

    Parameters
    ----------
    dataset : Dataset
        Of images.
    settings : ProximalSettings or ScoreSettings
        Of a learned proximal network, or of a score network.
    path : Path
        The file.
    split : "test" or "train"
        Which examples it sees; clients hold training examples.
    on_step : callable, optional
        Told how many steps are done, and the loss.

    Raises
    ------
    InvalidExperimentError
        If the examples are no images.
    """
    if not isinstance(dataset.inputs, ImageInputs):
        raise InvalidExperimentError(
            f"{dataset.name}: is of {dataset.inputs.described}; expected a data set of images"
        )
    pixels = (dataset.test if split == "test" else dataset.train).images
    images = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255
    training: ProximalTraining | ScoreTraining = (
        ProximalTraining(images, settings)
        if isinstance(settings, ProximalSettings)
        else ScoreTraining(images, settings)
    )
    kind: PriorKind = "lpn" if isinstance(settings, ProximalSettings) else "diffusion"
    partial = path.with_name(f".{path.name}-{_digest(dataset, settings, kind, split)}")
    finish_training(training, settings.steps, partial, on_step)
    about = PriorAbout(
        kind=kind,
        dataset=dataset.name,
        split=split,
        shape=list(images.shape[1:]),
        width=settings.width,
        layers=settings.layers if isinstance(settings, ProximalSettings) else 1,
        beta=settings.beta if isinstance(settings, ProximalSettings) else 1.0,
        noise=settings.noise,
    )
    write_prior(path, training.finish(), about, image_hashes(pixels))
    partial.unlink(missing_ok=True)


def _digest(dataset: Dataset, settings: PriorSettings, kind: PriorKind, split: SplitName) -> str:
    """Return what tells one training from another, so that none resumes the state of another."""
    described = {
        "dataset": dataset.fingerprint,
        "kind": kind,
        "split": split,
        "settings": settings.model_dump(mode="json"),
    }
    return sha256_of_json(described)[:16]
