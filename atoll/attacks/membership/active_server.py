"""A server that sends a model of its making, to see which examples the client's training undoes.

The server moves the model uphill on the loss of the candidates before it sends it. A client that
has one of them lowers that loss again in its training; one that has not leaves it higher (the
active attack of Nasr, Shokri and Houmansadr, "Comprehensive Privacy Analysis of Deep Learning",
2019, section III: gradient ascent). There one target is moved at a time, and a classifier is
trained; here all candidates are moved at once, and the score is the loss that the reply leaves. How
much it fell says less: most of a large ascent is undone for everybody.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from atoll.attacks.captures.capture import Capture
from atoll.attacks.membership.candidate_signals import Candidates
from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.attacks.threat.victim_model import load_state
from atoll.clients.models.model_building import build_model

ACTIVE_THREAT = ThreatModel.of(Capability.CHOOSES_MODEL)
STEPS = 10


def ascended(
    capture: Capture, candidates: Candidates, ascent: float, steps: int = STEPS
) -> dict[str, Tensor]:
    """Return the model of a capture, moved uphill on the candidates' mean loss.

    Parameters
    ----------
    capture : Capture
        Whose broadcast model is moved.
    candidates : Candidates
        On whose loss.
    ascent : float
        Lengths of the steps together, by the norm of the parameters; at least 0.
    steps : int
        Steps of equal length along the normalised gradient.

    Returns
    -------
    dict[str, Tensor]
        The arrays of the broadcast model, by name; buffers are as they were.

    Raises
    ------
    CaptureError
        If the capture's arrays do not fit the model.
    """
    module = _model_of(capture)
    load_state(module, capture.broadcast)
    module.eval()
    parameters = [p for p in module.parameters() if p.requires_grad]
    length = ascent / steps * float(_norm([p.detach() for p in parameters]))
    task = capture.federation.task
    for _ in range(steps if ascent else 0):
        loss = task.mean_loss(module(candidates.inputs), candidates.labels)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        scale = length / float(_norm(gradients).clamp_min(1e-30))
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.add_(gradient, alpha=scale)
    state = module.state_dict()
    return {name: state[name].detach().clone() for name in capture.broadcast}


def replied_losses(
    capture: Capture, candidates: Candidates, replied: Mapping[str, Tensor]
) -> Tensor:
    """Return each candidate's loss at the model of a reply, in evaluation mode.

    Parameters
    ----------
    capture : Capture
        Of the client: the federation is read from it.
    candidates : Candidates
        Whom it is about.
    replied : Mapping[str, Tensor]
        The model, by the keys of the broadcast.

    Returns
    -------
    Tensor
        float64, shape (n,).
    """
    module = _model_of(capture)
    module.eval()
    load_state(module, replied)
    with torch.no_grad():
        outputs = module(candidates.inputs).double()
        losses: Tensor = capture.federation.task.losses(outputs, candidates.labels).double()
    return losses


def _model_of(capture: Capture) -> nn.Module:
    info = capture.federation
    return build_model(info.model, info.inputs, info.task, info.model_seed)


def _norm(tensors: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
    return norm
