"""The control-plane process: one writer, the log it writes, and the services that answer over HTTP."""
