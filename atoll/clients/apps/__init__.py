"""ClientApps: data, model and training of a node behind Flower's messages."""
