"""Metrics by kind of examples, as rows and tables name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from atoll.attacks.metrics.example_metrics import ExampleMetrics
from atoll.attacks.metrics.image_quality import ImageMetrics
from atoll.attacks.metrics.lpips import LPIPS
from atoll.attacks.metrics.table_cells import TableMetrics
from atoll.attacks.metrics.token_overlap import TokenMetrics
from atoll.clients.data.inputs.base import Inputs
from atoll.clients.data.inputs.table import TableInputs
from atoll.clients.data.inputs.tokens import TokenInputs

# The main metric of each kind: conditions are compared by it.
MAIN: Mapping[str, str] = {
    "images": "psnr",
    "table": "cell_accuracy",
    "tokens": "token_accuracy",
}
# Every metric, of whichever kind, with the digits that tables show.
DIGITS: Mapping[str, int] = {
    "psnr": 1,
    "ssim": 3,
    "lpips": 3,
    "mse": 4,
    "cell_accuracy": 3,
    "number_accuracy": 3,
    "category_accuracy": 3,
    "trusted_accuracy": 3,
    "token_accuracy": 3,
    "rouge1": 3,
    "rouge2": 3,
    "exact_match": 2,
    "identified": 2,
    "label_accuracy": 2,
}
METRICS = tuple(DIGITS)
# Titles of metrics in tables and figures.
TITLES: Mapping[str, str] = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "mse": "MSE",
    "cell_accuracy": "share of right cells",
    "number_accuracy": "share of right numbers",
    "category_accuracy": "share of right categories",
    "trusted_accuracy": "share of right cells in the quarter of least entropy",
    "token_accuracy": "share of right tokens",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "exact_match": "exact-match rate",
    "identified": "identification rate",
    "label_accuracy": "label accuracy",
}
# What several examples of a kind are called.
NOUNS: Mapping[str, str] = {"images": "images", "table": "rows", "tokens": "sequences"}


def kind_of(row: Mapping[str, Any]) -> str:
    """Return of which kind of examples a row of metrics is."""
    return next((kind for kind, metric in MAIN.items() if metric in row), "images")


def metrics_of(inputs: Inputs, candidates: Tensor, lpips: LPIPS | None) -> ExampleMetrics:
    """Return the metrics of a kind of examples.

    Parameters
    ----------
    inputs : Inputs
        The kind.
    candidates : Tensor
        Examples that a reconstruction is told from, as reconstructions are.
    lpips : LPIPS or None
        The perceptual distance of images.
    """
    if isinstance(inputs, TableInputs):
        return TableMetrics(inputs, candidates)
    if isinstance(inputs, TokenInputs):
        return TokenMetrics(inputs, candidates)
    return ImageMetrics(candidates, lpips)
