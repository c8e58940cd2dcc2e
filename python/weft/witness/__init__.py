"""Witnesses: servers that keep blobs for clusters, on machines of their own. A validator signs for what it keeps."""
