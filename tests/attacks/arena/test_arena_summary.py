import pytest

from atoll.attacks.arena.arena_summary import by_victim, cells_of, pairs_of


def row(psnr: float, **changes: object) -> dict[str, object]:
    defaults: dict[str, object] = {
        "setting": "as in the file",
        "round": 1,
        "seed": 0,
        "node_id": 1,
        "attack_label": "ig",
        "attack": "",
        "knowledge": "naive",
        "defense": "none",
        "threat": "informed eavesdropper",
        "label_source": "inferred",
        "accuracy": 0.5,
        "psnr": psnr,
        "ssim": 0.0,
        "lpips": None,
        "mse": 0.1,
        "identified": True,
        "label_accuracy": 1.0,
    }
    return defaults | changes


def test_a_victims_images_count_as_one() -> None:
    rows = [row(10.0), row(20.0), row(40.0, node_id=2)]
    assert list(by_victim(rows, "psnr").values()) == [15.0, 40.0]
    [cell] = cells_of(rows)
    assert cell.metrics["psnr"].mean == 27.5
    assert cell.metrics["psnr"].count == 2
    assert cell.images == 3
    assert "lpips" not in cell.metrics


def test_accuracy_is_counted_once_a_federation() -> None:
    rows = [row(1.0), row(1.0, node_id=2), row(1.0, seed=1, accuracy=0.7)]
    [cell] = cells_of(rows)
    assert cell.accuracy is not None
    assert cell.accuracy.mean == pytest.approx(0.6)
    assert cell.accuracy.count == 2


def test_pairs_are_of_the_same_victims() -> None:
    rows = [
        *[row(10.0 + n, node_id=n) for n in range(4)],
        *[row(12.0 + n, node_id=n, knowledge="adaptive") for n in range(3)],
        *[row(7.0 + n, node_id=n, attack_label="dlg") for n in range(4)],
        *[row(9.0, node_id=9, attack_label="dlg", defense="top-k")],
    ]
    found = {(p.first, p.second): p.comparison for p in pairs_of(rows, "ig")}
    adaptive = found["ig (adaptive)", "ig (naive)"]
    assert (adaptive.difference.mean, adaptive.difference.count) == (2.0, 3)
    weaker = found["dlg (naive)", "ig (naive)"]
    assert (weaker.difference.mean, weaker.difference.count) == (-3.0, 4)
    assert len(found) == 2
