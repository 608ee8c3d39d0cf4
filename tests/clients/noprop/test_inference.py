import math

import pytest
import torch
import torch.nn.functional as F

from atoll.clients.noprop.networks.inference import (
    AllWays,
    Inference,
    Noise,
    Step,
    noise_of_runs,
    plan,
)
from atoll.clients.noprop.networks.network import NoPropNetwork
from tests.support.clients.small_networks import design, parts

COUNT = 4000


class Oracle:
    """A block that knows the label: its features are the logits."""

    def __init__(self, sharpness=50.0, tilt=0.0):
        self.sharpness, self.tilt = sharpness, tilt

    def features(self, images):
        return images * self.sharpness

    def logits(self, features, z, time=None):
        return features + self.tilt * z


class Flow:
    """The exact velocity towards the label, where embeddings are one-hot."""

    def features(self, images):
        return images

    def logits(self, features, z, time=None):
        return (features - z) / (1 - time)


def oracle_inference(made, shared, available=None, steps=None, block=Oracle):
    available = range(made.blocks) if available is None else available
    return Inference(made, shared, {index: block() for index in available}, steps)


LABELS = torch.arange(10).repeat(COUNT // 10)
ONE_HOT = F.one_hot(LABELS, 10).float()


def test_stochastic_steps_with_the_true_embedding_follow_the_forward_process():
    made, shared = parts()
    inference = oracle_inference(made, shared)
    features, noise = inference.features(ONE_HOT), Noise(0)
    z = inference.first_latents(COUNT, noise)
    for step in inference.plan:
        z = inference.advance(step, features[step.block], z, noise)
        assert float((z * ONE_HOT).sum(1).mean()) == pytest.approx(math.sqrt(step.end), abs=0.05)
        spread = float((z - math.sqrt(step.end) * ONE_HOT).var())
        assert spread == pytest.approx(1 - step.end, rel=0.05, abs=1e-4)


@pytest.mark.parametrize("available", [[0], [9], [1, 3, 8], [0, 1, 2, 3, 4]])
def test_whatever_blocks_are_there_the_latent_arrives_at_the_last_level(available):
    made, shared = parts()
    inference = oracle_inference(made, shared, available)
    assert inference.plan[-1].end == made.levels[-1]
    features, noise = inference.features(ONE_HOT), Noise(0)
    z = inference.first_latents(COUNT, noise)
    for step in inference.plan:
        z = inference.advance(step, features[step.block], z, noise)
    assert (z.argmax(1) == LABELS).all()
    assert float((z - math.sqrt(made.levels[-1]) * ONE_HOT).std()) < 0.02


def test_a_block_after_a_gap_gets_the_level_that_it_was_trained_on():
    made, shared = parts()
    steps = plan(made, shared, [0, 1, 4, 5])
    assert [step.block for step in steps] == [0, 1, 4, 5]
    assert [step.start for step in steps] == [made.levels[index] for index in (0, 1, 4, 5)]


def test_fewer_steps_are_evenly_spread():
    made, shared = parts()
    assert [step.block for step in plan(made, shared, range(10), 5)] == [0, 2, 4, 6, 8]
    with pytest.raises(ValueError, match="11 of 10 blocks"):
        plan(made, shared, range(10), 11)


@pytest.mark.parametrize("name", ["noprop-ct", "noprop-fm"])
def test_blocks_of_intervals_own_their_steps_and_a_missing_one_is_jumped_over(name):
    made, shared = parts(name, blocks=4, steps=8)
    steps = plan(made, shared, [0, 1, 2, 3])
    assert [step.block for step in steps] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [step.time for step in steps] == [place / 8 for place in range(8)]
    degraded = plan(made, shared, [0, 2, 3])
    assert [step.block for step in degraded] == [0, 0, 2, 2, 3, 3]
    assert degraded[1].end == degraded[2].start == steps[4].start
    with pytest.raises(ValueError, match="no block"):
        plan(made, shared, [])
    with pytest.raises(ValueError, match="0 steps: expected at least 1"):
        plan(made, shared, [0, 1, 2, 3], 0)


@pytest.mark.parametrize("blocks", [7, 49, 100])
def test_every_step_is_of_the_block_whose_interval_it_starts_in(blocks):
    made, shared = parts("noprop-fm", blocks=blocks, steps=1000)
    for place, step in enumerate(plan(made, shared, range(blocks))):
        assert step.block * 1000 <= place * blocks < (step.block + 1) * 1000


def test_flow_matching_reads_the_nearest_embedding_though_it_trains_a_head():
    _, shared = parts("noprop-fm", embedding="learned", dimension=20)
    with torch.no_grad():
        shared.head.bias.copy_(torch.arange(10.0))
    z = shared.embedding.detach() + 0.01
    assert (shared.read(z).argmax(1) == torch.arange(10)).all()
    assert (shared.head(z).argmax(1) != torch.arange(10)).any()


def test_continuous_steps_go_along_the_learned_schedule():
    made, shared = parts("noprop-ct", steps=50)
    steps = plan(made, shared, [0])
    level = shared.schedule.level(torch.tensor([0.0, 0.5, 1.0])).tolist()
    assert steps[0].start == pytest.approx(level[0], rel=1e-4)
    assert steps[25].start == pytest.approx(level[1], rel=1e-4)
    assert steps[-1].end == pytest.approx(level[2], rel=1e-6)


def test_the_exact_flow_ends_at_the_embedding_in_any_number_of_steps():
    for count in (1, 3, 20):
        made, shared = parts("noprop-fm", steps=count)
        inference = oracle_inference(made, shared, block=Flow)
        features = inference.features(ONE_HOT)
        z = inference.first_latents(COUNT, Noise(0))
        for step in inference.plan:
            z = inference.advance(step, features[step.block], z, None)
        assert torch.allclose(z, ONE_HOT, atol=1e-5)
        assert (shared.read(z).argmax(1) == LABELS).all()


def test_the_last_early_exit_is_the_whole_inference_and_the_first_one_is_the_first_block_alone():
    torch.manual_seed(0)
    network = NoPropNetwork(design(block="small", steps=4)).eval()
    images, noise = torch.randn(5, 1, 28, 28), Noise(0)
    inference = network.inference()
    ways = AllWays(inference, [noise]).run(inference.features(images))
    assert ways["exits"].shape == (4, 5, 10)
    assert torch.equal(ways["exits"][-1], ways["mean"])
    assert torch.equal(network(images).log_softmax(-1), ways["mean"])
    alone = Inference(network.design, network.shared, {0: network.blocks[0]})
    expected = alone.logits(alone.features(images), noise).log_softmax(-1)
    assert torch.allclose(ways["exits"][0], expected, atol=1e-5)


def test_all_ways_are_what_each_is_by_itself():
    made, shared = parts()
    inference = Inference(made, shared, {i: Oracle(1.0, 3.0) for i in range(10)})
    features, noise = inference.features(ONE_HOT[:50]), noise_of_runs(3, 0, 0)
    ways = AllWays(inference, noise).run(features)
    runs = [inference.logits(features, one, stochastic=True).log_softmax(-1) for one in noise]
    assert all(torch.allclose(a, b) for a, b in zip(ways["stochastic_runs"], runs, strict=True))
    assert not torch.allclose(runs[0], runs[1])
    assert torch.equal(ways["stochastic"], ways["stochastic_runs"][0])
    assert torch.allclose(ways["mean_of_runs"].exp(), torch.stack(runs).exp().mean(0))
    quiet = inference.logits(features, noise[0]).log_softmax(-1)
    assert torch.allclose(ways["mean"], quiet)


def test_noise_depends_on_its_place_alone():
    noise = Noise(3, repetition=1, first=512)
    assert torch.equal(noise.draw(2, (4, 5)), noise.draw(2, (4, 5)))
    others = [Noise(4, 1, 512), Noise(3, 2, 512), Noise(3, 1, 0)]
    assert all(not torch.equal(noise.draw(2, (4, 5)), o.draw(2, (4, 5))) for o in others)
    assert not torch.equal(noise.draw(2, (4, 5)), noise.draw(3, (4, 5)))


def test_a_step_without_noise_is_the_mean_of_steps_with_noise():
    made, shared = parts()
    inference = oracle_inference(made, shared)
    step = inference.plan[4]
    assert isinstance(step, Step)
    features, z = inference.features(ONE_HOT)[4], torch.randn(COUNT, 10)
    quiet = inference.advance(step, features, z, None)
    noisy = [inference.advance(step, features, z, Noise(0, run)) for run in range(100)]
    assert torch.allclose(torch.stack(noisy).mean(0).mean(), quiet.mean(), atol=0.01)
    assert float((torch.stack(noisy).mean(0) - quiet).std()) < 0.1
