"""Clients on a GPU that is not there: its memory is a folder of what each process holds."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict

from atoll.clients.apps.batch_app import BatchClientApp
from atoll.platform.worker import gpu_memory
from atoll.platform.worker.gpu_memory import MemoryReading

GIB = 2**30
TOTAL, CONTEXT, NEED = 9 * GIB, GIB // 2, 3 * GIB
TEXT = "CUDA out of memory. Tried to allocate 2.00 GiB"


class PretendedGpu:
    """The GPU as one process sees it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own = folder / f"{os.getpid()}.held"

    def _held(self, kind: str) -> dict[Path, int]:
        """Return what each living process has noted."""
        found = {}
        for path in self._folder.glob(f"*.{kind}"):
            try:
                # A zombie has none.
                if Path(f"/proc/{path.stem}/cmdline").read_bytes():
                    found[path] = int(path.read_text() or 0)
            except OSError:
                continue
        return found

    def need(self, count: int) -> None:
        self._own.write_text(str(max(count + CONTEXT, self._held("held").get(self._own, 0))))
        if sum(self._held("held").values()) > TOTAL:
            self._own.unlink()
            raise torch.OutOfMemoryError(TEXT)

    def read(self) -> MemoryReading | None:
        held = self._held("held")
        if self._own not in held:
            return None
        reserved = held[self._own] - CONTEXT
        return MemoryReading(reserved, reserved, TOTAL - sum(held.values()), TOTAL)

    def work_beside(self, room: int) -> None:
        """Work until another does too, or one has run out, because more than ``room`` do."""
        mark, overflow = self._folder / f"{os.getpid()}.working", self._folder / "overflow"
        mark.write_text("1")
        deadline = time.monotonic() + 60
        try:
            while not overflow.exists() and time.monotonic() < deadline:
                if len(self._held("working")) > room:
                    overflow.touch()
                    raise torch.OutOfMemoryError(TEXT)
                time.sleep(0.01)
        finally:
            mark.unlink()


class AppOnGpu(BatchClientApp):
    """Clients that need memory; ``together`` of them at once is the most that fits."""

    def __init__(self, folder: Path, together: int) -> None:
        super().__init__()
        self._gpu, self._together = PretendedGpu(folder), together
        self.read_memory = self._gpu.read
        self.train()(self._train)

    def _train(self, message: Message, context: Context) -> Message:
        node, config = context.node_id, message.content["config"]
        self._gpu.need(NEED)
        if node == config.get("too-large"):
            raise torch.OutOfMemoryError(TEXT)
        if "room" in config:
            self._gpu.work_beside(int(config["room"]))
        return reply(message, float(np.random.rand()) + node)

    def can_vectorize(self) -> str | None:
        return None

    def train_together(self, messages: list[Message], contexts: list[Context]) -> list[Message]:
        if len(messages) > self._together:
            raise RuntimeError("CUDA error: out of memory")
        return [
            reply(message, context.node_id)
            for message, context in zip(messages, contexts, strict=True)
        ]


def app_in_a_worker(folder: Path, together: int) -> AppOnGpu:
    """Return the app in a process of its own, which reads the memory of this GPU from now on."""
    app = AppOnGpu(folder, together)
    gpu_memory.read_memory = app.read_memory
    return app


def reply(message: Message, value: float) -> Message:
    values = {key: Array(a.numpy() + value) for key, a in message.content["arrays"].items()}
    content = RecordDict(
        {"arrays": ArrayRecord(values), "metrics": MetricRecord({"num-examples": 1})}
    )
    return Message(content, reply_to=message)
