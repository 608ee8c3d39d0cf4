from pathlib import Path

import numpy as np
import pytest

from atoll.clients.data.datasets.cifar100 import decode_cifar100
from atoll.errors import DataUnavailableError


def write_records(path: Path, fine: list[int], seed: int) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (len(fine), 3072), dtype=np.uint8)
    labels = np.array([[label // 5, label] for label in fine], np.uint8)
    path.write_bytes(np.concatenate([labels, pixels], axis=1).tobytes())
    return pixels


def test_the_binary_version_has_fine_labels_and_channels_first(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    pixels = write_records(folder / "train.bin", [99, 3, 42], 0)
    write_records(folder / "test.bin", [7], 1)
    names = [f"class-{label}" for label in range(100)]
    (folder / "fine_label_names.txt").write_text("\n".join(names))
    decoded = decode_cifar100(tmp_path)
    assert decoded.train.labels.tolist() == [99, 3, 42]
    assert decoded.test.labels.tolist() == [7]
    assert decoded.task[42] == "class-42"
    image = decoded.train.images[1]
    assert image.shape == (32, 32, 3)
    assert (image[:, :, 2].ravel() == pixels[1, 2048:]).all()


def test_what_is_missing_or_cut_off_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailableError, match="has no train.bin in it"):
        decode_cifar100(tmp_path)
    (tmp_path / "train.bin").write_bytes(b"x" * 3000)
    with pytest.raises(DataUnavailableError, match="train.bin: holds 3000 bytes"):
        decode_cifar100(tmp_path)
