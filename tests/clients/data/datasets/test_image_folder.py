"""Folders of images as people have them, against DomainBed's own words where it has any."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.datasets import folder as folder_module
from atoll.clients.data.datasets.folder import (
    FolderOptions,
    decode_folder,
    domainbed_test_mask,
    folder_key,
)
from atoll.clients.data.datasets.image_files import list_images, read_picture
from atoll.clients.data.files import dataset as store
from atoll.clients.data.partitioning.domains import warn_of_unequal_classes
from atoll.clients.data.partitioning.partition import partition_dataset
from atoll.clients.settings import DataSettings, PartitionSettings
from atoll.errors import DataUnavailableError

Places = dict[str, int]


def fill(root: Path, places: Places, suffix: str = ".png") -> Path:
    """Make so many images in each place, no two alike."""
    for number, (place, count) in enumerate(places.items()):
        (root / place).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            color = (number, index // 256, index % 256)
            Image.new("RGB", (9, 6), color).save(root / place / f"pic {index:03}{suffix}")
    return root


def key_of(root: Path) -> str:
    return folder_key(list_images(root), FolderOptions())


def error_of(root: Path) -> str:
    with pytest.raises(DataUnavailableError) as caught:
        decode_folder(root, FolderOptions(image_size=4))
    return str(caught.value)


TWO = {"art/cat": 5, "art/dog": 5, "photo/cat": 5, "photo/dog": 5}


# --- the five data sets of DomainBed, as its download script leaves them


@pytest.mark.parametrize(
    ("domains", "classes", "beside"),
    [
        (
            ["art_painting", "cartoon", "photo", "sketch"],
            ["dog", "elephant", "giraffe"],
            ["README.txt"],
        ),
        (["Caltech101", "LabelMe", "SUN09", "VOC2007"], ["bird", "car", "chair"], []),
        (
            ["Art", "Clipart", "Product", "Real World"],
            ["Alarm_Clock", "Backpack"],
            ["ImageInfo.csv"],
        ),
        (
            ["location_100", "location_38", "location_43", "location_46"],
            ["bird", "bobcat"],
            ["caltech_camera_traps.json.zip"],
        ),
        (
            ["clipart", "infograph", "painting", "quickdraw", "real", "sketch"],
            ["The_Eiffel_Tower", "aircraft_carrier"],
            ["clipart_test.txt", "clipart_train.txt"],
        ),
    ],
    ids=["PACS", "VLCS", "OfficeHome", "TerraIncognita", "DomainNet"],
)
def test_domainbeds_folders_are_read_as_they_are(
    tmp_path: Path, domains: list[str], classes: list[str], beside: list[str]
) -> None:
    fill(tmp_path, {f"{d}/{c}": 5 for d in domains for c in classes}, ".jpg")
    for name in beside:
        (tmp_path / name).write_text("not an image")
    images = list_images(tmp_path)
    assert images.domains == tuple(domains)
    assert images.classes == tuple(classes)
    assert len(images.files) == 5 * len(domains) * len(classes)


def domainbed_out_split(root: Path, trial_seed: int) -> set[str]:
    """Return the files that DomainBed holds out: its code and torchvision's, put in one place."""
    held_out = set()
    environments = sorted(f.name for f in os.scandir(root) if f.is_dir())
    for env_i, environment in enumerate(environments):
        samples = []
        path = os.path.join(root, environment)
        for target in sorted(d.name for d in os.scandir(path) if d.is_dir()):
            walked = os.walk(os.path.join(path, target), followlinks=True)
            for where, _, names in sorted(walked):
                kept = [n for n in sorted(names) if n.lower().endswith((".jpg", ".png", ".webp"))]
                samples += [os.path.join(where, name) for name in kept]
        text = str((trial_seed, env_i))
        seed = int(hashlib.md5(text.encode("utf-8")).hexdigest(), 16) % (2**31)
        keys = list(range(len(samples)))
        np.random.RandomState(seed).shuffle(keys)
        held_out |= {samples[key] for key in keys[: int(len(samples) * 0.2)]}
    return held_out


@pytest.mark.parametrize("seed", [0, 3])
def test_the_split_is_domainbeds_file_for_file(tmp_path: Path, seed: int) -> None:
    # Names that sort otherwise as paths than as names, or without their case.
    root = fill(tmp_path / "root", {"b c/x": 7, "b c/x y": 9, "b/x": 31, "b/Z": 3, "A/x y": 26})
    fill(root, {"b/x y": 13, "A/x": 11}, ".JPG")
    fill(tmp_path / "elsewhere", {"x": 8, "x y": 6}, ".webp")
    (root / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    images = list_images(root)
    domains = np.array([images.domains.index(file.parts[0]) for file in images.files])
    mask = domainbed_test_mask(domains, seed)
    ours = {file.path for file, held in zip(images.files, mask, strict=True) if held}
    assert ours == domainbed_out_split(root, seed)
    assert images.domains == ("A", "b", "b c", "linked")
    # And the data set has them on that side: each file is known by its colour.
    data = load_dataset("folder", root, {"image_size": 4, "seed": seed})
    colors = {tuple(read_picture(path, 1).pixels[0, 0]) for path in ours if path.endswith(".png")}
    found = {tuple(pixel) for pixel in data.test.images[:, 0, 0].tolist()}
    assert len(data.test) == len(ours)
    assert {tuple(map(int, color)) for color in colors} <= found


# --- which files there are


def test_the_caches_key_is_of_the_images_that_are_read(tmp_path: Path) -> None:
    fill(tmp_path, TWO)
    before = key_of(tmp_path)
    # What is not read does not count.
    (tmp_path / "art" / "cat" / "._pic 000.png").write_bytes(b"AppleDouble")
    (tmp_path / "art" / "cat" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / ".git" / "a").mkdir(parents=True)
    fill(tmp_path, {".git/a": 1, "__MACOSX/art": 1})
    (tmp_path / "notes.txt").write_text("x")
    assert key_of(tmp_path) == before
    # What is read does: one more, whatever its suffix's case; a link's target; another name.
    seen = {before}
    for name in ("new.PNG", "new.TIFF", "new.webp"):
        Image.new("RGB", (2, 2)).save(tmp_path / "art" / "cat" / name)
        seen.add(key_of(tmp_path))
    (tmp_path / "art" / "cat" / "new.PNG").rename(tmp_path / "art" / "cat" / "newer.PNG")
    seen.add(key_of(tmp_path))
    fill(tmp_path / "other", {"x": 1})
    (tmp_path / "art" / "cat" / "link.png").symlink_to(tmp_path / "other" / "x" / "pic 000.png")
    (tmp_path / "other").rename(tmp_path.parent / f"{tmp_path.name}-other")
    target = tmp_path.parent / f"{tmp_path.name}-other" / "x" / "pic 000.png"
    (tmp_path / "art" / "cat" / "link.png").unlink()
    (tmp_path / "art" / "cat" / "link.png").symlink_to(target)
    seen.add(key_of(tmp_path))
    Image.new("RGB", (3, 3), "red").save(target)
    seen.add(key_of(tmp_path))
    assert len(seen) == 7


def test_a_file_of_the_same_size_and_time_is_noticed(tmp_path: Path) -> None:
    root = fill(tmp_path, TWO)
    file = root / "art" / "cat" / "pic 000.png"
    state, before = file.stat(), load_dataset("folder", root, {"image_size": 4})
    other = bytes(reversed(file.read_bytes()))
    good = file.read_bytes()
    file.write_bytes(other)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    with pytest.raises(DataUnavailableError, match="pic 000"):
        load_dataset("folder", root, {"image_size": 4})
    file.write_bytes(good)
    again = load_dataset("folder", root, {"image_size": 4})
    assert again.fingerprint == before.fingerprint
    assert again.directory != before.directory


def test_images_in_the_wrong_place_are_named(tmp_path: Path) -> None:
    root = fill(tmp_path / "a" / "PACS", TWO)
    for above in (tmp_path, tmp_path / "a"):
        assert f"did you mean data.path = {str(root)!r}?" in error_of(above)
    Image.new("RGB", (2, 2)).save(root / "overview.png")
    assert "found 1 of 21 images elsewhere (overview.png)" in error_of(root)
    (root / "overview.png").unlink()
    fill(root, {"art/cat/more": 2})
    assert "found 2 of 22 images elsewhere (art/cat/more/pic 000.png" in error_of(root)


def test_a_folder_without_images_says_what_is_there_instead(tmp_path: Path) -> None:
    (tmp_path / "art" / "cat").mkdir(parents=True)
    for index in range(3):
        (tmp_path / "art" / "cat" / f"{index}.heic").write_bytes(b"x")
    assert "found 0 images" in error_of(tmp_path)
    assert "other files: 3 .heic" in error_of(tmp_path)
    assert "of one class, 'only'" in error_of(fill(tmp_path / "one", {"only": 9}))


def test_links_to_nothing_and_in_circles_are_errors_that_name_them(tmp_path: Path) -> None:
    root = fill(tmp_path, TWO)
    (root / "art" / "cat" / "gone.jpg").symlink_to("nowhere.jpg")
    assert "gone.jpg: is a link to nothing; expected an image" in error_of(root)
    (root / "art" / "cat" / "gone.jpg").unlink()
    (root / "art" / "loop").symlink_to(root / "art", target_is_directory=True)
    assert "images elsewhere (art/loop/cat/pic 000.png" in error_of(root)


def test_names_that_are_not_unicode_are_refused(tmp_path: Path) -> None:
    root = fill(tmp_path, TWO)
    os.mkdir(os.fsencode(root) + b"/art/caf\xe9")
    assert "caf\\xe9': the name is not UTF-8; expected another name" in error_of(root)


# --- what is in the files


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    values = np.linspace(0, 255, 64).reshape(8, 8).astype(np.uint8)
    if mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(values).convert("RGB").convert(mode)
    path = tmp_path / f"x.{'tif' if mode == 'CMYK' else 'png'}"
    image.save(path)
    pixels = read_picture(str(path), 8).pixels
    assert (pixels.shape, pixels.dtype) == ((8, 8, 3), np.uint8)
    if mode not in ("1", "P"):
        assert abs(pixels[..., 0].astype(int) - values).max() <= 1
        assert (pixels == pixels[..., :1]).all()


def test_an_orientation_tag_is_not_acted_upon_as_in_domainbed(tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[0x0112] = 6  # turned by a quarter
    image = Image.new("RGB", (40, 10), "red")
    image.save(tmp_path / "x.png", exif=tag)
    assert read_picture(str(tmp_path / "x.png"), 4).aspect == 4.0


def test_all_broken_images_are_named_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, joining: dict[str, str]
) -> None:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path / "cache"))
    root = fill(tmp_path / "data", TWO, ".jpg")
    whole = (root / "art" / "cat" / "pic 001.jpg").read_bytes()
    (root / "art" / "cat" / "pic 001.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "art" / "dog" / "pic 002.jpg").write_bytes(b"")
    (root / "photo" / "dog" / "page.png").write_text("<html>404</html>")
    Image.fromarray(np.zeros((3, 3), np.float32)).save(root / "photo" / "cat" / "depth.tiff")
    with pytest.raises(DataUnavailableError) as caught:
        load_dataset("folder", root, {"image_size": 4})
    assert str(caught.value).count("cannot be read as an image") == 4
    for name in ("cat/pic 001.jpg", "dog/pic 002.jpg", "dog/page.png", "cat/depth.tiff"):
        assert name in str(caught.value)
    assert "it has 32 bits a pixel" in str(caught.value)
    assert list((tmp_path / "cache").rglob("*.arrow")) == []
    toml = f'[data]\ndataset = "folder"\npath = "{root}"\n[data.options]\nimage_size = 4\n'
    (tmp_path / "x.toml").write_text(f'[run]\nout = "{tmp_path / "runs"}"\n{toml}')
    command = [sys.executable, "-m", "atoll", "run", str(tmp_path / "x.toml")]
    joining["ATOLL_CACHE"] = str(tmp_path / "cache")
    done = subprocess.run(command, env=joining, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "cannot be read as an image" in done.stdout + done.stderr
    assert list((tmp_path / "runs").glob("*")) == []


# --- domains and classes


def test_domains_too_small_to_split_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, {**TWO, "sketch/cat": 4})
    assert error_of(tmp_path) == (
        f"{tmp_path / 'sketch'}: has 4 images; expected at least 5, of which a fifth is for test"
    )


def test_unequal_class_sets_have_one_numbering_and_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill(tmp_path, {"art/b": 20, "art/c": 20, "photo/a": 20, "photo/c": 20, "web/z": 5})
    fill(root, {"photo/once": 1})
    (root / "art" / "a").mkdir()
    (root / "art" / "b" / "movie.gif").write_bytes(b"x")
    with caplog.at_level(logging.WARNING, logger="atoll"):
        data = load_dataset("folder", root, {"image_size": 4})
        warn_of_unequal_classes(data, ("web",))
    assert "art/a: no images in it" in caplog.text
    assert "passed over files that are no images; other files: 1 .gif" in caplog.text
    assert data.classes == ("a", "b", "c", "once", "z")
    for domain, classes in (("art", "bc"), ("photo", "ac")):
        own = data.train.labels[data.train.domains == data.domains.index(domain)]
        assert {data.classes[label] for label in own} - {"once"} == set(classes)
    assert "domain 'art' has no training examples of 'a'" in caplog.text
    assert "domain 'web' is tested on 'z', of which no training domain has" in caplog.text


@pytest.mark.parametrize("name", ["iid", "linear"])
@pytest.mark.parametrize("domains", [("",), ("art/", "photo/")])
def test_clients_of_a_sorted_folder_are_alike_where_that_is_asked_for(
    tmp_path: Path, name: str, domains: tuple[str, ...]
) -> None:
    fill(tmp_path, {f"{d}{c}": 200 for d in domains for c in ("cat", "dog")})
    data = load_dataset("folder", tmp_path, {"image_size": 4})
    settings = DataSettings(clients=4, partition=PartitionSettings(name=name))
    partition = partition_dataset(data, settings, 0)
    everyone = np.concatenate([partition.indices(client) for client in range(4)])
    np.testing.assert_array_equal(np.sort(everyone), np.arange(len(data.train)))
    for client in range(4):
        own = partition.indices(client)
        # Five standard errors.
        assert abs(data.train.labels[own].mean() - 0.5) < 2.5 / len(own) ** 0.5
        if len(domains) == 2:
            assert abs(data.train.domains[own].mean() - 0.5) < 2.5 / len(own) ** 0.5


# --- large folders


def test_a_large_folder_is_never_in_memory_at_once(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(folder_module, "BLOCK", 8)
    monkeypatch.setattr(folder_module, "MANY", 100)
    monkeypatch.setattr(store, "STATISTICS_VALUES", 100_000)
    root = fill(tmp_path / "data", {"a/x": 150, "a/y": 150}, ".png")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    tracemalloc.start()
    decoded = decode_folder(root, FolderOptions(image_size=100), scratch)
    store.write_dataset("large", decoded, scratch)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert decoded.train.images.nbytes + decoded.test.images.nbytes == 300 * 30_000
    assert peak < 1_500_000
    plain = decode_folder(root, FolderOptions(image_size=100))
    np.testing.assert_array_equal(plain.train.images, decoded.train.images)
    np.testing.assert_array_equal(plain.train.aspects, 1.5)


def test_what_the_disk_has_no_room_for_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = fill(tmp_path, TWO)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**9))
    with pytest.raises(DataUnavailableError, match=r"image_size = 4096 take 2\.0 GB in"):
        load_dataset("folder", root, {"image_size": 4096})


@pytest.mark.slow
def test_two_processes_that_prepare_the_same_data_end_with_one(tmp_path: Path) -> None:
    root = fill(tmp_path / "data", {"a/x": 60, "a/y": 60, "b/x": 60, "b/y": 60})
    code = (
        "import sys; from pathlib import Path;"
        "from atoll.clients.data.catalog.loading import load_dataset;"
        "d = load_dataset('folder', Path(sys.argv[1]), {'image_size': 32}); print(d.fingerprint)"
    )
    environment = {**os.environ, "ATOLL_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code, str(root)]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    fingerprints = {process.communicate()[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(fingerprints) == 1
    [made] = (tmp_path / "cache" / "datasets").iterdir()
    assert {path.name for path in made.iterdir()} == {"dataset.json", "train.arrow", "test.arrow"}
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["datasets"]


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path, monkeypatch) -> None:
    root = fill(tmp_path / "data", TWO)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataUnavailableError, match="the cache cannot be written"):
        load_dataset("folder", root, {"image_size": 4})
