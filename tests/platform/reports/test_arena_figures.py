"""The figures of an arena's report."""

from atoll.attacks.arena.arena_summary import cells_of
from atoll.platform.reports.figures.arena_figures import frontier
from atoll.platform.reports.figures.drawing import Level


def row(attack: str, defense: str, psnr: float, accuracy: float | None, **more: object):
    return {
        "setting": "as in the file",
        "round": 1,
        "seed": 0,
        "node_id": 1,
        "attack_label": attack,
        "attack": attack,
        "knowledge": "naive",
        "defense": defense,
        "threat": "",
        "label_source": "inferred",
        "accuracy": accuracy,
        "psnr": psnr,
        "ssim": None,
        "lpips": None,
        "mse": None,
        "identified": None,
        "label_accuracy": None,
        **more,
    }


def test_a_frontier_shows_the_strongest_attack_and_holds_it_against_the_floor() -> None:
    rows = [
        row("class-mean", "none", 20.0, 0.9),
        row("idlg", "none", 12.0, 0.9),
        row("gifd", "none", 15.0, 0.9),
        row("gifd", "none", 17.0, 0.9, round=5),
        row("idlg", "top-k", 9.0, 0.8),
    ]
    drawn = frontier(cells_of(rows), "psnr", "PSNR (dB)")
    points = {curve.name: (curve.x, curve.y) for curve in drawn.series if curve.y}
    assert points == {"none": ([0.9, 0.9], [15.0, 17.0]), "top-k": ([0.8], [9.0])}
    assert drawn.level == Level("highest baseline, class-mean", 20.0)
    assert drawn.y_title == "PSNR (dB)"


def test_a_frontier_of_floors_alone_shows_them() -> None:
    rows = [row("class-mean", "none", 20.0, 0.9), row("random-image", "none", 6.0, 0.9)]
    drawn = frontier(cells_of(rows), "psnr", "PSNR (dB)")
    assert list(drawn.series[0].y) == [20.0]
    assert drawn.level is None


def test_there_is_no_frontier_without_accuracy_or_without_the_metric() -> None:
    assert frontier(cells_of([row("idlg", "none", 9.0, None)]), "psnr", "PSNR (dB)") is None
    assert frontier(cells_of([row("idlg", "none", 9.0, 0.9)]), "identified", "share") is None
