"""Models whose parameters are unused, tied, scalar, of half precision or partly frozen.

Every row of the table is such a model, every column something that looks at parameters one by one:
each works as for a plain model, or refuses in one line.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from torch import Tensor, nn

from atoll.attacks import ATTACKS
from atoll.attacks.base.attack_names import attacks_on
from atoll.attacks.capture_validation.replay import diagnose
from atoll.attacks.defenses import DEFENSES, REFERENCES
from atoll.attacks.defenses.base.defense import Task
from atoll.attacks.defenses.dp_sgd import DPSGD
from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.attacks.threat.observation import observe
from atoll.clients.apps.client_app import FederatedClientApp, make_client_app
from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.arrays.weighted_sum import WeightedSum
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.inputs.images import images_of
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ClientSettings, ModelSettings, ModSettings
from atoll.clients.tasks.classification import Classification
from atoll.clients.tasks.losses import mean_loss
from atoll.clients.training.gradients import gradients_of
from atoll.clients.training.local_training import train
from atoll.clients.training.stacked.client_batch import ClientBatch
from atoll.clients.training.stacked.vectorized_training import (
    VectorizedTrainer,
    obstacle_to_vectorizing,
)
from atoll.clients.training.step_mods import LocalStep
from atoll.errors import AtollError, InvalidExperimentError
from atoll.flower import assume_identity
from tests.support.attacks.attacking import attacked
from tests.support.attacks.captured import CLIENTS, a_spec, captured
from tests.support.attacks.real_updates import assert_simulates, client_update

pytestmark = pytest.mark.slow

TASK = Classification(classes=tuple("0123456789"))

SHAPE = (1, 8, 8)
KINDS = ("plain", "unused", "tied", "scalar", "half", "frozen")
# How far float16 and float32 results may be from their references.
TOLERANCE = {"half": 2e-2}
PASSIVE = ThreatModel(frozenset({Capability.TRAINING, Capability.LABELS, Capability.BATCH_ORDER}))


def name_of(kind: str) -> str:
    return f"tests.support.attacks.odd_models:{kind}"


def a_model(kind: str) -> nn.Module:
    return build_model(ModelSettings(name=name_of(kind)), SHAPE, 10, 0)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors of some values each: threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def a_step(model: nn.Module, examples: int = 5) -> LocalStep:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(examples, *SHAPE, generator=generator)
    labels = torch.randint(10, (examples,), generator=generator)

    def objective() -> tuple[Tensor, Tensor]:
        loss = mean_loss(model(images), labels)
        return loss, loss

    parameters = [p for p in model.parameters() if p.requires_grad]
    return LocalStep(model, parameters, images, labels, examples, objective)


def gradient(task: Task) -> list[Tensor]:
    assert task.step is not None
    return list(gradients_of(task.step.objective()[0], task.step.parameters))


def test_what_flowers_arrays_do_not_hold_is_refused_with_the_model() -> None:
    with pytest.raises(InvalidExperimentError, match=r"is of bfloat16, which Flower's arrays") as e:
        a_model("brain_half")
    assert len(str(e.value).splitlines()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_dp_sgd_is_the_clipped_mean_of_each_examples_gradient(kind: str) -> None:
    model = a_model(kind)
    step = a_step(model)
    defense = DPSGD(clipping_norm=0.5, noise_multiplier=1e-3)
    defense.check_model(model)
    torch.manual_seed(0)
    found = defense.apply(Task(step.parameters, 1, step), gradient)
    expected = [torch.zeros_like(p) for p in step.parameters]
    for image, label in zip(step.images, step.labels, strict=True):
        own = gradients_of(mean_loss(model(image[None]), label[None]), step.parameters)
        norm = float(torch.stack([g.float().norm() for g in own]).norm())
        for total, g in zip(expected, own, strict=True):
            total += g * min(1.0, 0.5 / norm) / len(step.labels)
    # Six deviations of the noise.
    atol = 6 * 1e-3 * 0.5 / len(step.labels) + TOLERANCE.get(kind, 0.0) * 0.1
    for given, wanted, parameter in zip(found, expected, step.parameters, strict=True):
        assert given.dtype == parameter.dtype
        torch.testing.assert_close(given, wanted, rtol=0, atol=atol)
        assert parameter.grad is None
        assert not hasattr(parameter, "grad_sample")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in DEFENSES if name != "precode"])
def test_every_defense_gives_what_fits_the_parameters(name: str, kind: str) -> None:
    model = a_model(kind)
    step, defense = a_step(model), DEFENSES[name]()
    defense.check_model(model)
    torch.manual_seed(0)
    found = defense.apply(Task(step.parameters, 1, step), gradient)
    for given, parameter in zip(found, step.parameters, strict=True):
        assert (given.shape, given.dtype) == (parameter.shape, parameter.dtype)
        assert torch.isfinite(given).all()


def the_messages(kind: str, count: int) -> tuple[FederatedClientApp, Message, list[Context]]:
    """Return an app of clients, what each is sent, and the clients."""
    assume_identity()
    spec = a_spec(model=name_of(kind), examples=6)
    content = RecordDict(
        {
            "arrays": ModelArrays(a_model(kind)).read(),
            "config": ConfigRecord({"server-round": 1}),
        }
    )
    configs = [{"partition-id": i, "num-partitions": CLIENTS} for i in range(count)]
    contexts = [Context(1, i + 1, config, RecordDict(), {}) for i, config in enumerate(configs)]
    app = make_client_app(spec)
    assert isinstance(app, FederatedClientApp)
    return app, Message(content, dst_node_id=1, message_type="train"), contexts


@pytest.mark.parametrize("kind", KINDS)
def test_sums_in_the_app_and_clients_at_once_are_those_of_replies(kind: str) -> None:
    app, message, contexts = the_messages(kind, 4)
    replies, total = [], WeightedSum()
    for context in contexts:
        reply = app(copy.copy(message), context)
        assert not reply.has_error(), reply.error
        replies.append(reply)
        total.add(reply.content["arrays"], reply.content["metrics"]["num-examples"])
    in_turn, _, _ = app.train_and_sum(message, contexts, vectorized=False)
    for key, values in total.arrays.items():
        assert np.array_equal(in_turn.arrays[key], values)
    assert in_turn.dtypes == total.dtypes
    obstacle = app.can_vectorize()
    assert (obstacle is not None) == (kind == "tied"), obstacle
    if obstacle is not None:
        return
    # One step each is one gradient at the shared parameters; a tenth of them is another path.
    at_once, _, _ = app.train_and_sum(message, contexts, vectorized=True)
    together = app.train_together([message] * 4, contexts)
    atol = 10 * TOLERANCE.get(kind, 1e-5)
    for key, values in total.arrays.items():
        np.testing.assert_allclose(at_once.arrays[key], values, rtol=0, atol=24 * atol)
        for one, other in zip(together, replies, strict=True):
            np.testing.assert_allclose(
                one.content["arrays"][key].numpy(),
                other.content["arrays"][key].numpy(),
                rtol=0,
                atol=atol,
            )
    assert at_once.dtypes == total.dtypes


@pytest.mark.parametrize("settings", [{}, {"gradient_clip": 0.1, "momentum": 0.9, "steps": 3}])
@pytest.mark.parametrize("kind", KINDS)
def test_several_steps_at_once_are_those_in_turn(kind: str, settings: dict[str, Any]) -> None:
    model = a_model(kind)
    if obstacle_to_vectorizing(model, images_of(SHAPE)) is not None:
        assert kind == "tied"
        return
    client = ClientSettings(learning_rate=0.1, batch_size=4, **settings)
    generator = torch.Generator().manual_seed(0)
    counts = [7, 0, 3]
    images = torch.randn(sum(counts), *SHAPE, generator=generator)
    labels = torch.randint(10, (sum(counts),), generator=generator)
    generators = [torch.Generator().manual_seed(i) for i in range(len(counts))]
    trainer = VectorizedTrainer(model, client, TASK)
    found = trainer.train(ClientBatch(images, labels, counts, 0.1, generators))
    generators = [torch.Generator().manual_seed(i) for i in range(len(counts))]
    summed = trainer.train_and_sum(ClientBatch(images, labels, counts, 0.1, generators))
    total = WeightedSum()
    for (arrays, _), count in zip(found, counts, strict=True):
        total.add(arrays, count)
    for key, values in total.arrays.items():
        np.testing.assert_allclose(summed.total.arrays[key], values, rtol=1e-6, atol=1e-6)
    for place, (own, of_own) in enumerate(
        zip(images.split(counts), labels.split(counts), strict=True)
    ):
        alone = copy.deepcopy(model)
        generator = torch.Generator().manual_seed(place)
        train(alone, own, of_own, client, learning_rate=0.1, generator=generator)
        after = alone.state_dict()
        for key, array in found[place][0].items():
            np.testing.assert_allclose(
                array.numpy(),
                after[key].numpy(),
                rtol=0,
                atol=TOLERANCE.get(kind, 1e-5),
            )


@pytest.mark.parametrize("steps", [{"epochs": 2, "batch_size": 3}, {"batch_size": 64}])
@pytest.mark.parametrize("kind", KINDS)
def test_the_doctors_replay_is_the_captured_update(kind: str, steps: dict[str, int]) -> None:
    settings = {"learning_rate": 0.1, **steps}
    capture, truth = client_update({"name": name_of(kind)}, settings, list(range(7)))
    assert diagnose(capture, truth).consistent
    if kind == "frozen":
        assert not any(
            key.startswith("body") for key in observe(capture, ThreatModel()).model.names
        )
    if kind != "half":
        assert_simulates(capture, truth, PASSIVE, (1e-3, 1e-5))


def test_the_defended_update_of_a_client_leaves_frozen_parameters_alone() -> None:
    for name in ("dp-sgd", "top-k", "gaussian-noise"):
        acts = {} if name == "dp-sgd" else {"acts_on": "step"}
        mod = ModSettings(name=REFERENCES[name], **acts)
        capture, _ = captured(a_spec(mod, model=name_of("frozen"), examples=4))
        for key, sent in capture.broadcast.items():
            assert torch.equal(sent, capture.update[key]) == key.startswith("body"), (name, key)


def settings_of(name: str) -> dict[str, Any]:
    """Return settings with which an attack is over at once."""
    kind = ATTACKS[name]
    few = ("steps", "rounds", "latent_steps", "weight_steps", "enhancement_steps")
    settings: dict[str, Any] = {key: 3 for key in few if key in kind.model_fields}
    return settings | ({"restarts": 1} if "restarts" in kind.model_fields else {})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    [
        name
        for name in attacks_on("images")
        # These need the file of a trained network.
        if "generator" not in ATTACKS[name].model_fields and name != "guided-diffusion"
    ],
)
def test_every_attack_runs_or_says_in_a_line_why_not(name: str, kind: str) -> None:
    try:
        [result] = attacked(name, {"name": name_of(kind)}, [[0]], **settings_of(name))
    except AtollError as error:
        assert len(str(error).splitlines()) == 1
        refused = {"april", "class-fishing", "feature-fishing", "imprint", "loki", "r-gap"}
        refused |= {"rog", "spear"} | ({"linear-layer"} if kind == "frozen" else set())
        assert name in refused, str(error)
        return
    images = result.reconstruction.images
    assert torch.isfinite(images).all()
    assert images.shape == (1, *load_dataset("digits").image_shape)


@pytest.mark.parametrize("kind", ["plain", "unused", "frozen", "tied"])
def test_matching_goes_by_what_is_trained(kind: str) -> None:
    """At the true image the cost is nothing, whatever else the model has."""
    capture, truth = client_update({"name": name_of(kind)}, {"batch_size": 64}, [0])
    observation = observe(capture, PASSIVE, truth=truth)
    trained = [n for n, p in a_model(kind).named_parameters() if p.requires_grad]
    assert observation.model.names == trained
    assert len(observation.target) == len(trained)
