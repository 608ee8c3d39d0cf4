"""Definitions of an arena's metrics, and which to read when they disagree."""

from __future__ import annotations

from collections.abc import Mapping

# Name, definition, and what more of it means.
Definition = tuple[str, str, str]

OF_IMAGES: tuple[Definition, ...] = (
    (
        "identified",
        "the share of examples whose true image is nearer to its reconstruction, in mean squared "
        "error, than each of {candidates} other images of the data set's test split; by chance "
        "alone 1 in {chance}",
        "more is more leakage",
    ),
    (
        "PSNR",
        "-10 log10 of the mean squared error of pixels in [0, 1], in dB, at most 200; "
        "reconstructions are matched with true images so that the total error is least",
        "more is more leakage",
    ),
    (
        "SSIM",
        "structural similarity (Wang et al., 2004), an 11x11 Gaussian window of sigma 1.5, mean "
        "over places and channels; 1 for equal images",
        "more is more leakage",
    ),
    (
        "LPIPS",
        "distance of AlexNet's features (Zhang et al., 2018); measured where arena.lpips is set",
        "less is more leakage",
    ),
    ("MSE", "mean squared error of pixels in [0, 1]", "less is more leakage"),
)
_NEARER = (
    "the share of examples that are nearer to their reconstruction, {distance}, than each of "
    "{{candidates}} others of the data set's test split; by chance alone 1 in {{chance}}"
)
OF_ROWS: tuple[Definition, ...] = (
    (
        "identified",
        _NEARER.format(
            distance="by wrong categories and by numbers in standard deviations, at most one"
        ),
        "more is more leakage",
    ),
    (
        "cells right",
        "the share of cells that are right: a category that is the true one, a number within 0.319 "
        "standard deviations of it (Vero et al., 2023); rows are matched with true ones so that "
        "the fewest cells are wrong",
        "more is more leakage",
    ),
    (
        "trusted cells right",
        "the same among the quarter of numbers and of categories with the least entropy over the "
        "attack's restarts: those that the attacker trusts most",
        "more is more leakage, and the attacker knows where it is",
    ),
    ("exactly right", "the share of rows with every cell right", "more is more leakage"),
)
OF_TOKENS: tuple[Definition, ...] = (
    (
        "identified",
        _NEARER.format(distance="by the places with the same token"),
        "more is more leakage",
    ),
    (
        "tokens right",
        "the share of a sequence's places at which the reconstruction has the true token; "
        "sequences are matched with true ones by the tokens that they share",
        "more is more leakage",
    ),
    (
        "ROUGE-1, ROUGE-2",
        "the F-measure of the tokens, and of the pairs of neighbouring tokens, that a sequence and "
        "its reconstruction share, wherever they stand (Lin, 2004)",
        "more is more leakage",
    ),
    ("exactly right", "the share of sequences with every token right", "more is more leakage"),
)
OF_ALL: tuple[Definition, ...] = (
    (
        "labels right",
        "the share of a client's labels that the attacker has right, as a multiset",
        "more is more leakage",
    ),
    (
        "accuracy",
        "the federation's on the server's test data at its end, under the same defense, mean over "
        "seeds",
        "the use of the model",
    ),
    (
        "epsilon",
        "of differential privacy at the stated delta: the largest that any client has spent at the "
        "federation's end, the exact one of composed Gaussian mechanisms, without amplification by "
        "sampling; dp-sgd protects one example, local-dp all data of a client. Of [privacy] at the "
        "level of clients: the server's, for its draws",
        "less is a stronger guarantee, and holds for attacks that nobody has tried",
    ),
    (
        "interval",
        "95 %: percentiles of 2,000 bootstrap resamples over victims (an update and its examples), "
        "as images of one update depend on each other; where all victims agree, Clopper and "
        "Pearson's",
        "",
    ),
    (
        "p",
        "Wilcoxon's signed-rank test of paired differences, two-sided, not corrected for the "
        "number of tests",
        "",
    ),
)


def definitions_of(kind: str) -> tuple[Definition, ...]:
    """Return the definitions of a kind of examples' metrics, and of what all have."""
    of_kind = {"table": OF_ROWS, "tokens": OF_TOKENS}.get(kind, OF_IMAGES)
    return of_kind + OF_ALL


_FIRST = (
    "Read the share of identified examples first: it says whether a person's example can be told "
    "from others, which is what a data-protection assessment asks.",
)
_LAST = (
    "An attack that fails shows that this attack fails. Only epsilon bounds every attack; an "
    "epsilon far above 10 bounds hardly anything.",
)
READING: Mapping[str, tuple[str, ...]] = {
    "images": (
        *_FIRST,
        "A high PSNR or SSIM with few identified examples means that the pictures show what the "
        "class looks like, and no single example: the mean image of a class has a high PSNR too. "
        "Compare with the baselines.",
        "A low PSNR with many identified examples is leakage: colours or contrast are wrong, and "
        "what is left still singles out the example.",
        *_LAST,
    ),
    "table": (
        *_FIRST,
        "Many right cells with few identified rows mean that the common values are right, and no "
        "single person's row: most people have them. Compare with the baselines.",
        "Trusted cells tell what an attacker would act on without knowing the truth.",
        *_LAST,
    ),
    "tokens": (
        *_FIRST,
        "A high ROUGE-1 with few right tokens means that the words are known, and not their order.",
        *_LAST,
    ),
}
