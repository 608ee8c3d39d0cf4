"""Files for "ray up" and "ray job submit", checked by Ray's own checks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv
from ray.scripts import scripts as ray_commands

from atoll.platform.submission import read_runtime_env

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "ray"
CLUSTERS = sorted(FOLDER.glob("cluster-*.yaml"))


def config_of(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    return config


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_a_cluster_file_passes_rays_schema(path: Path) -> None:
    config = config_of(path)
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["max_workers"] == config["max_workers"]


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_nodes_are_started_as_ray_takes_it_and_the_dashboard_stays_inside(path: Path) -> None:
    config = config_of(path)
    for kind in ("head", "worker"):
        stop, start = config[f"{kind}_start_ray_commands"]
        assert stop.endswith("ray stop")
        words = shlex.split(start.partition(";")[2])
        assert words[0].endswith("ray")
        assert words[1] == "start"
        parsed = ray_commands.start.make_context("start", words[2:], resilient_parsing=True).params
        assert parsed["head"] == (kind == "head")
        if kind == "head":
            assert parsed["dashboard_host"] == "127.0.0.1"
    [local] = config["file_mounts"].values()
    assert (ROOT / local).exists()


def test_cloud_workers_are_spot_machines_and_the_head_has_no_clients() -> None:
    types = config_of(FOLDER / "cluster-aws.yaml")["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    for name in ("worker", "gpu-worker"):
        assert types[name]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_what_a_person_must_fill_in_is_named_in_the_head_of_the_file() -> None:
    for path in CLUSTERS:
        text = path.read_text()
        comment = "".join(line for line in text.splitlines(True) if line.startswith("#"))
        rest = text.removeprefix(comment)
        places = set(re.findall(r"\b[A-Z]+-[A-Z0-9]+\b|\bHEAD\b|\bUSER\b", rest))
        assert places
        assert all(place in comment for place in places), places


def test_the_runtime_environment_is_one() -> None:
    found = read_runtime_env(FOLDER / "runtime_env.yaml")
    assert RuntimeEnv(**found)["env_vars"]["ATOLL_CACHE"] == "/shared/cache"
