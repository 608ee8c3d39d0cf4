import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.mod import fixedclipping_mod

from atoll.attacks.defenses.clipping import Clipping
from atoll.flower import assume_identity
from tests.support.attacks.one_step import a_model, a_step, a_task, flat, gradient


def test_the_norm_is_bounded_and_the_direction_kept() -> None:
    step = a_step(a_model())
    plain = flat(gradient(a_task(step)))
    bound = float(plain.norm()) / 3
    short = flat(Clipping(bound=bound).apply(a_task(step), gradient))
    assert float(short.norm()) == pytest.approx(bound, rel=1e-5)
    assert float(torch.cosine_similarity(short, plain, dim=0)) == pytest.approx(1.0, abs=1e-6)
    long = flat(Clipping(bound=10 * bound).apply(a_task(step), gradient))
    torch.testing.assert_close(long, plain)


def test_it_clips_an_update_as_flowers_mod_does() -> None:
    assume_identity()
    generator = np.random.default_rng(0)
    shapes = {"a": (3, 4), "b": (5,)}
    start = {k: generator.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    end = {k: v + generator.normal(size=v.shape).astype(np.float32) for k, v in start.items()}

    def message() -> Message:
        content = RecordDict(
            {
                "arrays": ArrayRecord({k: Array(v) for k, v in start.items()}),
                "config": ConfigRecord({"clipping_norm": 0.5}),
            }
        )
        return Message(content, dst_node_id=1, message_type="train")

    def train(message: Message, context: Context) -> Message:
        content = RecordDict({"arrays": ArrayRecord({k: Array(v) for k, v in end.items()})})
        return Message(content, reply_to=message)

    context = Context(1, 1, {}, RecordDict(), {})
    theirs = fixedclipping_mod(message(), context, train).content["arrays"]
    ours = Clipping(bound=0.5)(message(), context, train).content["arrays"]
    for key in start:
        np.testing.assert_allclose(ours[key].numpy(), theirs[key].numpy(), rtol=0, atol=1e-6)
