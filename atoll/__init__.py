"""Atoll: a laboratory for federated learning on Ray and Flower.

The public API is what ``__all__`` lists in :mod:`atoll`, :mod:`atoll.clients`,
:mod:`atoll.strategies` and :mod:`atoll.attacks`. Modules below these packages are private.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.lazy import attach

if TYPE_CHECKING:
    from atoll.errors import (
        AtollError,
        AttackError,
        CaptureError,
        CorruptCheckpointError,
        DataUnavailableError,
        EngineError,
        InvalidExperimentError,
        RunDirectoryError,
        UnknownNameError,
        UntrustedCodeError,
    )
    from atoll.platform.arenas.arena import ArenaResult, run_arena
    from atoll.platform.arenas.arena_plan import Arena, load_arena
    from atoll.platform.attack_runs.attack_run import AttackRun, run_attack
    from atoll.platform.attack_runs.audit_run import AuditResult, run_audit
    from atoll.platform.attack_runs.label_counts import LabelsRun, run_labels
    from atoll.platform.attack_runs.membership_run import MembershipRun, run_membership
    from atoll.platform.attack_runs.shadows.shadow_attacks import ShadowSettings
    from atoll.platform.callbacks.observers import Observer, RoundRecord, RunInfo
    from atoll.platform.config.experiment import Experiment, load_experiment
    from atoll.platform.grid.grid_config import GridConfig
    from atoll.platform.grid.ray_grid import RayGrid
    from atoll.platform.results.models.pixel_model import InputFormat, PixelModel
    from atoll.platform.results.models.predictions import Predictions
    from atoll.platform.results.models.prepared_model import ModelFormat, PreparedModel
    from atoll.platform.results.models.table_model import TableModel
    from atoll.platform.results.models.token_model import TokenModel
    from atoll.platform.results.recorded_run import RecordedRun, open_run
    from atoll.platform.rounds.round_loop import run_rounds
    from atoll.platform.rounds.round_options import RoundOptions
    from atoll.platform.run_directory.checkpoint import parameters_sha256
    from atoll.platform.runs.federation_run import resume, run
    from atoll.platform.runs.layerwise.network_arrays import network_arrays
    from atoll.platform.runs.run_result import RunResult
    from atoll.platform.sweeps.sweep import SweepResult, run_sweep
    from atoll.platform.sweeps.sweep_plan import Sweep, load_sweep
    from atoll.platform.unlearning.unlearning_run import UnlearningResult, run_unlearning
    from atoll.user_code.trust import CodeUse

__version__ = "0.1.0"
__all__ = [
    "Arena",
    "ArenaResult",
    "AtollError",
    "AttackError",
    "AttackRun",
    "AuditResult",
    "CaptureError",
    "CodeUse",
    "CorruptCheckpointError",
    "DataUnavailableError",
    "EngineError",
    "Experiment",
    "GridConfig",
    "InputFormat",
    "InvalidExperimentError",
    "LabelsRun",
    "MembershipRun",
    "ModelFormat",
    "Observer",
    "PixelModel",
    "Predictions",
    "PreparedModel",
    "RayGrid",
    "RecordedRun",
    "RoundOptions",
    "RoundRecord",
    "RunDirectoryError",
    "RunInfo",
    "RunResult",
    "ShadowSettings",
    "Sweep",
    "SweepResult",
    "TableModel",
    "TokenModel",
    "UnknownNameError",
    "UnlearningResult",
    "UntrustedCodeError",
    "__version__",
    "load_arena",
    "load_experiment",
    "load_sweep",
    "network_arrays",
    "open_run",
    "parameters_sha256",
    "resume",
    "run",
    "run_arena",
    "run_attack",
    "run_audit",
    "run_labels",
    "run_membership",
    "run_rounds",
    "run_sweep",
    "run_unlearning",
]

_MODULES = {
    "atoll.errors": (
        "AtollError",
        "InvalidExperimentError",
        "UnknownNameError",
        "DataUnavailableError",
        "RunDirectoryError",
        "CorruptCheckpointError",
        "EngineError",
        "CaptureError",
        "AttackError",
        "UntrustedCodeError",
    ),
    "atoll.platform.arenas.arena": ("ArenaResult", "run_arena"),
    "atoll.platform.arenas.arena_plan": ("Arena", "load_arena"),
    "atoll.platform.attack_runs.attack_run": ("AttackRun", "run_attack"),
    "atoll.platform.attack_runs.audit_run": ("AuditResult", "run_audit"),
    "atoll.platform.attack_runs.membership_run": ("MembershipRun", "run_membership"),
    "atoll.platform.attack_runs.shadows.shadow_attacks": ("ShadowSettings",),
    "atoll.platform.attack_runs.label_counts": ("LabelsRun", "run_labels"),
    "atoll.platform.callbacks.observers": ("Observer", "RoundRecord", "RunInfo"),
    "atoll.platform.config.experiment": ("Experiment", "load_experiment"),
    "atoll.platform.grid.grid_config": ("GridConfig",),
    "atoll.platform.grid.ray_grid": ("RayGrid",),
    "atoll.platform.rounds.round_loop": ("run_rounds",),
    "atoll.platform.rounds.round_options": ("RoundOptions",),
    "atoll.platform.results.models.pixel_model": ("InputFormat", "PixelModel"),
    "atoll.platform.results.models.predictions": ("Predictions",),
    "atoll.platform.results.models.prepared_model": ("ModelFormat", "PreparedModel"),
    "atoll.platform.results.models.table_model": ("TableModel",),
    "atoll.platform.results.models.token_model": ("TokenModel",),
    "atoll.platform.results.recorded_run": ("RecordedRun", "open_run"),
    "atoll.platform.run_directory.checkpoint": ("parameters_sha256",),
    "atoll.platform.runs.federation_run": ("run", "resume"),
    "atoll.platform.runs.layerwise.network_arrays": ("network_arrays",),
    "atoll.platform.runs.run_result": ("RunResult",),
    "atoll.platform.sweeps.sweep": ("SweepResult", "run_sweep"),
    "atoll.platform.sweeps.sweep_plan": ("Sweep", "load_sweep"),
    "atoll.platform.unlearning.unlearning_run": ("UnlearningResult", "run_unlearning"),
    "atoll.user_code.trust": ("CodeUse",),
}
__getattr__, __dir__ = attach(__name__, _MODULES)
