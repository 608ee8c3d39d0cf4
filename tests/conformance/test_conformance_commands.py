"""``flwr run`` beside ``atoll flower``: what a user's terminal shows, and exit codes.

``flwr run --stream`` ends with 0 whatever the run did, so the other modules compare exit codes with
those of Flower's simulation process. Here a failed app must fail on Atoll.
"""

from __future__ import annotations

import pytest

from tests.support.conformance.command_lines import atoll_flower, flwr_environment, flwr_run
from tests.support.conformance.comparison import flower_log, lines, results
from tests.support.conformance.two_engines import Case, Shown, app_directory

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
CASE = Case("cli_prints", config={"fails": False, "lr": 0.1, "nested.name": "x"})


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Shown, Shown]]:
    folder = tmp_path_factory.mktemp("commands")
    app = app_directory(CASE, folder)
    configs = {"fine": "lr=0.5", "failing": "fails=true nested.name='y z'"}
    with flwr_environment(folder / "home") as environment:
        stock = {name: flwr_run(app, config, environment) for name, config in configs.items()}
    ours = {name: atoll_flower(app, config, folder / name) for name, config in configs.items()}
    return {name: (stock[name], ours[name]) for name in configs}


def client_lines(shown: Shown) -> list[str]:
    every = lines(shown.stdout + shown.stderr)
    return sorted(line[line.index("CLIENT") :] for line in every if "CLIENT" in line)


BOTH = pytest.mark.parametrize("name", ["fine", "failing"])


@BOTH
def test_what_the_app_prints(both: dict[str, tuple[Shown, Shown]], name: str) -> None:
    stock, atoll = both[name]
    assert len(results(stock)) == 3, stock.stdout + stock.stderr
    assert results(atoll) == results(stock), atoll.stderr


@BOTH
def test_what_flower_logs(both: dict[str, tuple[Shown, Shown]], name: str) -> None:
    stock, atoll = both[name]
    assert flower_log(atoll) == flower_log(stock)


@BOTH
def test_what_clients_print(both: dict[str, tuple[Shown, Shown]], name: str) -> None:
    stock, atoll = both[name]
    assert len(client_lines(stock)) == 8
    assert client_lines(atoll) == client_lines(stock)


def test_the_app_is_known_by_its_hash(both: dict[str, tuple[Shown, Shown]]) -> None:
    hashes = [
        [line for line in shown.stdout.splitlines() if line.startswith("FAB HASH")]
        for shown in both["fine"]
    ]
    assert hashes[0] == hashes[1]


def test_exit_codes(both: dict[str, tuple[Shown, Shown]]) -> None:
    assert both["fine"][1].code == 0
    stock, atoll = both["failing"]
    assert atoll.code == 1
    for shown in (stock, atoll):
        assert "LookupError: the app's last word" in shown.stdout + shown.stderr
