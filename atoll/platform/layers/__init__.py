"""Layer runs: the parts of one network, each trained by itself on the workers of a Ray cluster.

Each part has its own data stream, optimiser and checkpoints, and a job is one epoch of one part,
from its own last checkpoint. So a job can run in any worker and after any other job, and a worker
that dies costs one epoch of one part.
"""
