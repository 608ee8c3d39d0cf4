"""Partitions of data sets into clients and domains."""
