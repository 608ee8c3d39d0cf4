"""A process that runs apps in turn, with each one's standard output and errors in files."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

Job = dict[str, Any]


@contextmanager
def output_into(stdout: str, stderr: str) -> Iterator[None]:
    """Within this context the process writes both streams into files, whoever writes."""
    kept = {}
    for stream, number, path in ((sys.stdout, 1, stdout), (sys.stderr, 2, stderr)):
        stream.flush()
        kept[number] = os.dup(number)
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(target, number)
        os.close(target)
    try:
        yield
    finally:
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            stream.flush()
            os.dup2(kept[number], number)
            os.close(kept[number])


def start_ray(**settings: Any) -> None:
    """Start a Ray of this process's own, on a busy machine too.

    Ray waits half a minute for its first node, a figure in its code; here the clock that it reads
    runs ten times as slowly.
    """
    import ray
    import ray._private.node

    slow = {**vars(time), "monotonic": lambda: time.monotonic() / 10}
    ray._private.node.time = SimpleNamespace(**slow)
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        **settings,
    )


def main(start: Callable[[list[Job]], None], run: Callable[[Job], int]) -> None:
    """Run the jobs of a file; a line for each that has ended goes to another file."""
    jobs: list[Job] = json.loads(Path(sys.argv[1]).read_text())
    start(jobs)
    with Path(sys.argv[2]).open("a", buffering=1) as results:
        results.write(json.dumps({"started": True}) + "\n")
        for job in jobs:
            begun = time.perf_counter()
            with output_into(job["stdout"], job["stderr"]):
                try:
                    code = run(job)
                except Exception:
                    traceback.print_exc()
                    code = 1
            seconds = time.perf_counter() - begun
            results.write(json.dumps({"name": job["name"], "code": code, "s": seconds}) + "\n")
    # Threads that an app left behind must not keep the process.
    os._exit(0)
