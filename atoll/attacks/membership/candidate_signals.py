"""What a message says of a candidate: its loss, its gradient's norm, its cosine with updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad, vmap

from atoll.attacks.captures.capture import Capture, check_update
from atoll.attacks.threat.victim_model import load_state
from atoll.clients.models.model_building import build_model
from atoll.errors import CaptureError

# Candidates whose gradients are in memory at once.
AT_ONCE = 32


@dataclass(frozen=True)
class Candidates:
    """Examples of which it is asked whether they are a client's.

    Attributes
    ----------
    inputs : Tensor
        As the model takes them, shape (n, ...).
    labels : Tensor
        Shape (n, ...).
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class RoundSignals:
    """What a round's messages say of each candidate.

    Attributes
    ----------
    losses_before, losses_after : Tensor
        At the model that was sent, and at the one that the first client sent back: shape (n,).
    norms : Tensor
        Of the candidates' gradients at the model that was sent, shape (n,).
    cosines : Tensor
        Of the candidates' negative gradients with the clients' updates, shape (n, clients).
    """

    losses_before: Tensor
    losses_after: Tensor
    norms: Tensor
    cosines: Tensor


def signals_of(captures: Sequence[Capture], candidates: Candidates) -> RoundSignals:
    """Return a round's signals; all captures are of one round, the first is the target's.

    The model is in evaluation mode: it has no randomness, and a candidate stands alone.

    Parameters
    ----------
    captures : Sequence[Capture]
        At least one.
    candidates : Candidates
        Whom it is about.

    Raises
    ------
    CaptureError
        If a capture's arrays do not fit the model.
    """
    target = captures[0]
    federation = target.federation
    module = build_model(
        federation.model, federation.inputs, federation.task, federation.model_seed
    )
    load_state(module, target.broadcast)
    module.eval()
    before = {k: p.detach() for k, p in module.named_parameters() if p.requires_grad}
    fixed = {k: v.detach() for k, v in module.state_dict().items() if k not in before}
    updates = [_vector(capture, before) for capture in captures]
    directions = torch.stack([update / update.norm().clamp_min(1e-30) for update in updates])
    after = {name: target.update[name] for name in before}

    def loss(parameters: Mapping[str, Tensor], example: Tensor, label: Tensor) -> Tensor:
        outputs = functional_call(module, {**fixed, **parameters}, (example[None],))
        return federation.task.mean_loss(outputs, label[None])

    of_examples = vmap(loss, (None, 0, 0))
    gradients = vmap(grad(loss), (None, 0, 0))
    found: list[tuple[Tensor, ...]] = []
    for start in range(0, len(candidates), AT_ONCE):
        batch = slice(start, start + AT_ONCE)
        inputs, labels = candidates.inputs[batch], candidates.labels[batch]
        with torch.no_grad():
            losses = of_examples(before, inputs, labels), of_examples(after, inputs, labels)
        slopes = gradients(before, inputs, labels)
        flat = torch.cat([-slopes[name].flatten(1) for name in before], 1)
        norms = flat.norm(dim=1)
        found.append((*losses, norms, flat @ directions.T / norms.clamp_min(1e-30)[:, None]))
    return RoundSignals(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def losses_after(capture: Capture, candidates: Candidates) -> NDArray[np.float64]:
    """Return the candidates' losses at the model that a client sent back, in evaluation mode.

    Parameters
    ----------
    capture : Capture
        Of a client that sent a model.
    candidates : Candidates
        Whom it is about.

    Returns
    -------
    NDArray[float64]
        Shape (n,).

    Raises
    ------
    CaptureError
        If the client sent a gradient, or its arrays do not fit the model.
    """
    if capture.replies_gradient:
        raise CaptureError(f"{capture.name}: the reply is a gradient; expected a trained model")
    federation = capture.federation
    module = build_model(
        federation.model, federation.inputs, federation.task, federation.model_seed
    )
    check_update(capture, {k: p for k, p in module.named_parameters() if p.requires_grad})
    load_state(module, capture.update)
    module.eval()
    with torch.no_grad():
        outputs = module(candidates.inputs).double()
        losses: NDArray[np.float64] = (
            federation.task.losses(outputs, candidates.labels).double().numpy()
        )
    return losses


def _vector(capture: Capture, before: Mapping[str, Tensor]) -> Tensor:
    """Return an update as one vector: what local training changed, downhill."""
    check_update(capture, before)
    if capture.replies_gradient:
        return torch.cat([-capture.update[name].flatten() for name in before])
    sent = capture.broadcast
    return torch.cat([(capture.update[name] - sent[name]).flatten() for name in before])
