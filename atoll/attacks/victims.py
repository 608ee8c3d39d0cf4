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
from atoll.attacks.captures.truth_checks import check_truth
from atoll.attacks.metrics.image_assignment import assign
from atoll.attacks.metrics.kinds import metrics_of
from atoll.attacks.metrics.lpips import LPIPS
from atoll.attacks.metrics.pixels import psnr
from atoll.attacks.threat.observation import Mimic, Observation, PublicData, observe, used_examples
from atoll.attacks.threat.victim_model import BatchNormMode
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.inputs.images import ImageInputs
from atoll.errors import CaptureError

# Examples that a reconstruction is told from, for the identification rate.
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
    """Examples beside the clients', from the data set's test split.

    Attributes
    ----------
    public : PublicData
        Examples of an attacker with public data.
    candidates : Tensor
        Candidates of the identification rate, none of them public: in the form of
        ``public.examples``.

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
    """Deal a data set's test examples: every other one is public, some of the rest candidates.

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
    examples = torch.from_numpy(split.inputs.copy())
    if isinstance(dataset.inputs, ImageInputs):
        examples = examples.permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(split.labels.copy())
    return References(PublicData(examples[::2], labels[::2]), examples[1::2][:candidates])


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
        attack.check_inputs(victim.capture.federation.inputs)
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
    """Result of an attack on one victim, with its examples in the order of the truth.

    Attributes
    ----------
    victim : Victim
        Victim that was attacked.
    reconstruction : Reconstruction
        As the attack returned it.
    examples : Tensor
        The reconstructions in the order of the truth's examples (the Hungarian method's).
    rows : list[dict]
        One an example; see :func:`attack_victims`.
    entropy : Tensor or None
        How uncertain the attack is of each cell, in the order of the truth, if it says so.

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
    examples: Tensor
    rows: list[dict[str, Any]]
    entropy: Tensor | None = None

    @property
    def images(self) -> Tensor:
        """The examples, where they are images."""
        return self.examples

    @property
    def truth(self) -> Tensor:
        """The true examples, in the form of the reconstructions."""
        return examples_of(self.victim)


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
        One a victim. A row holds: attack, threat, label_source, round, node_id, image (the
        example's place, whatever its kind), images (how many examples the update depends on),
        model, layers (how many it trained apart from each other; None if it trains the whole
        model), batch_norm, the metrics of the kind (images: psnr, ssim, lpips, mse, identified;
        rows of a table: cell_accuracy, number_accuracy, category_accuracy, trusted_accuracy,
        exact_match, identified; tokens: token_accuracy, rouge1, rouge2, exact_match, identified),
        label, label_found and label_accuracy (of the victim's labels as a multiset; None where no
        class is predicted), cost, restart and cpu_seconds (the attack's, over all victims). Of
        images also seen (whether the attack's generator was trained on that very image; None if
        that is not known) and oracle_psnr (of the best stage, where there are stages). Of attacks
        with a prior by name also prior_value, its value of the example.

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


def examples_of(victim: Victim) -> Tensor:
    """Return a victim's true examples, in the form of reconstructions."""
    truth = victim.truth
    is_image = isinstance(victim.capture.federation.inputs, ImageInputs)
    return truth.images if is_image else truth.inputs


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
    truth = examples_of(victim)
    metrics = metrics_of(observation.inputs, candidates, lpips)
    order = metrics.assign(result.examples, truth)
    examples = result.examples[order]
    entropy = None if result.entropy is None else result.entropy[order]
    columns = {
        **metrics.columns(examples, truth, entropy),
        **_label_columns(victim, result, order),
    }
    if isinstance(observation.inputs, ImageInputs):
        examples = examples.nan_to_num(nan=0.5)
        columns["seen"] = list(attack.has_seen(observation, victim.truth.pixels))
        columns["oracle_psnr"] = _oracle_psnr(result, truth)
    if result.prior is not None:
        columns["prior_value"] = result.prior[order].tolist()
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
        "cost": result.cost,
        "restart": result.restart,
        "cpu_seconds": seconds,
    }
    rows = [
        {**shared, "image": place, **{key: column[place] for key, column in columns.items()}}
        for place in range(len(truth))
    ]
    return Attacked(victim, result, examples, rows, entropy)


def _label_columns(victim: Victim, result: Reconstruction, order: Tensor) -> dict[str, list[Any]]:
    """Return the labels, where an example has one, and of classes their accuracy."""
    labels, count = victim.truth.labels, len(victim.truth.labels)
    if labels.dim() > 1:
        return {name: [None] * count for name in ("label", "label_found", "label_accuracy")}
    are_classes = bool(victim.capture.federation.classes)
    accuracy = label_accuracy(result.labels, labels) if are_classes else None
    return {
        "label": labels.tolist(),
        "label_found": result.labels[order].tolist(),
        "label_accuracy": [accuracy] * count,
    }


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
