import math

import pytest
import torch
import torch.nn.functional as F

from atoll.clients.noprop.block_training.block_objective import (
    BlockObjective,
    draw_noise,
    label_loss,
)
from tests.support.clients.small_networks import Probe, parts, seeded

LABELS = torch.arange(10).repeat(400)
IMAGES = torch.zeros(len(LABELS), 1, 28, 28)


def loss_of(made, index, block, shared, images, labels):
    objective = BlockObjective(made, index)
    return objective(block, shared, images, labels, objective.draw(shared, len(labels), seeded()))


@pytest.mark.parametrize("index", [0, 4, 9])
def test_block_t_sees_the_label_noised_to_level_t_minus_1(index):
    made, shared = parts()
    probe = Probe(torch.zeros(len(LABELS), 10))
    loss_of(made, index, probe, shared, IMAGES, LABELS)
    level = made.levels[index]
    signal = probe.z.gather(1, LABELS[:, None]).mean()
    assert float(signal) == pytest.approx(math.sqrt(level), abs=0.06)
    rest = probe.z - math.sqrt(level) * F.one_hot(LABELS, 10)
    assert float(rest.var()) == pytest.approx(1 - level, abs=0.02)


def test_the_first_block_is_told_nothing_of_the_label():
    made, shared = parts()
    probe = Probe(torch.zeros(len(LABELS), 10))
    seen = []
    for labels in (LABELS, LABELS.flip(0)):
        loss_of(made, 0, probe, shared, IMAGES, labels)
        seen.append(probe.z)
    assert torch.equal(*seen)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_discrete_loss_is_the_papers_term(weighted):
    made, shared = parts(snr_weight=weighted, eta=0.3, steps=5)
    logits = torch.randn(len(LABELS), 10, generator=seeded(1))
    loss, error = loss_of(made, 2, Probe(logits), shared, IMAGES, LABELS)
    by_hand = (logits.softmax(1) - F.one_hot(LABELS, 10)).square().sum(1).mean()
    assert float(error.detach()) == pytest.approx(float(by_hand), rel=1e-5)
    before, after = made.levels[2:4]
    weight = 5 / 2 * 0.3 * (after / (1 - after) - before / (1 - before))
    assert float(loss.detach()) == pytest.approx(
        float(by_hand) * (weight if weighted else 1), rel=1e-5
    )


def test_a_trained_embedding_has_gradients_from_all_three_terms_and_the_last_weight_is_capped():
    made, shared = parts(embedding="learned", dimension=20, snr_weight=True)
    logits = torch.randn(len(LABELS), 10, generator=seeded(1))
    loss, error = loss_of(made, 9, Probe(logits), shared, IMAGES, LABELS)
    generator = seeded()
    torch.randn(len(LABELS), 20, generator=generator)
    rest = label_loss(made, shared, LABELS, draw_noise(shared, len(LABELS), generator))
    # With alpha_bar_0 = 0 the divergence from the prior is 0.
    assert float((loss - rest).detach()) == pytest.approx(
        5 * 0.1 * 40 * float(error.detach()), rel=1e-4
    )
    loss.backward()
    assert float(shared.embedding.grad.norm()) > 0
    assert float(shared.head.weight.grad.norm()) > 0


def test_the_labels_cross_entropy_needs_no_block_and_sends_blocks_no_gradient():
    made, shared = parts()
    block = made.make_block()
    loss = label_loss(made, shared, LABELS[:50], draw_noise(shared, 50, seeded()))
    gradients = torch.autograd.grad(loss, list(block.parameters()), allow_unused=True)
    assert all(gradient is None for gradient in gradients)


def test_in_continuous_time_every_trained_part_has_a_gradient():
    made, shared = parts("noprop-ct", snr_weight=True)
    block = made.make_block()
    images, labels = torch.randn(32, 1, 28, 28, generator=seeded()), LABELS[:32]
    loss, _ = loss_of(made, 0, block, shared, images, labels)
    loss.backward()
    for name, parameter in [*block.named_parameters(), *shared.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_without_its_weight_the_error_does_not_train_the_schedule_but_its_ends_are_trained():
    made, shared = parts("noprop-ct")
    images, labels = torch.randn(32, 1, 28, 28, generator=seeded()), LABELS[:32]
    loss, _ = loss_of(made, 0, made.make_block(), shared, images, labels)
    loss.backward()
    schedule = shared.schedule
    assert float(schedule.weight_in.grad.abs().max()) < 1e-6
    assert float(schedule.gamma_0.grad.abs()) > 0
    assert float(schedule.raw_span.grad.abs()) > 0


def test_the_continuous_loss_is_the_papers_integral():
    """A constant error e: the main term is eta/2 e (SNR(1) - SNR(0)), on average over t."""
    made, shared = parts("noprop-ct", eta=0.2, snr_weight=True)
    with torch.no_grad():
        shared.schedule.gamma_0.fill_(-1.0)
        shared.schedule.raw_span.fill_(3.0)
    count = 200_000
    labels, images = torch.zeros(count, dtype=torch.int64), torch.zeros(count, 1, 1, 1)
    probe = Probe(torch.zeros(count, 10))
    with torch.no_grad():
        loss, error = loss_of(made, 0, probe, shared, images, labels)
        level = shared.schedule.level(torch.tensor([0.0, 1.0])).double()
        snr = level / (1 - level)
        unweighted = parts("noprop-ct", eta=0.2, snr_weight=False)[0]
        other, _ = loss_of(unweighted, 0, probe, shared, images, labels)
    expected = 0.1 * float(error.detach()) * (float(snr[1] - snr[0]) - 1)
    assert float((loss - other).detach()) == pytest.approx(expected, rel=0.02)
    assert float(error.detach()) == pytest.approx(0.9, rel=1e-4)


def test_times_of_a_block_are_in_its_interval():
    made, shared = parts("noprop-fm", blocks=4)
    probe = Probe(torch.zeros(len(LABELS), 10))
    loss_of(made, 2, probe, shared, IMAGES, LABELS)
    assert 0.5 <= float(probe.time.min()) < 0.51
    assert 0.74 < float(probe.time.max()) <= 0.75


def test_flow_matching_regresses_on_the_line_from_noise_to_embedding():
    made, shared = parts("noprop-fm")
    probe = Probe(torch.zeros(len(LABELS), 10))
    loss_of(made, 0, probe, shared, IMAGES, LABELS)
    time, target = probe.time[:, None], shared.embedding[LABELS]
    start = (probe.z - time * target) / (1 - time)
    assert abs(float(start.mean())) < 0.02
    # One-hot embeddings: the velocity's coordinates are the logits.
    loss, _ = loss_of(made, 0, Probe(target - start), shared, IMAGES, LABELS)
    assert float(loss.detach()) < 1e-3


def test_flow_matching_with_a_trained_embedding_must_tell_classes_apart():
    made, shared = parts("noprop-fm", embedding="learned", dimension=20)
    loss, error = loss_of(made, 0, made.make_block(), shared, IMAGES[:20], LABELS[:20])
    assert float(loss.detach()) > float(error.detach()) + 0.5
    loss.backward()
    assert float(shared.embedding.grad.norm()) > 0
