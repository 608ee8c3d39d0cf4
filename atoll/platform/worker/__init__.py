"""Worker actors: clients of a chunk are run in them."""
