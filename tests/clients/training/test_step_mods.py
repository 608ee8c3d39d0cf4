import threading

import torch

from atoll.clients.models.mlp import linear
from atoll.clients.settings import ClientSettings
from atoll.clients.training.local_training import train
from atoll.clients.training.step_mods import LocalStep, StepGradient, active_step_mods, on_steps

IMAGES = torch.randn(10, 1, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(10) % 3


def trained(**settings: object) -> tuple[torch.Tensor, float]:
    torch.manual_seed(0)
    model = linear((1, 4, 4), 3)
    result = train(
        model,
        IMAGES,
        LABELS,
        ClientSettings(batch_size=4, **settings),  # type: ignore[arg-type]
        learning_rate=0.1,
        generator=torch.Generator().manual_seed(1),
    )
    return torch.cat([p.detach().flatten() for p in model.parameters()]), result.loss


def test_a_mod_that_does_nothing_changes_no_bit() -> None:
    seen: list[LocalStep] = []

    def nothing(step: LocalStep, compute: StepGradient) -> list[torch.Tensor]:
        seen.append(step)
        return compute(step)

    plain, loss = trained(epochs=2)
    with on_steps(nothing) as active:
        modded, loss_with_mod = trained(epochs=2)
    assert active.was_asked_for
    assert torch.equal(plain, modded)
    assert loss == loss_with_mod
    assert [len(step.labels) for step in seen] == [4, 4, 2] * 2
    assert {step.examples for step in seen} == {10}


def test_mods_act_outermost_last() -> None:
    def added(step: LocalStep, compute: StepGradient) -> list[torch.Tensor]:
        return [g + 1.0 for g in compute(step)]

    def doubled(step: LocalStep, compute: StepGradient) -> list[torch.Tensor]:
        return [2.0 * g for g in compute(step)]

    start, _ = trained(steps=1, epochs=None)
    with on_steps(doubled), on_steps(added):
        both, _ = trained(steps=1, epochs=None)
    with on_steps(doubled):
        twice, _ = trained(steps=1, epochs=None)
    torch.testing.assert_close(both, twice - 0.1 * 2.0)
    assert not torch.equal(start, twice)


def test_mods_are_in_force_in_their_context_and_thread_only() -> None:
    def mod(step: LocalStep, compute: StepGradient) -> list[torch.Tensor]:
        return compute(step)

    elsewhere: list[int] = []
    with on_steps(mod):
        assert active_step_mods() == (mod,)
        thread = threading.Thread(target=lambda: elsewhere.append(len(active_step_mods())))
        thread.start()
        thread.join()
    assert elsewhere == [0]
    assert active_step_mods() == ()
