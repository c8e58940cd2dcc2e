"""`weft demo`: a cluster of real processes on this machine, real bytes moved through it, and one lender killed."""
