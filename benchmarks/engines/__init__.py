"""One engine a file; each is run in a process of its own and prints its timings as JSON."""
