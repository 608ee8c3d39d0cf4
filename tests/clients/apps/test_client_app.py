import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from PIL import Image
from ray import cloudpickle

from atoll.clients.apps.client_app import ClientSpec, make_client_app
from atoll.clients.apps.local_clients import clients_of
from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.arrays.weighted_sum import WeightedSum
from atoll.clients.data import client_inputs
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.images.image_tensors import to_tensor
from atoll.clients.data.partitioning.partition import Partition, partition_dataset
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import (
    ClientSettings,
    DataSettings,
    ModelSettings,
    PartitionSettings,
    ScheduleSettings,
)
from atoll.clients.training.learning_rates import learning_rate_at
from atoll.errors import EngineError
from atoll.randomness import derive_seed

CLIENTS = 12


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClientSpec:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))
    dataset = load_dataset("digits")
    partition = PartitionSettings(name="dirichlet", alpha=0.5)
    settings = DataSettings(dataset="digits", clients=CLIENTS, partition=partition)
    return ClientSpec(
        dataset=dataset.directory,
        partition=partition_dataset(dataset, settings, 3).directory,
        model=ModelSettings(name="mlp", hidden=[20]),
        client=ClientSettings(learning_rate=0.1, batch_size=16, epochs=2, momentum=0.9),
        num_rounds=10,
        seed=7,
    )


def initial(spec: ClientSpec) -> ArrayRecord:
    return ModelArrays(build_model(spec.model, (1, 8, 8), 10, seed=1)).read()


def request(arrays: ArrayRecord, kind: str = "train", node: int = 1, **config: Any) -> Message:
    named = {key.replace("_", "-"): value for key, value in config.items()}
    content = RecordDict({"arrays": arrays, "config": ConfigRecord(named)})
    return Message(content, dst_node_id=node, message_type=kind)


def context(partition: int) -> Context:
    config = {"partition-id": partition, "num-partitions": CLIENTS}
    return Context(1, partition + 1, config, RecordDict(), {})


@pytest.fixture(autouse=True)
def flower_identity() -> None:
    from atoll.flower import assume_identity

    assume_identity()


def test_training_equals_a_plain_loop_on_the_clients_examples(spec: ClientSpec) -> None:
    arrays = initial(spec)
    answer = make_client_app(spec)(request(arrays, server_round=2), context(5))
    dataset, partition = Dataset(spec.dataset), Partition(spec.partition)
    chosen = partition.indices(5)
    images = to_tensor(dataset.train.images[chosen], dataset.mean, dataset.std)
    labels = torch.from_numpy(dataset.train.labels[chosen])
    model = build_model(spec.model, (1, 8, 8), 10, seed=1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    generator = torch.Generator().manual_seed(derive_seed(7, 2, "train", 5))
    losses = []
    for _ in range(2):
        for batch in torch.randperm(len(labels), generator=generator).split(16):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            losses += [loss.item()] * len(batch)
    assert answer.content["metrics"]["num-examples"] == len(chosen)
    assert answer.content["metrics"]["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    for key, value in model.state_dict().items():
        np.testing.assert_allclose(
            answer.content["arrays"][key].numpy(), value.numpy(), rtol=1e-5, atol=1e-6
        )


def bits(answer: Message) -> list[bytes]:
    return [array.data for array in answer.content["arrays"].values()]


@pytest.mark.parametrize("model", [ModelSettings(name="cnn-pfl"), ModelSettings(name="mlp")])
def test_an_answer_depends_on_nothing_but_seed_round_and_partition(
    spec: ClientSpec, model: ModelSettings
) -> None:
    spec = replace(spec, model=model, client=ClientSettings(batch_size=16, steps=2))
    arrays = initial(spec)
    app = make_client_app(spec)
    first = app(request(arrays, server_round=3), context(4))
    torch.manual_seed(99)
    for partition in (1, 2):
        app(request(arrays, server_round=3), context(partition))
    app(request(arrays, "evaluate"), context(1))
    again = app(request(arrays, server_round=3), context(4))
    assert bits(first) == bits(again)
    assert bits(first) != bits(app(request(arrays, server_round=4), context(4)))
    other_seed = make_client_app(replace(spec, seed=8))
    assert bits(first) != bits(other_seed(request(arrays, server_round=3), context(4)))


def test_the_messages_config_rules(spec: ClientSpec) -> None:
    schedule = ScheduleSettings(name="exponential", factor=0.5)
    scheduled = replace(spec, client=spec.client.model_copy(update={"schedule": schedule}))
    arrays = initial(spec)
    app, plain = make_client_app(scheduled), make_client_app(spec)
    rate = learning_rate_at(scheduled.client, 3, 10)
    assert rate == pytest.approx(0.025)
    by_schedule = app(request(arrays, server_round=3), context(0))
    by_message = plain(request(arrays, server_round=3, learning_rate=rate), context(0))
    assert bits(by_schedule) == bits(by_message)
    drifting = plain(request(arrays, server_round=3), context(0))
    held = plain(request(arrays, server_round=3, proximal_mu=5.0), context(0))
    set_so = make_client_app(
        replace(spec, client=spec.client.model_copy(update={"proximal_mu": 5.0}))
    )
    assert bits(held) == bits(set_so(request(arrays, server_round=3), context(0)))

    def drift(answer: Message) -> float:
        return sum(
            float(np.square(a.numpy() - arrays[key].numpy()).sum())
            for key, a in answer.content["arrays"].items()
        )

    assert drift(held) < drift(drifting)


def test_evaluation_is_on_the_held_out_part(spec: ClientSpec) -> None:
    arrays = initial(spec)
    sizes = Partition(spec.partition).sizes
    everything = make_client_app(spec)(request(arrays, "evaluate"), context(5))
    assert everything.content["metrics"]["num-examples"] == sizes[5]
    held_out = make_client_app(replace(spec, client_test_fraction=0.25))
    tested = held_out(request(arrays, "evaluate"), context(5)).content["metrics"]
    trained = held_out(request(arrays), context(5)).content["metrics"]
    assert tested["num-examples"] == round(0.25 * sizes[5])
    assert tested["num-examples"] + trained["num-examples"] == sizes[5]
    assert 0.0 <= tested["accuracy"] <= 1.0
    assert tested["loss"] > 0.0
    assert "arrays" not in held_out(request(arrays, "evaluate"), context(5)).content


def test_training_together_gives_the_same_answers_in_order(spec: ClientSpec) -> None:
    app = make_client_app(spec)
    assert app.can_vectorize() is None
    one, other = initial(spec), initial(spec)
    for key, array in other.items():
        other[key] = type(array)(array.numpy() * 0.5)
    asked = [(one, {}), (other, {}), (one, {}), (one, {"learning_rate": 0.01}), (other, {})]
    nodes = [3, 1, 4, 10, 5]
    messages = [
        request(arrays, node=node, server_round=2, **config)
        for (arrays, config), node in zip(asked, nodes, strict=True)
    ]
    contexts = [context(node - 1) for node in nodes]
    together = app.train_together(messages, contexts)
    in_turn = [app(m, c) for m, c in zip(messages, contexts, strict=True)]
    for message, ours, expected in zip(messages, together, in_turn, strict=True):
        assert ours.metadata.reply_to_message_id == message.metadata.message_id
        assert ours.metadata.src_node_id == message.metadata.dst_node_id
        metrics, wanted = ours.content["metrics"], expected.content["metrics"]
        assert metrics["num-examples"] == wanted["num-examples"]
        assert metrics["loss"] == pytest.approx(wanted["loss"], rel=1e-4)
        for key, array in expected.content["arrays"].items():
            np.testing.assert_allclose(
                ours.content["arrays"][key].numpy(), array.numpy(), rtol=0, atol=1e-5
            )


@pytest.mark.parametrize("at_once", [False, True])
def test_a_sum_is_that_of_the_answers(spec: ClientSpec, at_once: bool) -> None:
    app = make_client_app(spec)
    message, contexts = request(initial(spec), server_round=2), [context(p) for p in (3, 0, 7)]
    assert app.can_sum(message) is None
    total, metrics, seconds = app.train_and_sum(message, contexts, vectorized=at_once)
    expected = WeightedSum()
    for one, found in zip(contexts, metrics, strict=True):
        answer = app(message, one).content
        weight = answer["metrics"][app.summed_by]
        assert found["num-examples"] == weight
        assert found["loss"] == pytest.approx(answer["metrics"]["loss"], rel=1e-4)
        expected.add(answer["arrays"], weight)
    assert len(seconds) == 3
    assert total.weight == expected.weight
    for key, values in expected.arrays.items():
        if at_once:
            np.testing.assert_allclose(total.arrays[key], values, rtol=0, atol=1e-5 * total.weight)
        else:
            np.testing.assert_array_equal(total.arrays[key], values)


def test_mods_act_and_keep_clients_apart(spec: ClientSpec) -> None:
    clipped = replace(spec, client=spec.client.model_copy(update={"mods": ("fixedclipping_mod",)}))
    app = make_client_app(clipped)
    assert app.can_vectorize() == "client.mods see one client at a time"
    assert app.can_sum(request(initial(spec))) == "client.mods see every reply"
    arrays = initial(spec)
    message = request(arrays)
    # The key under which Flower's strategies send the norm to this mod.
    message.content["config"]["clipping_norm"] = 0.01
    answer = app(message, context(0))
    moved = [a.numpy() - arrays[key].numpy() for key, a in answer.content["arrays"].items()]
    assert sum(float(np.square(m).sum()) for m in moved) ** 0.5 == pytest.approx(0.01, rel=1e-3)


def test_apps_are_small_when_pickled_and_share_a_processs_model(spec: ClientSpec) -> None:
    assert pickle.loads(pickle.dumps(spec)) == spec
    app = make_client_app(spec)
    answer = app(request(initial(spec)), context(0))
    pickled = cloudpickle.dumps(app)
    assert len(pickled) < 10_000
    copy = cloudpickle.loads(pickled)
    assert clients_of(pickle.loads(pickle.dumps(spec))) is clients_of(spec)
    assert bits(copy(request(initial(spec)), context(0))) == bits(answer)


def test_a_message_without_arrays_says_so(spec: ClientSpec) -> None:
    message = Message(RecordDict(), dst_node_id=1, message_type="train")
    with pytest.raises(ValueError, match="no ArrayRecord 'arrays'"):
        make_client_app(spec)(message, context(0))


def test_augmentation_is_of_the_round_and_the_client_alone_or_together(
    spec: ClientSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    for index in range(30):
        place = tmp_path / "images" / "ab"[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{index}.png")
    answers = {}
    for name in ("none", "domainbed"):
        options = {"image_size": 8, "augmentation": name}
        dataset = load_dataset("folder", tmp_path / "images", options)
        settings = DataSettings(dataset="folder", clients=2)
        of_folder = replace(
            spec,
            dataset=dataset.directory,
            partition=partition_dataset(dataset, settings, 3).directory,
        )
        app = make_client_app(of_folder)
        arrays = ModelArrays(build_model(spec.model, (3, 8, 8), 2, seed=1)).read()
        requests = [request(arrays, node=n + 1, server_round=1) for n in range(2)]
        together = app.train_together(requests, [context(n) for n in range(2)])
        alone = [app(message, context(n)) for n, message in enumerate(requests)]
        for one, other in zip(together, alone, strict=True):
            for key, array in one.content["arrays"].items():
                expected = other.content["arrays"][key].numpy()
                np.testing.assert_allclose(array.numpy(), expected, atol=1e-5)
        # Clients with too many images for memory read them by batches, to the same bits.
        with monkeypatch.context() as patched:
            patched.setattr(client_inputs, "LARGE_BYTES", 100)
            streamed = app(requests[1], context(1))
        for key, array in streamed.content["arrays"].items():
            np.testing.assert_array_equal(array.numpy(), alone[1].content["arrays"][key].numpy())
        later = app(request(arrays, server_round=2), context(0))
        answers[name] = [float(m.content["metrics"]["loss"]) for m in (*alone, later)]
    assert answers["none"] != answers["domainbed"]
    assert len(set(answers["domainbed"])) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_share_of_a_gpu_that_pytorch_does_not_see_is_said(spec: ClientSpec) -> None:
    with pytest.raises(EngineError, match=r"ray\.gpus_per_worker: .* sees none"):
        make_client_app(replace(spec, device="cuda"))
