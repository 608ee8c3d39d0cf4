"""Messages between the driver and its workers."""
