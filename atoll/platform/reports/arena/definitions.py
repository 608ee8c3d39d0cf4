"""Definitions of an arena's metrics, and which to read when they disagree."""

from __future__ import annotations

# Name, definition, and what more of it means.
DEFINITIONS = (
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
        "federation's end, by Renyi accounting of Gaussian mechanisms, without amplification by "
        "sampling; dp-sgd protects one example, local-dp all data of a client",
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
READING = (
    "Read the share of identified examples first: it says whether a person's example can be told "
    "from others, which is what a data-protection assessment asks.",
    "A high PSNR or SSIM with few identified examples means that the pictures show what the class "
    "looks like, and no single example: the mean image of a class has a high PSNR too. Compare "
    "with the baselines.",
    "A low PSNR with many identified examples is leakage: colours or contrast are wrong, and what "
    "is left still singles out the example.",
    "An attack that fails shows that this attack fails. Only epsilon bounds every attack; an "
    "epsilon far above 10 bounds hardly anything.",
)
