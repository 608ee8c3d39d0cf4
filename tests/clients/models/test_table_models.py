"""Models of tables: what they are, by references of their own, and that clients train stacked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from atoll.clients.data.inputs.images import images_of
from atoll.clients.data.inputs.table import CategoryColumn, Column, NumberColumn, TableInputs
from atoll.clients.models.head import SplitModel
from atoll.clients.models.model_building import build_model
from atoll.clients.models.tables import OneHotRows
from atoll.clients.settings import ModelSettings
from atoll.clients.tasks.classification import Classification
from atoll.clients.tasks.regression import Regression
from atoll.clients.training.stacked.vectorized_training import obstacle_to_vectorizing
from atoll.errors import InvalidExperimentError

TASK = Classification(classes=("a", "b", "c"))
AGE = NumberColumn(name="age", has_missing=True)
DOSE = NumberColumn(name="dose")
PAIN = CategoryColumn(name="pain", categories=("", "none", "some", "typical"))
SEX = CategoryColumn(name="sex", categories=("", "f", "m"), known=(1, 2))
NAMES = ["table-linear", "table-mlp", "ft-transformer"]


def inputs_of(*columns: Column) -> TableInputs:
    return TableInputs(columns=columns)


ALL = inputs_of(AGE, PAIN, DOSE, SEX)


def build(name: str, inputs: TableInputs = ALL, **arguments: Any) -> nn.Module:
    settings = ModelSettings.model_validate({"name": name, **arguments})
    return build_model(settings, inputs, TASK, seed=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("columns", [(AGE,), (PAIN,), (AGE, PAIN, DOSE, SEX)])
def test_any_columns_give_outputs_and_gradients(name: str, columns: tuple[Column, ...]) -> None:
    inputs = inputs_of(*columns)
    model = build(name, inputs)
    rows = inputs.varied(5, generator=torch.Generator().manual_seed(0))
    outputs = model(rows)
    assert outputs.shape == (5, 3)
    outputs.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    assert build_model(ModelSettings(name=name), inputs, Regression(), 0)(rows).shape == (5, 1)


@pytest.mark.parametrize("name", NAMES)
def test_clients_train_stacked(name: str) -> None:
    assert obstacle_to_vectorizing(build(name), ALL) is None
    assert obstacle_to_vectorizing(build(name, inputs_of(PAIN)), inputs_of(PAIN)) is None


@pytest.mark.parametrize("name", NAMES)
def test_the_head_is_the_last_linear_layer(name: str) -> None:
    model = build(name)
    head = SplitModel(model).head
    assert isinstance(head, nn.Linear)
    assert head.out_features == 3


def test_one_hot_rows_are_written_out() -> None:
    rows = ALL.to_tensor(np.array([[1.5, 3, -2.0, 2], [np.nan, 0, 1.0, 0]]))
    assert OneHotRows(ALL)(rows).tolist() == [
        [1.5, -2.0, 0.0, *(0, 0, 0, 0, 1), *(0, 0, 1)],
        [0.0, 1.0, 1.0, *(0, 1, 0, 0, 0), *(1, 0, 0)],
    ]


def test_a_linear_model_trains_to_logistic_regression() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = ALL.varied(400, generator=generator)
    model = build("table-linear")
    encoded = OneHotRows(ALL)(rows)
    truth = torch.randn(encoded.shape[1], 3, generator=generator)
    noise = 2 * torch.randn(400, 3, generator=generator)
    labels = (encoded @ truth + noise).argmax(1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        # scikit-learn's penalty: half the squared weights, without the bias, by C.
        penalty = model[1].weight.square().sum() / 2  # type: ignore[index, union-attr]
        value = nn.functional.cross_entropy(model(rows), labels, reduction="sum") + penalty
        value.backward()
        return value

    for _ in range(5):
        optimizer.step(loss)
    reference = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit(encoded, labels)
    found = model(rows).softmax(1).detach().numpy()
    assert found == pytest.approx(reference.predict_proba(encoded), abs=2e-3)


def test_tokens_of_ft_transformer_do_not_depend_on_their_order() -> None:
    """Columns in another order, with their own weights, give the same outputs."""
    model = build("ft-transformer", width=16, heads=2)
    rows = ALL.varied(4, generator=torch.Generator().manual_seed(0))
    swapped = build("ft-transformer", inputs_of(PAIN, DOSE, AGE, SEX), width=16, heads=2)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    order = [1, 0, 2]
    state["tokens.scales"] = state["tokens.scales"][order]
    state["tokens.offsets"] = state["tokens.offsets"][[*order, 3, 4]]
    swapped.load_state_dict(state)
    other = torch.cat([rows[:, order], rows[:, 3:]], 1)
    torch.testing.assert_close(swapped(other), model(rows))


def test_attention_is_torchs() -> None:
    model = build("ft-transformer", width=16, heads=2)
    attention = model.blocks[0].attention  # type: ignore[index, union-attr]
    reference = nn.MultiheadAttention(16, 2, batch_first=True)
    parts = [attention.query, attention.key, attention.value]
    reference.in_proj_weight.data = torch.cat([part.weight for part in parts]).detach()
    reference.in_proj_bias.data = torch.cat([part.bias for part in parts]).detach()
    reference.out_proj.load_state_dict(attention.out.state_dict())
    tokens = torch.randn(3, 6, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(attention(tokens), reference(tokens, tokens, tokens)[0])


@pytest.mark.parametrize("name", NAMES)
def test_images_are_refused(name: str) -> None:
    with pytest.raises(InvalidExperimentError, match=r"it takes rows of a table; expected another"):
        build_model(ModelSettings(name=name), images_of((1, 8, 8)), TASK, 0)


def test_heads_divide_the_width() -> None:
    with pytest.raises(InvalidExperimentError, match=r"heads = 3: does not divide width = 64"):
        build("ft-transformer", heads=3)
