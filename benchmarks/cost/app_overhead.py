"""Overhead of the engine and of Flower for a client of a user's app, in one process, without Ray.

Chunks of the app of garments and the same clients in a plain loop are run in turn; what counts is
the thread's processor time, so it can be measured on a machine that has other things to do.
Run it: ``python -m benchmarks.cost.app_overhead``.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from flwr.app import ArrayRecord, RecordDict

from atoll import flower
from atoll.clients.training.memory_allocator import keep_freed_memory
from atoll.platform.messages.exchange import Chunk, Envelope, Exchange
from atoll.platform.messages.packing import PackedRecords, pack, structure_of
from atoll.platform.worker.client_runner import ClientRunner
from benchmarks.export import export
from benchmarks.paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks" / "apps" / "fashion"))

from fashion.client_app import app
from fashion.task import Net, load_data, train

CHUNK, BATCH, RATE = 16, 20, 0.1


class Chunks:
    """The same clients through the engine and in a plain loop.

    Parameters
    ----------
    data : str
        What ``benchmarks.export`` wrote.
    sums : bool
        Whether replies are added up, or packed to be sent.
    """

    def __init__(self, data: str, *, sums: bool) -> None:
        self._images, self._labels = load_data(data)
        torch.manual_seed(1)
        self._arrays = ArrayRecord(Net().state_dict())
        self._state = self._arrays.to_torch_state_dict()
        self._content: PackedRecords = pack(RecordDict({"arrays": self._arrays}))
        config = {"data": data, "batch-size": BATCH, "learning-rate": RATE}
        self._runner = ClientRunner(app, config, "worker")
        self._sums = sums

    def on_engine(self, number: int, clients: range) -> None:
        """Run the clients as a worker does."""
        exchange = Exchange(
            number=number,
            seed=0,
            server_round=number,
            num_partitions=len(self._labels),
            envelopes=(Envelope(0, "train", "1", 3600.0, time.time()),),
            expected=(structure_of(self._arrays) if self._sums else None,),
            weighted_by="num-examples" if self._sums else None,
            sum_replies=self._sums,
            checked=False,
            check_finite=False,
        )
        nodes = tuple(client + 1 for client in clients)
        chunk = Chunk(
            index=0,
            positions=tuple(range(len(nodes))),
            nodes=nodes,
            envelopes=(0,) * len(nodes),
            message_ids=tuple(map(str, nodes)),
            draws=((number,),) * len(nodes),
        )
        result = self._runner.run_chunk(exchange, chunk, {0: self._content})
        assert all(outcome.status == "ok" for outcome in result.outcomes)

    def in_a_loop(self, number: int, clients: range) -> None:
        """Run the clients without anything around them."""
        sums = {key: torch.zeros_like(value) for key, value in self._state.items()}
        for client in clients:
            net = Net()
            net.load_state_dict(self._state)
            train(net, self._images[client], self._labels[client], BATCH, RATE)
            for key, value in net.state_dict().items():
                sums[key].add_(value, alpha=BATCH)

    def compare(self, repeats: int) -> str:
        """Return the milliseconds a client of both, and the median of the ratios."""
        ways: tuple[Callable[[int, range], None], ...] = (self.on_engine, self.in_a_loop)
        times: list[list[float]] = []
        for repeat in range(repeats + 2):
            start = repeat * CHUNK % (len(self._labels) - CHUNK)
            pair = []
            for way in ways:
                before = time.thread_time()
                way(repeat + 1, range(start, start + CHUNK))
                pair.append((time.thread_time() - before) / CHUNK * 1e3)
            times.append(pair)
        ours, plain = zip(*times[2:], strict=True)
        ratio = median(p / o for o, p in zip(ours, plain, strict=True))
        return f"{median(ours):.2f} | {median(plain):.2f} | {ratio:.2f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", default="cnn-1000x20")
    parser.add_argument("--repeats", type=int, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    flower.assume_identity()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/data.npz"
        export(arguments.workload, Path(data))
        ways = [
            (name, Chunks(data, sums=sums)) for name, sums in (("sums", True), ("replies", False))
        ]
        gc.collect()
        gc.freeze()
        print("| conversions | kept | ms a client | plain loop | ratio |\n|---|---|---|---|---|")
        for conversions in ("Flower's", "ours"):
            if conversions == "ours":
                flower.convert_arrays_quickly()
            for name, chunks in ways:
                print(
                    f"| {conversions} | {name} | {chunks.compare(arguments.repeats)} |", flush=True
                )


if __name__ == "__main__":
    main()
