"""Simulation of a client: its update as a differentiable function of inputs and labels.

One step of plain SGD gives the gradient of the client's mean loss. Several steps and epochs, and
steps of Adam, are unrolled: each step's parameters are a differentiable function of the inputs
(Geiping et al., 2020, sec. 6; Dimitrov et al., 2022). Units that a client trains apart are
simulated apart. The random numbers of their losses are known, or a vector of unknowns by which the
update can be differentiated too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.func import grad, vmap

from atoll.attacks.threat.observation import LocalTraining, Mimic, Observation
from atoll.attacks.threat.unrolling import unrolled
from atoll.attacks.threat.victim_model import VictimModel
from atoll.attacks.threat.victim_units import Parameters, VictimUnit
from atoll.clients.noprop.block_training.block_objective import TIMES, Draws
from atoll.clients.training.optimizers import EPSILON
from atoll.errors import AttackError

# Per unit, per step.
DrawsOfParts = Sequence[Sequence[Draws]]


class ClientSimulation:
    """Update of a client as a function of its inputs, its labels, and what it drew.

    Parameters
    ----------
    model : VictimModel
        The broadcast model.
    training : LocalTraining or None
        How the client trains; None stands for one step on all inputs at once.
    num_examples : int
        How many inputs there are.
    batches : Mapping[str, Sequence[Tensor]], optional
        By unit, per step the indices of its inputs; by default each epoch takes them in their
        order, which for the first epoch of a model that is trained as a whole is no loss of
        generality.
    noise : Mapping[str, Sequence[Draws]], optional
        By unit, per step what it drew for the inputs of ``batches``; by default it is unknown.
    mimic : Mimic, optional
        What the client's defense does to its update.
    adam_epsilon : float
        Epsilon of a client's Adam or AdamW; by default its real one.

    Attributes
    ----------
    unknowns : int
        How many numbers the client drew that are not known; each is standard normal.

    Raises
    ------
    AttackError
        If a unit takes no step.
    """

    def __init__(
        self,
        model: VictimModel,
        training: LocalTraining | None,
        num_examples: int,
        *,
        batches: Mapping[str, Sequence[Tensor]] | None = None,
        noise: Mapping[str, Sequence[Draws]] | None = None,
        mimic: Mimic | None = None,
        adam_epsilon: float = EPSILON,
    ) -> None:
        self.model = model
        self._adam_epsilon = adam_epsilon
        self.mimic = mimic
        self._training = training
        self._batches = [
            _plan(training, num_examples, unit.fewest)
            if batches is None
            else list(batches[unit.name])
            for unit in model.units
        ]
        _check_steps(model.units, self._batches, num_examples)
        self.is_gradient = training is None or _is_gradient(training, self._batches, num_examples)
        self._known = None if noise is None else [noise[unit.name] for unit in model.units]
        self._layout = _layout(model.units, self._batches)
        self.unknowns = 0 if self._known is not None else _size(self._layout)
        self._gradient = grad(self._loss)
        self._gradients = [grad(unit.loss) for unit in model.units]
        self._shares = _shares(model)
        self._vectorizes: bool | None = None

    @classmethod
    def of(cls, observation: Observation, *, adam_epsilon: float = EPSILON) -> ClientSimulation:
        """Return the simulation of the client that was observed, as far as the attacker knows."""
        return cls(
            observation.model,
            observation.training,
            observation.num_examples,
            batches=observation.batches,
            noise=observation.noise,
            mimic=observation.mimic,
            adam_epsilon=adam_epsilon,
        )

    def _loss(
        self, parameters: Parameters | None, inputs: Tensor, targets: Tensor, draws: DrawsOfParts
    ) -> Tensor:
        """Return the sum of the units' losses in their only step."""
        losses = []
        for unit, batches, drawn in zip(self.model.units, self._batches, draws, strict=True):
            # Only what is known to be drawn for an image must meet it; the mean has no order.
            given = (
                (inputs, targets)
                if self._known is None
                else (inputs[batches[0]], targets[batches[0]])
            )
            losses.append(unit.loss(parameters, *given, drawn[0]))
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def __call__(
        self, inputs: Tensor, targets: Tensor, unknowns: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return the pseudo-gradient of one set of inputs, as ``Observation.target`` is one.

        Parameters
        ----------
        inputs : Tensor
            Shape (n, ...), as the model is given them.
        targets : Tensor
            What is predicted, as for :class:`~atoll.attacks.threat.victim_units.VictimUnit`.
        unknowns : Tensor, optional
            What the client drew, shape (unknowns,), where there are any.
        """
        draws = self._draws(unknowns)
        if self.is_gradient:
            update = self._averaged(
                self._gradient(self.model.parameters, inputs, targets, draws).values()
            )
        else:
            update = self._unrolled(inputs, targets, draws)
        return update if self.mimic is None else self.mimic(update)

    def _averaged(self, gradient: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """Turn the gradient of the sum of losses into the mean over the units' copies."""
        if self._shares is None:
            return tuple(gradient)
        return tuple(g * share for g, share in zip(gradient, self._shares, strict=True))

    def _draws(self, unknowns: Tensor | None) -> DrawsOfParts:
        """Return the client's draws, from the vector of the unknown ones."""
        if self._known is not None:
            return self._known
        if not self.unknowns:
            return [[{} for _ in steps] for steps in self._layout]
        if unknowns is None:
            raise AttackError(f"the client drew {self.unknowns} numbers; expected them to be given")
        found, start = list[list[Draws]](), 0
        for steps in self._layout:
            drawn = list[Draws]()
            for shapes in steps:
                step: dict[str, Tensor] = {}
                for name, shape in shapes.items():
                    values = unknowns[start : (start := start + shape.numel())].view(shape)
                    step[name] = torch.special.ndtr(values) if name == TIMES else values
                drawn.append(step)
            found.append(drawn)
        return found

    def _unrolled(self, inputs: Tensor, targets: Tensor, draws: DrawsOfParts) -> tuple[Tensor, ...]:
        """Train each unit for all its steps; return the mean over the units' copies."""
        assert self._training is not None
        moved: dict[str, list[Tensor]] = {name: [] for name in self.model.names}
        for place, unit in enumerate(self.model.units):
            start = {name: self.model.parameters[name] for name in unit.parameters}
            steps = (
                (inputs[batch], targets[batch], drawn)
                for batch, drawn in zip(self._batches[place], draws[place], strict=True)
            )
            trained = unrolled(
                self._gradients[place], start, steps, self._training, self._adam_epsilon
            )
            for name, parameter in trained.items():
                moved[name].append((start[name] - parameter) / self._training.learning_rate)
        return tuple(
            copies[0] if len(copies) == 1 else torch.stack(copies).mean(0)
            for copies in moved.values()
        )

    def stacked(
        self, inputs: Tensor, targets: Tensor, unknowns: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return the pseudo-gradients of a stack of candidates, at once where the model allows.

        Parameters
        ----------
        inputs : Tensor
            Shape (candidates, n, ...).
        targets : Tensor
            Shape (candidates, n, ...).
        unknowns : Tensor, optional
            What the client drew, shape (candidates, unknowns), where there are any.

        Returns
        -------
        tuple[Tensor, ...]
            Per parameter, shape (candidates, *shape).
        """
        given = (inputs, targets) if unknowns is None else (inputs, targets, unknowns)
        if len(inputs) == 1:
            return tuple(tensor[None] for tensor in self._apart(*(some[0] for some in given)))
        if self._vectorizes is None:
            self._vectorizes = self._try_vmap(*(some[:2] for some in given))
        if self._vectorizes:
            together: tuple[Tensor, ...] = vmap(self)(*given)
            return together
        each = [self._apart(*candidate) for candidate in zip(*given, strict=True)]
        return tuple(torch.stack(tensors) for tensors in zip(*each, strict=True))

    def _apart(
        self, inputs: Tensor, targets: Tensor, unknowns: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return the same as :meth:`__call__` by plain autograd, faster where nothing is mapped."""
        if not self.is_gradient:
            return self(inputs, targets, unknowns)
        wants_graph = torch.is_grad_enabled()
        with torch.enable_grad(), self.model.differentiable() as leaves:
            gradient = torch.autograd.grad(
                self._loss(None, inputs, targets, self._draws(unknowns)),
                leaves,
                create_graph=wants_graph,
                allow_unused=True,
                materialize_grads=True,
            )
        update = self._averaged(gradient)
        return update if self.mimic is None else self.mimic(update)

    def _try_vmap(self, *given: Tensor) -> bool:
        """Tell whether the model on a stack gives the same as one by one."""
        with torch.no_grad():
            try:
                together = vmap(self)(*given)
            except (RuntimeError, ValueError, NotImplementedError):
                return False
            return all(
                torch.allclose(some[0], one, rtol=1e-3, atol=1e-5 * float(one.abs().max()) + 1e-12)
                for some, one in zip(together, self(*(some[0] for some in given)), strict=True)
            )


def _layout(
    units: Sequence[VictimUnit], batches: Sequence[Sequence[Tensor]]
) -> list[list[dict[str, torch.Size]]]:
    """Return the shapes of the client's draws: per unit, per step, by name."""
    unused = torch.Generator()
    return [
        [
            {name: drawn.shape for name, drawn in unit.draw(len(batch), unused).items()}
            for batch in steps
        ]
        for unit, steps in zip(units, batches, strict=True)
    ]


def _size(layout: Sequence[Sequence[Mapping[str, torch.Size]]]) -> int:
    return sum(math.prod(s) for steps in layout for shapes in steps for s in shapes.values())


def _shares(model: VictimModel) -> list[float] | None:
    """Return one over how many units train a copy of each parameter; None if each has one."""
    counts = [sum(name in unit.parameters for unit in model.units) for name in model.names]
    return None if set(counts) <= {1} else [1 / max(1, count) for count in counts]


def _check_steps(
    units: Sequence[VictimUnit], batches: Sequence[Sequence[Tensor]], num_examples: int
) -> None:
    idle = [unit for unit, steps in zip(units, batches, strict=True) if not steps]
    if idle:
        raise AttackError(
            f"the client has {num_examples} example{'s' * (num_examples > 1)}, and "
            f"{idle[0].name!r} takes no step on fewer than {idle[0].fewest} (BatchNorm); expected "
            "more of them, or model.norm = 'group'"
        )


def _plan(training: LocalTraining | None, num_examples: int, fewest: int) -> list[Tensor]:
    """Return each step's inputs, every epoch in order; batches of fewer are left out."""
    everything = torch.arange(num_examples)
    if training is None or training.replies_gradient:
        return [everything]
    steps, plan = training.steps, list[Tensor]()
    while len(plan) < steps:
        plan += torch.split(everything, training.settings.batch_size)
    return [batch for batch in plan[:steps] if len(batch) >= fewest]


def _is_gradient(
    training: LocalTraining, batches: Sequence[Sequence[Tensor]], num_examples: int
) -> bool:
    """Tell whether the pseudo-gradient is the gradient over all inputs, for every unit."""
    settings = training.settings
    is_one_plain_step = (
        settings.optimizer == "sgd" and not settings.weight_decay and settings.gradient_clip is None
    )
    on_all_at_once = all(len(steps) == 1 and len(steps[0]) == num_examples for steps in batches)
    return training.replies_gradient or (is_one_plain_step and on_all_at_once)
