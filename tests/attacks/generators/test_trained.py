from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from atoll.attacks.generators import network_training
from atoll.attacks.generators.generator_loading import load_generator
from atoll.attacks.generators.trained_generator import (
    GeneratorSettings,
    generator_folder,
    image_hashes,
    load_trained,
    train_generator,
)
from atoll.attacks.generators.vae_training import TrainingSettings
from atoll.clients.data.catalog.loading import load_dataset
from atoll.errors import DataUnavailableError, InvalidExperimentError, UnknownNameError

SETTINGS = TrainingSettings(steps=4, batch_size=8, width=8, latent=4)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))
    return tmp_path / "generators"


def test_it_is_trained_once_on_images_that_no_client_has(cache: Path) -> None:
    digits = load_dataset("digits")
    told: list[int] = []
    folder = train_generator(digits, SETTINGS, on_step=lambda step, loss: told.append(step))
    assert told == [1, 2, 3, 4]
    assert train_generator(digits, SETTINGS, on_step=lambda *_: pytest.fail("again")) == folder
    assert [place.name for place in cache.iterdir()] == [folder.name]
    generator = load_trained("digits", folder)
    assert generator.image_shape == (1, 8, 8)
    assert not generator.has_seen(digits.train.images).any()
    assert generator.has_seen(digits.test.images).all()
    assert not any(p.requires_grad for p in generator.parameters())


def test_the_folder_is_named_by_what_decides_the_generator() -> None:
    digits = load_dataset("digits")
    names = {
        generator_folder(digits, settings, split).name
        for split in ("test", "train")
        for settings in (SETTINGS, SETTINGS.model_copy(update={"seed": 1}), TrainingSettings())
    }
    assert len(names) == 6


def test_an_interrupted_training_is_resumed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load_dataset("digits")
    monkeypatch.setattr(network_training, "SAVE_EVERY", 2)

    def stop(step: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_generator(digits, SETTINGS, on_step=stop)
    assert not generator_folder(digits, SETTINGS, "test").exists()
    told: list[int] = []
    folder = train_generator(digits, SETTINGS, on_step=lambda step, loss: told.append(step))
    assert told == [3, 4]
    assert [place.name for place in cache.iterdir()] == [folder.name]
    kept = load_trained("digits", folder).state_dict()
    folder.rename(folder.with_name("other"))
    # A state that is no state is begun anew.
    folder.with_name(f".{folder.name}.safetensors").write_bytes(b"x")
    again = load_trained("digits", train_generator(digits, SETTINGS)).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in kept.items())


def test_a_generator_is_found_by_its_data_sets_name(cache: Path) -> None:
    with pytest.raises(DataUnavailableError, match="'atoll train-generator digits'$"):
        load_generator("digits")
    digits = load_dataset("digits")
    folder = train_generator(digits, SETTINGS)
    cached = f"in the cache: steps = 4, batch_size = 8, .*{folder.name}"
    with pytest.raises(DataUnavailableError, match=cached):
        load_generator("digits")
    wanted = GeneratorSettings(**SETTINGS.model_dump())
    asked = "with steps = 4, .*, split = train; .* --split train --set steps=4 --set batch_size=8 "
    with pytest.raises(DataUnavailableError, match=asked):
        load_generator("digits", wanted=wanted.model_copy(update={"split": "train"}))
    for found in (
        load_generator("digits", wanted=wanted),
        load_generator("digits", folder),
        load_generator(str(folder)),
    ):
        assert found.classes == 10
    with pytest.raises(DataUnavailableError, match=r"generator\.json: cannot be read"):
        load_generator("digits", cache)


def test_other_generators_are_found_by_name() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'biggan-deep'"):
        load_generator("bigan-deep")
    with pytest.raises(InvalidExperimentError, match="generator_path is not set"):
        load_generator("stylegan2")
    with pytest.raises(InvalidExperimentError, match="it returned a PosixPath"):
        load_generator("pathlib:Path", Path("x"))


def test_hashes_are_of_an_images_pixels() -> None:
    images = np.zeros((3, 2, 2, 1), np.uint8)
    images[1, 0, 0, 0] = 1
    first, second, third = image_hashes(images)
    assert first == third != second
