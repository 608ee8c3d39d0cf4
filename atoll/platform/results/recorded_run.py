"""A run that is there, opened: its configuration, tables and models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from flwr.app import ArrayRecord
from pydantic import BaseModel
from torch import nn

from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.arrays.travelling import frozen_sha256
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.client_statistics import fitted
from atoll.clients.data.files.dataset import Dataset, Split
from atoll.clients.data.inputs.kinds import AnyInputs
from atoll.clients.data.partitioning.domains import TestSets, test_sets
from atoll.clients.data.texts.tokenizers import Tokenizer
from atoll.clients.models.model_building import build_model, model_seed
from atoll.clients.personal.local_names import local_names
from atoll.clients.tasks.kinds import AnyTask
from atoll.clients.tasks.task import Metrics
from atoll.clients.training.evaluation import evaluate, metrics_by_domain
from atoll.errors import DataUnavailableError, RunDirectoryError
from atoll.files.reading import parse_json
from atoll.platform.config.experiment import Experiment
from atoll.platform.config.unlearning.problems import never_clients
from atoll.platform.results.kept_checkpoints import WhichRound, checkpoints_of, choose_round
from atoll.platform.results.models.pixel_model import InputFormat
from atoll.platform.results.models.predictions import Predictions
from atoll.platform.results.models.prepared_model import ModelFormat, PreparedModel
from atoll.platform.results.models.preparing import format_of, prepared
from atoll.platform.results.models.token_model import find_tokenizer
from atoll.platform.run_directory.identity import FROZEN, RunIdentity
from atoll.platform.run_directory.run_config import load_run_config
from atoll.platform.run_directory.run_files import (
    APP_TABLE,
    CLIENT_SCHEMA,
    CLIENTS,
    CONFIG,
    PARTITION,
    check_run_directory,
    read_config,
    read_partition,
    read_result,
    read_rounds,
    read_rows,
)
from atoll.platform.runs.layerwise.network_arrays import network_arrays
from atoll.user_code.trust import admitted, refuse, trust, uses_in


def open_run(directory: Path | str, *, trust_code: bool = False) -> RecordedRun:
    """Open a run directory, of a run that has ended or of one that still runs.

    Parameters
    ----------
    directory : Path or str
        The run directory.
    trust_code : bool
        Whether code that the directory names and that is not known to be your own (a model of
        another person's) may be imported; only models and data need any.

    Returns
    -------
    RecordedRun
        What is in it; tables are read when they are asked for.

    Raises
    ------
    RunDirectoryError
        If the folder is not a run directory.

    Examples
    --------
    >>> import atoll
    >>> run = atoll.open_run("runs/quickstart")  # doctest: +SKIP
    >>> run.config.strategy.name, run.rounds.num_rows  # doctest: +SKIP
    ('FedAvg', 25)
    >>> run.clients.to_pandas().groupby("partition").loss.mean()  # doctest: +SKIP
    >>> model = run.model(round="best")  # doctest: +SKIP
    >>> run.predict(images).names, run.evaluate()["accuracy"]  # doctest: +SKIP
    """
    directory = Path(directory)
    check_run_directory(directory)
    return RecordedRun(directory, trust_code=trust_code)


class RecordedRun:
    """A run directory, opened by :func:`open_run`.

    Parameters
    ----------
    directory : Path
        The run directory.
    trust_code : bool
        As for :func:`open_run`.
    """

    def __init__(self, directory: Path, *, trust_code: bool = False) -> None:
        self.directory = directory
        self._ask = trust if trust_code else refuse

    def __repr__(self) -> str:
        return f"RecordedRun({str(self.directory)!r})"

    # --- what is recorded ----------------------------------------------------------------------

    @cached_property
    def config(self) -> Experiment:
        """The experiment, validated.

        Raises
        ------
        RunDirectoryError
            If ``config.toml`` is not what was written, or is of a Flower app.
        """
        if APP_TABLE in read_config(self.directory):
            raise RunDirectoryError(
                f"{self.directory / CONFIG}: is of a Flower app, whose model and data are its "
                "own; expected a run of an experiment"
            )
        return load_run_config(self.directory)

    @property
    def rounds(self) -> pa.Table:
        """``rounds.parquet``: a row a round, as it is now."""
        return read_rounds(self.directory)

    @property
    def clients(self) -> pa.Table:
        """``clients.parquet``: a row for each client and round, as it is now."""
        return read_rows(self.directory / CLIENTS, CLIENT_SCHEMA)

    @property
    def result(self) -> dict[str, Any] | None:
        """``result.json``; None if the run has not ended."""
        return read_result(self.directory)

    @property
    def kept_rounds(self) -> list[int]:
        """The rounds whose models are there."""
        return checkpoints_of(self.directory).rounds()

    @property
    def identity(self) -> RunIdentity | None:
        """What the run is: hashes of its data and code, versions; None of very old runs."""
        return RunIdentity.read(self.directory)

    # --- its data and model --------------------------------------------------------------------

    def dataset(self) -> Dataset:
        """Return the run's data set.

        Raises
        ------
        DataUnavailableError
            If it cannot be had, or is not what the run was of.
        """
        data, seed = self.config.data, self.config.run.seed
        with self._trusted():
            loaded = load_dataset(data.dataset, data.path, data.dataset_options, seed)
            dataset = fitted(loaded, data, seed, never_clients(self.config))
        identity = self.identity
        was = None if identity is None else identity.data.get(data.dataset)
        if was not in (None, dataset.fingerprint):
            raise DataUnavailableError(
                f"data.dataset = {data.dataset!r}: SHA-256 {dataset.fingerprint}, and "
                f"{self.directory} is of {was}; expected the data that it was run on"
            )
        return dataset

    @cached_property
    def inputs(self) -> InputFormat | ModelFormat:
        """What its model is given and predicts: of images an InputFormat."""
        partition = read_partition(self.directory)
        if partition is None or partition["inputs"] is None or partition["task"] is None:
            # Runs of earlier versions did not note it.
            dataset = self.dataset()
            return format_of(dataset.inputs, dataset.task)
        whole = json.dumps({key: partition[key] for key in ("inputs", "task")}).encode()
        recorded = parse_json(whole, str(self.directory / PARTITION), _Recorded)
        return format_of(recorded.inputs, recorded.task)

    def _tokenizer(self) -> Tokenizer | None:
        return find_tokenizer(self.dataset())

    def round_of(self, round: WhichRound) -> int:
        """Return the number of the "best" or "last" round, or of one whose model is there.

        Raises
        ------
        RunDirectoryError
            If its checkpoint was not kept.
        """
        return choose_round(self.directory, self.config.run, round)

    def arrays(self, round: WhichRound = "last") -> ArrayRecord:
        """Return the parameters and buffers of a round's global model.

        Parameters
        ----------
        round : "last", "best" or int
            "best" is by ``run.keep_metric``; its checkpoint is kept by ``run.keep = "best"``.

        Raises
        ------
        RunDirectoryError
            If there is no checkpoint of that round, or it is not what was written.
        """
        chosen = self.round_of(round)
        if self.config.layers is None:
            return checkpoints_of(self.directory).read(chosen).arrays
        if chosen != self.kept_rounds[-1]:
            raise RunDirectoryError(
                f"{self.directory}: a run of layers keeps the blocks of its last epoch; expected "
                "round = 'last'"
            )
        return network_arrays(self.directory)

    def model(
        self, round: WhichRound = "last", *, device: str | torch.device = "cpu"
    ) -> PreparedModel:
        """Return a round's global model, with its preprocessing, in evaluation mode.

        Parameters
        ----------
        round : "last", "best" or int
            As for :meth:`arrays`.
        device : str or torch.device
            Where it is to be.

        Returns
        -------
        PixelModel, TableModel or TokenModel
            A module that takes pixels in [0, 1], shape (n, channels, height, width); stored rows
            of a table, float64, shape (n, columns); or tokens, int64, shape (n, length).

        Raises
        ------
        RunDirectoryError
            If there is no checkpoint of that round, or it does not fit the model.
        UntrustedCodeError
            If the model is another person's code.
        """
        arrays, inputs = self.arrays(round), self.inputs
        settings = self.config.model
        with self._trusted():
            seed = model_seed(self.config.run.seed)
            network = build_model(settings, inputs.inputs, inputs.task, seed)
        self._check_frozen(network)
        try:
            local = local_names(network, self.config.client.local or ())
            ModelArrays(network, local).load(arrays)
        except ValueError as error:
            raise RunDirectoryError(
                f"{self.directory}: model.name = {settings.name!r}: {error}; expected the model "
                "that was trained"
            ) from error
        try:
            return prepared(network.to(device), inputs, self._tokenizer)
        except (RuntimeError, AssertionError) as error:
            reason = " ".join(str(error).split())
            raise DataUnavailableError(
                f"device = {str(device)!r}: cannot be used ({reason}); expected 'cpu', or a "
                "device that PyTorch has here"
            ) from error

    def _check_frozen(self, network: nn.Module) -> None:
        """Refuse frozen parameters that are not those of the run: no checkpoint has them."""
        was = None if self.identity is None else self.identity.data.get(FROZEN)
        found = frozen_sha256(network)
        if was not in (None, found):
            raise RunDirectoryError(
                f"{self.directory}: model.name = {self.config.model.name!r}: its frozen parameters "
                f"have the SHA-256 {found}, expected {was}; the weights are not what they were"
            )

    def predict(
        self,
        examples: Any,
        round: WhichRound = "last",
        *,
        device: str | torch.device = "cpu",
    ) -> Predictions:
        """Return what the model says of examples.

        Parameters
        ----------
        examples : NDArray, Tensor, Split, table or texts
            Images: bytes (0 to 255), or numbers from 0 to 1; tensors have the channels first,
            arrays first or last. Rows: an Arrow or pandas table or a list of dicts, with the
            columns' names and values as in the user's file; or stored rows. Texts: a list of str,
            by the tokenizer in the data set's folder; or tokens.
        round, device
            As for :meth:`model`.
        """
        return self.model(round, device=device).predict(examples)

    def evaluate(
        self,
        data: Dataset | Split | str = "test",
        round: WhichRound = "last",
        *,
        device: str | torch.device = "cpu",
    ) -> Metrics:
        """Return the metrics of a round's model, as the server has them.

        Parameters
        ----------
        data : "test", Dataset or Split
            "test" is what the server evaluated on in the run; of another data set its test
            split. Inputs are standardised as in training, whatever their own statistics.
        round, device
            As for :meth:`model`.

        Returns
        -------
        dict
            The task's: ``accuracy``, ``loss``, ``rmse``, ...; with domains those of each.

        Raises
        ------
        DataUnavailableError
            If the data cannot be had, or have other inputs or another task.
        """
        model = self.model(round, device=device)
        if isinstance(data, str):
            if data != "test":
                raise DataUnavailableError(
                    f"data = {data!r}: expected 'test', an Dataset (atoll.clients."
                    "load_dataset) or a Split"
                )
            settings, dataset = self.config.data, self.dataset()
            return _evaluated(
                model, dataset.test, test_sets(dataset, settings.held_out, settings.test_examples)
            )
        if isinstance(data, Dataset):
            model.check_dataset(data)
            return _evaluated(model, data.test, test_sets(data, (), None))
        everything = torch.arange(len(data)).numpy()
        return _evaluated(model, data, TestSets(("",), (everything,), ("",)))

    @contextmanager
    def _trusted(self) -> Iterator[None]:
        """Within this context what the run names may be imported, if that is trusted."""
        path = self.directory / CONFIG
        with admitted(uses_in(read_config(self.directory)), path, self._ask):
            yield


class _Recorded(BaseModel):
    inputs: AnyInputs
    task: AnyTask


def _evaluated(model: PreparedModel, split: Split, sets: TestSets) -> Metrics:
    model.check_split(split)
    done = [evaluate(model.network, model.data, split, part, model.device) for part in sets.indices]
    return metrics_by_domain(sets, done)
