"""Time and memory of single parts."""
