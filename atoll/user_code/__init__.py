"""A user's own code: whether it is trusted, what identifies it, and errors in it."""
