"""Reference of experiment keys and of names, for ``atoll explain``, ``atoll list`` and docs."""
