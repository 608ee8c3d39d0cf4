"""Export of models: formats, what they say of themselves, and the model card."""
