"""Training of NoProp networks block by block: units, objectives, epochs, memory."""
