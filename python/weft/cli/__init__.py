"""The command line. It asks the coordinator as any program does, and starts processes without importing them."""
