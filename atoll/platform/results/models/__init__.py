"""Models of runs with their preprocessing, a class for each kind of inputs."""
