"""Tasks: losses, and how outputs are read as predictions."""
