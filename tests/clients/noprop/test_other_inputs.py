"""NoProp's networks on rows of tables and on texts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from atoll.clients import (
    CategoryColumn,
    Classification,
    Inputs,
    ModelSettings,
    NumberColumn,
    Regression,
    TableInputs,
    TokenInputs,
    build_model,
)
from atoll.clients.encoders import vector_encoder
from atoll.errors import InvalidExperimentError

NUMBERS = tuple(NumberColumn(name=name) for name in "ab")
KINDS = CategoryColumn(name="c", categories=("x", "y", "z"))
INPUTS: dict[str, Inputs] = {
    "table": TableInputs(columns=(*NUMBERS, KINDS)),
    "tokens": TokenInputs(length=5, vocabulary=7),
}
TASK = Classification(classes=("no", "yes", "maybe"))


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize(
    "name", ["noprop-dt", "noprop-ct", "noprop-fm", "chained-blocks", "equal-cnn"]
)
def test_a_network_is_built_of_them(name: str, kind: str) -> None:
    model = build_model(ModelSettings(name=name, block="small"), INPUTS[kind], TASK, seed=0)
    given = INPUTS[kind].varied(4, generator=torch.Generator().manual_seed(0))
    assert model(given).shape == (4, 3)


def test_a_table_is_encoded_as_numbers_and_one_hot_categories() -> None:
    encoder, width = vector_encoder(INPUTS["table"], 8)
    rows = torch.tensor([[0.5, -1.0, 3.0], [2.0, 0.0, 0.0]])
    expected = torch.cat([rows[:, :2], F.one_hot(rows[:, 2].long(), 4).float()], 1)
    assert width == 6
    torch.testing.assert_close(encoder(rows), expected)


def test_padding_does_not_change_a_text() -> None:
    torch.manual_seed(0)
    encoder, _ = vector_encoder(INPUTS["tokens"], 8)
    short, long = torch.tensor([[3, 4, 0, 0, 0]]), torch.tensor([[3, 4]])
    torch.testing.assert_close(encoder(short), encoder(long))


def test_what_they_lack_is_refused() -> None:
    settings = ModelSettings(name="noprop-dt", embedding="prototype")
    with pytest.raises(InvalidExperimentError, match="prototypes are images"):
        build_model(settings, INPUTS["table"], TASK, seed=0)
    with pytest.raises(InvalidExperimentError, match="of a classification only"):
        build_model(ModelSettings(name="noprop-dt"), INPUTS["table"], Regression(), seed=0)
