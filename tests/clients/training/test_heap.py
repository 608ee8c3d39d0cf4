import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from atoll.clients.training.memory_allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
def work():
    return [np.ones(1 << 19) for _ in range(8)]
for _ in range(3):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc only")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    faults = {}
    for how in ("keep", "leave"):
        command = [sys.executable, "-c", PROGRAM, how]
        faults[how] = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert faults["keep"] < 100
    assert faults["leave"] > 10 * max(1, faults["keep"])
