"""Doors: each holds one seed's JSON shapes as pure functions, `to_command` and `to_body`, and only it knows them."""
