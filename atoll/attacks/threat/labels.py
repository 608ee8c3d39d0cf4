"""Label inference: the labels of a batch from its update, before any image is reconstructed.

The gradient of the mean cross-entropy by the logit of class c is the mean of p_c - [y = c], so the
last layer's bias gradient says how often a class occurs, but for the mean probability; and its
weight gradient is the mean of (p_c - [y = c]) times the features.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.func import functional_call

from atoll.attacks.threat.observation import Observation
from atoll.clients.tasks.classification import Classification
from atoll.errors import AttackError

LabelMethod = Literal["auto", "idlg", "gradinversion", "counts", "interpolated"]
# How often the mean probability is estimated again from the counts.
ROUNDS = 5
# Images of noise, on which the probabilities of a model are estimated.
NOISE_IMAGES = 64


def infer_labels(observation: Observation, method: LabelMethod = "auto") -> Tensor:
    """Return the labels that an update gives away: int64, shape (num_images,), ascending.

    Parameters
    ----------
    observation : Observation
        An update of a model that ends in a linear layer.
    method : str
        "idlg": of one image, the class whose row of the weight gradient has the least sum (Zhao et
        al., 2020). "gradinversion": of images of distinct classes, the classes whose rows have the
        least minima (Yin et al., 2021, eq. 8). "counts": how often each class occurs, repeated
        labels allowed (:func:`label_counts`). "interpolated": the same for several local steps, in
        which the model changes (:func:`counts_over_steps`). "auto" is "idlg" for one image, else
        "counts".

    Raises
    ------
    AttackError
        If the model does not end in a linear layer of an output a class, or the method does not
        fit the number of images.

    Examples
    --------
    >>> from atoll.attacks import ThreatModel, example_victim, infer_labels, observe
    >>> victim = example_victim(seed=1)
    >>> observation = observe(victim.capture, ThreatModel())
    >>> infer_labels(observation, "idlg").tolist() == victim.truth.labels.tolist()
    True
    """
    weight, bias = head_gradient(observation)
    images = observation.num_images
    if method == "auto":
        method = "idlg" if images == 1 else "counts"
    if method == "idlg":
        if images != 1:
            raise AttackError(f"labels by 'idlg' of {images} images; expected one image")
        # With a bias the sign is certain whatever the features; without, they must not be negative.
        return (weight.sum(1) if bias is None else bias).argmin().view(1)
    if method == "gradinversion":
        if images > len(weight):
            raise AttackError(
                f"labels by 'gradinversion' of {images} images of {len(weight)} classes; expected "
                "at most one image a class"
            )
        return weight.min(1).values.topk(images, largest=False).indices.sort().values
    counts = (
        counts_over_steps(observation) if method == "interpolated" else label_counts(observation)
    )
    return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)


def head_gradient(observation: Observation) -> tuple[Tensor, Tensor | None]:
    """Return the last layer's mean gradient over the client's steps: weight and bias.

    Raises
    ------
    AttackError
        If no class is predicted, or the model does not end in a linear layer with an output a
        class.
    """
    if not isinstance(observation.task, Classification):
        raise AttackError(
            f"{observation.name}: its task is {observation.task.kind!r}; labels can be inferred of "
            "a classification, expected them to be given"
        )
    target = observation.target
    at_weight, at_bias = observation.model.head_index()
    training = observation.training
    steps = 1 if training is None or training.replies_gradient else training.steps
    weight = target[at_weight] / steps
    if len(weight) != observation.classes:
        raise AttackError(
            f"the model's head has {len(weight)} outputs for {observation.classes} classes; "
            "labels can be inferred from one output a class"
        )
    return weight, None if at_bias is None else target[at_bias] / steps


def label_counts(observation: Observation) -> Tensor:
    """Return how often each class occurs in the images behind an update.

    With a bias gradient g: n_c = N (mean p_c - g_c). The mean probability p comes from the classes'
    mean features, which are the rows of the weight gradient over those of the bias (as in Ma et
    al., 2023, "Instance-wise batch label restoration via gradients in federated learning"), and
    counts and p are found in turn. Without a bias, each occurrence of a class lowers its row's sum
    by the same amount, that is estimated from the sums below zero (LLG; Wainakh et al., 2022).

    Returns
    -------
    Tensor
        int64, shape (classes,); the sum is ``observation.num_images``.
    """
    weight, bias = head_gradient(observation)
    images = observation.num_images
    if bias is None:
        return _counts_by_impact(weight.sum(1), images)
    names = observation.model.names
    at_weight, at_bias = observation.model.head_index()
    assert at_bias is not None
    parameters = observation.model.parameters
    head, head_bias = parameters[names[at_weight]], parameters[names[at_bias]]
    return counts_of_head(weight, bias, head, head_bias, images)


def counts_over_steps(observation: Observation) -> Tensor:
    """Return how often each class occurs in the images behind an update of several steps.

    The bias's mean gradient is the mean probability over the steps minus the classes' shares. The
    probability is estimated from images of noise at the first and the last model, which are both
    known, and interpolated between (Dimitrov et al., 2022, sec. 4.3).

    Returns
    -------
    Tensor
        int64, shape (classes,); the sum is ``observation.num_images``.

    Raises
    ------
    AttackError
        If the model's head has no bias, or the learning rate is not known.
    """
    _, bias = head_gradient(observation)
    training, model = observation.training, observation.model
    if bias is None or training is None:
        raise AttackError(
            f"{observation.name}: labels by 'interpolated' need a head with a bias, and the "
            "client's learning rate; expected 'counts'"
        )
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(NOISE_IMAGES, *observation.space.shape, generator=generator)
    noise = observation.space.clip(noise.to(model.device))
    last = {
        name: parameter - training.learning_rate * change
        for (name, parameter), change in zip(
            model.parameters.items(), observation.target, strict=True
        )
    }
    ends = [
        torch.softmax(functional_call(model.module, parameters, (noise,)), 1).mean(0)
        for parameters in (model.parameters, last)
    ]
    images = observation.num_images
    return whole_numbers(images * ((ends[0] + ends[1]) / 2 - bias), images)


def counts_of_head(
    weight: Tensor,
    bias: Tensor,
    head: Tensor,
    head_bias: Tensor,
    images: int,
) -> Tensor:
    """Return how often each class occurs, from the mean gradient of a linear head with a bias.

    Parameters
    ----------
    weight, bias : Tensor
        The mean gradient, shapes (classes, features) and (classes,).
    head, head_bias : Tensor
        The head's parameters.
    images : int
        How many examples the mean is over.
    """
    probability = bias.new_full((len(bias),), 1 / len(bias))
    counts = whole_numbers(images * (probability - bias), images)
    # Of classes that do occur, the row is dominated by their own examples' features.
    safe = torch.where(bias.abs() > 1e-12, bias, 1e-12)
    posteriors = torch.softmax((weight / safe[:, None]) @ head.T + head_bias, 1)
    usable = posteriors.isfinite().all(1)
    for _ in range(ROUNDS):
        shares = torch.where(usable, counts / images, 0.0).to(bias)
        if not bool(shares.any()):
            break
        probability = (shares / shares.sum()) @ posteriors.nan_to_num()
        updated = whole_numbers(images * (probability - bias), images)
        if torch.equal(updated, counts):
            break
        counts = updated
    return counts


def _counts_by_impact(sums: Tensor, images: int) -> Tensor:
    """Return counts from the rows' sums alone, one occurrence after another."""
    negative = sums[sums < 0].sum()
    impact = negative / images * (1 + 1 / len(sums))
    left, counts = sums.clone(), torch.zeros(len(sums), dtype=torch.int64, device=sums.device)
    # A row below zero has its class in the batch at least once.
    surely = (sums < 0).nonzero().flatten()[:images]
    counts[surely] += 1
    left[surely] -= impact
    for _ in range(images - len(surely)):
        chosen = left.argmin()
        counts[chosen] += 1
        left[chosen] -= impact
    return counts


def whole_numbers(amounts: Tensor, total: int) -> Tensor:
    """Round amounts to whole numbers, at least 0, that add up to ``total`` (largest remainders)."""
    amounts = amounts.double().clamp_min(0.0)
    amounts = amounts * (total / amounts.sum().clamp_min(1e-12))
    floors = amounts.floor()
    counts = floors.long()
    missing = total - int(counts.sum())
    if missing > 0:
        counts[(amounts - floors).topk(min(missing, len(counts))).indices] += 1
    return counts
