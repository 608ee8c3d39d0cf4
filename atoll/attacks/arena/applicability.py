"""Applicability of an attack to the updates that a federation's clients will send."""

from __future__ import annotations

import torch

from atoll.attacks.base.attack import Attack
from atoll.attacks.captures.capture import MODEL_RECORD, Capture, Content, FederationInfo
from atoll.attacks.threat.capabilities import ORACLE, Capability, ThreatModel
from atoll.attacks.threat.observation import PublicData, observe
from atoll.clients.data.inputs.images import ImageInputs
from atoll.clients.models.model_building import build_model


def check_fits(attack: Attack, federation: FederationInfo, examples: int) -> None:
    """Refuse an attack that cannot be run on a federation's updates.

    The attack is shown an update of zeros, of a client with so many examples: all that checks look
    at are names, shapes and settings.

    Parameters
    ----------
    attack : Attack
        The attack.
    federation : FederationInfo
        Of a model that clients train as a whole.
    examples : int
        How many a client has.

    Raises
    ------
    AtollError
        Saying what does not fit.
    """
    inputs, task = federation.inputs, federation.task
    attack.check_inputs(inputs)
    state = build_model(federation.model, inputs, task, 0).state_dict()
    capture = Capture(
        server_round=1,
        node_id=1,
        message_type="train",
        federation=federation,
        sent=Content({MODEL_RECORD: state}),
        reply=Content({MODEL_RECORD: state}, {"metrics": {"num-examples": examples}}),
    )
    # What only the truth can tell is no matter of names and shapes; nor is a defense.
    granted = attack.threat.capabilities - ORACLE - {Capability.DEFENSE}
    shape = inputs.shape if isinstance(inputs, ImageInputs) else inputs.stored_shape
    public = PublicData(torch.zeros(1, *shape), task.blank_targets(1))
    attack.check(observe(capture, ThreatModel(granted), public=public))
