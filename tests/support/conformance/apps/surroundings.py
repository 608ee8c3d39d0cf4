"""Where a client runs: its thread, folder, path, processes of its own, files beside the code."""

import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path

from flwr.app import ConfigRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from kit import answer, ask, result, wait_for

server = ServerApp()
client = ClientApp()
CALLS = []


def doubled(x, queue):
    queue.put(2 * x)


def child_says():
    """Return what a forked process answers, as a DataLoader's would."""
    forked = multiprocessing.get_context("fork")
    queue = forked.Queue()
    child = forked.Process(target=doubled, args=(21, queue))
    child.start()
    found = queue.get(timeout=20)
    child.join()
    return found


def alarm_rings():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    threading.Event().wait(0.5)
    signal.signal(signal.SIGALRM, before)
    return len(rung)


@client.query()
def query(message, context):
    CALLS.append(1)
    own = Path(__file__).resolve().parent
    said = {
        "main-thread": threading.current_thread() is threading.main_thread(),
        "cwd": os.getcwd(),
        "file": Path(__file__).with_name("kit.py").exists(),
        "on-path": str(own) in map(str, (Path(p).resolve() for p in sys.path)),
        "module": __name__,
        "child": child_says(),
        "alarm": alarm_rings(),
        "recursion": sys.getrecursionlimit() >= 1000,
        "stdin": sys.stdin is None or not sys.stdin.isatty(),
        "kept": len(CALLS) > 0,
    }
    return answer(message, said=ConfigRecord(said))


@server.main()
def main(grid, context):
    for reply in grid.send_and_receive([ask(n, "query") for n in wait_for(grid, 2)]):
        if reply.has_error():
            result(reply.error.reason)
            continue
        said = dict(reply.content["said"])
        result("same folder", said.pop("cwd") == os.getcwd(), sorted(said.items()))
