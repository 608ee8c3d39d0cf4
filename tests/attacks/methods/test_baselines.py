"""The baselines that attacks must beat."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atoll.attacks.base.attack_building import build_attack
from atoll.attacks.threat.observation import PublicData, observe
from atoll.attacks.victims import references_of
from atoll.clients.data.catalog.loading import load_dataset
from atoll.errors import AttackError
from tests.support.attacks.attacking import attacked, figures
from tests.support.attacks.real_updates import client_update


def test_a_random_image_is_that_of_its_seed_and_victim() -> None:
    one, two = attacked("random-image", {"name": "mlp"}, [[0], [1]])
    again, _ = attacked("random-image", {"name": "mlp"}, [[0], [1]])
    assert torch.equal(one.images, again.images)
    assert not torch.equal(one.images, two.images)
    assert max(figures([one, two], "psnr")) < 10
    assert figures([one], "threat") == ["eavesdropper"]


def test_the_class_mean_is_that_of_public_images_of_the_label() -> None:
    data = load_dataset("digits")
    public = references_of(data).public
    [found] = attacked("class-mean", {"name": "mlp"}, [[0]])
    label = int(data.test.labels[0])
    wanted = public.images[public.labels == label].mean(0)
    torch.testing.assert_close(found.images[0], wanted)
    images = torch.from_numpy(np.array(data.test.images[::2])).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(public.images, images)


def test_public_images_of_another_size_are_refused() -> None:
    attack = build_attack("class-mean", {})
    capture, _ = client_update({"name": "mlp"}, {}, [0])
    public = PublicData(torch.zeros(3, 1, 28, 28), torch.zeros(3).long())
    with pytest.raises(AttackError, match=r"have shape \(3, 1, 28, 28\), expected \(n > 0, 1, 8"):
        attack.check(observe(capture, attack.threat, public=public))
