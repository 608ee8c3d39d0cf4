"""Recorder of the messages that an honest-but-curious server sees, of chosen clients and rounds.

What is recorded is the message to a client and its reply after the client's mods have acted, as
:mod:`atoll.attacks.captures.capture_files` keeps them. The run's result does not change by a bit.
Where clients' models are added up without replies, the recorded client is asked once more, by
itself: its reply has the bits of its share in the sum (to rounding, if clients trained vectorised).

Under secure aggregation the server is told no client's update, so what is recorded is the sum.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from atoll import flower
from atoll.attacks.captures.aggregate_capture import (
    aggregate_truths,
    as_one_client,
    keeps_clients_apart,
    steps_of,
)
from atoll.attacks.captures.capture import (
    MODEL_RECORD,
    SUM,
    Capture,
    Content,
    FederationInfo,
    Truth,
)
from atoll.attacks.captures.capture_files import CAPTURES, capture_name, write_capture
from atoll.clients.apps.client_app import ClientSpec, examples_of
from atoll.clients.apps.leaving_clients import ASCENT
from atoll.clients.arrays.tensors import tensors_of
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.models.model_building import model_seed
from atoll.clients.moments.moment_messages import QUERY
from atoll.errors import InvalidExperimentError
from atoll.platform.config.sections import CaptureSettings
from atoll.platform.messages.outcome import Outcome
from atoll.platform.messages.packing import unpack

logger = logging.getLogger("atoll")


class CaptureRecorder:
    """Writes the captures of a run.

    Parameters
    ----------
    directory : Path
        The run directory; captures go to ``captures/`` in it.
    settings : CaptureSettings
        ``[capture]``.
    spec : ClientSpec
        The federation, for the truth.
    dataset : Dataset
        Its data set.
    """

    def __init__(
        self,
        directory: Path,
        settings: CaptureSettings,
        spec: ClientSpec,
        dataset: Dataset,
    ) -> None:
        self._directory = directory / CAPTURES
        self._settings = settings
        self._clients = examples_of(spec)
        self._recorded: Counter[str] = Counter()
        self._everyone = range(1, self._clients.count + 1)
        self._info = FederationInfo(
            dataset=dataset.name,
            model=spec.model,
            client=spec.client,
            inputs=dataset.inputs,
            task=dataset.task,
            num_rounds=spec.num_rounds,
            model_seed=model_seed(spec.seed),
        )

    def nodes(self, message_type: str, server_round: int) -> Collection[int]:
        """Return whose replies to messages of this type are recorded in this round."""
        # Only these replies say something of a client's examples.
        kind, _, action = message_type.partition(".")
        # A client that ascends does not train as a capture's replay would.
        is_recorded = message_type == QUERY or (kind == "train" and action != ASCENT)
        if not is_recorded or server_round not in self._settings.rounds:
            return ()
        nodes = self._settings.nodes
        return self._everyone if nodes == "all" else frozenset(nodes)

    def record(
        self, server_round: int, requests: Sequence[Message], outcomes: Sequence[Outcome]
    ) -> None:
        """Write a capture for each outcome that holds a captured reply.

        Parameters
        ----------
        server_round : int
            The round.
        requests, outcomes : Sequence
            The exchange's messages, and what became of each.

        Raises
        ------
        DataUnavailableError
            If a capture cannot be written.
        """
        for request, outcome in zip(requests, outcomes, strict=True):
            captured = outcome.reply.captured if outcome.reply is not None else None
            if captured is None:
                continue
            message_type = flower.address(request)[1]
            capture = Capture(
                server_round=server_round,
                node_id=outcome.node_id,
                message_type=message_type,
                federation=self._info,
                sent=_content(request.content),
                reply=_content(unpack(captured)),
            )
            name = capture_name(server_round, outcome.node_id, message_type)
            self._recorded[name] += 1
            if self._recorded[name] > 1:
                name += f"-{self._recorded[name]}"
            write_capture(capture, self._truth(request, outcome.node_id), self._directory / name)

    def _truth(self, request: Message, node_id: int) -> Truth:
        examples = self._clients.round_examples(request, node_id - 1)
        return Truth(
            inputs=torch.from_numpy(np.array(examples.inputs)),
            labels=torch.from_numpy(np.array(examples.labels)),
            batches=examples.batches,
            seed=examples.seed,
            indices=torch.from_numpy(np.array(examples.indices)),
            part_seeds=dict(examples.part_seeds),
        )

    def warn_of_missing(self) -> None:
        """Say which of the clients that were named did not reply in a named round."""
        nodes = self._settings.nodes
        for server_round in self._settings.rounds:
            missing = [
                node
                for node in (() if nodes == "all" else nodes)
                if not (self._directory / capture_name(server_round, node, "train")).exists()
            ]
            if missing:
                logger.warning(
                    "nothing was captured of node%s %s in round %d: not sampled, or failed",
                    "s" * (len(missing) > 1),
                    ", ".join(map(str, missing)),
                    server_round,
                )


class SumRecorder(CaptureRecorder):
    """Writes the captures of a run under secure aggregation: one a round, of the sum.

    Its parameters are those of :class:`CaptureRecorder`. A capture holds the model that went out,
    and the mean that the protocol decoded; the truth is what all clients in it had.

    Raises
    ------
    InvalidExperimentError
        If a client takes several steps, or one on some of its examples: then no client could have
        sent the sum, and there is no attack on it, unless the model keeps clients apart
        (:func:`~atoll.attacks.captures.aggregate_capture.keeps_clients_apart`) and each passes over
        all of its examples.
    """

    def __init__(
        self,
        directory: Path,
        settings: CaptureSettings,
        spec: ClientSpec,
        dataset: Dataset,
    ) -> None:
        super().__init__(directory, settings, spec, dataset)
        most = max(map(self._clients.num_examples, range(self._clients.count)))
        steps, batch_size = steps_of(spec.client, most), spec.client.batch_size
        if keeps_clients_apart(self._info) and spec.client.steps is None:
            return
        if steps > 1 or batch_size < most:
            raise InvalidExperimentError(
                f"capture: under SecAggPlus the sum of the clients is recorded; with "
                f"client.batch_size = {batch_size} a client of {most} examples takes {steps} "
                f"step{'s' * (steps > 1)}; expected one on all of them, as one client could have "
                "sent it"
            )

    def nodes(self, message_type: str, server_round: int) -> frozenset[int]:
        """Return no node: what clients send is masked."""
        return frozenset()

    def record_sum(
        self, server_round: int, messages: Sequence[Message], mean: ArrayRecord, examples: int
    ) -> None:
        """Write the capture of a round's sum; see ``SecAggPlus.on_sum``.

        Raises
        ------
        DataUnavailableError
            If it cannot be written.
        """
        if server_round not in self._settings.rounds:
            return
        capture = Capture(
            server_round=server_round,
            node_id=SUM,
            message_type="train",
            federation=as_one_client(self._info, examples),
            sent=_content(messages[0].content),
            reply=_content(
                RecordDict(
                    {MODEL_RECORD: mean, "metrics": MetricRecord({"num-examples": examples})}
                )
            ),
        )
        ordered = sorted(messages, key=lambda message: message.metadata.dst_node_id)
        truths = [self._truth(message, message.metadata.dst_node_id) for message in ordered]
        name = capture_name(server_round, SUM, "train")
        write_capture(capture, aggregate_truths(truths), self._directory / name)

    def warn_of_missing(self) -> None:
        """Say in which of the named rounds there was no sum."""
        for server_round in self._settings.rounds:
            if not (self._directory / capture_name(server_round, SUM, "train")).exists():
                logger.warning(
                    "nothing was captured in round %d: secure aggregation was given up",
                    server_round,
                )


def _content(records: RecordDict) -> Content:
    arrays, values = {}, {}
    for name, record in records.items():
        if isinstance(record, ArrayRecord):
            arrays[name] = tensors_of(record)
        else:
            values[name] = dict(record.items())
    return Content(arrays, values)
