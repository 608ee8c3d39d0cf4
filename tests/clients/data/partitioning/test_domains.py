"""What is evaluated on which domain, and what is said of unequal classes."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.partitioning.domains import (
    test_sets as sets_of,  # pytest would take it for a test
)
from atoll.clients.data.partitioning.domains import (
    trainable,
    training_domains,
    warn_of_unequal_classes,
)


def test_held_out_domains_are_judged_and_training_domains_validated() -> None:
    emoji = load_dataset("emoji")
    sets = sets_of(emoji, ("google",), None)
    assert sets.main == ("google",)
    assert sets.validation == ("apple", "twitter", "facebook")
    for name, indices in zip(sets.names, sets.indices, strict=True):
        assert (emoji.test.domains[indices] == emoji.domains.index(name)).all()
    assert sum(map(len, sets.indices)) == len(emoji.test)
    kept = trainable(emoji, ("google",))
    assert set(emoji.train.domains[kept].tolist()) == {0, 2, 3}


def test_without_held_out_domains_all_with_training_examples_are_judged() -> None:
    colored = load_dataset("colored-digits")
    sets = sets_of(colored, (), 50)
    assert sets.names == ("e0.2", "e0.1", "e0.9", "grey")
    assert sets.main == training_domains(colored) == ("e0.2", "e0.1")
    assert sets.validation == ()
    assert [len(indices) for indices in sets.indices] == [50] * 4
    plain = sets_of(load_dataset("digits"), (), 7)
    assert (plain.names, plain.main) == (("",), ("",))
    np.testing.assert_array_equal(plain.indices[0], np.arange(7))


def test_a_limit_on_test_examples_leaves_all_classes_in(tmp_path: Path) -> None:
    sets = sets_of(emoji := load_dataset("emoji"), (), 60)
    for indices in sets.indices:
        assert len(np.unique(indices)) == 60
        assert len(np.unique(emoji.test.labels[indices])) == len(emoji.classes)
    for name in ("cat", "dog", "owl"):
        (tmp_path / name).mkdir()
        for index in range(40):
            Image.new("RGB", (4, 4), (index, 9, 9)).save(tmp_path / name / f"{index}.png")
    folder = load_dataset("folder", tmp_path, {"image_size": 8})
    [few] = sets_of(folder, (), 9).indices
    assert set(folder.test.labels[few]) == {0, 1, 2}
    # Data sets in no order keep their first ones.
    digits = sets_of(load_dataset("digits"), (), 9)
    np.testing.assert_array_equal(digits.indices[0], np.arange(9))


def test_a_class_that_a_training_domain_lacks_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for place in ("art/cat", "art/dog", "photo/cat", "sketch/cat", "sketch/dog"):
        (tmp_path / place).mkdir(parents=True)
        for index in range(5):
            Image.new("RGB", (4, 4), (index, 9, 9)).save(tmp_path / place / f"{index}.png")
    data = load_dataset("folder", tmp_path, {"image_size": 8})
    with caplog.at_level(logging.WARNING, logger="atoll"):
        warn_of_unequal_classes(data, ("photo",))
        assert not caplog.records
        warn_of_unequal_classes(data, ("art",))
    assert "domain 'photo' has no training examples of 'dog'" in caplog.text
    assert "a federated run still equals the centralised one" in caplog.text
