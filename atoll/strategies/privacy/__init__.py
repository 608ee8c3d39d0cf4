"""Central differential privacy: an averaging strategy whose mean is clipped and noisy."""
