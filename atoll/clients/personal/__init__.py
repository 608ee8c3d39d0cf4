"""Parameters and models that a client keeps to itself, and how its own model is made."""
