"""Number of an app's nodes and the resources of each, as ``flwr run`` decides them.

From the strongest to the weakest: what the command line says; the app's own ``pyproject.toml``
(older apps have a federation there); the simulation options of the default connection in Flower's
configuration file; Flower's defaults.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from atoll import flower
from atoll.error_messages import closest
from atoll.errors import InvalidExperimentError
from atoll.flower.app_files import flatten_dict, parse_config_args

OPTIONS = {
    "num-supernodes": "num_supernodes",
    "client-resources-num-cpus": "cpus",
    "client-resources-num-gpus": "gpus",
}
# Read by Flower and of no meaning for our engine.
IGNORED = (
    "backend",
    "verbose",
    "init-args-num-cpus",
    "init-args-num-gpus",
    "init-args-logging-level",
    "init-args-log-to-driver",
)


@dataclass(frozen=True)
class AppFederation:
    """The nodes of an app.

    Attributes
    ----------
    num_supernodes : int
        How many there are.
    cpus : float or None
        CPUs that a client asks for; None if unspecified.
    gpus : float or None
        The share of a GPU.
    """

    num_supernodes: int
    cpus: float | None = None
    gpus: float | None = None


def app_federation(
    overrides: Sequence[str], num_supernodes: int | None, app_supernodes: int | None
) -> AppFederation:
    """Return the nodes of an app.

    Parameters
    ----------
    overrides : Sequence[str]
        As ``flwr run --federation-config`` takes them.
    num_supernodes : int or None
        What the command line says.
    app_supernodes : int or None
        What the app's ``pyproject.toml`` says.

    Raises
    ------
    InvalidExperimentError
        If an override has an unknown key or a value of the wrong kind, or Flower's configuration
        file cannot be read.
    """
    settings = {**_from_flower(), **_checked(_parsed(overrides), "--federation-config")}
    count = num_supernodes or _parsed(overrides).get("num-supernodes") or app_supernodes
    return AppFederation(
        num_supernodes=count or settings.get("num_supernodes", flower.DEFAULT_SUPERNODES),
        cpus=settings.get("cpus"),
        gpus=settings.get("gpus"),
    )


def _parsed(overrides: Sequence[str]) -> dict[str, Any]:
    try:
        return dict(parse_config_args(list(overrides)))
    except (click.ClickException, ValueError, OSError) as error:
        message = error.message if isinstance(error, click.ClickException) else str(error)
        raise InvalidExperimentError(f"--federation-config {list(overrides)}: {message}") from error


def _from_flower() -> dict[str, Any]:
    """Return the simulation options of the default connection, if the user has set any."""
    path = flower.config_file()
    try:
        connections = tomllib.loads(path.read_text()).get("superlink", {})
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidExperimentError(f"{path}: cannot be read ({error})") from error
    chosen = connections.get(connections.get("default"), {})
    options = chosen.get("options", {}) if isinstance(chosen, dict) else {}
    flat = {key.replace(".", "-"): value for key, value in flatten_dict(options).items()}
    named = {key.removeprefix("backend-"): value for key, value in flat.items()}
    return _checked({k: v for k, v in named.items() if k in OPTIONS}, str(path))


def _checked(options: dict[str, Any], source: str) -> dict[str, Any]:
    settings = {}
    for key, value in options.items():
        if key in IGNORED:
            continue
        if key not in OPTIONS:
            known = [*OPTIONS, *IGNORED]
            raise InvalidExperimentError(f"{source} {key}: no such key; {closest(key, known)}")
        is_count = key == "num-supernodes"
        kinds = int if is_count else int | float
        if isinstance(value, bool) or not isinstance(value, kinds) or value < is_count:
            expected = "an integer, at least 1" if is_count else "a number, at least 0"
            raise InvalidExperimentError(f"{source} {key} = {value!r}: expected {expected}")
        settings[OPTIONS[key]] = value
    return settings
