"""One client's call: its random state, the app's answer, and what the node keeps."""

from __future__ import annotations

import traceback
from typing import NamedTuple

from flwr.app import Message
from flwr.clientapp import ClientApp

from atoll import flower
from atoll.platform.messages.exchange import Chunk, Exchange
from atoll.platform.messages.outcome import Failure, encodable
from atoll.platform.messages.packing import PackedRecords, pack
from atoll.platform.worker.chunk_messages import ChunkMessages
from atoll.platform.worker.gpu_memory import OutOfGpuMemoryError, is_out_of_memory
from atoll.platform.worker.node_context import kept_of
from atoll.randomness import derive_seed, seed_everything


class Answer(NamedTuple):
    """Answer of the app to a request, and the node's new state (None if it never had one)."""

    value: object
    state: bytes | None
    request: Message


def _said(error: BaseException) -> str:
    """Return what was raised, in a line; its own text may fail, or not be encodable."""
    try:
        said = str(error)
    except Exception:
        said = "its text cannot be read"
    return encodable(f"the client raised {type(error).__name__}: {said}")


class ClientCalls:
    """Calls a ClientApp for one client at a time.

    Parameters
    ----------
    app : ClientApp
        The app that every simulated node runs.
    messages : ChunkMessages
        What it is called with.
    has_gpu : bool
        Whether clients that run out of GPU memory are to be run elsewhere, in place of failing.
    """

    def __init__(self, app: ClientApp, messages: ChunkMessages, *, has_gpu: bool) -> None:
        self._app = app
        self._messages = messages
        self._has_gpu = has_gpu

    def call(self, exchange: Exchange, chunk: Chunk, place: int) -> Answer | Failure:
        """Return what the app answers for a chunk's client.

        Raises
        ------
        OutOfGpuMemoryError
            If the worker has a GPU, and there is no room left on it.
        """
        messages, node_id = self._messages, chunk.nodes[place]
        request = messages.request(exchange, chunk, place)
        context = messages.context(exchange, chunk, place)
        category = messages.category(chunk.envelopes[place])
        server_round, *repetition = chunk.draws[place]
        seed_everything(
            derive_seed(exchange.seed, server_round, category, node_id - 1, *repetition)
        )
        flower.speak_for(node_id)
        try:
            answer = self._app(request, context)
        except BaseException as error:
            # What is no Exception too: a client's failure is not the worker's.
            self.refuse_shortage(error, (node_id,), 1)
            code = flower.RAISED if isinstance(error, Exception) else flower.UNKNOWN
            return Failure(_said(error), code, encodable(traceback.format_exc()))
        if context.run_config != messages.run_config:
            return Failure(flower.RUN_CONFIG_CHANGED, flower.UNKNOWN)
        had = node_id in chunk.states
        return Answer(answer, kept_of(context, exchange.num_partitions, had=had), request)

    def reply_apart(self, exchange: Exchange, chunk: Chunk, place: int) -> PackedRecords | None:
        """Return what a client whose reply is in a sum would have replied; None if it raises."""
        answer = self.call(exchange, chunk, place)
        if isinstance(answer, Failure) or not isinstance(answer.value, Message):
            return None
        return pack(answer.value.content)

    def refuse_shortage(self, error: BaseException, nodes: tuple[int, ...], at_once: int) -> None:
        """Raise if the GPU had no room: that says nothing of the clients.

        Raises
        ------
        OutOfGpuMemoryError
            With the clients' nodes, and how many of them trained vectorised.
        """
        if self._has_gpu and is_out_of_memory(error):
            raise OutOfGpuMemoryError(nodes, at_once) from error
