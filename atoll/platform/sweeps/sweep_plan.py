"""Sweeps: an experiment file with a section ``[sweep]`` in, the trials it stands for out."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.partitioning.domains import check_held_out, training_domains
from atoll.clients.data.partitioning.partition import check_home_domains
from atoll.clients.settings import Section
from atoll.errors import InvalidExperimentError, UntrustedCodeError
from atoll.files.digests import sha256_of_json
from atoll.platform.config.experiment import SWEEP, Experiment, read_tables, with_overrides
from atoll.platform.config.sweep_sections import SweepSettings
from atoll.platform.run_directory.identity import relevant
from atoll.platform.runs.natural_clients import with_natural_clients
from atoll.platform.sweeps.axes import (
    EACH,
    HELD_OUT,
    SEED,
    STRATEGY,
    axes_of,
    distributions_of,
)
from atoll.platform.sweeps.random_search import Distribution, draw_samples
from atoll.platform.sweeps.trial_checks import SettingsChecks
from atoll.validation import validated

# Beyond this a sweep is a mistake; its trials are all worked out before the first is run.
MAX_TRIALS = 100_000


class _SweepFile(Section):
    """For errors that name ``sweep.key``."""

    sweep: SweepSettings


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes
    ----------
    method : str
        The variant's name, or the strategy's.
    choices : tuple[tuple[str, object], ...]
        The grid's other keys and their values: the hyper-parameters.
    experiment : Experiment
        What is run.
    is_validation : bool
        Whether it only serves leave-one-domain-out validation.
    """

    method: str
    choices: tuple[tuple[str, Any], ...]
    experiment: Experiment
    is_validation: bool = False

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.experiment.run.seed

    @property
    def held_out(self) -> tuple[str, ...]:
        """The held-out domains, in alphabetical order."""
        return tuple(sorted(self.experiment.data.held_out))

    @property
    def hyperparameters(self) -> str:
        """The choices as JSON."""
        return json.dumps(dict(self.choices), sort_keys=True)

    @property
    def group(self) -> str:
        """The trials that it is compared with: those of its method and held-out domains."""
        return f"{self.method}, {'+'.join(self.held_out)}"

    @property
    def key(self) -> str:
        """A hash of all that the run's results depend on."""
        tables = relevant(self.experiment.to_dict())
        tables["data"]["held_out"] = self.held_out
        return sha256_of_json(tables)[:16]

    @property
    def name(self) -> str:
        """The name of its run directory."""
        plain = "".join(c if c.isalnum() or c in "._-" else "-" for c in self.method)
        return f"{plain}-{self.key}"

    def __str__(self) -> str:
        parts = [self.method, *(f"{key} = {value}" for key, value in self.choices)]
        if self.held_out:
            parts.append(f"held out {' and '.join(self.held_out)}")
        return ", ".join([*parts, f"seed {self.seed}"])


@dataclass(frozen=True)
class Sweep:
    """A sweep: its settings, its base experiment and its trials, each once."""

    settings: SweepSettings
    base: Experiment
    trials: tuple[Trial, ...]


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep file and work out its trials.

    Parameters
    ----------
    path : Path
        An experiment file with a section ``[sweep]``.
    overrides : Sequence[str]
        ``section.key=value``; they win over the file, the grid and variants over them.

    Raises
    ------
    InvalidExperimentError
        If the file is not a sweep, or any of its trials cannot be run.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from atoll import load_sweep
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "sweep.toml"
    ...     _ = path.write_text('''data.dataset = "rotated-digits"
    ... sweep.grid = { "data.held_out" = "each" }''')
    ...     [trial.held_out for trial in load_sweep(path).trials][:3]
    [('0',), ('15',), ('30',)]
    """
    tables = with_overrides(read_tables(path), overrides)
    if SWEEP not in tables:
        raise InvalidExperimentError(
            f"{path}: has no section [{SWEEP}]; expected one with a grid, random or variants"
        )
    settings = validated(_SweepFile, {SWEEP: tables.pop(SWEEP)}).sweep
    return plan_sweep(tables, settings)


def plan_sweep(tables: Mapping[str, Any], settings: SweepSettings) -> Sweep:
    """Work out the trials of a sweep over an experiment given as tables.

    Raises
    ------
    InvalidExperimentError
        If any of its trials cannot be run.
    """
    _check_settings(settings)
    base = Experiment.from_dict(tables)
    trials: dict[str, Trial] = {}
    for planned in _trials(tables, settings, SettingsChecks()):
        # Its name is a hash of all that is run.
        with suppress(UntrustedCodeError):
            natural = with_natural_clients(planned.experiment, dataset_of)
            planned = replace(planned, experiment=natural)
        trials.setdefault(planned.name, planned)
    return Sweep(settings, base, tuple(trials.values()))


def _check_settings(settings: SweepSettings) -> None:
    """Refuse settings that do not go together."""
    has_random = bool(settings.random) or any("random" in v for v in settings.variants.values())
    if has_random and settings.samples is None:
        raise InvalidExperimentError(
            "sweep.samples is not set; expected how many samples of sweep.random are run"
        )
    if settings.samples is not None and not has_random:
        raise InvalidExperimentError(
            f"sweep.samples = {settings.samples}: there is no sweep.random to draw them from"
        )
    if settings.early_stopping is not None and settings.leave_one_domain_out:
        raise InvalidExperimentError(
            "sweep.early_stopping: leave-one-domain-out validation compares whole runs; expected "
            "sweep.leave_one_domain_out = false"
        )


def _trials(
    tables: Mapping[str, Any], settings: SweepSettings, checks: SettingsChecks
) -> Iterator[Trial]:
    """Yield all trials, those that results are reported of before those for validation."""
    reported: list[Trial] = []
    for method in _methods(tables, settings):
        grid = {**axes_of(settings.grid, "sweep.grid"), **method.grid}
        random = {**distributions_of(settings.random, "sweep.random"), **method.random}
        twice = [key for key in random if key in grid]
        if twice:
            raise InvalidExperimentError(
                f"sweep.random.{twice[0]}: is in a grid too; expected one of the two"
            )
        samples = (settings.samples or 1) if random else 1
        _check_count(samples * math.prod(map(len, grid.values())), method.name)
        for sample in draw_samples(random, samples, settings.samples_seed):
            for values in itertools.product(*grid.values()):
                chosen = {**sample, **dict(zip(grid, values, strict=True))}
                reported += _combination(method.name, method.tables, chosen, checks)
    yield from reported
    if settings.leave_one_domain_out:
        for trial in reported:
            yield from _with_one_more_held_out(trial)


def _check_count(combinations: int, method: str | None) -> None:
    if combinations > MAX_TRIALS:
        of = "" if method is None else f" of the variant {method!r}"
        raise InvalidExperimentError(
            f"sweep.grid and sweep.samples: they make {combinations} trials{of}; expected at most "
            f"{MAX_TRIALS}"
        )


@dataclass(frozen=True)
class _Method:
    """A variant's name and tables, and what of it varies; without variants, the file's own."""

    name: str | None
    tables: dict[str, Any]
    grid: dict[str, list[Any]] = field(default_factory=dict)
    random: dict[str, Distribution] = field(default_factory=dict)


def _methods(tables: Mapping[str, Any], settings: SweepSettings) -> Iterator[_Method]:
    if not settings.variants:
        yield _Method(None, dict(tables))
    elif STRATEGY in axes_of(settings.grid, "sweep.grid"):
        raise InvalidExperimentError(
            f"sweep.grid.{STRATEGY}: there are sweep.variants too; expected one of the two, as "
            "both name the methods"
        )
    for name, variant in settings.variants.items():
        key = f"sweep.variants.{name}"
        own = {section: t for section, t in variant.items() if section not in ("grid", "random")}
        unknown = [section for section in own if section not in Experiment.model_fields]
        if unknown:
            raise InvalidExperimentError(
                f"{key}.{unknown[0]} = {own[unknown[0]]!r}: expected sections of an experiment "
                f"({', '.join(Experiment.model_fields)}), grid or random"
            )
        grid = axes_of(variant.get("grid", {}), f"{key}.grid")
        random = distributions_of(variant.get("random", {}), f"{key}.random")
        yield _Method(name, _merged(tables, own), grid, random)


def _combination(
    method: str | None,
    tables: Mapping[str, Any],
    values: Mapping[str, Any],
    checks: SettingsChecks,
) -> Iterator[Trial]:
    """Yield the trial of one combination of values, or one for each domain to hold out."""
    own = copy.deepcopy(dict(tables))
    for key, value in values.items():
        if not (key == HELD_OUT and value == EACH):
            _put(own, key, value)
    choices = tuple((k, v) for k, v in values.items() if k not in (SEED, HELD_OUT, STRATEGY))
    experiment = _experiment(own, values, method, checks)
    trial = Trial(method or experiment.strategy.name, choices, experiment)
    if values.get(HELD_OUT) != EACH:
        yield trial
        return
    domains = _training_domains(trial.experiment)
    if len(domains) < 2:
        raise InvalidExperimentError(
            f"sweep.grid.{HELD_OUT} = {EACH!r}: {trial.experiment.data.dataset} has "
            f"{len(domains)} domains to train on; expected at least 2"
        )
    for domain in domains:
        yield _holding_out(trial, (domain,), is_validation=False)


def _experiment(
    tables: Mapping[str, Any],
    values: Mapping[str, Any],
    method: str | None,
    checks: SettingsChecks,
) -> Experiment:
    try:
        experiment = Experiment.from_dict(tables)
        # A dry run imports no code of the user's, and knows not what that would refuse.
        with suppress(UntrustedCodeError):
            checks.check(experiment)
        if experiment.data.held_out:
            with suppress(UntrustedCodeError):
                check_held_out(dataset_of(experiment), experiment.data.held_out)
    except InvalidExperimentError as error:
        named = [f"variant {method}"] if method else []
        named += [f"{key} = {value}" for key, value in values.items()]
        where = f" (the trial with {', '.join(named)})" if named else ""
        lines = [f"{line}{where}" for line in str(error).splitlines()]
        raise InvalidExperimentError("\n".join(lines)) from None
    return experiment


def _with_one_more_held_out(trial: Trial) -> Iterator[Trial]:
    domains = [d for d in _training_domains(trial.experiment) if d not in trial.held_out]
    if not trial.held_out or len(domains) < 3:
        raise InvalidExperimentError(
            f"sweep.leave_one_domain_out = true: {trial} trains on {len(domains)} domains"
            f"{'' if trial.held_out else ' and holds out none'}; expected a held-out domain and at "
            "least 3 to train on, so that 2 are left"
        )
    for domain in domains:
        yield _holding_out(trial, (*trial.held_out, domain), is_validation=True)


def _holding_out(trial: Trial, domains: tuple[str, ...], *, is_validation: bool) -> Trial:
    data = trial.experiment.data.model_copy(update={"held_out": tuple(sorted(domains))})
    check_home_domains(data)
    experiment = trial.experiment.model_copy(update={"data": data})
    return Trial(trial.method, trial.choices, experiment, is_validation)


def _training_domains(experiment: Experiment) -> tuple[str, ...]:
    return training_domains(dataset_of(experiment))


def dataset_of(experiment: Experiment) -> Dataset:
    """Return an experiment's data set; the last ones stay open."""
    data = experiment.data
    options = json.dumps(data.dataset_options, sort_keys=True)
    return _opened(data.dataset, data.path, options, experiment.run.seed)


@lru_cache(maxsize=16)
def _opened(dataset: str, path: Path | None, options: str, seed: int) -> Dataset:
    return load_dataset(dataset, path, json.loads(options), seed)


def _merged(tables: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``tables`` with ``over`` put over them, table by table."""
    merged = copy.deepcopy(dict(tables))
    for name, value in over.items():
        inner = merged.get(name)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            merged[name] = _merged(inner, value)
        else:
            merged[name] = copy.deepcopy(value)
    return merged


def _put(tables: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key."""
    *sections, name = key.split(".")
    for section in sections:
        inner = tables.setdefault(section, {})
        if not isinstance(inner, dict):
            raise InvalidExperimentError(f"sweep.grid.{key}: {section} is not a section")
        tables = inner
    tables[name] = copy.deepcopy(value)
