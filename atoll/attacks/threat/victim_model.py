"""Model of a victim, as a function of parameters and inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from atoll.attacks.threat.victim_units import units_of
from atoll.clients.data.inputs.base import Inputs
from atoll.clients.models.head import find_head
from atoll.clients.models.model_building import build_model
from atoll.clients.noprop.layer_keys import layer_of
from atoll.clients.noprop.networks.design import Design, PartialNetwork
from atoll.clients.noprop.noprop_settings import is_noprop
from atoll.clients.settings import ModelSettings
from atoll.clients.tasks.task import Task
from atoll.errors import AttackError, CaptureError

BatchNormMode = Literal["train", "eval"]
_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class VictimModel:
    """A model with the parameters that the server broadcast; stateless.

    Parameters
    ----------
    module : nn.Module
        The architecture; taken over and changed (use a fresh one).
    state : Mapping[str, Tensor]
        The broadcast ``state_dict``. Entries of running statistics may be missing where the mode
        is "train".
    task : Task
        Whose loss the client descends.
    mode : "train" or "eval"
        Whether BatchNorm normalises by the batch (as clients do in training) or by its running
        statistics. Dropout is off in both: an attacker does not know the mask.
    device : str
        Where it computes.

    Attributes
    ----------
    parameters : dict[str, Tensor]
        The trainable parameters, detached, in the order of ``module.parameters()``; updates have
        the same order. What the client does not train is a buffer here.
    mode : str
        As given.
    units : tuple[VictimUnit, ...]
        What the client trains by itself: the whole model, or layers apart from each other.

    Raises
    ------
    CaptureError
        If ``state`` does not fit the architecture, or lacks running statistics that are used.
    """

    def __init__(
        self,
        module: nn.Module,
        state: Mapping[str, Tensor],
        task: Task,
        mode: BatchNormMode = "train",
        device: str = "cpu",
    ) -> None:
        self.module = module.to(device)
        self.mode = mode
        self.device = device
        load_state(self.module, state)
        self.module.eval()
        if mode == "train":
            _normalize_by_batch(self.module)
        else:
            _check_statistics(self.module, state)
        _fix_frozen(self.module)
        self.parameters = {k: p.detach() for k, p in self.module.named_parameters()}
        self.units = units_of(self.module, task)
        # From here on every derivative is taken by what is passed to the units' losses.
        self.module.requires_grad_(False)

    @contextmanager
    def differentiable(self) -> Iterator[list[Tensor]]:
        """Let the model's own parameters be differentiated by, while it lasts; they are given."""
        own: list[Tensor] = list(self.module.parameters())
        for parameter in own:
            parameter.requires_grad_(True)
        try:
            yield own
        finally:
            for parameter in own:
                parameter.requires_grad_(False)

    @property
    def names(self) -> list[str]:
        """The names of the parameters, in order."""
        return list(self.parameters)

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks that the client trained, where it trained some of a network's."""
        return self.module.layers if isinstance(self.module, PartialNetwork) else ()

    @property
    def is_trained_whole(self) -> bool:
        """Whether the client trains the whole model on one loss."""
        return not isinstance(self.module, PartialNetwork)

    @property
    def batch_norms(self) -> list[tuple[str, nn.Module]]:
        """The BatchNorm layers, by name, in order."""
        return [(n, m) for n, m in self.module.named_modules() if isinstance(m, _BATCH_NORM)]

    def head_index(self) -> tuple[int, int | None]:
        """Return where the last linear layer's weight and bias are among the parameters.

        Raises
        ------
        AttackError
            If the model does not end in a linear layer.
        """
        head = self._head()
        if not isinstance(head, nn.Linear):
            raise AttackError(
                f"the model's head is a {type(head).__name__}; expected a linear layer"
            )
        weight = self.place_of(head.weight)
        if weight is None:
            raise AttackError(
                "the weight of the model's head is not trained; expected labels to be given or "
                "optimised"
            )
        return weight, self.place_of(head.bias)

    def place_of(self, parameter: Tensor | None) -> int | None:
        """Return where one of the module's parameters is in updates; None if it is in none.

        A parameter that is used under two names is there once.
        """
        places = (i for i, own in enumerate(self.module.parameters()) if own is parameter)
        return next(places, None)

    def _head(self) -> nn.Module:
        if isinstance(self.module, PartialNetwork):
            if self.module.shared.head is None:
                raise AttackError(
                    "the network has no head (labels are the nearest embeddings); expected labels "
                    "to be given or optimised"
                )
            return self.module.shared.head
        try:
            return find_head(self.module)
        except ValueError as error:
            raise AttackError(str(error)) from error


def build_victim(
    settings: ModelSettings,
    inputs: Inputs,
    task: Task,
    state: Mapping[str, Tensor],
    mode: BatchNormMode = "train",
    device: str = "cpu",
    seed: int = 0,
) -> VictimModel:
    """Build a :class:`VictimModel` from ``[model]``; ``seed`` is that of its frozen parameters.

    Raises
    ------
    InvalidExperimentError
        If the model cannot be built.
    CaptureError
        If ``state`` does not fit it.
    """
    module = architecture(settings, inputs, task, state, seed)
    return VictimModel(module, state, task, mode, device)


def architecture(
    settings: ModelSettings,
    inputs: Inputs,
    task: Task,
    state: Mapping[str, Tensor],
    seed: int = 0,
) -> nn.Module:
    """Return the module that a client was sent: of a NoProp network, the layers in ``state``.

    What is frozen is not in ``state``: it is built from ``seed``.

    Raises
    ------
    InvalidExperimentError
        If the model cannot be built.
    CaptureError
        If ``state`` has arrays that are of no layer of the network.
    """
    if not is_noprop(settings):
        return build_model(settings, inputs, task, seed)
    design = Design.of(settings, inputs, task.outputs)
    try:
        layers = {index for key in state if (index := layer_of(key)) is not None}
    except ValueError as error:
        raise CaptureError(f"the capture's model does not fit the architecture: {error}") from error
    beyond = [index for index in layers if index >= design.blocks]
    if beyond:
        raise CaptureError(
            f"the capture's model does not fit the architecture: it has block {min(beyond)}, of "
            f"{design.blocks} blocks"
        )
    return PartialNetwork(design, layers)


def load_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a broadcast ``state_dict``; buffers and frozen parameters that it lacks stay.

    Raises
    ------
    CaptureError
        If it does not fit the architecture.
    """
    own = module.state_dict()
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    unknown = sorted(state.keys() - own.keys())
    missing = sorted(trained - state.keys())
    if unknown or missing:
        text = f"has {unknown[:3]} too" if unknown else f"lacks {missing[:3]}"
        raise CaptureError(f"the capture's model does not fit the architecture: it {text}")
    for name, value in state.items():
        if value.shape != own[name].shape:
            raise CaptureError(
                f"the capture's {name!r} has shape {tuple(value.shape)}, the architecture "
                f"expects {tuple(own[name].shape)}"
            )
    module.load_state_dict({**own, **state})


def _fix_frozen(module: nn.Module) -> None:
    """Make buffers of the parameters that are not trained: no update has values for them."""
    for layer in module.modules():
        for name, parameter in list(layer.named_parameters(recurse=False)):
            if not (parameter.requires_grad and parameter.is_floating_point()):
                delattr(layer, name)
                layer.register_buffer(name, parameter.detach())


def _check_statistics(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Refuse a state without the running statistics by which BatchNorm normalises."""
    for name, layer in module.named_modules():
        if not isinstance(layer, _BATCH_NORM) or layer.running_mean is None:
            continue
        prefix = f"{name}." if name else ""
        for statistic in ("running_mean", "running_var"):
            if f"{prefix}{statistic}" not in state:
                raise CaptureError(
                    f"the capture's model lacks {prefix + statistic!r}; expected BatchNorm's "
                    "statistics, which are used with --batch-norm eval"
                )


def _normalize_by_batch(module: nn.Module) -> None:
    """Make BatchNorm use the batch's statistics and keep none, so that ``vmap`` accepts it."""
    for layer in module.modules():
        if isinstance(layer, _BATCH_NORM):
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None


def has_batch_norm(module: nn.Module) -> bool:
    """Tell whether a model has BatchNorm layers with running statistics."""
    return any(
        isinstance(layer, _BATCH_NORM) and isinstance(layer.running_mean, torch.Tensor)
        for layer in module.modules()
    )
