"""The page of ``atoll attack``: its figures, and each image beside its reconstruction.

The images are the clients' own, and in the page itself.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from atoll.attacks.metrics.picture import best_and_worst
from atoll.attacks.victims import CANDIDATES
from atoll.files.atomic import write_text
from atoll.platform.reports.arena.definitions import definitions_of
from atoll.platform.reports.arena.facts import ALWAYS, in_words
from atoll.platform.reports.page import render
from atoll.platform.reports.tables import Cell, Table

PAGE = "attack.html"
# More would make a page that takes long to open.
MAX_PICTURES = 64


def write_attack_report(
    directory: Path,
    rows: Sequence[Mapping[str, Any]],
    truth: Tensor,
    images: Tensor,
    *,
    run: str,
    table: Table,
    settings: Mapping[str, Any],
    seed: int,
) -> Path:
    """Write ``attack.html``.

    Parameters
    ----------
    directory : Path
        The attack's directory.
    rows : Sequence[Mapping]
        One an image (:func:`~atoll.attacks.victims.attack_victims`), not empty.
    truth, images : Tensor
        Shape (n, channels, height, width), in [0, 1], in the rows' order.
    run : str
        Name of the run whose captures were attacked.
    table : Table
        The figures over all images.
    settings : Mapping
        The attack's.
    seed : int
        The attack's.

    Returns
    -------
    Path
        The page.
    """
    first = rows[0]
    shown = best_and_worst([row["psnr"] for row in rows], MAX_PICTURES)
    measured = {
        "LPIPS": first["lpips"] is not None,
        "labels right": any(map(names_label, rows)),
    }
    page = render(
        "attack.html.jinja",
        kind="Atoll attack",
        figures=[],
        title=f"{first['attack']} on {run}",
        table=table,
        means=[[_short(cell) for cell in row] for row in table.rows],
        facts=[
            ("attacker", ALWAYS),
            (
                "what it has and knows",
                "; ".join(in_words(first["threat"], first["attack"], first["label_source"])),
            ),
            ("threat model", first["threat"]),
            ("settings", ", ".join(f"{k} = {v}" for k, v in settings.items()) or "it has none"),
            ("seed", seed),
            ("model", f"{first['model']}, BatchNorm {first['batch_norm']}"),
        ],
        definitions=[
            (
                name,
                text.format(candidates=f"up to {CANDIDATES:,}", chance="so many and one"),
                meaning,
            )
            for name, text, meaning in definitions_of("images")
            if name in ("identified", "PSNR", "SSIM", "MSE") or measured.get(name)
        ],
        pictures=[
            {
                "truth": _data_url(truth[place]),
                "image": _data_url(images[place]),
                "title": _title(rows[place]),
                "metrics": _metrics(rows[place]),
            }
            for place in shown
        ],
        left_out=len(rows) - len(shown),
    )
    write_text(directory / PAGE, page)
    return directory / PAGE


def _short(cell: Cell) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _title(row: Mapping[str, Any]) -> str:
    return f"round {row['round']}, node {row['node_id']}, image {row['image']}; {row['attack']}"


def _metrics(row: Mapping[str, Any]) -> str:
    parts = [f"PSNR {row['psnr']:.1f} dB", f"SSIM {row['ssim']:.3f}", f"MSE {row['mse']:.3g}"]
    if row["lpips"] is not None:
        parts.append(f"LPIPS {row['lpips']:.3f}")
    parts.append("identified" if row["identified"] else "not identified")
    if row["label"] is not None:
        found = f", found {row['label_found']}" if names_label(row) else ""
        parts.append(f"label {row['label']}{found}")
    return ", ".join(parts)


def names_label(row: Mapping[str, Any]) -> bool:
    """Tell whether the attack says what an example's label is; some reconstruct images alone."""
    return row.get("label_found") is not None and row["label_found"] >= 0


def _data_url(image: Tensor) -> str:
    """Return an image (channels, height, width) in its own size as PNG, for the page."""
    array = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    channels = array.shape[2]
    if channels == 1:
        array = array[:, :, 0]
    elif channels == 2:
        array = np.concatenate([array, np.zeros_like(array[:, :, :1])], axis=2)
    else:
        array = array[:, :, :3]
    content = io.BytesIO()
    Image.fromarray(array).save(content, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
