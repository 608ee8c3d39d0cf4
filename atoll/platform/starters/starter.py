"""Files of a starter, written into a folder."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from atoll.error_messages import closest
from atoll.errors import AtollError, InvalidExperimentError, UnknownNameError

EXPERIMENT = "experiment.toml"
# Python files of a starter are no modules of this package.
SUFFIX = ".in"


@dataclass(frozen=True)
class Starter:
    """A kind of files to start from.

    Attributes
    ----------
    about : str
        One line.
    files : dict[str, str]
        Names of files, to those in the package.
    commands : tuple[str, ...]
        What to do next.
    """

    about: str
    files: dict[str, str]
    commands: tuple[str, ...]


RUN = ("atoll run experiment.toml --dry-run", "atoll run experiment.toml")
STARTERS = {
    "images": Starter(
        "image classification with clients of different classes",
        {EXPERIMENT: "images.toml"},
        (*RUN, "atoll report runs/images"),
    ),
    "domains": Starter(
        "a domain that no client has, and a strategy that aligns the others",
        {EXPERIMENT: "domains.toml"},
        (*RUN, "atoll report runs/domains"),
    ),
    "tables": Starter(
        "a table of patients (CSV) to predict an outcome from, with a client a hospital",
        {EXPERIMENT: "tables.toml", "patients.csv": "patients.csv"},
        (*RUN, "atoll report runs/tables"),
    ),
    "text": Starter(
        "classification of texts: a client a shop",
        {EXPERIMENT: "text.toml", "reviews.csv": "reviews.csv"},
        (*RUN, "atoll report runs/text"),
    ),
    "attack": Starter(
        "captured messages of a run, and the images that they reveal",
        {EXPERIMENT: "attack.toml"},
        (*RUN, "atoll attack runs/attack --attack linear-layer --lpips none"),
    ),
    "noprop": Starter(
        "a network whose blocks are trained apart (NoProp)",
        {EXPERIMENT: "noprop.toml"},
        (*RUN, "atoll report runs/noprop"),
    ),
    "flower-app": Starter(
        "a Flower app, for Atoll and for Flower itself",
        {name: name for name in ("pyproject.toml", "client_app.py", "server_app.py", "task.py")},
        (
            "atoll flower . --num-supernodes 10",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 flwr run . --stream",
        ),
    ),
}


def find_starter(kind: str) -> Starter:
    """Return the starter of that kind.

    Raises
    ------
    UnknownNameError
        If there is none; the message gives the nearest.
    """
    if kind not in STARTERS:
        raise UnknownNameError(f"--kind = {kind!r}: no such kind; {closest(kind, STARTERS)}")
    return STARTERS[kind]


def write_starter(starter: Starter, folder: Path, *, force: bool = False) -> list[Path]:
    """Write a starter's files into a folder, which is made if it is not there.

    Parameters
    ----------
    starter : Starter
        What to write.
    folder : Path
        Where to.
    force : bool
        Whether files that are there are overwritten.

    Returns
    -------
    list[Path]
        The files.

    Raises
    ------
    InvalidExperimentError
        If a file is there already, or the folder is a file; nothing is written then.
    """
    if folder.exists() and not folder.is_dir():
        raise InvalidExperimentError(f"{folder}: is a file; expected a folder")
    targets = {folder / name: source for name, source in starter.files.items()}
    there = [str(path) for path in targets if path.exists() or path.is_symlink()]
    if there and not force:
        raise InvalidExperimentError(
            f"{', '.join(there)}: is there already; expected another folder, or --force to "
            "overwrite it"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, source in targets.items():
            path.write_text(_text_of(source), encoding="utf-8")
    except OSError as error:
        raise AtollError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return list(targets)


def _text_of(name: str) -> str:
    files = resources.files("atoll.platform.starters") / "files"
    return (files / f"{name}{SUFFIX}").read_text(encoding="utf-8")
