"""Export of a run's model, with its preprocessing, its classes and where it is from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from atoll.credentials import tables_without_credentials
from atoll.errors import RunDirectoryError
from atoll.platform.results.exports import formats
from atoll.platform.results.groups import metrics_in, values_of
from atoll.platform.results.kept_checkpoints import WhichRound
from atoll.platform.results.models.prepared_model import PreparedModel
from atoll.platform.results.recorded import read_one
from atoll.platform.results.recorded_run import RecordedRun
from atoll.platform.run_directory.checkpoint import parameters_sha256
from atoll.platform.run_directory.run_files import read_config
from atoll.registry import Registry

Write = Callable[[PreparedModel, Mapping[str, Any], Path], None]
FORMATS: Registry[Write] = Registry(
    "format",
    {
        "torch": formats.write_torch,
        "safetensors": formats.write_safetensors,
        "onnx": formats.write_onnx,
        "huggingface": formats.write_huggingface,
    },
)


def export_run(run: RecordedRun, to: str, out: Path, round: WhichRound = "last") -> Path:
    """Write a run's model in another format.

    Parameters
    ----------
    run : RecordedRun
        The run.
    to : str
        "torch" (an exported program: no code of Atoll's is needed), "safetensors", "onnx", or
        "huggingface" (a folder with config.json, model.safetensors and a model card).
    out : Path
        The file, or for "huggingface" the folder; it must not be there yet.
    round : "last", "best" or int
        Whose model.

    Raises
    ------
    AtollError
        If there is no such format or round, the model cannot be traced, something is in ``out``
        already, or a package is missing.
    """
    write = FORMATS.find(to, "--to")
    if out.exists():
        raise RunDirectoryError(f"--out = {str(out)!r}: is there already; expected a new path")
    chosen = run.round_of(round)
    model = run.model(chosen)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write(model, about(run, model, chosen), out)
    except OSError as error:
        raise RunDirectoryError(
            f"--out = {str(out)!r}: cannot be written ({error.strerror or error})"
        ) from error
    return out


def about(run: RecordedRun, model: PreparedModel, server_round: int) -> dict[str, Any]:
    """Return an exported model's metadata, as JSON can hold it."""
    config = tables_without_credentials(run.config.to_dict())
    recorded = read_one(run.directory)
    metrics = {
        name: values[server_round]
        for name in metrics_in([recorded])
        if name.startswith(("server_", "evaluate_"))
        and server_round in (values := values_of(recorded, name))
    }
    identity = run.identity
    return {
        "run": config["run"]["name"],
        "round": server_round,
        "seed": config["run"]["seed"],
        "model": config["model"],
        "inputs": model.data_inputs.model_dump(mode="json"),
        "task": model.task.model_dump(mode="json"),
        "classes": list(model.task.class_names),
        **model.described(),
        "data": {"dataset": config["data"]["dataset"], "clients": config["data"]["clients"]},
        "data_sha256": None if identity is None else identity.data.get(config["data"]["dataset"]),
        "strategy": config["strategy"]["name"],
        "metrics": metrics,
        "parameters_sha256": parameters_sha256(run.arrays(server_round)),
        "versions": read_config(run.directory).get("versions", {}),
    }
