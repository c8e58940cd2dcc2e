"""An ordinary array whose bytes live on the machines that lend.

weft coordinator &  weft node --lend 64MiB &  python examples/remote_array.py
"""

import numpy

import weft

with weft.connect() as cluster:
    region = cluster.region("squares", size="32MiB")

    # One program writes. Leaving the block sends what it wrote home.
    with region.attach("exclusive") as memory:
        squares = memory.numpy("<u8", shape=(1 << 22,))
        squares[:] = numpy.arange(len(squares), dtype="u8") ** 2
        del squares
    region.seal()

    # Now any number may read, from any machine; pages come as they are touched.
    with region.attach("read") as memory:
        squares = memory.numpy("<u8")
        print(f"{squares[1234567]} is the square of 1234567")
        print(f"the last ten sum to {squares[-10:].sum()}")
        del squares
        print(f"{memory.stats().remote_faults} faults fetched what was touched")

    region.delete()
