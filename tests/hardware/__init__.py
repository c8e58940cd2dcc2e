"""What needs a device, or a machine that has one: each says why it is skipped."""
