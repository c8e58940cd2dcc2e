"""The cluster: a name under which nodes come together. A coordinator keeps one, or none yet."""

import msgspec


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """What founding a cluster settles. Its nodes are rows of their own."""

    name: str
    founded_at_ms: int
