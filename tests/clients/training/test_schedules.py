import pytest
import torch
from torch.optim import lr_scheduler

from atoll.clients.settings import ClientSettings, ScheduleSettings
from atoll.clients.training.learning_rates import learning_rate_at

ROUNDS = 12


def rates(**schedule: object) -> list[float]:
    settings = ClientSettings(learning_rate=0.4, schedule=ScheduleSettings(**schedule))
    return [learning_rate_at(settings, number, ROUNDS) for number in range(1, ROUNDS + 1)]


@pytest.mark.parametrize(
    ("schedule", "reference"),
    [
        ({"name": "constant"}, lambda o: lr_scheduler.ConstantLR(o, 1.0)),
        ({"name": "step", "every": 5, "factor": 0.3}, lambda o: lr_scheduler.StepLR(o, 5, 0.3)),
        ({"name": "exponential", "factor": 0.9}, lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
        (
            {"name": "cosine", "final": 0.1},
            lambda o: lr_scheduler.CosineAnnealingLR(o, ROUNDS, 0.1),
        ),
    ],
)
def test_schedules_equal_torchs(schedule, reference) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.4)
    scheduler = reference(optimizer)
    expected = []
    for _ in range(ROUNDS):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates(**schedule) == pytest.approx(expected)


def test_warming_up_rises_to_the_full_rate_and_shifts_the_rest() -> None:
    warm = rates(name="exponential", factor=0.5, warmup_rounds=3)
    assert warm[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert warm[4:] == pytest.approx(rates(name="exponential", factor=0.5)[1:9])


def test_the_last_round_of_a_cosine_still_trains() -> None:
    assert rates(name="cosine")[-1] > 0.0
    one_round = ClientSettings(learning_rate=0.4, schedule=ScheduleSettings(name="cosine"))
    assert learning_rate_at(one_round, 1, 1) == 0.4
