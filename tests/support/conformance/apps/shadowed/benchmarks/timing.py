"""A module below a name that Atoll's sources have as well."""

WHERE = "the app's own benchmarks"
