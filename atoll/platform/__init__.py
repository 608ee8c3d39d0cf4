"""The engine: from an experiment file to a run, on Ray workers, through Flower's Grid."""

import os

# Ray reads these when it is first imported, by whatever module: they must be set before that.
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
