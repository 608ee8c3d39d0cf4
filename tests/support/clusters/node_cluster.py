"""A Ray cluster whose nodes have addresses of their own and can be killed as machines are.

Where the system allows it (``unshare``, without root too), every node is a network namespace on a
bridge; elsewhere nodes are told apart by loopback addresses. Nodes are started by ``ray start``.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

RAY = Path(sys.executable).with_name("ray")
PRIVATE = (
    *("unshare", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child"),
    *("--mount-proc",),
)
GCS_PORT, AGENT_PORT = 6379, 21000
AGENTS = ("dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export", "runtime-env-agent")
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {
    # As deploy/README.md says that clusters are started.
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "a-token-of-the-tests",
    "PYTHONPATH": str(ROOT),
}
# A node whose processes are killed refuses connections, so it is missed after 10 x 0.3 s; one
# that is slow to answer is not.
SYSTEM_CONFIG = (
    '{"health_check_initial_delay_ms":0,"health_check_period_ms":300,'
    '"health_check_timeout_ms":20000,"health_check_failure_threshold":10}'
)


def namespaces_allowed() -> bool:
    """Tell whether this machine lets us make network namespaces, with a network between them."""
    script = (
        "mount -t tmpfs tmpfs /run && ip link add nodes type bridge && ip netns add one && "
        "ip link add v1 type veth peer name eth0 netns one"
    )
    try:
        done = subprocess.run(
            [*PRIVATE, "sh", "-c", script], capture_output=True, timeout=60, check=False
        )
    except OSError:
        return False
    return done.returncode == 0


def in_private_network(command: list[str]) -> list[str]:
    """Return ``command`` as it is run in namespaces of its own, which end with it."""
    script = (
        "mount -t tmpfs tmpfs /run && ip link set lo up && ip link add nodes type bridge && "
        'ip addr add 10.77.0.1/24 dev nodes && ip link set nodes up && exec "$@"'
    )
    return [*PRIVATE, "sh", "-c", script, "sh", *command]


@dataclass
class Node:
    """A node of the cluster.

    Attributes
    ----------
    address : str
        Its IP address.
    process : Popen
        Its ``ray start --block``.
    """

    address: str
    process: subprocess.Popen[bytes]


class NodeCluster:
    """The nodes; the first, which runs no worker, is where drivers are.

    Parameters
    ----------
    private : bool
        Whether this process runs as :func:`in_private_network` says.
    """

    def __init__(self, *, private: bool) -> None:
        self._private = private
        # Sockets lie in it, whose paths must be short.
        self._folder = tempfile.mkdtemp(prefix="r")
        self._nodes: list[Node] = []
        self._made = 0
        self.address = (
            f"{self._address(1)}:{GCS_PORT if private else GCS_PORT + os.getpid() % 9999}"
        )

    def _address(self, number: int) -> str:
        return f"10.77.0.{number}" if self._private else f"127.0.0.{number}"

    def start_head(self) -> Node:
        """Start the head."""
        port = self.address.rpartition(":")[2]
        return self._start(
            1,
            *("--head", "--port", port, "--num-cpus", "0", "--system-config", SYSTEM_CONFIG),
            *("--include-dashboard=false", "--no-monitor"),
            *("--temp-dir", self._folder),
        )

    def wait_for_head(self) -> None:
        """Wait until drivers can connect."""
        host, _, port = self.address.rpartition(":")

        def answers() -> bool:
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
            except OSError:
                return False
            return True

        wait_until(answers, "the head")

    def add_node(self, cpus: int, hidden: Path | None = None) -> Node:
        """Start a node with so many CPUs; it joins when it is ready.

        If nodes are namespaces, it does not see what is in the folder ``hidden``.
        """
        self._made += 1
        number = self._made + 1
        if self._private:
            veth, name = f"v{number}", f"n{number}"
            for command in (
                f"ip netns add {name}",
                f"ip link add {veth} type veth peer name eth0 netns {name}",
                f"ip link set {veth} master nodes up",
                f"ip -n {name} addr add {self._address(number)}/24 dev eth0",
                f"ip -n {name} link set eth0 up",
                f"ip -n {name} link set lo up",
            ):
                subprocess.run(command.split(), check=True)
        options = ("--address", self.address, "--num-cpus", str(cpus))
        return self._start(number, *options, hidden=hidden)

    def _start(self, number: int, *options: str, hidden: Path | None = None) -> Node:
        address = self._address(number)
        command = [sys.executable, str(RAY), "start", "--block", "--node-ip-address", address]
        command += ["--object-store-memory", str(200 << 20), "--include-log-monitor=false"]
        # Where ports are not given, a raylet dies if its agents take long to choose them.
        for place, agent in enumerate(AGENTS):
            command += [f"--{agent}-port", str(AGENT_PORT + 10 * number + place)]
        if self._private and hidden is not None:
            command = ["sh", "-c", f'mount -t tmpfs tmpfs {hidden} && exec "$@"', "sh", *command]
        if self._private and number > 1:
            command = ["ip", "netns", "exec", f"n{number}", *command]
        with open(f"{self._folder}/node-{number}.log", "ab") as log:
            process = subprocess.Popen(
                [*command, *options], env=ENVIRONMENT, stdout=log, stderr=log
            )
        node = Node(address, process)
        self._nodes.append(node)
        return node

    @property
    def newest(self) -> Node:
        """The node that was added last, of those that are alive."""
        return self._nodes[-1]

    def kill(self, node: Node) -> None:
        """Kill all of a node's processes at once, as if its power had failed."""
        kill_tree(node.process.pid)
        node.process.wait()
        self._nodes.remove(node)

    def close(self) -> None:
        """Kill every node."""
        for node in reversed(list(self._nodes)):
            self.kill(node)


def kill_tree(pid: int) -> None:
    """Kill a process and all that descend from it, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    doomed = [pid]
    for parent in doomed:
        doomed += children.get(parent, [])
    for one in doomed:
        try:
            os.kill(one, signal.SIGSTOP)
        except ProcessLookupError:
            continue
    for one in doomed:
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_until(condition: object, what: str, seconds: float = 200.0) -> None:
    """Wait until ``condition()`` is true."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)
