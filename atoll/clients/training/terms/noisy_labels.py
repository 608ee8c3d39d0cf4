"""Terms against wrong labels: early-learning regularisation, nested dropout and co-teaching."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import Tensor, nn

from atoll.clients.ranges import Decay, Deviation, Rounds, Weight
from atoll.clients.settings import ClientSettings
from atoll.clients.tasks.task import Task
from atoll.clients.training.objective.term import (
    NO_REPLY,
    LocalEnd,
    ObjectiveTerm,
    TermBatch,
    TermContext,
    TermReply,
    TermRun,
)
from atoll.clients.training.optimizers import local_optimizer
from atoll.clients.training.terms.class_checks import check_classes, log_probabilities
from atoll.clients.training.terms.earlier_models import state_of

# As in the released code: log(1 - <t, p>) is finite.
SMALLEST = 1e-4


class EarlyLearning(ObjectiveTerm):
    """Early-learning regularisation: weight times the mean of log(1 - <t, p>) (Liu et al., 2020).

    p are an example's predictions, and t their mean over its steps: t = beta t + (1 - beta) p,
    from 0, with p clamped to [1e-4, 1 - 1e-4] and normalised. The node keeps t of each example.

    Attributes
    ----------
    weight : float
        lambda: 3 for CIFAR-10 and 7 for CIFAR-100 in the released code.
    beta : float
        The share of earlier predictions in t: 0.7 and 0.9 there.
    """

    has_state: ClassVar[bool] = True
    once_a_step: ClassVar[bool] = True

    weight: Weight = 3.0
    beta: Decay = 0.7

    def check(self, task: Task, settings: ClientSettings) -> None:
        """Refuse tasks without classes."""
        check_classes(task, settings)

    def begin(self, context: TermContext) -> TermRun:
        """Return the regulariser, and keep the targets at the end."""
        targets: list[Tensor] = list(context.memory.read(context.labels.device).values())

        def loss(batch: TermBatch) -> Tensor:
            predicted = log_probabilities(batch.outputs).exp().clamp(SMALLEST, 1.0 - SMALLEST)
            if not targets:
                targets.append(predicted.new_zeros(len(context.labels), predicted.shape[-1]))
            (all_targets,) = targets
            chosen = batch.chosen.to(all_targets.device)
            now = predicted.detach() / predicted.detach().sum(-1, keepdim=True)
            all_targets[chosen] = self.beta * all_targets[chosen] + (1 - self.beta) * now
            return torch.log1p(-(all_targets[chosen] * predicted).sum(-1)).mean()

        def end(done: LocalEnd) -> TermReply:
            if targets:
                context.memory.write({"targets": targets[0]})
            return NO_REPLY

        return TermRun(loss=loss, end=end)


class NestedDropout(ObjectiveTerm):
    """Nested dropout of the head's inputs: the first k, with k drawn for each batch.

    P(k) is proportional to e^(-(k/deviation)^2), k = 1 ... d (Chen et al., 2021, "Boosting
    Co-teaching with Compression Regularization"). Evaluation uses all features; the released code
    looks for the best k on a validation set.

    Attributes
    ----------
    weight : float
        1 has no part in it; at 0 the term is left out.
    deviation : float
        The width of the distribution of k, in features.
    """

    deviation: Deviation = 100.0

    def begin(self, context: TermContext) -> TermRun:
        """Return the mask of the features."""
        generator = torch.Generator().manual_seed(context.seed)

        def change(features: Tensor) -> Tensor:
            width = features.shape[-1]
            lengths = torch.arange(1, width + 1, dtype=torch.float64)
            shares = torch.softmax(-((lengths / self.deviation) ** 2), 0)
            kept = int(torch.multinomial(shares, 1, generator=generator)) + 1
            mask = torch.arange(width, device=features.device) < kept
            return features * mask

        return TermRun(change_features=change)


class CoTeaching(ObjectiveTerm):
    """Co-teaching: each of two networks trains on the other's examples of small loss.

    In round t a batch's share min(t/gradual_rounds, 1) forget_rate of largest loss is left out
    (Han et al., 2018, algorithm 1). The second network begins with other random parameters and
    stays with the node; the one that is sent is the first.

    Attributes
    ----------
    weight : float
        The share of this loss; the rest is the plain one's.
    forget_rate : float
        The share of examples that is left out in the end: the labels' noise, say.
    gradual_rounds : int
        The rounds in which it grows to that.
    """

    has_state: ClassVar[bool] = True
    once_a_step: ClassVar[bool] = True

    forget_rate: Decay = 0.2
    gradual_rounds: Rounds = 10

    def begin(self, context: TermContext) -> TermRun:
        """Return the loss of the examples that the other network chooses."""
        other = _other_network(context)
        parameters = [p for p in other.parameters() if p.requires_grad]
        optimizer = local_optimizer(context.settings, context.learning_rate)
        forgotten = self.forget_rate * min(context.server_round / self.gradual_rounds, 1.0)

        def loss(batch: TermBatch) -> Tensor:
            of_other = batch.task.losses(other(batch.inputs), batch.labels)
            count = max(1, int((1.0 - forgotten) * len(batch.labels)))
            chosen_here = torch.argsort(batch.losses.detach(), stable=True)[:count]
            chosen_there = torch.argsort(of_other.detach(), stable=True)[:count]
            gradients = torch.autograd.grad(of_other[chosen_here].mean(), parameters)
            with torch.no_grad():
                optimizer.step([p.detach() for p in parameters], list(gradients))
            return batch.losses[chosen_there].mean() - batch.losses.mean()

        def end(done: LocalEnd) -> TermReply:
            context.memory.write(state_of(other))
            return NO_REPLY

        return TermRun(loss=loss, end=end)


def _other_network(context: TermContext) -> nn.Module:
    """Return a node's second network, as it was, or with new random parameters."""
    other = copy.deepcopy(context.model).train()
    before = context.memory.read(context.start[0].device)
    if before:
        other.load_state_dict(before, strict=False)
        return other
    with torch.random.fork_rng():
        torch.manual_seed(context.seed)
        for module in other.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset) and all(p.requires_grad for p in module.parameters(recurse=False)):
                reset()
    return other
