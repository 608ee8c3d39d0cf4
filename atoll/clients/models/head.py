"""Model split into featuriser and head: the last module, from features to logits.

The penalties that align domains are about the head's gradient and Hessian (Hemati et al., 2023),
which for a linear head have closed forms in its inputs and outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from atoll.clients.data.inputs.base import Inputs
from atoll.clients.models.head_outputs import HeadOutputs
from atoll.clients.tasks.output_loss import CROSS_ENTROPY, OutputLoss
from atoll.clients.tasks.task import Task

# A child of one of these names is the head, whatever it is made of.
HEAD_NAMES = ("head", "classifier", "fc")


@dataclass(frozen=True)
class ModelSizes:
    """Sizes that the shapes of moments depend on.

    Attributes
    ----------
    features : int
        Inputs of the head.
    outputs : int
        Logits.
    head : int
        Parameters of the head, biases included.
    parameters : int
        All trainable parameters.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import ModelSettings, SplitModel, build_model
    >>> model = build_model(ModelSettings(name="linear"), (1, 8, 8), 10, seed=0)
    >>> split = SplitModel(model)
    >>> split.sizes(split(torch.zeros(1, 1, 8, 8), torch.zeros(1).long(), torch.zeros(1).long()))
    ModelSizes(features=64, outputs=10, head=650, parameters=650)
    """

    features: int
    outputs: int
    head: int
    parameters: int


class SplitModel:
    """Model that also returns the input of its head.

    Parameters
    ----------
    model : nn.Module
        The head is its child called ``head``, ``classifier`` or ``fc``; without one of those, the
        last ``nn.Linear``. It must take features of shape (n, d) and give the model's output.
    loss : OutputLoss
        What is minimised, as a function of the outputs; by default the cross-entropy.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import ModelSettings, SplitModel, build_model
    >>> model = build_model(ModelSettings(name="mlp"), (1, 8, 8), 10, seed=0)
    >>> split = SplitModel(model)
    >>> outputs = split(torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 2]), torch.arange(3))
    >>> split.head, outputs.features.shape, outputs.logits.shape
    (Linear(in_features=200, out_features=10, bias=True), torch.Size([3, 200]), torch.Size([3, 10]))
    """

    def __init__(self, model: nn.Module, loss: OutputLoss = CROSS_ENTROPY) -> None:
        self.model = model
        self.loss = loss
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.parameter_names, self.parameters = list(trained), list(trained.values())

    def __call__(self, images: Tensor, labels: Tensor, positions: Tensor) -> HeadOutputs:
        """Return the inputs and outputs of the head.

        Parameters
        ----------
        images, labels : Tensor
            A batch: shapes (n, ...).
        positions : Tensor
            int64, shape (n,): each example's place among the client's examples of its domain.

        Raises
        ------
        ValueError
            If there is no head, its output is not the model's, or its input is not of shape
            (n, d).
        """
        seen: list[tuple[Tensor, Tensor]] = []

        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen.append((inputs[0], output))

        handle = self.head.register_forward_hook(keep)
        try:
            logits = self.model(images)
        finally:
            handle.remove()
        if len(seen) != 1 or seen[0][1] is not logits:
            raise ValueError("the output of the model's head is not the output of the model")
        features = seen[0][0]
        if features.dim() != 2:
            raise ValueError(
                f"the model's head has inputs of shape {tuple(features.shape)}, expected (n, d)"
            )
        return HeadOutputs(
            features, logits, labels, positions, self.head, self.parameters, self.loss
        )

    @cached_property
    def head(self) -> nn.Module:
        """The head.

        Raises
        ------
        ValueError
            If there is none.
        """
        return find_head(self.model)

    @property
    def has_linear_head(self) -> bool:
        """Whether the head is one linear layer, so that closed forms hold."""
        return isinstance(self.head, nn.Linear) and not parametrize.is_parametrized(self.head)

    def sizes(self, outputs: HeadOutputs) -> ModelSizes:
        """Return the sizes of moments, given the outputs of any batch."""
        return ModelSizes(
            features=outputs.features.shape[1],
            outputs=outputs.logits.shape[1],
            head=sum(p.numel() for p in self.head.parameters()),
            parameters=sum(p.numel() for p in self.parameters),
        )


def find_head(model: nn.Module) -> nn.Module:
    """Return a model's head; see :class:`SplitModel`.

    Raises
    ------
    ValueError
        If the model has neither a child with a head's name nor a linear layer.
    """
    children = dict(model.named_children())
    for name in HEAD_NAMES:
        if name in children:
            return children[name]
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError("the model has no head: no child 'head', 'classifier' or 'fc', no Linear")
    return linear[-1]


def try_head(model: nn.Module, inputs: Inputs, task: Task) -> SplitModel:
    """Return ``model`` split, after a trial on two inputs of zeros.

    Raises
    ------
    ValueError
        If the model cannot be split.
    """
    split, was_training = SplitModel(model), model.training
    targets = task.blank_targets(2)
    model.eval()
    with torch.no_grad():
        split(inputs.blank(2), targets, torch.arange(2))
    model.train(was_training)
    return split
