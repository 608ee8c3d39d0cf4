"""Tasks: what models are judged by."""
