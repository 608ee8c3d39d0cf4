"""Run directories: tables, checkpoints and what identifies a run."""
