"""One rule for the loss: a single logit is a sigmoid head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from atoll.clients.tasks.losses import (
    losses_of,
    mean_loss,
    predictions_of,
    probabilities_of,
    targets_of,
)


@given(st.lists(st.tuples(st.floats(-30, 30), st.integers(0, 1)), min_size=1, max_size=20))
def test_one_logit_is_the_softmax_of_that_logit_and_zero(pairs: list[tuple[float, int]]) -> None:
    logit = torch.tensor([pair[0] for pair in pairs], dtype=torch.float64).unsqueeze(1)
    labels = torch.tensor([pair[1] for pair in pairs])
    two = torch.cat([torch.zeros_like(logit), logit], 1)
    torch.testing.assert_close(losses_of(logit, labels), losses_of(two, labels))
    torch.testing.assert_close(mean_loss(logit, labels), F.cross_entropy(two, labels))
    torch.testing.assert_close(probabilities_of(logit)[:, 0], probabilities_of(two)[:, 1])
    assert torch.equal(targets_of(logit, labels)[:, 0], labels.double())
    assert torch.equal(predictions_of(logit), (logit[:, 0] > 0).long())


def test_several_logits_are_a_softmax() -> None:
    logits, labels = torch.randn(7, 3), torch.tensor([0, 1, 2, 0, 1, 2, 2])
    assert torch.equal(mean_loss(logits, labels), F.cross_entropy(logits, labels))
    assert torch.equal(predictions_of(logits), logits.argmax(1))
    assert torch.equal(targets_of(logits, labels).argmax(1), labels)
