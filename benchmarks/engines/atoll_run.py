"""``atoll run`` as a user types it: from the start of the process to the end of round 1."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.engines.timing import print_timings
from benchmarks.workloads import WORKLOADS

EXPERIMENT = """
[run]
rounds = 1
[data]
dataset = "{dataset}"
clients = {clients}
examples_per_client = {examples}
test_examples = 1  # the other engine does not evaluate
partition = {{name = "iid"}}
[model]
name = "{model}"
[client]
batch_size = {batch}
learning_rate = {learning_rate}
[strategy]
fraction_train = {fraction}
fraction_evaluate = 0.0
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=sorted(WORKLOADS))
    workload = WORKLOADS[parser.parse_args().workload]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "experiment.toml")
        path.write_text(
            EXPERIMENT.format(fraction=workload.cohort / workload.clients, **vars(workload))
        )
        started = time.perf_counter()
        command = [sys.executable, "-m", "atoll", "run", str(path), "--out", f"{folder}/run"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        first = None
        for line in process.stdout:
            if line.startswith("round 1/") and first is None:
                first = time.perf_counter() - started
        process.wait()
    print_timings({"first_round_seconds": first})


if __name__ == "__main__":
    main()
