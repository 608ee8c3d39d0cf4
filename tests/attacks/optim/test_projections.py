"""The projections against brute force and their definitions."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.attacks.optim.projections import project_box, project_l1_ball, project_sphere, row_norms

NUMBERS = st.floats(-10, 10, allow_nan=False, width=32)


def nearest_in_l1_ball(point: np.ndarray, radius: float) -> np.ndarray:
    """Solve the quadratic program by trying every set of coordinates that are not zero.

    On the sphere with the signs of the point, the minimiser on a given support moves every
    coordinate by the same amount.
    """
    if np.abs(point).sum() <= radius:
        return point
    best, best_distance = np.zeros_like(point), np.inf
    for support in product([False, True], repeat=len(point)):
        mask = np.array(support)
        candidate = np.zeros_like(point)
        if mask.any():
            shift = (np.abs(point[mask]).sum() - radius) / mask.sum()
            candidate[mask] = np.sign(point[mask]) * (np.abs(point[mask]) - shift)
        distance = np.square(candidate - point).sum()
        if np.abs(candidate).sum() <= radius * (1 + 1e-9) + 1e-9 and distance < best_distance:
            best, best_distance = candidate, distance
    return best


@settings(max_examples=200)
@given(
    rows=st.integers(1, 6).flatmap(
        lambda size: st.lists(
            st.lists(NUMBERS, min_size=size, max_size=size), min_size=1, max_size=3
        )
    ),
    radius=st.floats(0.0, 20.0),
    shift=NUMBERS,
)
def test_l1_projection_is_the_quadratic_programs_solution(rows, radius, shift) -> None:
    moved = torch.tensor(rows, dtype=torch.float64)
    center = torch.full_like(moved, shift)
    projected = project_l1_ball(center + moved, center, radius) - center
    for ours, point in zip(projected.numpy(), moved.numpy(), strict=True):
        np.testing.assert_allclose(ours, nearest_in_l1_ball(point, radius), atol=1e-6)


def test_l1_projection_keeps_shapes_and_what_is_inside() -> None:
    random = torch.Generator().manual_seed(0)
    center = torch.randn(3, 4, 5, 5, generator=random)
    moved = torch.randn(3, 4, 5, 5, generator=random) * torch.tensor([0.1, 1, 9]).view(3, 1, 1, 1)
    projected = project_l1_ball(center + moved, center, 40.0)
    distances = (projected - center).flatten(1).abs().sum(1)
    assert torch.equal(projected[0], (center + moved)[0])
    torch.testing.assert_close(distances[1:], torch.full((2,), 40.0))
    assert project_l1_ball(center + moved, center, float("inf")).equal(center + moved)
    torch.testing.assert_close(project_l1_ball(center + moved, center, 0.0), center)


def test_l1_projection_is_the_same_for_a_row_alone() -> None:
    values = torch.randn(5, 100, generator=torch.Generator().manual_seed(0))
    center = torch.zeros_like(values)
    together = project_l1_ball(values, center, 3.0)
    alone = [project_l1_ball(v[None], c[None], 3.0)[0] for v, c in zip(values, center, strict=True)]
    assert torch.equal(together, torch.stack(alone))


def test_sphere_keeps_a_norm_for_each_image_layer_or_map() -> None:
    random = torch.Generator().manual_seed(0)
    for shape, reduced in (((4, 6), (1,)), ((4, 3, 6), (2,)), ((4, 1, 5, 5), (2, 3))):
        start = torch.randn(shape, generator=random)
        moved = 3 * start + torch.randn(shape, generator=random)
        projected = project_sphere(moved, row_norms(start))
        kept = torch.linalg.vector_norm(projected, dim=reduced)
        torch.testing.assert_close(kept, torch.linalg.vector_norm(start, dim=reduced))
        # Nothing but the length of a row changes.
        ratio = (projected / moved).flatten(len(shape) - len(reduced))
        torch.testing.assert_close(ratio, ratio[..., :1].expand_as(ratio))
    zeros = torch.zeros(2, 3)
    assert torch.equal(project_sphere(zeros, torch.ones(2, 1)), zeros)


def test_box_clips_by_channel() -> None:
    values = torch.tensor([-2.0, 0.5, 2.0]).expand(1, 2, 3)
    low, high = torch.tensor([[-1.0], [0.0]]), torch.tensor([[1.0], [3.0]])
    expected = torch.tensor([[[-1.0, 0.5, 1.0], [0.0, 0.5, 2.0]]])
    assert torch.equal(project_box(values, low, high), expected)
    assert torch.equal(project_box(values, 0.0, 1.0), values.clamp(0, 1))
