"""Applicability of attacks to the updates of a federation, before it runs."""

from __future__ import annotations

from typing import Any

import pytest

from atoll.attacks.arena.applicability import check_fits
from atoll.attacks.base.attack_building import build_attack
from atoll.errors import AttackError
from tests.support.attacks.real_updates import client_update

VIT = {"name": "vit", "patch": 2, "width": 32, "first": "attention"}
FISHING = {"name": "fishing", "base": "mlp", "target": 3}
LOKI = {"name": "loki", "base": "mlp", "sets": 2, "bins": 8}
FITS: list[tuple[str, dict[str, Any], int]] = [
    ("april", VIT, 1),
    ("class-fishing", FISHING, 4),
    ("loki", LOKI, 4),
    ("feature-fishing", FISHING, 4),
    ("local-epochs", {"name": "mlp"}, 4),
    ("plug-and-play", {"name": "mlp"}, 4),
    ("class-fishing", {"name": "mlp"}, 4),
    ("april", {**VIT, "first": "residual"}, 1),
    ("april", VIT, 2),
    ("loki", {"name": "mlp"}, 4),
]
REFUSED = {
    6: "does not fish for a class",
    7: "model.first = 'attention'",
    8: "has 2 images",
    9: "no kernels that keep clients apart",
}


@pytest.mark.parametrize("place", range(len(FITS)))
def test_what_does_not_fit_is_refused_before_a_run(place: int) -> None:
    name, model, examples = FITS[place]
    capture, _ = client_update(model, {"batch_size": 8}, [0])
    attack = build_attack(name, {})
    if place not in REFUSED:
        check_fits(attack, capture.federation, examples)
        return
    with pytest.raises(AttackError, match=REFUSED[place]):
        check_fits(attack, capture.federation, examples)
