"""Weft beside its peers and the floor: `make bench-peers`."""
