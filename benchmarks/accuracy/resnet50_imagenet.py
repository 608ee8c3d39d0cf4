"""Accuracy of the pretrained ResNet-50 on 20 ImageNet photographs.

The photographs come with foolbox 3.3.4 (its wheel is fetched by pip and not installed), each with
its label in its file name. Run it: python -m benchmarks.accuracy.resnet50_imagenet
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from atoll.clients.data.datasets.folder import NORMALIZATIONS
from atoll.clients.data.images.image_tensors import to_tensor
from atoll.clients.models.images.resnet50 import resnet50

SIZE = 224


def photographs(wheel: Path) -> tuple[np.ndarray, list[int]]:
    images, labels = [], []
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            match = re.fullmatch(r"foolbox/data/imagenet_\d+_(\d+)\.jpg", name)
            if match is None:
                continue
            with archive.open(name) as file, Image.open(file) as image:
                size = (SIZE, SIZE)
                resized = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
                images.append(np.asarray(resized))
            labels.append(int(match.group(1)))
    return np.stack(images), labels


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder]
        subprocess.run([*command, "foolbox==3.3.4"], check=True)
        [wheel] = Path(folder).glob("*.whl")
        images, labels = photographs(wheel)
    mean, std = NORMALIZATIONS["caffe"]
    model = resnet50((3, SIZE, SIZE), 1000, weights="imagenet").eval()
    with torch.no_grad():
        best = model(to_tensor(images, mean, std)).topk(5).indices.tolist()
    first = sum(label == five[0] for label, five in zip(labels, best, strict=True))
    among = sum(label in five for label, five in zip(labels, best, strict=True))
    print(f"top-1 {first}/{len(labels)}, top-5 {among}/{len(labels)}")


if __name__ == "__main__":
    main()
