"""NoProp networks: design, blocks, noise schedules and inference."""
