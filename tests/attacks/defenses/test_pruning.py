import torch
from hypothesis import given
from hypothesis import strategies as st

from atoll.attacks.defenses.pruning import TopK, kept
from tests.support.attacks.one_step import a_model, a_step, a_task, gradient


@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=40),
    st.floats(0.01, 0.99),
)
def test_exactly_the_largest_stay_whatever_the_ties(numbers: list[int], pruned: float) -> None:
    values = torch.tensor(numbers, dtype=torch.float32)
    mask = kept(values, pruned)
    count = max(1, round((1 - pruned) * len(numbers)))
    assert int(mask.sum()) == count
    if count < len(numbers):
        assert values[mask].abs().min() >= values[~mask].abs().max()


def test_each_tensor_is_pruned_and_the_attacker_sees_how_much() -> None:
    step = a_step(a_model())
    plain = gradient(a_task(step))
    pruned = TopK(pruned=0.9).apply(a_task(step), gradient)
    for before, after in zip(plain, pruned, strict=True):
        left = torch.count_nonzero(after)
        assert left <= max(1, round(0.1 * before.numel()))
        assert torch.equal(after[after != 0], before[after != 0])
    estimate = TopK.estimate(pruned, step.model)
    assert abs(estimate.figures["pruned"] - 0.9) < 0.01
