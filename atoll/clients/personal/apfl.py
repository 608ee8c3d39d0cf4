"""APFL: a mixture of a model of the client's own and the global one."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.func import functional_call

from atoll.clients.personal.method import PersonalClient, PersonalMethod
from atoll.clients.personal.plain_steps import check_plain_steps
from atoll.clients.ranges import Fraction
from atoll.clients.settings import ClientSettings
from atoll.clients.training.gradients import gradients_of
from atoll.clients.training.local_training import TrainingResult, batches

# The mixing weight's name among the tensors that a node keeps; no tensor of a model has a space.
ALPHA = "mixing weight"


class APFL(PersonalMethod):
    """APFL: the client's own model is alpha v + (1 - alpha) w, of its own v and the global w.

    Each step moves w by the gradient at w, and v by the gradient of the mixture's loss with
    respect to v, on the same batch (Deng et al., 2020, arXiv 2003.13461, algorithm 1). v begins as
    the global model of the client's first round.

    Attributes
    ----------
    alpha : float
        The share of v; of an adaptive one, where it begins.
    adaptive : bool
        Whether each client's alpha takes a gradient step at the first batch of a round, within
        [0, 1].
    """

    changes_training: ClassVar[bool] = True
    takes_local: ClassVar[bool | None] = False
    own_steps: ClassVar[bool] = True

    alpha: Fraction = 0.5
    adaptive: bool = True

    def check(self, settings: ClientSettings) -> None:
        """Refuse what its steps do not do."""
        check_plain_steps(settings, "APFL")

    def train(self, client: PersonalClient) -> TrainingResult:
        """Train w and v; w is left in the model, v is kept."""
        model = client.model.train()
        named = client.parameters
        w: list[Tensor] = list(named.values())
        own, alpha = self._kept(client)
        v = [own[name] for name in named]
        # BatchNorm changes these in place: the mixture has running statistics of its own.
        buffers = {name: value for name, value in own.items() if name not in named}
        examples, rate = len(client.labels), client.learning_rate
        total, seen, steps = torch.zeros((), device=client.labels.device), 0, 0
        for chosen in batches(examples, client.settings, client.generator()):
            inputs, labels = client.inputs[chosen], client.labels[chosen]
            mixture = [m.requires_grad_() for m in _mixed(v, w, alpha)]
            values = {**dict(zip(named, mixture, strict=True)), **buffers}
            of_mixture = client.mean_loss(functional_call(model, values, (inputs,)), labels)
            by_mixture = gradients_of(of_mixture, mixture)
            loss = client.mean_loss(model(inputs), labels)
            by_w = gradients_of(loss, w)
            with torch.no_grad():
                slope = _inner(torch._foreach_sub(v, [p.detach() for p in w]), by_mixture)
                torch._foreach_add_(w, by_w, alpha=-rate)
                torch._foreach_add_(v, by_mixture, alpha=-rate * alpha)
                total += loss.detach() * len(chosen)
            if self.adaptive and steps == 0:
                alpha = min(1.0, max(0.0, alpha - rate * float(slope)))
            seen, steps = seen + len(chosen), steps + 1
        weight = torch.tensor(alpha, dtype=torch.float64)
        client.memory.write({**dict(zip(named, v, strict=True)), **buffers, ALPHA: weight})
        return TrainingResult(float(total) / max(1, seen), examples, steps)

    def personalise(self, client: PersonalClient) -> None:
        """Put the mixture in the place of the global model; nothing before the first round."""
        own, alpha = self._kept(client)
        names = list(client.parameters)
        w = [client.tensors[name] for name in names]
        mixture = _mixed([own[name] for name in names], w, alpha)
        client.put({**own, **dict(zip(names, mixture, strict=True))})

    def _kept(self, client: PersonalClient) -> tuple[dict[str, Tensor], float]:
        """Return the client's own tensors and its alpha; at first the global ones."""
        kept = client.memory.read(client.labels.device)
        if not kept:
            return client.copies(), self.alpha
        alpha = float(kept.pop(ALPHA))
        return kept, alpha


def _mixed(v: list[Tensor], w: list[Tensor], alpha: float) -> list[Tensor]:
    """Return alpha v + (1 - alpha) w."""
    with torch.no_grad():
        share = torch._foreach_mul(v, alpha)
        return list(torch._foreach_add(share, [p.detach() for p in w], alpha=1.0 - alpha))


def _inner(left: tuple[Tensor, ...] | list[Tensor], right: tuple[Tensor, ...]) -> Tensor:
    """Return the inner product of two lists of tensors."""
    return torch.stack([(a * b).sum() for a, b in zip(left, right, strict=True)]).sum()
