"""What answers to queries for moments, made by our clients, tell of their labels."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from torch import Tensor

from atoll.attacks.captures.capture import Capture
from atoll.attacks.threat.label_leakage import LeakedLabels, leaked_labels, share_recovered
from atoll.clients.apps.client_app import make_client_app
from atoll.clients.apps.client_spec import ClientSpec
from atoll.clients.moments.head_statistics import HeadGradient, HessianDiagonal
from atoll.clients.moments.moment_messages import QUERY, MomentsQuery
from atoll.clients.moments.statistic import Statistic
from atoll.clients.moments.statistics import Loss
from atoll.errors import AttackError, CaptureError
from atoll.flower.arrays import array_record, to_array
from tests.support.attacks.captured import a_spec, captured, content_of

EXAMPLES = 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))


def queried(
    spec: ClientSpec, partition: int, trained: Capture | None, *statistics: Statistic
) -> tuple[Capture, Tensor]:
    """The capture of a client's answer, and its labels; ``trained`` has the model to use."""
    capture, truth = captured(spec, partition)
    model = capture.broadcast if trained is None else trained.update
    arrays = array_record({key: to_array(values.numpy()) for key, values in model.items()})
    records = {"arrays": arrays, "config": ConfigRecord({"server-round": 1})}
    content = RecordDict({**records, **MomentsQuery(statistics).records()})
    message = Message(content, dst_node_id=partition + 1, message_type=QUERY)
    config = {"partition-id": partition, "num-partitions": 12}
    reply = make_client_app(spec)(message, Context(1, partition + 1, config, RecordDict(), {}))
    assert not reply.has_error(), reply.error
    return (
        replace(
            capture,
            message_type=QUERY,
            sent=content_of(message.content),
            reply=content_of(reply.content),
        ),
        truth.labels,
    )


def leaks(trained: Capture | None, *statistics: Statistic) -> list[tuple[LeakedLabels, Tensor]]:
    spec = a_spec(model="lenet", examples=EXAMPLES)
    found = []
    for partition in range(4):
        capture, labels = queried(spec, partition, trained, *statistics)
        [leaked] = leaked_labels(capture)
        assert leaked.examples == EXAMPLES == int(leaked.counts.sum())
        found.append((leaked, labels))
    return found


@pytest.fixture
def trained() -> Capture:
    """A model that one client has trained until its predictions differ."""
    spec = a_spec(model="lenet", examples=100)
    client = spec.client.model_copy(update={"epochs": 10, "batch_size": 10})
    return captured(replace(spec, client=client), 7)[0]


def test_of_a_fresh_model_head_gradients_give_all_labels_away() -> None:
    for leaked, labels in leaks(None, HeadGradient()):
        assert share_recovered(leaked.counts, labels) >= 0.95
        assert leaked.at_least is None


def mean_share(found: list[tuple[LeakedLabels, Tensor]]) -> float:
    return sum(share_recovered(leaked.counts, labels) for leaked, labels in found) / len(found)


def test_of_a_trained_model_the_hessian_brings_back_more(trained: Capture) -> None:
    alone = mean_share(leaks(trained, HeadGradient()))
    with_hessian = mean_share(leaks(trained, HeadGradient(), HessianDiagonal()))
    assert 0.7 < alone < with_hessian
    assert with_hessian > 0.85


def test_the_hessians_diagonal_bounds_every_count_from_below(trained: Capture) -> None:
    for model in (None, trained):
        for leaked, labels in leaks(model, HeadGradient(), HessianDiagonal()):
            counts = torch.bincount(labels, minlength=10)
            assert leaked.at_least is not None
            assert bool((leaked.at_least <= counts).all())
            if model is None:
                assert int(leaked.at_least.sum()) >= 0.9 * EXAMPLES


def test_what_cannot_be_told_is_a_clear_error() -> None:
    spec = a_spec(model="lenet", examples=5)
    capture, _ = queried(spec, 0, None, Loss())
    with pytest.raises(AttackError, match=r"not asked for head gradients \(statistics: loss\)"):
        leaked_labels(capture)
    with pytest.raises(CaptureError, match="holds no answer to a query for moments"):
        leaked_labels(captured(spec, 0)[0])
