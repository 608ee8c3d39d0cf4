"""The app's own package of this name."""
