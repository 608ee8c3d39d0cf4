"""A Flower app as people write them: a small CNN on garments. It knows nothing of Atoll."""
