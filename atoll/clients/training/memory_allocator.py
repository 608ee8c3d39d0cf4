"""Memory allocator setting: freed memory is kept by the process, for work that takes it again.

A client's gradients and reply are arrays of megabytes. The C library gives such memory back to
the system when it is freed, and takes it page by page again for the next client.
"""

from __future__ import annotations

import ctypes

# From malloc.h; 32 MiB is the most that glibc takes as the first.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_ON_HEAP = 32 << 20
_LARGEST_KEPT = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory for this process; return whether it does.

    Only glibc can; elsewhere nothing changes. The process then stays at its peak of memory.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = ((_M_TRIM_THRESHOLD, _LARGEST_KEPT), (_M_MMAP_THRESHOLD, _LARGEST_ON_HEAP))
    return all(int(mallopt(option, value)) == 1 for option, value in settings)
