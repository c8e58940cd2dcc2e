"""What Weft reaches, beside the floor: `make bench`."""
