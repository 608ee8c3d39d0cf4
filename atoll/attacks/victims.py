"""Victims: captures to observations, and reconstructions to rows of metrics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atoll.attacks.base.attack import Attack, Progress, Reconstruction, ignore_progress
from atoll.attacks.captures.capture import Capture, Truth, faults_of
from atoll.attacks.captures.capture_files import read_capture, read_truth
from atoll.attacks.metrics.identification import identified
from atoll.attacks.metrics.image_assignment import assign
from atoll.attacks.metrics.lpips import LPIPS
from atoll.attacks.metrics.pixels import mse, psnr
from atoll.attacks.metrics.ssim import ssim
from atoll.attacks.threat.observation import Mimic, Observation, PublicData, observe, used_examples
from atoll.attacks.threat.victim_model import BatchNormMode
from atoll.clients.data.dataset import Dataset
from atoll.errors import CaptureError

# Images that a reconstruction is told from, for the identification rate.
CANDIDATES = 1000


@dataclass(frozen=True)
class Victim:
    """A capture of a training message, with its truth.

    Attributes
    ----------
    capture : Capture
        Messages that the server saw.
    truth : Truth
        The examples that the update depends on.

    Examples
    --------
    >>> from atoll.attacks import Victim, example_victim
    >>> victim = example_victim(examples=2)
    >>> again = Victim(victim.capture, victim.truth)
    >>> again.capture.examples, len(again.truth.labels)
    (2, 2)
    """

    capture: Capture
    truth: Truth


@dataclass(frozen=True)
class References:
    """Images beside the clients', from the data set's test split.

    Attributes
    ----------
    public : PublicData
        Images of an attacker with public data.
    candidates : Tensor
        Candidates of the identification rate, none of them public: float32, shape
        (n, channels, height, width), in [0, 1].

    Examples
    --------
    >>> from atoll.attacks import references_of
    >>> from atoll.clients import load_dataset
    >>> references = references_of(load_dataset("digits"), candidates=50)
    >>> len(references.public.images), len(references.candidates)
    (180, 50)
    """

    public: PublicData
    candidates: Tensor


def references_of(dataset: Dataset, candidates: int = CANDIDATES) -> References:
    """Deal a data set's test images: every other one is public, of the rest some are candidates.

    Parameters
    ----------
    dataset : Dataset
        The data set.
    candidates : int
        Largest number of candidates.

    Examples
    --------
    >>> from atoll.attacks import references_of
    >>> from atoll.clients import load_dataset
    >>> digits = load_dataset("digits")
    >>> references = references_of(digits)
    >>> len(digits.test), len(references.public.images), len(references.candidates)
    (360, 180, 180)
    """
    split = dataset.test
    images = torch.from_numpy(split.images.copy()).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(split.labels.copy())
    return References(PublicData(images[::2], labels[::2]), images[1::2][:candidates])


def read_victims(captures: Sequence[Path]) -> list[Victim]:
    """Read captures of training messages, with their truths.

    Raises
    ------
    CaptureError
        If one cannot be read, holds no training message, or its truth does not go with it.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from atoll.attacks import example_victim, read_victims, write_capture
    >>> victim = example_victim(examples=2)
    >>> with TemporaryDirectory() as folder:
    ...     write_capture(victim.capture, victim.truth, Path(folder) / "mine")
    ...     [read] = read_victims([Path(folder) / "mine"])
    >>> read.capture.name, read.truth.labels.equal(victim.truth.labels)
    ('node 1 in round 1', True)
    """
    victims = []
    for path in captures:
        capture, truth = read_capture(path), read_truth(path)
        if not capture.message_type.startswith("train"):
            raise CaptureError(
                f"{path}: is of a {capture.message_type!r} message; expected a training message"
            )
        with faults_of(capture):
            check_truth(truth, capture)
        victims.append(Victim(capture, used_examples(truth)))
    return victims


def check_truth(truth: Truth, capture: Capture) -> None:
    """Refuse a truth whose parts do not go together, or not with the capture.

    Raises
    ------
    CaptureError
        Naming what was found, and what was expected.
    """
    where, info = capture.directory or capture.name, capture.federation
    channels, height, width = info.image_shape
    count, pixels = len(truth.labels), truth.pixels
    if pixels.dtype != torch.uint8 or pixels.shape != (count, height, width, channels):
        raise CaptureError(
            f"{where}: the truth's pixels are {pixels.dtype} of shape {tuple(pixels.shape)}; "
            f"expected torch.uint8 of shape {(count, height, width, channels)}, for {count} labels"
        )
    outside = [int(i) for batch in truth.batches for i in batch if not 0 <= i < count]
    if outside:
        raise CaptureError(
            f"{where}: a batch of the truth has example {outside[0]}; expected 0 to {count - 1}"
        )
    classes = len(info.classes)
    wrong = truth.labels[(truth.labels < 0) | (truth.labels >= classes)]
    if len(wrong):
        raise CaptureError(
            f"{where}: has the label {int(wrong[0])}; expected 0 to {classes - 1}, of {classes} "
            "classes"
        )


def observe_victims(
    victims: Sequence[Victim],
    attack: Attack,
    *,
    public: PublicData | None = None,
    mimic_of: Callable[[Capture], Mimic | None] = lambda capture: None,
    mode: BatchNormMode = "train",
    device: str = "cpu",
) -> list[Observation]:
    """Return the observation of each victim that the attack's threat model grants.

    Parameters
    ----------
    public, mode, device
        As for :func:`~atoll.attacks.threat.observation.observe`.
    mimic_of : callable
        Returns what the attacker believes that a client did to its update.

    Raises
    ------
    AttackError, CaptureError
        If something that is granted is not there, or the attack cannot be run.

    Examples
    --------
    >>> from atoll.attacks import ATTACKS, example_victim, observe_victims
    >>> attack = ATTACKS.find("linear-layer", "attack")()
    >>> [observation] = observe_victims([example_victim()], attack)
    >>> print(observation.threat)
    eavesdropper
    """
    observations = []
    for victim in victims:
        with faults_of(victim.capture):
            observed = observe(
                victim.capture,
                attack.threat,
                truth=victim.truth,
                mimic=mimic_of(victim.capture),
                public=public,
                mode=mode,
                device=device,
            )
        observations.append(observed)
    for observation in observations:
        attack.check(observation)
    return observations


@dataclass(frozen=True)
class Attacked:
    """Result of an attack on one victim, with its images in the order of the truth.

    Attributes
    ----------
    victim : Victim
        Victim that was attacked.
    reconstruction : Reconstruction
        As the attack returned it.
    images : Tensor
        The reconstructions in the order of the truth's images (the Hungarian method's).
    rows : list[dict]
        One an image; see :func:`attack_victims`.

    Examples
    --------
    >>> from atoll.attacks import ATTACKS, attack_victims, example_victim, observe_victims
    >>> attack = ATTACKS.find("linear-layer", "attack")()
    >>> victims = [example_victim()]
    >>> observations = observe_victims(victims, attack)
    >>> others = example_victim(examples=20, seed=1).truth.images
    >>> [attacked] = attack_victims("mine", attack, victims, observations, candidates=others)
    >>> attacked.images.shape, attacked.rows[0]["identified"]
    (torch.Size([1, 1, 8, 8]), True)
    """

    victim: Victim
    reconstruction: Reconstruction
    images: Tensor
    rows: list[dict[str, Any]]


def attack_victims(
    name: str,
    attack: Attack,
    victims: Sequence[Victim],
    observations: Sequence[Observation],
    *,
    candidates: Tensor,
    lpips: LPIPS | None = None,
    seed: int = 0,
    progress: Progress = ignore_progress,
) -> list[Attacked]:
    """Attack victims and measure the reconstructions.

    Parameters
    ----------
    name : str
        The attack's name, for the rows.
    attack : Attack
        The attack.
    victims, observations : Sequence
        In the same order; see :func:`observe_victims`.
    candidates : Tensor
        For the identification rate.
    lpips : LPIPS, optional
        Without it rows have no perceptual distance.
    seed, progress
        As for :meth:`~atoll.attacks.base.attack.Attack.run`.

    Returns
    -------
    list[Attacked]
        One a victim. A row holds: attack, threat, label_source, round, node_id, image (its place),
        images (how many the update depends on), model, layers (how many it trained apart from each
        other; None if it trains the whole model), batch_norm, label, label_found,
        label_accuracy (of the victim's labels as a multiset), psnr, ssim, lpips, mse, identified,
        cost, restart, seen (whether the attack's generator was trained on that very image; None if
        that is not known), oracle_psnr (of the best stage, where there are stages) and cpu_seconds
        (the attack's, over all victims).

    Examples
    --------
    >>> from atoll.attacks import ATTACKS, attack_victims, example_victim, observe_victims
    >>> attack = ATTACKS.find("linear-layer", "attack")()
    >>> victims = [example_victim()]
    >>> observations = observe_victims(victims, attack)
    >>> others = example_victim(examples=20, seed=1).truth.images
    >>> [attacked] = attack_victims("mine", attack, victims, observations, candidates=others)
    >>> [row["psnr"] > 60 for row in attacked.rows]  # dB: the image is reconstructed
    [True]
    """
    started = time.process_time()
    reconstructions = attack.run_checked(observations, seed=seed, progress=progress)
    seconds = time.process_time() - started
    return [
        _measured(name, attack, victim, observation, result, candidates, lpips, seconds)
        for victim, observation, result in zip(victims, observations, reconstructions, strict=True)
    ]


def _measured(
    name: str,
    attack: Attack,
    victim: Victim,
    observation: Observation,
    result: Reconstruction,
    candidates: Tensor,
    lpips: LPIPS | None,
    seconds: float,
) -> Attacked:
    truth = victim.truth.images
    order = assign(result.images, truth)
    images = result.images[order].nan_to_num(nan=0.5)
    columns: dict[str, list[Any]] = {
        "psnr": psnr(images, truth).tolist(),
        "ssim": ssim(images, truth).tolist(),
        "lpips": [None] * len(truth) if lpips is None else lpips(images, truth).tolist(),
        "mse": mse(images, truth).tolist(),
        "identified": identified(images, truth, candidates).tolist(),
        "seen": attack.has_seen(observation, victim.truth.pixels),
        "label": victim.truth.labels.tolist(),
        "label_found": result.labels[order].tolist(),
        "oracle_psnr": _oracle_psnr(result, truth),
    }
    shared = {
        "attack": name,
        "threat": str(attack.threat),
        "label_source": result.label_source,
        "round": victim.capture.server_round,
        "node_id": victim.capture.node_id,
        "images": len(truth),
        "model": victim.capture.federation.model.name,
        "layers": len(observation.model.layers) or None,
        "batch_norm": observation.model.mode if observation.model.batch_norms else "none",
        "label_accuracy": label_accuracy(result.labels, victim.truth.labels),
        "cost": result.cost,
        "restart": result.restart,
        "cpu_seconds": seconds,
    }
    rows = [
        {**shared, "image": place, **{key: column[place] for key, column in columns.items()}}
        for place in range(len(truth))
    ]
    return Attacked(victim, result, images, rows)


def label_accuracy(found: Tensor, truth: Tensor) -> float:
    """Return the share of labels that were found, as multisets: their order means nothing."""
    common = Counter(found.tolist()) & Counter(truth.tolist())
    return common.total() / max(1, len(truth))


def _oracle_psnr(result: Reconstruction, truth: Tensor) -> list[float | None]:
    """Return the PSNR of the stage whose mean PSNR is best, image by image."""
    if not result.stages:
        return [None] * len(truth)
    of_stages = [
        psnr(stage.images[assign(stage.images, truth)].nan_to_num(nan=0.5), truth)
        for stage in result.stages
    ]
    best: list[float | None] = list(
        max(of_stages, key=lambda values: float(values.mean())).tolist()
    )
    return best
