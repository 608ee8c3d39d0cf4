"""Growth with clients, models and workers, and long runs under faults."""
