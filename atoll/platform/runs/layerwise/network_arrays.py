"""The trained network of a layer-wise run: its arrays and their files, from the run directory."""

from __future__ import annotations

from pathlib import Path

from flwr.app import ArrayRecord

from atoll.clients.noprop.block_training.training_units import index_of
from atoll.clients.noprop.layer_keys import block_prefix
from atoll.files.atomic import write_json
from atoll.flower.arrays import array_record, to_array
from atoll.platform.run_directory.checkpoint import CheckpointStore
from atoll.platform.runs.layerwise.block_files import UnitFiles

UNITS_FOLDER = "layers"


def network_arrays(directory: Path) -> ArrayRecord:
    """Return the arrays of a layer-wise run's network, under a network's keys.

    Blocks that failed are not among them. The blocks are those of the last epoch recorded.

    Parameters
    ----------
    directory : Path
        The run directory.

    Raises
    ------
    CorruptCheckpointError
        If a file cannot be read.

    Examples
    --------
    >>> from pathlib import Path
    >>> from atoll import network_arrays
    >>> arrays = network_arrays(Path("runs/noprop-mnist"))  # doctest: +SKIP
    >>> sorted({key.split(".")[0] for key in arrays})  # doctest: +SKIP
    ['blocks', 'shared']
    """
    checkpoint = CheckpointStore(directory / "checkpoints").latest()
    if checkpoint is None:
        return ArrayRecord()
    files, failed = UnitFiles(directory / UNITS_FOLDER), checkpoint.tree["failed"]
    arrays = dict(checkpoint.arrays)
    names = sorted(path.name for path in files.directory.glob("block-*"))
    for name in (name for name in names if name not in failed):
        module = files.read(name, checkpoint.server_round).module
        own = {k.removeprefix("block."): v for k, v in module.items() if k.startswith("block.")}
        prefix = block_prefix(index_of(name))
        arrays |= {prefix + key: to_array(value.numpy()) for key, value in own.items()}
    return array_record(arrays)


def write_manifest(directory: Path) -> Path:
    """Write which files a layer-wise run's units are in, with their hashes.

    Units that failed are not among them. The files are those of the last epoch recorded, or of
    the shared part where it stays as it was made: units can be ahead where a run stops early.
    """
    files, found = UnitFiles(directory / UNITS_FOLDER), {}
    checkpoint = CheckpointStore(directory / "checkpoints").latest()
    recorded = 0 if checkpoint is None else checkpoint.server_round
    failed = {} if checkpoint is None else checkpoint.tree["failed"]
    for folder in sorted(path for path in files.directory.iterdir() if path.is_dir()):
        epochs = [epoch for epoch in files.epochs(folder.name) if epoch <= recorded]
        if folder.name in failed or not epochs:
            continue
        path = files.path(folder.name, epochs[-1])
        found[folder.name] = {
            "epoch": epochs[-1],
            "file": str(path.relative_to(directory)),
            "sha256": files.sha256(folder.name, epochs[-1]),
        }
    target = directory / UNITS_FOLDER / "manifest.json"
    write_json(target, found)
    return target
