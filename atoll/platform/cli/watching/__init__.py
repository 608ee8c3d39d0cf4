"""``atoll watch``: how a run, a sweep or an arena stands, from its directory."""
