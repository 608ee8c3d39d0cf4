"""The canaries that ``[audit]`` puts among an experiment's clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.clients.settings import ModSettings
from atoll.errors import InvalidExperimentError

if TYPE_CHECKING:
    from atoll.platform.config.experiment import Experiment

CANARY_CLIENTS = "atoll.attacks.audits.canary_clients:CanaryClients"
CANARY_EXAMPLES = "atoll.attacks.audits.canary_examples:CanaryExamples"
# A canary's norm by the clipping norm: a canary is always clipped.
BEYOND = 10.0


def with_canaries(experiment: Experiment) -> Experiment:
    """Return the experiment with the canaries' mod, the innermost, if there is an ``[audit]``.

    Raises
    ------
    InvalidExperimentError
        If the norm of canaries is not known.
    """
    audit = experiment.audit
    if audit is None:
        return experiment
    shared = {"norm": _norm(experiment), "seed": experiment.run.seed}
    if are_examples(experiment):
        of_client = {"node": experiment.data.clients, "canaries": audit.canaries}
        arguments = {"name": CANARY_EXAMPLES, **of_client, **shared}
    else:
        first = canary_nodes(experiment).start
        arguments = {"name": CANARY_CLIENTS, "first": first, **shared}
    mods = (*experiment.client.mods, ModSettings.model_validate(arguments))
    client = experiment.client.model_copy(update={"mods": mods})
    return experiment.model_copy(update={"client": client})


def are_examples(experiment: Experiment) -> bool:
    """Tell whether canaries are examples of the last client: ``[privacy]`` hides examples."""
    privacy = experiment.privacy
    return privacy is not None and privacy.level == "example"


def canary_nodes(experiment: Experiment) -> range:
    """Return the node ids of the canaries; the experiment has an ``[audit]``."""
    clients, audit = experiment.data.clients, experiment.audit
    assert audit is not None
    return range(clients - audit.canaries + 1, clients + 1)


def _norm(experiment: Experiment) -> float:
    audit, privacy = experiment.audit, experiment.privacy
    assert audit is not None
    if audit.norm is not None:
        return audit.norm
    if privacy is None:
        raise InvalidExperimentError(
            "audit.norm is not set: without [privacy] there is no clipping norm to go by; expected "
            "the norm of canaries' updates, ten times the clipping norm say"
        )
    return BEYOND * privacy.clipping_norm
