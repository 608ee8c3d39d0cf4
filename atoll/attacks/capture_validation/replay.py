"""Capture validation: the client's training is replayed on its true examples and compared.

The replay is the client's own training (:func:`atoll.clients.training.local_training.train`) from
the broadcast model on the true batches. If its update differs from the captured one, the usual
mistakes are replayed too, and the one that explains the update is named.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from atoll.attacks.capture_validation.normalization_check import Scaling, explain
from atoll.attacks.capture_validation.update_comparison import agree, compare, flat
from atoll.attacks.captures.aggregate_capture import check_simulated
from atoll.attacks.captures.capture import Capture, FederationInfo, Truth, check_update, faults_of
from atoll.attacks.captures.capture_files import ABOUT, read_capture, read_truth
from atoll.attacks.captures.truth_checks import check_truth
from atoll.attacks.threat.victim_model import architecture, has_batch_norm, load_state
from atoll.clients.arrays.tensors import tensors_of
from atoll.clients.arrays.travelling import travelling_state
from atoll.clients.data.catalog.loading import kept_dataset
from atoll.clients.data.inputs.images import ImageInputs
from atoll.clients.mods import as_settings
from atoll.clients.moments.example_passes import BATCH
from atoll.clients.noprop.block_training.example_source import GivenExamples
from atoll.clients.noprop.block_training.layer_training import LayerTraining
from atoll.clients.noprop.networks.design import PartialNetwork
from atoll.clients.noprop.noprop_settings import is_noprop
from atoll.clients.tasks.task import Task
from atoll.clients.training.gradients import Objective, full_gradient, losses_in_batches
from atoll.clients.training.local_training import train
from atoll.errors import CaptureError
from atoll.extras import require
from atoll.flower.arrays import array_record, to_array
from atoll.randomness import seed_everything
from atoll.user_code.trust import Ask, admitted, refuse, uses_in


@dataclass(frozen=True)
class Diagnosis:
    """Finding of a capture's validation.

    Attributes
    ----------
    consistent : bool
        Whether the replayed update is the captured one.
    cosine : float
        Cosine of the two updates, over all trainable parameters.
    norm_ratio : float
        Norm of the captured update over that of the replayed one.
    cause : str or None
        Cause of the difference: "batch-norm mode", "loss reduction", "normalisation",
        "missing buffers", "defense" or "unknown", or several of the first three, joined by " and ";
        None if there is none.
    advice : str
        Finding and remedy, in one sentence.
    """

    consistent: bool
    cosine: float
    norm_ratio: float
    cause: str | None
    advice: str


@dataclass(frozen=True)
class _Replay:
    """Variant of a client's training that is replayed."""

    mode: str = "train"
    reduction: str = "mean"
    scaling: Scaling | None = None


@dataclass(frozen=True)
class _Mistake:
    """Deviation of a client's training from its settings, and its remedy."""

    cause: str
    replay: _Replay
    advice: str


def diagnose_capture(directory: Path, ask: Ask = refuse) -> Diagnosis:
    """Read a capture with its truth, and diagnose it.

    Parameters
    ----------
    directory : Path
        The capture's folder.
    ask : callable
        Whether code that the capture names may be imported (:mod:`atoll.user_code.trust`).

    Raises
    ------
    CaptureError
        If it cannot be read, or is not of plain local training.
    UntrustedCodeError
        If it names code that is not trusted.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from atoll.attacks import diagnose_capture, example_victim, write_capture
    >>> victim = example_victim(examples=2)
    >>> with TemporaryDirectory() as folder:
    ...     write_capture(victim.capture, victim.truth, Path(folder) / "mine")
    ...     print(diagnose_capture(Path(folder) / "mine").consistent)
    True
    """
    require("scipy", what="atoll doctor")
    capture, truth = read_capture(directory), read_truth(directory)
    with admitted(uses_in(capture.federation.to_json()), directory / ABOUT, ask):
        return diagnose(capture, truth)


def diagnose(capture: Capture, truth: Truth) -> Diagnosis:
    """Replay the true batches and compare.

    Parameters
    ----------
    capture : Capture
        Capture of a training message.
    truth : Truth
        Truth of the same client and round.

    Raises
    ------
    CaptureError
        If the capture lacks arrays, or is not of plain local training.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from atoll.attacks import diagnose, example_victim
    >>> victim = example_victim(examples=2)
    >>> diagnose(victim.capture, victim.truth).advice
    'the capture is consistent'
    >>> wrong = replace(victim.truth, labels=victim.truth.labels.flip(0))
    >>> diagnose(victim.capture, wrong).cause
    'unknown'
    """
    with faults_of(capture):
        return _diagnose(capture, truth)


def _diagnose(capture: Capture, truth: Truth) -> Diagnosis:
    _check_replayable(capture, truth)
    module = _architecture(capture)
    missing = sorted(travelling_state(module).keys() - capture.broadcast.keys())
    captured = _update(capture, module)
    cosine, ratio = compare(captured, _replay(capture, truth, module, _Replay()))
    if agree(cosine, ratio):
        also = f", but {_lacks(missing)}" if missing else ""
        return Diagnosis(True, cosine, ratio, None, f"the capture is consistent{also}")
    mistakes = _mistakes(module)
    for mistake in mistakes:
        if agree(*compare(captured, _replay(capture, truth, module, mistake.replay))):
            return Diagnosis(False, cosine, ratio, mistake.cause, mistake.advice)
    mods = capture.federation.client.mods
    # What else may explain the update is not waited for.
    fits = not missing and not mods
    normalized = _normalization(capture, truth, module, captured, mistakes, fits=fits)
    if normalized is not None:
        return Diagnosis(False, cosine, ratio, *normalized)
    if missing:
        return Diagnosis(False, cosine, ratio, "missing buffers", _lacks(missing))
    if mods:
        names = ", ".join(as_settings(mod).name for mod in mods)
        advice = f"the client's mods ({names}) changed the update after training, as they should"
        return Diagnosis(False, cosine, ratio, "defense", advice)
    advice = "the update is not that of these examples, settings and broadcast parameters"
    return Diagnosis(False, cosine, ratio, "unknown", advice)


def _lacks(missing: list[str]) -> str:
    return (
        f"the broadcast lacks {', '.join(missing[:3])}: BatchNorm's buffers must be captured with "
        "the parameters"
    )


def _mistakes(module: nn.Module) -> list[_Mistake]:
    """Return the usual mistakes of training, each by itself and then all at once."""
    if isinstance(module, PartialNetwork):
        return []
    reduction = _Mistake(
        "loss reduction",
        _Replay(reduction="sum"),
        "the client descends the sum of the losses of a batch, not their mean: divide its "
        "learning rate by the batch size, or the update",
    )
    if not has_batch_norm(module):
        return [reduction]
    mode = _Mistake(
        "batch-norm mode",
        _Replay(mode="eval"),
        "the client trains with BatchNorm's running statistics (model.eval()): attack "
        "with --batch-norm eval",
    )
    both = _Mistake(
        f"{mode.cause} and {reduction.cause}",
        _Replay(mode="eval", reduction="sum"),
        f"{mode.advice}; and {reduction.advice}",
    )
    return [mode, reduction, both]


def _normalization(
    capture: Capture,
    truth: Truth,
    module: nn.Module,
    captured: list[Tensor],
    mistakes: list[_Mistake],
    *,
    fits: bool,
) -> tuple[str, str] | None:
    """Return cause and advice if a normalisation of the images gives the captured update.

    The usual ones are tried alone and with each of the ``mistakes``; others, which take many
    replays, alone.
    """
    if not isinstance(capture.federation.inputs, ImageInputs):
        return None
    alone = _Mistake("", _Replay(), "")
    searches = [(one, False) for one in (alone, *mistakes)] + [(alone, True)] * fits
    for mistake, fits_too in searches:
        scaling = _explaining_scaling(
            capture, truth, module, captured, mistake.replay, fits=fits_too
        )
        if scaling is not None:
            advice = (
                f"the client's model saw images normalised by {scaling}: the capture's mean and "
                "std must be those that the client normalises by"
            )
            causes, sentences = [mistake.cause, "normalisation"], [mistake.advice, advice]
            return " and ".join(filter(None, causes)), "; and ".join(filter(None, sentences))
    return None


def _explaining_scaling(
    capture: Capture,
    truth: Truth,
    module: nn.Module,
    captured: list[Tensor],
    how: _Replay,
    *,
    fits: bool,
) -> Scaling | None:
    """Return a scaling of the images that gives the captured update, if one is found."""
    info = capture.federation
    wanted = flat(captured)

    def update_of(scaling: Scaling) -> Tensor:
        return flat(_replay(capture, truth, module, replace(how, scaling=scaling)))

    def explains(update: Tensor) -> bool:
        return agree(*compare(captured, [update]))

    assert isinstance(info.inputs, ImageInputs)
    stated = Scaling.of(info.inputs.mean, info.inputs.std)
    kept = kept_dataset(info.dataset)
    own = []
    if kept is not None and isinstance(kept.inputs, ImageInputs):
        own.append(Scaling.of(kept.inputs.mean, kept.inputs.std))
    candidates = [stated, *(one for one in own if len(one.factor) == len(stated.factor))]
    return explain(wanted, update_of, explains, candidates, fits=fits)


def _check_replayable(capture: Capture, truth: Truth) -> None:
    where = capture.directory or capture.name
    if not capture.message_type.startswith("train"):
        raise CaptureError(
            f"{where}: is of a {capture.message_type!r} message; expected a training message"
        )
    check_simulated(capture)
    if capture.sent.value("statistics") or capture.sent.value("mixup") is not None:
        raise CaptureError(
            f"{where}: the strategy added terms to the client's loss; expected plain training"
        )
    if len(truth.labels) != capture.examples:
        raise CaptureError(
            f"{where}: the truth has {len(truth.labels)} examples, the client said "
            f"{capture.examples}; expected the same"
        )
    check_truth(truth, capture)
    if is_noprop(capture.federation.model) and not truth.part_seeds:
        raise CaptureError(
            f"{where}: the truth has no seeds of the layers that the client trained; expected one "
            "for each"
        )


def _architecture(capture: Capture) -> nn.Module:
    info = capture.federation
    module = architecture(info.model, info.inputs, info.task, capture.broadcast, info.model_seed)
    load_state(module, capture.broadcast)
    return module


def _update(capture: Capture, module: nn.Module) -> list[Tensor]:
    sent, update = capture.broadcast, capture.update
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    check_update(capture, {name: sent[name] for name in names})
    if capture.replies_gradient:
        return [update[name].double() for name in names]
    return [update[name].double() - sent[name].double() for name in names]


def _replay(capture: Capture, truth: Truth, module: nn.Module, how: _Replay) -> list[Tensor]:
    """Return the update of a client that trains so."""
    if isinstance(module, PartialNetwork):
        return _replay_layers(capture, truth, module, how)
    model, info = copy.deepcopy(module), capture.federation
    inputs = _inputs(truth, info, how)
    objective = _objective(model, inputs, truth.labels, info.task, how)
    parameters = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in parameters]
    # Dropout draws from the global generator.
    seed_everything(truth.seed)
    if capture.replies_gradient:
        examples = len(truth.labels)
        losses = losses_in_batches(objective, examples, max(info.client.batch_size, BATCH))
        gradient, _ = full_gradient(losses, parameters, examples)
        return [tensor.double() for tensor in gradient]
    train(
        model,
        inputs,
        truth.labels,
        info.client,
        learning_rate=capture.learning_rate,
        generator=torch.Generator().manual_seed(truth.seed),
        proximal_mu=capture.proximal_mu,
        objective=objective,
    )
    return [p.detach().double() - s.double() for p, s in zip(parameters, start, strict=True)]


def _inputs(truth: Truth, info: FederationInfo, how: _Replay) -> Tensor:
    return truth.normalized(info) if how.scaling is None else how.scaling(truth.images)


def _replay_layers(
    capture: Capture, truth: Truth, module: PartialNetwork, how: _Replay
) -> list[Tensor]:
    """Return the update of a client that trains layers apart."""
    info = capture.federation
    images = _inputs(truth, info, how)
    training = LayerTraining(
        module.design,
        GivenExamples(images, truth.labels),
        info.client,
        learning_rate=capture.learning_rate,
        seed_of=truth.part_seeds.__getitem__,
        proximal_mu=capture.proximal_mu,
    )
    sent = array_record({key: to_array(v.numpy()) for key, v in capture.broadcast.items()})
    trained = tensors_of(training.run(sent).arrays)
    return [
        trained[name].double() - parameter.detach().double()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    ]


def _objective(
    model: nn.Module, inputs: Tensor, labels: Tensor, task: Task, how: _Replay
) -> Objective:
    def objective(chosen: Tensor) -> tuple[Tensor, Tensor]:
        model.train(how.mode == "train")
        outputs = model(inputs[chosen])
        loss = task.mean_loss(outputs, labels[chosen])
        if how.reduction == "sum":
            return task.losses(outputs, labels[chosen]).sum(), loss
        return loss, loss

    return objective
