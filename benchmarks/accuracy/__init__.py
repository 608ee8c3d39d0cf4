"""Accuracy of methods, with the same trials for each."""
