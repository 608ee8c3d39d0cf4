"""LiRA and RMIA on a run's captures: the target's losses beside those in shadow federations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from atoll.attacks.captures.capture import Capture, faults_of
from atoll.attacks.membership.candidate_signals import Candidates, losses_after
from atoll.attacks.membership.shadow_scores import (
    Variance,
    confidence,
    likelihood_ratio,
    offline_likelihood_ratio,
    relative_membership,
)
from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.clients.data.files.dataset import Dataset
from atoll.errors import AttackError
from atoll.platform.attack_runs.shadows.shadow_runs import (
    Asked,
    Progress,
    ShadowLosses,
    ShadowRuns,
)
from atoll.platform.run_directory.run_config import load_run_config

ShadowAttack = Literal["lira", "rmia"]
# The scores that each attack gives.
COLUMNS: Mapping[str, tuple[str, ...]] = {"lira": ("LiRA", "LiRA offline"), "rmia": ("RMIA",)}
# The experiment's client settings; examples that no client has; how many of each class one has.
SHADOW_THREAT = ThreatModel.of(Capability.TRAINING, Capability.PUBLIC_DATA, Capability.LABELS)
SHADOWS = 64


@dataclass(frozen=True)
class ShadowSettings:
    """Settings of the attacks that need shadow federations.

    Attributes
    ----------
    count : int
        Shadow federations: even, at least 4.
    variance : "auto", "example" or "fixed"
        Of LiRA's normal distributions: each candidate's own, or one for all; "auto" is "fixed"
        below 64 shadow federations.
    a, gamma : float
        Of RMIA: how far models with and without an example agree on it, in [0, 1]; and how many
        times as likely as another example a candidate is to be, at least 1.

    Examples
    --------
    >>> from atoll import ShadowSettings
    >>> ShadowSettings(count=128, variance="example").a
    0.3
    >>> ShadowSettings(count=5).check()
    Traceback (most recent call last):
    ...
    atoll.errors.AttackError: shadows = 5: expected an even number, at least 4
    """

    count: int = SHADOWS
    variance: Variance = "auto"
    a: float = 0.3
    gamma: float = 1.0

    def check(self) -> None:
        """Refuse values out of range.

        Raises
        ------
        AttackError
            With the setting, the value and what was expected.
        """
        if self.count < 4 or self.count % 2:
            raise AttackError(f"shadows = {self.count}: expected an even number, at least 4")
        if self.variance not in ("auto", "example", "fixed"):
            raise AttackError(f"variance = {self.variance!r}: expected auto, example or fixed")
        if not 0.0 <= self.a <= 1.0:
            raise AttackError(f"rmia-a = {self.a:g}: expected 0 to 1")
        if not self.gamma >= 1.0:
            raise AttackError(f"rmia-gamma = {self.gamma:g}: expected at least 1")


@dataclass(frozen=True)
class Suspect:
    """A client of which membership is asked, with what the server has of it.

    Attributes
    ----------
    asked : Asked
        Its candidates by their places.
    captures : Sequence[Capture]
        One a round of ``asked.rounds``.
    candidates : Candidates
        The candidates, members first.
    """

    asked: Asked
    captures: Sequence[Capture]
    candidates: Candidates


def shadow_scores(
    run_directory: Path,
    suspects: Sequence[Suspect],
    dataset: Dataset,
    attacks: Sequence[ShadowAttack],
    settings: ShadowSettings,
    seed: int,
    progress: Progress,
) -> list[dict[str, NDArray[np.float64]]]:
    """Return the scores of each suspect's candidates, by name.

    The shadow federations that are missing are run first.

    Raises
    ------
    AtollError
        If there can be none of this run, or one fails.
    """
    asked = [suspect.asked for suspect in suspects]
    runs = ShadowRuns(run_directory, load_run_config(run_directory), asked, seed)
    runs.run(settings.count, progress)
    population = population_of(dataset, runs.population)
    found = []
    for suspect in suspects:
        losses = runs.losses(suspect.asked.node_id, settings.count)
        targets = []
        for examples in (suspect.candidates, population):
            rows = []
            for capture in suspect.captures:
                with faults_of(capture):
                    rows.append(losses_after(capture, examples))
            targets.append(np.stack(rows))
        scores: dict[str, NDArray[np.float64]] = {}
        if "lira" in attacks:
            scores |= _lira(targets[0], losses, settings)
        if "rmia" in attacks:
            scores["RMIA"] = _rmia(targets[0], targets[1], losses, settings)
        found.append(scores)
    return found


def population_of(dataset: Dataset, places: NDArray[np.int64]) -> Candidates:
    """Return examples by their places in the training split followed by the test split."""
    train = len(dataset.train)
    inputs = [
        dataset.train.inputs[place] if place < train else dataset.test.inputs[place - train]
        for place in places
    ]
    labels = [
        dataset.train.labels[place] if place < train else dataset.test.labels[place - train]
        for place in places
    ]
    return Candidates(
        dataset.inputs.to_tensor(np.stack(inputs)), torch.from_numpy(np.stack(labels))
    )


def _lira(
    target: NDArray[np.float64], losses: ShadowLosses, settings: ShadowSettings
) -> dict[str, NDArray[np.float64]]:
    """Return both forms' scores; the statistic is the mean confidence over the rounds."""
    given = (
        confidence(target).mean(0),
        confidence(losses.candidates).mean(1),
        losses.included,
        settings.variance,
    )
    return {"LiRA": likelihood_ratio(*given), "LiRA offline": offline_likelihood_ratio(*given)}


def _rmia(
    target: NDArray[np.float64],
    population: NDArray[np.float64],
    losses: ShadowLosses,
    settings: ShadowSettings,
) -> NDArray[np.float64]:
    """Return RMIA's scores; the statistic is the mean probability over the rounds."""
    return relative_membership(
        np.exp(-target).mean(0),
        np.exp(-losses.candidates).mean(1),
        losses.included,
        np.exp(-population).mean(0),
        np.exp(-losses.population).mean(1),
        a=settings.a,
        gamma=settings.gamma,
    )
