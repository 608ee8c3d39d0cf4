import numpy as np
import pytest
import torch

from atoll.clients.noprop.networks.embeddings import initial_embedding, prototypes


@pytest.mark.parametrize("kind", ["orthogonal", "learned"])
def test_rows_are_orthonormal_where_the_dimension_allows_it(kind):
    rows = initial_embedding(kind, 10, 20, torch.Generator().manual_seed(0))
    assert torch.allclose(rows @ rows.T, torch.eye(10), atol=1e-6)


def test_narrow_rows_have_unit_length():
    rows = initial_embedding("learned", 10, 4, torch.Generator().manual_seed(0))
    assert torch.allclose(rows.norm(dim=1), torch.ones(10))


def test_prototypes_are_the_images_with_the_least_median_distance():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(60, 1, 3, 3, generator=generator)
    labels = np.arange(60) % 3
    found = prototypes(images, labels, 3)
    for label in range(3):
        own = images.flatten(1)[labels == label]
        medians = []
        for place in range(len(own)):
            others = torch.cat([own[:place], own[place + 1 :]])
            medians.append(float((others - own[place]).norm(dim=1).median()))
        assert torch.equal(found[label], own[int(np.argmin(medians))])


def test_a_class_without_images_has_no_prototype():
    with pytest.raises(ValueError, match="class 1 has no training image"):
        prototypes(torch.randn(4, 1, 3, 3), np.zeros(4, np.int64), 2)
