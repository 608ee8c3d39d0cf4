"""What of an app's output is the same on every engine, and must be.

- ``RESULT`` lines of the app: equal, in order.
- What Flower logs at INFO and WARNING: equal, in order, up to node ids and seconds. Left out is
  what stock says about its own machinery (waiting for nodes, deprecations, the reason of a
  client's error, which holds Ray's words).
- The exit code.
"""

from __future__ import annotations

import re

from tests.support.conformance.two_engines import Case, Shown

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
LOGGED = re.compile(r"^(?:INFO|WARNING) ?:\s{0,10}(?P<text>.*)$")
UNSTABLE = [
    (re.compile(r"finished in \d+\.\d+s"), "finished in <seconds>"),
    (re.compile(r"(Received error in reply from node) .*"), r"\1 <node>"),
    (re.compile(r"^(fit progress: .*), [\d.e-]+\)$"), r"\1, <seconds>)"),
    (re.compile(r"^(Run finished .*) in \d+\.\d+s"), r"\1 in <seconds>"),
    (re.compile(r"(?<![\d.])\d{15,20}\b"), "<id>"),
]
MACHINERY = re.compile(
    r"Waiting for nodes to connect|DEPRECATED FEATURE|Since flwr|To change federation size|"
    r"Federation `|flwr federation simulation-config|Starting Flower Simulation|"
    r"Starting logstream|The reply TTL of|Manually terminating ClientAppActor"
)


# Ray writes what a client printed, and then the end of its line: another thread may come between.
BEGINNING = re.compile(r"(?<!\n)(?=RESULT |(?:INFO|WARNING) ?: |\(\S+ pid=\d+\))")


def lines(text: str) -> list[str]:
    """Return the lines of an output, without colours, each with one thing."""
    return BEGINNING.sub("\n", COLOUR.sub("", text)).splitlines()


def results(shown: Shown) -> list[str]:
    """Return the lines that the app printed to be compared."""
    return [line for line in lines(shown.stdout) if line.startswith("RESULT")]


def flower_log(shown: Shown) -> list[str]:
    """Return what Flower logged, without what differs from run to run."""
    found = []
    for line in lines(shown.stderr + shown.stdout):
        match = LOGGED.match(line)
        if match is None or MACHINERY.search(match["text"]):
            continue
        text = match["text"].rstrip()
        for pattern, replacement in UNSTABLE:
            text = pattern.sub(replacement, text)
        found.append(text)
    # The simulation's process says an empty farewell.
    while found and not found[-1]:
        found.pop()
    return found


def differences(
    case: Case, first: Shown, second: Shown, names: tuple[str, str] = ("stock", "atoll")
) -> list[str]:
    """Return what an app did otherwise on the second engine than on the first; nothing is right."""
    found = []
    wanted = first.code
    if case.atoll_code is not None and names[1] == "atoll":
        wanted = case.atoll_code
    if second.code != wanted:
        found.append(f"exit code {second.code}, wanted {wanted} ({names[0]}: {first.code})")
    found += _line_differences("RESULT", results(first), results(second), names)
    if case.flower_log:
        found += _line_differences("Flower's log", flower_log(first), flower_log(second), names)
    return found


def _line_differences(
    what: str, first: list[str], second: list[str], names: tuple[str, str]
) -> list[str]:
    if first == second:
        return []
    same = next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )
    return [
        f"{what}: {len(first)} lines ({names[0]}), {len(second)} ({names[1]}); from {same + 1} on",
        *(f"  {names[0]}: {line}" for line in first[same : same + 4]),
        *(f"  {names[1]}: {line}" for line in second[same : same + 4]),
    ]


def assert_same(case: Case, stock: Shown, atoll: Shown) -> None:
    """Fail with what differs, if something does, or if stock itself did not do as meant."""
    assert stock.code == case.stock_code, f"stock: {stock.code}\n{stock.stderr[-3000:]}"
    assert results(stock) or stock.code, stock.stderr[-3000:]
    found = differences(case, stock, atoll)
    assert not found, "\n".join([*found, "Atoll's standard error ends with:", atoll.stderr[-1500:]])
