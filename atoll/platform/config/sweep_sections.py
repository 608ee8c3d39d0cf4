"""Sections of sweep and arena files: ``[sweep]`` and ``[arena]``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field

from atoll.clients.ranges import Count, Examples, Processors, Rounds, Seed
from atoll.clients.settings import Section


class TrialStoppingSettings(Section):
    """``[sweep.early_stopping]``: which trials are not worth their remaining rounds.

    Attributes
    ----------
    metric : str or None
        As in ``rounds.parquet``; by default the task's main one, on the server. With held-out
        domains "server_accuracy" is theirs, which no selection may look at: name a training
        domain's, "server_accuracy_e0.1" say.
    mode : "max", "min" or None
        Whether more is better; by default as the metric is known to be.
    grace_rounds : int
        Rounds that every trial is given: the first rung.
    reduction_factor : float
        Each rung comes so many times later than the one before, and the best of one in so many
        trials go past it.
    """

    metric: Annotated[str | None, Field(examples=["server_loss"])] = None
    mode: Annotated[Literal["max", "min"] | None, Field(examples=["min"])] = None
    grace_rounds: Rounds = 1
    reduction_factor: Annotated[float, Field(gt=1.0, le=1e6)] = 3.0


class SweepSettings(Section):
    """``[sweep]``: which experiments to run.

    Attributes
    ----------
    grid : dict
        Lists of values by experiment key ("strategy.name", "run.seed", ...): every combination is
        run. ``"data.held_out" = "each"`` holds out each domain in turn.
    variants : dict
        Methods by name: tables of an experiment, put over the file's own. A variant may have a
        ``grid`` of its own, for its hyper-parameters.
    leave_one_domain_out : bool
        Whether to add the trials that leave-one-domain-out validation needs: each with one more
        domain held out.
    random : dict
        Distributions by experiment key: values are drawn from them, and every combination of the
        grid is run with each sample. A list is a choice of its values. A variant may have a
        ``random`` of its own.
    samples : int or None
        Number of samples that are drawn.
    samples_seed : int
        Decides what is drawn.
    early_stopping : TrialStoppingSettings or None
        Rule by which trials are stopped before their last round.
    parallel : int or "auto"
        Trials at once; "auto" is as many as the cluster has workers.
    """

    grid: dict[str, Any] = Field(default_factory=dict, examples=[{"run.seed": [0, 1, 2]}])
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=dict, examples=[{"Adam": {"strategy": {"name": "FedAdam"}}}]
    )
    leave_one_domain_out: bool = False
    random: dict[str, Any] = Field(
        default_factory=dict,
        examples=[
            {"client.learning_rate": {"distribution": "log-uniform", "low": 0.001, "high": 1.0}}
        ],
    )
    samples: Annotated[Count | None, Field(examples=[20])] = None
    samples_seed: Seed = 0
    early_stopping: TrialStoppingSettings | None = None
    parallel: Literal["auto"] | Annotated[int, Field(gt=0, le=10_000)] = "auto"


class ArenaSettings(Section):
    """``[arena]``: which attacks meet which defenses, on whose captures.

    Attributes
    ----------
    attacks : dict
        Attacks by a label: each a table with its ``name`` and settings.
    defenses : dict
        Defenses by a label: each the tables of an experiment (``client.mods``, ``model``) that are
        put over the file's own. ``none`` is the file as it is.
    grid : dict
        Lists of values by experiment key ("model.name", "client.batch_size"): every combination
        is a setting.
    seeds : list[int]
        Seeds of the federations, and of the attacks on them.
    knowledge : list
        "naive": the attacker matches the update as if it were undefended. "adaptive": it knows
        which defenses act, estimates their arguments from the update, and does the same to its own
        gradients.
    sums : list[str]
        Defenses under which the server sees only the sum over a round's captured clients
        (secure aggregation).
    victims : int
        Captures of each round and federation that are attacked, of the lowest nodes.
    baseline : str or None
        The attack that others are compared with; by default the first.
    candidates : int
        Test images among which a reconstruction is identified (once named ``gallery``).
    lpips : bool
        Whether the perceptual distance is measured.
    batch_norm : "train" or "eval"
        How attackers believe BatchNorm to run at the client.
    membership : int or None
        Candidates of each captured client in membership inference beside the inversions, and as
        many test examples; by default there is none.
    pictures : bool
        Whether the clients' images and their reconstructions are kept, and shown in the report.
    cpus_per_job, gpus_per_job : float
        CPUs and GPUs of an attack.
    """

    attacks: Annotated[
        dict[str, dict[str, Any]], Field(min_length=1, examples=[{"idlg": {"steps": 100}}])
    ]
    defenses: Annotated[
        dict[str, dict[str, Any]],
        Field(min_length=1, examples=[{"none": {}, "sign": {"client": {"mods": ["sign"]}}}]),
    ]
    grid: dict[str, Any] = Field(
        default_factory=dict, examples=[{"model.name": ["lenet", "resnet8"]}]
    )
    seeds: Annotated[tuple[Seed, ...], Field(strict=False, min_length=1)] = (0,)
    knowledge: Annotated[
        tuple[Literal["naive", "adaptive"], ...], Field(strict=False, min_length=1)
    ] = ("naive", "adaptive")
    sums: Annotated[tuple[str, ...], Field(strict=False, examples=[["secure-aggregation"]])] = ()
    victims: Count = 1
    baseline: Annotated[str | None, Field(examples=["inverting-gradients"])] = None
    candidates: Annotated[
        Examples, Field(validation_alias=AliasChoices("candidates", "gallery"))
    ] = 1000
    lpips: bool = False
    batch_norm: Literal["train", "eval"] = "train"
    membership: Annotated[Examples | None, Field(examples=[100])] = None
    pictures: bool = False
    cpus_per_job: Processors = 1.0
    gpus_per_job: Annotated[float, Field(ge=0.0, le=1_000.0)] = 0.0

    def attack_of(self, label: str) -> tuple[str, dict[str, Any]]:
        """Return the name and the settings of the attack with that label."""
        table = self.attacks[label]
        return str(table.get("name", label)), {k: v for k, v in table.items() if k != "name"}
