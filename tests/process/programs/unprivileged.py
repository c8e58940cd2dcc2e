"""Touches an absent page, hands another to a system call, prefetches it and hands it over again."""

import errno
import os

import weft

PAGE = 4096

with weft.connect() as cluster:
    for name in ("first", "second"):
        with cluster.region(name, size="4MiB").attach("exclusive") as memory, memory.buffer as buffer:
            if name == "second":
                continue  # The warning is not said again.
            buffer[0] = 1
            print("touched")
            source = os.open(__file__, os.O_RDONLY)
            with buffer[PAGE : 2 * PAGE] as page:
                try:
                    os.preadv(source, [page], 0)
                except OSError as error:
                    print(errno.errorcode[error.errno or 0])
                memory.prefetch(PAGE, PAGE)
                if os.preadv(source, [page], 0) > 0:
                    print("prefetched")
