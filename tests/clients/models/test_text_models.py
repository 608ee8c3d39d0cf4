"""Models of tokens: padding changes nothing, the future is not seen, clients can be stacked."""

import pytest
import torch

from atoll.clients import (
    Classification,
    ModelSettings,
    NextToken,
    Regression,
    TokenInputs,
    build_model,
)
from atoll.clients.training.stacked.vectorized_training import obstacle_to_vectorizing
from atoll.errors import InvalidExperimentError

INPUTS = TokenInputs(length=7, vocabulary=11, padding=0)
NEXT = NextToken(vocabulary=11, length=7)
TWO = Classification(classes=("no", "yes"))
OF_PLACES = [("gru", NEXT), ("char-transformer", NEXT)]
OF_TEXTS = [
    ("gru", TWO),
    ("text-mean", TWO),
    ("text-transformer", TWO),
    ("text-transformer", Regression()),
]
SIZES = {"gru": {"hidden": 6}, "text-mean": {"width": 5}}
SMALL = {"width": 8, "heads": 2}


def _built(name, task, inputs=INPUTS):
    settings = ModelSettings(name=name, **SIZES.get(name, SMALL))
    return build_model(settings, inputs, task, seed=1).eval()


@pytest.mark.parametrize(("name", "task"), [*OF_PLACES, *OF_TEXTS])
def test_padding_changes_no_output(name, task) -> None:
    model = _built(name, task)
    tokens = torch.tensor([[3, 4, 5, 0, 0, 0, 0]])
    padded, short = model(tokens), model(tokens[:, :3])
    if isinstance(task, NextToken):
        padded = padded[:, :3]
    torch.testing.assert_close(padded, short)


@pytest.mark.parametrize(("name", "task"), OF_PLACES)
def test_a_place_does_not_see_those_after_it(name, task) -> None:
    model = _built(name, task)
    first = torch.tensor([[3, 4, 5, 6, 7, 8, 9]])
    second = first.clone()
    second[0, 4] = 1
    one, other = model(first)[0], model(second)[0]
    torch.testing.assert_close(one[:4], other[:4])
    assert not torch.allclose(one[4:], other[4:])


@pytest.mark.parametrize(("name", "task"), OF_TEXTS)
def test_a_text_without_tokens_has_finite_outputs(name, task) -> None:
    assert _built(name, task)(INPUTS.blank(2)).isfinite().all()


@pytest.mark.parametrize(("name", "task"), [*OF_PLACES, *OF_TEXTS])
def test_clients_can_train_vectorised(name, task) -> None:
    assert obstacle_to_vectorizing(_built(name, task), INPUTS) is None


@pytest.mark.parametrize(("name", "task"), [*OF_PLACES, *OF_TEXTS])
def test_gradients_can_be_differentiated_again(name, task) -> None:
    model = _built(name, task)
    tokens = torch.tensor([[3, 4, 5, 6, 0, 0, 0], [7, 7, 2, 0, 0, 0, 0]])
    loss = task.mean_loss(model(tokens), task.blank_targets(2))
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    again = torch.autograd.grad(sum(g.square().sum() for g in gradients), parameters)
    assert all(g.isfinite().all() for g in again)


def test_attention_is_that_of_torch() -> None:
    from atoll.clients.models.texts.transformer import attention

    queries, keys, values = torch.randn(3, 2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    seen = torch.ones(5, 5, dtype=torch.bool).tril()
    expected = torch.nn.functional.scaled_dot_product_attention(queries, keys, values, seen)
    torch.testing.assert_close(attention(queries, keys, values, seen), expected)


def test_gated_units_are_those_of_torch() -> None:
    from atoll.clients.models.texts.recurrent import GatedUnits

    torch.manual_seed(0)
    own, reference = GatedUnits(3, 5), torch.nn.GRU(3, 5, batch_first=True)
    reference.weight_ih_l0.data, reference.bias_ih_l0.data = own.of_input.parameters()
    reference.weight_hh_l0.data, reference.bias_hh_l0.data = own.of_state.parameters()
    x = torch.randn(2, 4, 3)
    torch.testing.assert_close(own(x), reference(x)[0])


def test_other_inputs_are_one_line() -> None:
    with pytest.raises(InvalidExperimentError, match="model.name = 'gru' on images .* tokens"):
        build_model(ModelSettings(name="gru"), (1, 8, 8), 2, 0)
    with pytest.raises(InvalidExperimentError, match="multiple of heads"):
        build_model(ModelSettings(name="char-transformer", width=9, heads=2), INPUTS, NEXT, 0)
