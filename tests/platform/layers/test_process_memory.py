import numpy as np

from atoll.platform.layers.process_memory import forget_peak, peak_memory


def test_the_peak_grows_by_what_was_held_and_is_forgotten() -> None:
    forget_peak()
    before = peak_memory()
    held = np.ones(40_000_000, np.uint8)
    assert held.sum() == 40_000_000
    del held
    after = peak_memory()
    assert 30e6 < after - before < 200e6
    forget_peak()
    assert peak_memory() < after - 30e6
