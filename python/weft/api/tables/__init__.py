"""The route table, a file a subject. `weft.api.routes` puts them together."""
