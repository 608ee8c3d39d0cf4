"""``atoll watch --web``: the report of what runs, in a browser on this machine."""
