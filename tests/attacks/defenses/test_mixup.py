import numpy as np
import torch
import torch.nn.functional as F

from atoll.attacks.defenses.mixup import MixUp
from tests.support.attacks.one_step import a_model, a_step, a_task, flat, gradient


def test_the_gradient_is_that_of_mixed_images_and_labels() -> None:
    step = a_step(a_model(), examples=5)
    defended = flat(MixUp(alpha=0.7).apply(a_task(step), gradient))
    # The same draws as mixup_objective's, from the same seed.
    seed = int(torch.randint(2**62, (), generator=a_task(step).generator))
    generator = np.random.default_rng(seed)
    share = float(generator.beta(0.7, 0.7))
    partner = torch.from_numpy(generator.permutation(5))
    images = share * step.images + (1 - share) * step.images[partner]
    labels = F.one_hot(step.labels, 10).float()
    loss = F.cross_entropy(step.model(images), share * labels + (1 - share) * labels[partner])
    expected = flat(torch.autograd.grad(loss, step.parameters))
    torch.testing.assert_close(defended, expected)


def test_one_image_has_no_other_to_mix_with() -> None:
    step = a_step(a_model(), examples=1)
    torch.testing.assert_close(
        flat(MixUp().apply(a_task(step), gradient)), flat(gradient(a_task(step)))
    )
