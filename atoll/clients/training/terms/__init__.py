"""The terms of objectives that experiments can name."""
