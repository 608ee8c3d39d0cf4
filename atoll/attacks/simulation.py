"""The update that a client would send for given images, differentiable by the images.

One step of plain SGD gives the gradient of the client's mean loss. Several steps and epochs are
unrolled: each step's parameters are a differentiable function of the images (Geiping et al., 2020,
sec. 6; Dimitrov et al., 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from atoll.attacks.observation import LocalTraining, Mimic, Observation
from atoll.attacks.victim_model import VictimModel
from atoll.clients.losses import is_sigmoid
from atoll.errors import AttackError

Parameters = Mapping[str, Tensor]


def soft_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy to labels, or to probabilities of labels.

    Parameters
    ----------
    logits : Tensor
        Shape (n, classes), or (n, 1) for a sigmoid head.
    targets : Tensor
        int64 of shape (n,), or float of shape (n, classes): each row sums to 1.
    """
    if is_sigmoid(logits):
        wanted = targets[:, 1] if targets.is_floating_point() else targets.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits.squeeze(-1), wanted)
    return F.cross_entropy(logits, targets)


class ClientSimulation:
    """What a client sends, as a function of its images and labels.

    Parameters
    ----------
    model : VictimModel
        The broadcast model.
    training : LocalTraining or None
        How the client trains; None stands for one step on all images at once.
    num_images : int
        How many images there are.
    batches : Sequence[Tensor], optional
        Per step the indices of its images; by default each epoch takes them in their order, which
        for the first epoch is no loss of generality.
    mimic : Mimic, optional
        What the client's defense does to its update.

    Raises
    ------
    AttackError
        If the client's training cannot be unrolled.
    """

    def __init__(
        self,
        model: VictimModel,
        training: LocalTraining | None,
        num_images: int,
        *,
        batches: Sequence[Tensor] | None = None,
        mimic: Mimic | None = None,
    ) -> None:
        self.model = model
        self.mimic = mimic
        self._training = training
        self._batches = _plan(training, num_images) if batches is None else list(batches)
        self.is_gradient = training is None or _is_gradient(training, self._batches, num_images)
        if training is not None and not self.is_gradient and training.settings.optimizer != "sgd":
            raise AttackError(
                f"client.optimizer = {training.settings.optimizer!r}: its steps cannot be "
                "unrolled; expected 'sgd'"
            )
        self._gradient = grad(self._loss)
        self._vectorizes: bool | None = None

    @classmethod
    def of(cls, observation: Observation) -> ClientSimulation:
        """Return the simulation of the client that was observed, as far as the attacker knows."""
        return cls(
            observation.model,
            observation.training,
            observation.num_images,
            batches=observation.batches,
            mimic=observation.mimic,
        )

    def _loss(self, parameters: Parameters, images: Tensor, targets: Tensor) -> Tensor:
        return soft_loss(self.model.logits(parameters, images), targets)

    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """Return the pseudo-gradient of one set of images, as ``Observation.target`` is one.

        Parameters
        ----------
        images : Tensor
            Shape (n, channels, height, width), normalised.
        targets : Tensor
            As for :func:`soft_loss`.
        """
        if self.is_gradient:
            update = tuple(self._gradient(self.model.parameters, images, targets).values())
        else:
            update = self._unrolled(images, targets)
        return update if self.mimic is None else self.mimic(update)

    def _unrolled(self, images: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """Train for all steps as :func:`atoll.clients.training.train` does."""
        assert self._training is not None
        training, settings = self._training, self._training.settings
        start = dict(self.model.parameters)
        parameters, momenta = start, dict[str, Tensor]()
        for batch in self._batches:
            gradient = dict(self._gradient(parameters, images[batch], targets[batch]))
            if training.proximal_mu:
                gradient = {
                    key: g + training.proximal_mu * (parameters[key] - start[key])
                    for key, g in gradient.items()
                }
            if settings.gradient_clip is not None:
                squares = torch.stack([g.square().sum() for g in gradient.values()])
                factor = (settings.gradient_clip / (squares.sum().sqrt() + 1e-6)).clamp(max=1.0)
                gradient = {key: g * factor for key, g in gradient.items()}
            if settings.weight_decay:
                gradient = {
                    key: g + settings.weight_decay * parameters[key] for key, g in gradient.items()
                }
            if settings.momentum:
                momenta = {
                    key: g + settings.momentum * momenta[key] if momenta else g
                    for key, g in gradient.items()
                }
                gradient = momenta
            parameters = {
                key: p - training.learning_rate * gradient[key] for key, p in parameters.items()
            }
        return tuple(
            (start[key] - parameters[key]) / training.learning_rate for key in self.model.names
        )

    def stacked(self, images: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """Return the pseudo-gradients of a stack of candidates, at once where the model allows.

        Parameters
        ----------
        images : Tensor
            Shape (candidates, n, channels, height, width).
        targets : Tensor
            Shape (candidates, n), or (candidates, n, classes).

        Returns
        -------
        tuple[Tensor, ...]
            Per parameter, shape (candidates, *shape).
        """
        if len(images) == 1:
            return tuple(tensor[None] for tensor in self._apart(images[0], targets[0]))
        if self._vectorizes is None:
            self._vectorizes = self._try_vmap(images[:2], targets[:2])
        if self._vectorizes:
            together: tuple[Tensor, ...] = vmap(self)(images, targets)
            return together
        each = [self._apart(*candidate) for candidate in zip(images, targets, strict=True)]
        return tuple(torch.stack(tensors) for tensors in zip(*each, strict=True))

    def _apart(self, images: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """Return what :meth:`__call__` does; plain autograd is faster where nothing is mapped."""
        if not self.is_gradient:
            return self(images, targets)
        wants_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            leaves = {k: p.detach().requires_grad_() for k, p in self.model.parameters.items()}
            update = torch.autograd.grad(
                self._loss(leaves, images, targets),
                list(leaves.values()),
                create_graph=wants_graph,
                allow_unused=True,
                materialize_grads=True,
            )
        return update if self.mimic is None else self.mimic(update)

    def _try_vmap(self, images: Tensor, targets: Tensor) -> bool:
        """Tell whether the model can be run on a stack, and gives what it gives one by one."""
        with torch.no_grad():
            try:
                together = vmap(self)(images, targets)
            except (RuntimeError, ValueError, NotImplementedError):
                return False
            return all(
                torch.allclose(some[0], one, rtol=1e-3, atol=1e-5 * float(one.abs().max()) + 1e-12)
                for some, one in zip(together, self(images[0], targets[0]), strict=True)
            )


def _plan(training: LocalTraining | None, num_images: int) -> list[Tensor]:
    """Return each step's images, every epoch in order."""
    everything = torch.arange(num_images)
    if training is None or training.replies_gradient:
        return [everything]
    steps, plan = training.steps, list[Tensor]()
    while len(plan) < steps:
        plan += torch.split(everything, training.settings.batch_size)
    return plan[:steps]


def _is_gradient(training: LocalTraining, batches: Sequence[Tensor], num_images: int) -> bool:
    """Tell whether the pseudo-gradient is the gradient over all images."""
    settings = training.settings
    is_one_plain_step = (
        settings.optimizer == "sgd" and not settings.weight_decay and settings.gradient_clip is None
    )
    on_all_at_once = len(batches) == 1 and len(batches[0]) == num_images
    return training.replies_gradient or (is_one_plain_step and on_all_at_once)
