"""Job of an arena: one attack on one victim, and the rows of its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from atoll.attacks.base.adaptive import mimic_of
from atoll.attacks.base.attack_building import build_attack, can_adapt, find_attack
from atoll.attacks.captures.aggregate_capture import aggregate_captures, aggregate_truths
from atoll.attacks.metrics.lpips import LPIPS
from atoll.attacks.threat.victim_model import BatchNormMode
from atoll.attacks.victims import (
    References,
    Victim,
    attack_victims,
    observe_victims,
    read_victims,
    references_of,
)
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.inputs.images import ImageInputs
from atoll.files.digests import sha256_of_json
from atoll.user_code.trust import CodeUse, admitted, references_in, uses_in

# Part of every key: another number where the same job would give other rows.
FORMAT = 2
Knowledge = Literal["naive", "adaptive"]
# The experiment key of the table that names attacks, for errors.
KEY = "arena.attacks"


@dataclass(frozen=True)
class Job:
    """An attack on one victim of one federation.

    Attributes
    ----------
    federation : str
        The key of the federation's run: a hash of all that its captures depend on.
    captures : tuple[Path, ...]
        One capture; or all of a round, where the server sees only their sum.
    attack : str
        The attack's name in :data:`~atoll.attacks.ATTACKS`, or ``module:Class``.
    settings : Mapping[str, object]
        The attack's, as JSON can hold them.
    knowledge : "naive" or "adaptive"
        Whether the attacker knows which defenses act.
    seed : int
        The attack's.
    labels : Mapping[str, object]
        Columns for the rows, that the result does not depend on.
    """

    federation: str
    captures: tuple[Path, ...]
    attack: str
    settings: Mapping[str, Any]
    knowledge: Knowledge
    seed: int
    labels: Mapping[str, Any] = field(default_factory=dict)

    def key(self, conditions: Conditions) -> str:
        """Return a hash of all that the job's rows depend on, its labels aside."""
        content = [
            FORMAT,
            self.federation,
            [path.name for path in self.captures],
            self.attack,
            dict(self.settings),
            self.knowledge,
            self.seed,
            conditions.candidates,
            conditions.lpips,
            conditions.batch_norm,
        ]
        return sha256_of_json(content)[:16]


@dataclass(frozen=True)
class Conditions:
    """Settings that all jobs of an arena share.

    Attributes
    ----------
    dataset : Path
        The data set's folder: its test examples are the candidates and the public data.
    candidates : int
        Examples that a reconstruction is told from.
    lpips : bool
        Whether the perceptual distance is measured.
    batch_norm : "train" or "eval"
        How attackers believe BatchNorm to run at the client.
    device : str
        Where attacks compute.
    code : frozenset[CodeUse] or None
        The code that captures may name: the arena's file names it too. None is any.
    """

    dataset: Path
    candidates: int = 1000
    lpips: bool = False
    batch_norm: BatchNormMode = "train"
    device: str = "cpu"
    code: frozenset[CodeUse] | None = None

    def may_import(self, uses: Sequence[CodeUse]) -> bool:
        """Tell whether captures may name all of this."""
        return self.code is None or self.code.issuperset(uses)


@dataclass(frozen=True)
class JobResult:
    """Result of a job.

    Attributes
    ----------
    rows : list[dict]
        One an example: the columns of :func:`~atoll.attacks.victims.attack_victims`.
    seconds : float
        Of processor time.
    images : tuple[Tensor, Tensor] or None
        The true images, shape (n, channels, height, width), in [0, 1], and the reconstructions in
        that order; None where examples are no images.
    """

    rows: list[dict[str, Any]]
    seconds: float
    images: tuple[Tensor, Tensor] | None = None


def run_job(conditions: Conditions, job: Job) -> JobResult:
    """Run a job; the same rows wherever it runs.

    Raises
    ------
    AttackError, CaptureError
        If the attack cannot be run on the victim.
    UntrustedCodeError
        If a capture names code that the arena's file does not.
    """
    victims = read_victims(job.captures)
    named = [use for victim in victims for use in uses_in(victim.capture.federation.to_json())]
    own = [job.attack, *references_in(job.settings)]
    with admitted(named, job.captures[0], conditions.may_import, also=own):
        return _run_job(conditions, job, victims)


def _run_job(conditions: Conditions, job: Job, victims: list[Victim]) -> JobResult:
    victim = victims[0] if len(victims) == 1 else _sum_of(victims)
    adapts = can_adapt(find_attack(job.attack, KEY))
    known = {"defense": job.knowledge} if adapts else {}
    attack = build_attack(job.attack, {**job.settings, **known}, KEY)
    references = _references(conditions.dataset, conditions.candidates)
    [done] = attack_victims(
        job.attack,
        attack,
        [victim],
        observe_victims(
            [victim],
            attack,
            public=references.public,
            mimic_of=lambda capture: mimic_of(capture, attack.threat, conditions.device),
            mode=conditions.batch_norm,
            device=conditions.device,
        ),
        candidates=references.candidates,
        lpips=_lpips() if conditions.lpips else None,
        seed=job.seed,
    )
    seconds = float(done.rows[0]["cpu_seconds"])
    rows = [{k: v for k, v in row.items() if k != "cpu_seconds"} for row in done.rows]
    are_images = isinstance(victim.capture.federation.inputs, ImageInputs)
    return JobResult(rows, seconds, (done.truth, done.images) if are_images else None)


def _sum_of(victims: list[Victim]) -> Victim:
    return Victim(
        aggregate_captures([victim.capture for victim in victims]),
        aggregate_truths([victim.truth for victim in victims]),
    )


@lru_cache(maxsize=1)
def _references(dataset: Path, candidates: int) -> References:
    return references_of(Dataset(dataset), candidates)


@lru_cache(maxsize=1)
def _lpips() -> LPIPS:
    return LPIPS()


def prepare_process() -> None:
    """Set the process up for jobs: with one thread, bits do not depend on the machine."""
    torch.set_num_threads(1)
