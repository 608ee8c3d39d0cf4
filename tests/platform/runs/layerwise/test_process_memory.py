import subprocess
import sys

from tests.support.paths import ROOT

# A process of its own: what another test has freed would serve without growth.
CODE = """
import numpy as np
from atoll.platform.runs.layerwise.process_memory import forget_peak, peak_memory

forget_peak()
before = peak_memory()
held = np.ones(40_000_000, np.uint8)
assert held.sum() == 40_000_000
del held
after = peak_memory()
assert 30e6 < after - before < 200e6, (before, after)
forget_peak()
assert peak_memory() < after - 30e6
"""


def test_the_peak_grows_by_what_was_held_and_is_forgotten() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
