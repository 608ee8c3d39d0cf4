"""ClientApps: a node's data, model and training behind Flower's messages."""
