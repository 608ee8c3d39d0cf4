"""What tests share: apps, clusters, probes, federations and files."""
