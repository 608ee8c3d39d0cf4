"""Soteria: pruning of the last layer's features that reveal most of the image.

Sun et al., "Soteria: Provable Defense against Privacy Leakage in Federated Learning from
Representation Perspective", CVPR 2021: of the features r before the head, those with the smallest
||dr_f / dx|| / |r_f| are pruned, that is, the columns of the gradient of the head's weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from atoll.attacks.defenses.base.defense import Compute, Estimate, Task
from atoll.attacks.defenses.base.observed import MaskedDefense
from atoll.attacks.defenses.base.tensors import largest
from atoll.clients.models.head import find_head
from atoll.clients.ranges import Share
from atoll.clients.training.step_mods import LocalStep

# Images whose derivatives are held at once.
IMAGES = 128
# Keeps a feature that is zero (a dead ReLU) from dividing zero by zero.
SMALLEST = 1e-10


class Soteria(MaskedDefense):
    """Pruning of columns of the last linear layer's weight gradient, on each step.

    Attributes
    ----------
    pruned : float
        The share of features that is pruned, in (0, 1).

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import Soteria
    >>> head = torch.nn.Linear(4, 2)
    >>> pruned = [torch.tensor([[1.0, 0.0, 2.0, 0.0], [3.0, 0.0, 4.0, 0.0]]), torch.ones(2)]
    >>> Soteria.estimate(pruned, head).figures  # what an attacker reads off the update
    {'pruned': 0.5}
    """

    name: ClassVar[str] = "soteria"

    acts_on: Literal["step"] = "step"
    pruned: Share = 0.8

    def check_model(self, model: nn.Module) -> None:
        """Refuse a model without a linear head."""
        head_weight(model, [p for p in model.parameters() if p.requires_grad])

    def apply(self, task: Task, compute: Compute) -> list[Tensor]:
        """Prune."""
        step = task.step
        assert step is not None
        place = head_weight(step.model, step.parameters)
        gradient = compute(task)
        scores = feature_scores(step)
        mask = largest(scores, len(scores) - round(self.pruned * len(scores)))
        gradient[place] = gradient[place] * mask
        return gradient

    @classmethod
    def estimate(cls, observed: Sequence[Tensor], model: nn.Module) -> Estimate:
        """Read the mask: the columns of the head's weight that are not all zero."""
        masks = [torch.ones((), device=values.device) for values in observed]
        place = head_weight(model, list(model.parameters()))
        mask = (observed[place] != 0).any(0).to(observed[place].dtype)
        masks[place] = mask
        return Estimate({"pruned": 1.0 - float(mask.mean())}, masks)


def head_weight(model: nn.Module, parameters: Sequence[Tensor]) -> int:
    """Return the place of the head's weight among ``parameters`` of the model.

    Raises
    ------
    ValueError
        If the model has no head, one that is not a linear layer, or one that is not among them.
    """
    head = find_head(model)
    if not isinstance(head, nn.Linear):
        raise ValueError(f"the model's head is a {type(head).__name__}; expected a Linear")
    for place, parameter in enumerate(parameters):
        if parameter is head.weight:
            return place
    raise ValueError("the weight of the model's head is not trained; expected a trainable one")


def feature_scores(step: LocalStep) -> Tensor:
    """Return ||dr_f / dx|| / |r_f| of each feature f before the head, summed over the batch.

    Parameters
    ----------
    step : LocalStep
        Its model is run in evaluation mode, so that running statistics stay as they are.

    Returns
    -------
    Tensor
        Shape (features,).
    """
    seen: list[Tensor] = []
    handle = find_head(step.model).register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    # A copy of the batch for each feature of a block: vmap, which would do without copies, refuses
    # GroupNorm on images with channels last, as data sets are mapped.
    at_once = max(1, IMAGES // len(step.images))
    copies = step.images.detach().repeat(at_once, *[1] * (step.images.dim() - 1)).requires_grad_()
    was_training = step.model.training
    step.model.eval()
    try:
        step.model(copies)
    finally:
        handle.remove()
        step.model.train(was_training)
    features = seen[0].reshape(at_once, len(step.images), -1)
    norms = []
    for block in torch.split(torch.arange(features.shape[2], device=features.device), at_once):
        chosen = torch.zeros_like(features)
        chosen[torch.arange(len(block)), :, block] = 1.0
        # Examples do not mix in evaluation mode: the gradient of a sum holds each one's own.
        [derivatives] = torch.autograd.grad(features, copies, chosen, retain_graph=True)
        slopes = derivatives.reshape(*features.shape[:2], -1)[: len(block)]
        norms.append(slopes.norm(dim=2))
    sizes = features[0].detach().abs().T + SMALLEST
    return (torch.cat(norms) / sizes).sum(1)
