"""Scores of membership from a model alone, against plain PyTorch, and on a model that overfits."""

import torch
import torch.nn.functional as F
from torch import nn

from atoll.attacks.membership.candidate_signals import Candidates
from atoll.attacks.membership.model_scores import model_scores
from atoll.attacks.membership.operating_points import auroc
from atoll.clients.tasks.classification import Classification

TASK = Classification(classes=tuple("abcd"))


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    # In evaluation mode dropout is off, and BatchNorm makes no example depend on another.
    return nn.Sequential(
        nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4)
    )


def candidates(count: int = 70) -> Candidates:
    random = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 6, generator=random)
    return Candidates(inputs, torch.randint(0, 4, (count,), generator=random))


def test_scores_are_those_of_one_example_after_another() -> None:
    model, reference, asked = network(0), network(1), candidates()
    scores = model_scores(model, TASK, asked, reference)
    model.eval()
    reference.eval()
    for place in range(len(asked)):
        one, label = asked.inputs[place : place + 1], asked.labels[place : place + 1]
        loss = F.cross_entropy(model(one), label)
        slopes = torch.autograd.grad(loss, list(model.parameters()))
        norm = torch.cat([slope.flatten() for slope in slopes]).norm()
        assert torch.isclose(scores["loss"][place].float(), -loss.detach(), atol=1e-5)
        assert torch.isclose(scores["gradient norm"][place].float(), -norm, rtol=1e-4)
        other = F.cross_entropy(reference(one), label)
        expected = (other - loss).detach()
        assert torch.isclose(scores["calibrated loss"][place].float(), expected, atol=1e-5)
    assert "calibrated loss" not in model_scores(model, TASK, asked)


def test_members_of_a_model_that_learnt_them_by_heart_are_found() -> None:
    model, asked = network(0), candidates()
    members = 35
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(asked.inputs[:members]), asked.labels[:members]).backward()
        optimizer.step()
    for values in model_scores(model, TASK, asked, network(1)).values():
        assert auroc(values[:members].numpy(), values[members:].numpy()).value > 0.85
