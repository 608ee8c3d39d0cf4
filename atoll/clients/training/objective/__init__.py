"""What clients minimise beside the task's loss: terms, their node state, and their sum."""
