"""R-AMT's gradient dropout against the released code's rule, and masks sent as bits."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flwr.app import Context, Message, MetricRecord, RecordDict
from torch import Tensor, nn

from atoll import flower
from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.mask_bits import MaskBits
from atoll.clients.models.weights.masks import masks_of, with_masks
from atoll.clients.settings import MaskSettings
from atoll.flower.arrays import array_record, to_array
from tests.support.clients.objectives import (
    settings_with,
    small_network,
    some_examples,
    train_with,
)

EXAMPLES = 17
MASKS = MaskSettings(scale=0.03, threshold=0.02)


def masked() -> nn.Module:
    return with_masks(small_network(), MASKS)


def kept_as_released(a: Tensor, b: Tensor, drawn: Tensor, share: float) -> Tensor:
    """Return a gradient as the released code drops it, entry by entry."""
    found = a.clone()
    for place, (own, general) in enumerate(zip(a.reshape(-1), b.reshape(-1), strict=True)):
        sign = float(own.sign())
        size = abs(float(own)) + abs(float(general)) + 1e-8
        chance = (sign * float(own + general) / size + 1) / 2
        if not chance > float(drawn.reshape(-1)[place]):
            found.reshape(-1)[place] = (1 - share) * own
    return found


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_gradients_against_the_frozen_model_are_dropped(share: float) -> None:
    inputs, labels = some_examples(EXAMPLES)
    term = {"name": "r-amt", "weight": 0.01, "dropout": share, "temperature": 2.0}
    settings = settings_with(term, epochs=2, learning_rate=0.2)
    model = masked()
    expected, teacher = copy.deepcopy(model), small_network()
    names = [name for name, p in expected.named_parameters() if p.requires_grad]
    trained = [p for p in expected.parameters() if p.requires_grad]
    order, generator = torch.Generator().manual_seed(0), torch.Generator().manual_seed(4)
    for _ in range(2):
        for chosen in torch.randperm(EXAMPLES, generator=order).split(5):
            outputs = expected(inputs[chosen])
            scores = [p for n, p in zip(names, trained, strict=True) if n.endswith("original")]
            loss = F.cross_entropy(outputs, labels[chosen]) + 0.01 * sum(s.norm() for s in scores)
            own = torch.autograd.grad(loss, trained)
            wanted = (teacher(inputs[chosen]).detach() / 2).softmax(-1)
            logs = (expected(inputs[chosen]) / 2).log_softmax(-1)
            general = torch.autograd.grad(-4 * (wanted * logs).sum(1).mean(), trained)
            with torch.no_grad():
                for name, parameter, a, b in zip(names, trained, own, general, strict=True):
                    if name.endswith("original"):
                        drawn = torch.rand(a.shape, generator=generator)
                        parameter -= 0.2 * kept_as_released(a, b, drawn, share)
                    else:
                        parameter -= 0.2 * a
    train_with(model, inputs, labels, settings, term_seed=4)
    plain = masked()
    train_with(plain, inputs, labels, settings_with(epochs=2, learning_rate=0.2))
    for found, wanted in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    ((scores, _),), ((others, _),) = masks_of(model), masks_of(plain)
    assert not torch.allclose(scores, others, atol=1e-4)
    assert 0.1 < float((scores > MASKS.threshold).float().mean()) < 0.99


def test_masks_are_sent_as_bits_and_their_mean_is_a_vote() -> None:
    flower.assume_identity()
    models = [masked() for _ in range(3)]
    generator, replies = torch.Generator().manual_seed(2), []
    for model in models:
        for scores, _ in masks_of(model):
            scores.detach().copy_(0.04 * torch.rand(scores.shape, generator=generator))
        asked = Message(
            RecordDict({"arrays": ModelArrays(masked()).read()}),
            dst_node_id=1,
            message_type="train",
        )

        def app(message: Message, context: Context, model: nn.Module = model) -> Message:
            content = {"arrays": ModelArrays(model).read(), "metrics": MetricRecord({"loss": 1.0})}
            return Message(RecordDict(content), reply_to=message)  # type: ignore[arg-type]

        context = Context(1, 1, {"partition-id": 0}, RecordDict(), {})
        replies.append(MaskBits(threshold=0.02)(asked, context, app).content)
    [key] = [key for key in replies[0]["arrays"] if key.endswith("original")]
    sent = np.stack([reply["arrays"][key].numpy() for reply in replies])
    assert set(np.unique(sent)) == {np.float32(0.0), np.float32(0.04)}
    kept = np.stack([next(iter(masks_of(m)))[0].detach().numpy() > 0.02 for m in models])
    assert np.array_equal(sent > 0.02, kept)
    assert np.array_equal(sent.mean(0) > 0.02, kept.sum(0) >= 2)
    head = sum(replies[0]["arrays"][k].numpy().nbytes for k in replies[0]["arrays"] if k != key)
    assert replies[0]["metrics"]["coded-bytes"] == head + -(-sent[0].size // 8)


def test_a_vote_would_lose_what_a_gradient_of_scores_says() -> None:
    """Why the mod is refused with strategies whose clients reply with gradients."""
    flower.assume_identity()
    key = "0.parametrizations.weight.original"
    sent = array_record({key: to_array(np.array([[-3.0, 0.5, 2.0]], np.float32))})
    asked = Message(RecordDict({"arrays": sent}), dst_node_id=1, message_type="train")

    def app(message: Message, context: Context) -> Message:
        content = {"arrays": sent, "metrics": MetricRecord({"loss": 1.0})}
        return Message(RecordDict(content), reply_to=message)  # type: ignore[arg-type]

    context = Context(1, 1, {"partition-id": 0}, RecordDict(), {})
    reply = MaskBits(threshold=0.25)(asked, context, app).content
    assert reply["arrays"][key].numpy().tolist() == [[0.0, 0.5, 0.5]]
