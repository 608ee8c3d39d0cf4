from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from atoll.attacks.defenses import DEFENSES, REFERENCES
from atoll.attacks.defenses.noise import GaussianNoise
from atoll.attacks.defenses.pruning import TopK
from atoll.clients.apps.client_app import make_client_app
from atoll.clients.apps.client_spec import ClientSpec
from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.partitioning.partition import partition_dataset
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ClientSettings, DataSettings, ModelSettings, ModSettings
from atoll.flower import assume_identity
from tests.support.attacks.one_step import a_model, a_step, a_task, flat, gradient

NAMES = list(DEFENSES)
# What mimics nothing: its expectation is the gradient, or it is not a function of the gradient.
UNCHANGED = {"gaussian-noise", "mixup", "quantization", "entropy-coding"}
ARGUMENTS = {"outpost": {"noise": 0.0, "decay": 0.0}}
DETERMINISTIC = ["clipping", "top-k", "sign", "nearest-quantization", "soteria", "outpost"]


def model_for(name: str) -> torch.nn.Module:
    return a_model("precode", base="lenet", width=8) if name == "precode" else a_model()


@pytest.fixture(autouse=True)
def flower_identity() -> None:
    assume_identity()


@pytest.mark.parametrize("name", NAMES)
def test_every_defense_changes_the_gradient_and_only_by_its_seed(name: str) -> None:
    step = a_step(model_for(name))
    defense = DEFENSES[name](**({"bound": 1e-2} if name == "clipping" else {}))
    before = [p.clone() for p in step.parameters]

    def defended(seed: int) -> torch.Tensor:
        return flat(defense.apply(a_task(step, seed=seed), gradient))

    torch.manual_seed(0)
    plain = flat(gradient(a_task(step)))
    assert not torch.equal(defended(0), plain)
    assert torch.equal(defended(0), defended(0))
    assert torch.isfinite(defended(0)).all()
    assert not defended(0).requires_grad
    assert step.model.training
    for parameter, was in zip(step.parameters, before, strict=True):
        assert torch.equal(parameter, was)
        assert parameter.grad is None


# The equal CNN has 19 million parameters.
MODELS = ["mlp", "cnn-pfl", pytest.param("equal-cnn", marks=pytest.mark.slow), "resnet8", "batch"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", NAMES)
def test_every_defense_acts_on_every_kind_of_model(name: str, model: str) -> None:
    kind = {"name": "resnet8", "norm": "batch"} if model == "batch" else {"name": model}
    if name == "precode":
        kind = {"name": "precode", "width": 8, "base": kind["name"]}
    step = a_step(a_model(**kind))
    defense = DEFENSES[name]()
    try:
        defense.check_model(step.model)
    except ValueError as error:
        assert str(error).strip()
        return
    defended = defense.apply(a_task(step), gradient)
    assert [values.shape for values in defended] == [p.shape for p in step.parameters]
    assert torch.isfinite(flat(defended)).all()
    if name != "clipping":
        assert not torch.equal(flat(defended), flat(gradient(a_task(step))))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_mimicked_is_differentiable(name: str) -> None:
    step = a_step(model_for(name))
    kind = DEFENSES[name]
    observed = kind().apply(a_task(step), gradient)
    dummy = [(1e4 * g).requires_grad_() for g in gradient(a_task(step))]
    mimicked = kind.mimic(dummy, kind.estimate(observed, step.model))
    assert [m.shape for m in mimicked] == [d.shape for d in dummy]
    assert kind.is_mimicked != torch.equal(flat(mimicked), flat(dummy))
    assert kind.is_mimicked == (name not in UNCHANGED)
    slopes = torch.autograd.grad(flat(mimicked).square().sum(), dummy)
    assert torch.isfinite(flat(slopes)).all()
    assert flat(slopes).abs().max() > 0


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_where_it_is_deterministic_the_attackers_copy_is_the_defense(name: str) -> None:
    step = a_step(a_model())
    kind = DEFENSES[name]
    observed = kind(**ARGUMENTS.get(name, {})).apply(a_task(step), gradient)
    mimicked = kind.mimic(gradient(a_task(step)), kind.estimate(observed, step.model))
    torch.testing.assert_close(flat(mimicked), flat(observed), rtol=1e-5, atol=1e-9)


def a_spec(tmp_path: Path, *mods: str | ModSettings, model: str = "mlp") -> ClientSpec:
    dataset = load_dataset("digits")
    data = DataSettings(dataset="digits", clients=12)
    return ClientSpec(
        dataset=dataset.directory,
        partition=partition_dataset(dataset, data, 3).directory,
        model=ModelSettings(name=model, **({"base": "mlp"} if model == "precode" else {})),
        client=ClientSettings(learning_rate=0.1, batch_size=200, epochs=1, mods=mods),
        num_rounds=1,
        seed=7,
    )


def an_answer(spec: ClientSpec, server_round: int = 1) -> tuple[dict[str, np.ndarray], Message]:
    model = build_model(spec.model, (1, 8, 8), 10, seed=1)
    arrays = ModelArrays(model).read()
    content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": server_round})})
    message = Message(content, dst_node_id=1, message_type="train")
    torch.manual_seed(5)
    context = Context(1, 1, {"partition-id": 0, "num-partitions": 12}, RecordDict(), {})
    reply = make_client_app(spec)(message, context)
    assert not reply.has_error(), reply.error
    moved = {
        key: array.numpy() - arrays[key].numpy() for key, array in reply.content["arrays"].items()
    }
    return moved, reply


@pytest.mark.parametrize("name", NAMES)
def test_every_defense_acts_in_a_client(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))
    arguments = {"bound": 1e-3} if name == "clipping" else {}
    mod = ModSettings(name=REFERENCES[name], **arguments)
    model = "precode" if name == "precode" else "mlp"
    plain, _ = an_answer(a_spec(tmp_path, model=model))
    defended, reply = an_answer(a_spec(tmp_path, mod, model=model))
    again, _ = an_answer(a_spec(tmp_path, mod, model=model))
    assert any(not np.array_equal(plain[key], defended[key]) for key in plain)
    for key, values in defended.items():
        np.testing.assert_array_equal(values, again[key])
    assert ("epsilon" in reply.content["metrics"]) == (name in ("dp-sgd", "local-dp"))


def test_on_a_step_or_on_the_update_is_the_same_after_one_step_of_sgd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))
    on_step = ModSettings(name=REFERENCES["top-k"], pruned=0.7, acts_on="step")
    on_update = ModSettings(name=REFERENCES["top-k"], pruned=0.7)
    first, _ = an_answer(a_spec(tmp_path, on_step))
    second, _ = an_answer(a_spec(tmp_path, on_update))
    for key, values in first.items():
        # The update is a difference of float32 parameters.
        np.testing.assert_allclose(values, second[key], rtol=0, atol=1e-7)


def test_mods_of_steps_compose_with_the_outermost_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))
    sign = ModSettings(name=REFERENCES["sign"], acts_on="step")
    prune = ModSettings(name=REFERENCES["top-k"], pruned=0.75, acts_on="step")
    values, _ = an_answer(a_spec(tmp_path, prune, sign))
    weight = values["1.weight"]
    assert len(np.unique(np.abs(weight).round(6))) == 2
    assert np.mean(weight == 0.0) == pytest.approx(0.75, abs=1e-3)


def foreign_app(*mods: object) -> ClientApp:
    app = ClientApp()

    @app.train(mods=list(mods))
    def train(message: Message, context: Context) -> Message:
        arrays = {k: a.numpy() for k, a in message.content["arrays"].items()}
        changed = {
            k: v + np.arange(v.size, dtype=v.dtype).reshape(v.shape) for k, v in arrays.items()
        }
        named = ArrayRecord({k: Array(np.asarray(v)) for k, v in changed.items()})
        content = RecordDict({"arrays": named, "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    return app


def foreign_message() -> Message:
    values = {
        "weight": np.zeros((2, 5), np.float32),
        "norm.running_var": np.ones(4, np.float32),
        "norm.num_batches_tracked": np.array(3),
    }
    arrays = ArrayRecord({key: Array(value) for key, value in values.items()})
    return Message(RecordDict({"arrays": arrays}), dst_node_id=1, message_type="train")


def test_a_defense_of_updates_is_a_mod_for_any_app() -> None:
    context = Context(1, 1, {}, RecordDict(), {})
    reply = foreign_app(TopK(pruned=0.8))(foreign_message(), context)
    arrays = {key: array.numpy() for key, array in reply.content["arrays"].items()}
    assert arrays["weight"].ravel().tolist() == [0.0] * 8 + [8.0, 9.0]
    assert arrays["norm.running_var"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert arrays["norm.num_batches_tracked"] == 3


def test_a_defense_of_steps_refuses_a_client_that_does_not_ask_for_it() -> None:
    context = Context(1, 1, {}, RecordDict(), {})
    reply = foreign_app(GaussianNoise(acts_on="step"))(foreign_message(), context)
    assert reply.has_error()
    assert "training does not ask for such mods" in reply.error.reason


def test_spec_with_defenses_is_hashable_and_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))
    spec = a_spec(tmp_path, ModSettings(name=REFERENCES["top-k"], pruned=0.5))
    other = replace(
        spec,
        client=spec.client.model_copy(
            update={"mods": (ModSettings(name=REFERENCES["top-k"], pruned=0.9),)}
        ),
    )
    assert hash(spec) is not None
    assert spec != other
