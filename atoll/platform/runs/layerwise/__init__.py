"""Layer-wise training: a NoProp network's blocks as independent jobs."""
