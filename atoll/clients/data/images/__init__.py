"""Images: tensors of them, and their augmentation."""
