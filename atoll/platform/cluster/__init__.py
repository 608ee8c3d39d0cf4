"""The Ray cluster: connections, resources, nodes."""
