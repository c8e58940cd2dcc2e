"""A double of a Celestia node: the documented rules of its JSON-RPC, over a chain that lives in one process.

It enforces what a node does: tokens and permissions, the number of parameters, its error sentences, blocks every so
often, `null` for an empty list, heights as strings, pruning, limits of size and of number. It can be told to fail as
nodes do: to answer a submission with a timeout and land it later, or never. `python -m weft.testing.celestia` runs it
as a process.

What it is not: a consensus, a proof system, a fee market. It computes share commitments with the package's own code,
which is held to vectors elsewhere.
"""

from weft.testing.celestia.app import NodeDouble, mint_token
from weft.testing.celestia.chain import ChainDouble, Fate

__all__ = ["ChainDouble", "Fate", "NodeDouble", "mint_token"]
