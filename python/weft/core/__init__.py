"""The rules: pure functions of (state, input, now). No clock, no randomness, no input or output, no logging."""
