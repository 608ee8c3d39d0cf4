"""SPEAR against closed forms: a gradient made of known examples, and real clients' updates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from atoll.attacks.arena.applicability import check_fits
from atoll.attacks.base.attack_building import build_attack
from atoll.attacks.example_victims import example_victim
from atoll.attacks.methods.exact.spear.attack import SPEAR, expected_samples
from atoll.attacks.methods.exact.spear.directions import (
    decompose,
    inputs_of,
    reweight,
    sample,
    settle,
    sparsest_basis,
)
from atoll.attacks.victims import attack_victims, observe_victims
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.errors import AttackError
from tests.support.attacks.attacking import attacked, figures
from tests.support.attacks.other_kinds import CLASSES, TABLE, dataset_of

EIGHT = [list(range(20, 28))]
MLP = {"name": "mlp"}


def made_up(batch: int, units: int = 120, width: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    """A gradient D X, and X: half of D is zero, and the last column of X is 1."""
    random = torch.Generator().manual_seed(batch)
    columns = torch.randn(units, batch, generator=random, dtype=torch.float64)
    columns *= torch.rand(units, batch, generator=random) < 0.5
    rows = torch.randn(batch, width, generator=random, dtype=torch.float64)
    rows[:, -1] = 1
    return columns @ rows, rows


def found_in(gradient: torch.Tensor, batch: int, count: int = 1000) -> torch.Tensor:
    found = decompose(gradient, batch)
    starts = sample(found, count, torch.Generator().manual_seed(0))
    return inputs_of(found, sparsest_basis(settle(found, reweight(found, starts))))


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_the_sparsest_basis_is_the_batch(batch: int) -> None:
    gradient, rows = made_up(batch)
    distances = torch.cdist(found_in(gradient, batch), rows)
    assert distances.min(0).values.max() < 1e-7
    assert sorted(distances.argmin(1).tolist()) == list(range(batch))


def test_examples_have_the_same_bits_whatever_the_memory_held_before() -> None:
    gradient, _ = made_up(4, width=785)
    found = decompose(gradient, 4)
    starts = sample(found, 1000, torch.Generator().manual_seed(0))
    basis = sparsest_basis(settle(found, reweight(found, starts)))
    first = inputs_of(found, basis)
    held = []
    for size in range(300):
        held.append(torch.full((1 + size * 7 % 1000,), size))
        assert inputs_of(found, basis).equal(first)
        if len(held) > 50:
            held.clear()


def test_noise_is_found_and_moves_the_examples_by_as_much() -> None:
    gradient, rows = made_up(4)
    errors = []
    for deviation in (1e-6, 1e-4):
        random = torch.Generator().manual_seed(1)
        noisy = gradient + deviation * torch.randn(gradient.shape, generator=random).double()
        errors.append(float(torch.cdist(found_in(noisy, 4, 300), rows).min(0).values.max()))
    assert 1e-7 < errors[0] < 1e-4
    assert errors[1] == pytest.approx(100 * errors[0], rel=0.5)


def test_two_equal_examples_are_one_direction() -> None:
    gradient, _ = made_up(4)
    assert decompose(gradient, 6).rank == 4


def test_whole_batches_of_real_clients_are_exact_with_their_labels() -> None:
    found = attacked("spear", MLP, EIGHT)
    assert min(figures(found, "psnr")) > 100
    assert set(figures(found, "label_accuracy")) == {1.0}
    assert all(result.reconstruction.found.all() for result in found)  # type: ignore[union-attr]
    assert str(SPEAR().threat) == "eavesdropper"


def test_reweighting_finds_what_as_many_samples_do_not() -> None:
    six = [list(range(20, 26))]
    assert min(figures(attacked("spear", MLP, six, samples=100), "psnr")) > 100
    plain = attacked("spear", MLP, six, samples=100, reweighting=False)
    assert min(figures(plain, "psnr")) < 40
    whole = attacked("spear", MLP, [[0, 1, 2, 3]], reweighting=False)
    assert min(figures(whole, "psnr")) > 100


def test_what_is_not_recovered_is_said_to_be_and_blank() -> None:
    victim = example_victim(
        ModelSettings(name="mlp"), ClientSettings(batch_size=8, learning_rate=1.0), examples=8
    )
    record = victim.capture.reply.arrays["arrays"]
    random = torch.Generator().manual_seed(0)
    noisy = {
        name: value + torch.randn(value.shape, generator=random) for name, value in record.items()
    }
    reply = replace(victim.capture.reply, arrays={"arrays": noisy})
    attack = SPEAR(samples=100)
    observations = observe_victims(
        [replace(victim, capture=replace(victim.capture, reply=reply))], attack
    )
    [found] = attack.run_checked(observations)
    assert found.found is not None
    assert not found.found.any()
    assert set(found.labels.tolist()) == {-1}
    assert found.images.unique().numel() == 1


def test_one_seed_has_one_result() -> None:
    victim = example_victim(
        ModelSettings(name="mlp"), ClientSettings(batch_size=4, learning_rate=1.0), examples=4
    )
    attack = SPEAR(samples=50)
    observations = observe_victims([victim], attack)
    first, again = (attack.run_checked(observations, seed=3)[0] for _ in range(2))
    assert first.images.equal(again.images)
    assert first.labels.equal(again.labels)


def test_rows_of_a_table_are_exact_with_their_categories(tmp_path: Path) -> None:
    victim = example_victim(
        ModelSettings(name="table-mlp"),
        ClientSettings(batch_size=4, learning_rate=1.0),
        examples=4,
        dataset=dataset_of(tmp_path / "a", TABLE, CLASSES),
    )
    attack = SPEAR()
    candidates = victim.truth.inputs
    [found] = attack_victims(
        "spear", attack, [victim], observe_victims([victim], attack), candidates=candidates
    )
    assert {row["cell_accuracy"] for row in found.rows} == {1.0}


@pytest.mark.parametrize(
    ("model", "examples", "said"),
    [
        ({"name": "linear"}, 2, "spear cannot invert the model's layers: expected a linear layer"),
        ({"name": "lenet-relu"}, 2, "begins with Conv2d"),
        ({"name": "mlp", "hidden": [5]}, 5, "trained on 5 examples, and .* has 5 units"),
        ({"name": "mlp"}, 60, "a batch of 60 needs about 6e\\+14 samples, and samples = 20000"),
    ],
)
def test_what_it_cannot_invert_is_refused(
    model: dict[str, object], examples: int, said: str
) -> None:
    victim = example_victim(
        ModelSettings.model_validate(model),
        ClientSettings(batch_size=64, learning_rate=1.0),
        examples=examples,
    )
    attack = build_attack("spear", {})
    with pytest.raises(AttackError, match=said) as raised:
        observe_victims([victim], attack)
    assert "\n" not in str(raised.value)
    with pytest.raises(AttackError, match=said):
        check_fits(attack, victim.capture.federation, examples)


def test_the_estimate_is_the_share_of_row_sets_that_are_off() -> None:
    random = torch.Generator().manual_seed(0)
    off = torch.rand(40_000, 5, generator=random) < 0.4
    assert off.all(1).double().mean().item() == pytest.approx(1 / expected_samples(6, 0.4), rel=0.1)
