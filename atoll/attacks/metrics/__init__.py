"""Metrics of reconstructions, all on images in [0, 1]."""
