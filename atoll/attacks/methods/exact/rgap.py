"""Recursive gradient attack on privacy (R-GAP; Zhu and Blaschko, 2021, arXiv 2010.07733).

One image is solved for layer by layer, from the output to the pixels. Of a layer z = W * x two
systems of linear equations in x are known: its output z, by inverting the activation above, and its
weight gradient, which is the correlation of x with the gradient by z. Their least-squares solution
is the activation below. The gradient by the logits is that by the last layer's bias, for any number
of classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atoll.attacks.base.attack import Reconstruction, SeparateAttack
from atoll.attacks.base.optimization_attack import to_unit
from atoll.attacks.threat.observation import Observation
from atoll.errors import AttackError

Activation = nn.LeakyReLU | nn.Sigmoid | nn.Tanh
# Away from the ends, where the inverse of a saturating activation is infinite.
EDGE = 1e-7


class RGAP(SeparateAttack):
    """Layer-by-layer solution of a network with invertible activations, for one image."""

    def check(self, observation: Observation) -> None:
        """Refuse several images, and a network that is not of the form that can be solved."""
        if observation.num_images != 1:
            raise AttackError(
                f"r-gap solves for one image, the client trained on {observation.num_images}; "
                "expected batches of one example"
            )
        _layers(observation)

    def reconstruct(self, observation: Observation, seed: int) -> Reconstruction:
        """Solve."""
        return _solve(observation)


def _solve(observation: Observation) -> Reconstruction:
    layers, head = _layers(observation)
    gradient = {
        name: value.double()
        for name, value in zip(observation.model.names, observation.target, strict=True)
    }
    of_logits = gradient[f"{head}.bias"]
    label = of_logits.argmin().view(1)
    # dW = d x^T: the least-squares features of all rows.
    x = of_logits @ gradient[f"{head}.weight"] / of_logits.square().sum().clamp_min(1e-300)
    of_x = of_logits @ observation.model.parameters[f"{head}.weight"].double()
    shapes = _input_shapes(observation, layers)
    for (name, convolution, activation), shape in zip(
        reversed(layers), reversed(shapes), strict=True
    ):
        output, slope = _invert(activation, x)
        outputs = _output_shape(convolution, shape)
        of_z = (of_x * slope).view(outputs)
        weight = convolution.weight.double()
        x = _solve_layer(convolution, shape, output.view(outputs), of_z, gradient[f"{name}.weight"])
        of_x = F.conv_transpose2d(
            of_z[None],
            weight,
            stride=convolution.stride,
            padding=convolution.padding,  # type: ignore[arg-type]
            output_padding=_output_padding(convolution, shape),
        ).flatten()
    image = x.view(1, *observation.space.shape)
    return Reconstruction(to_unit(observation, image).float(), label.cpu(), "inferred")


def _solve_layer(
    layer: nn.Conv2d, shape: torch.Size, output: Tensor, of_output: Tensor, of_weight: Tensor
) -> Tensor:
    """Return the input of a convolution: flat, by least squares from output and gradient."""
    size = shape.numel()
    basis = torch.eye(size, dtype=torch.float64, device=output.device).view(size, *shape)
    forward = F.conv2d(basis, layer.weight.double(), None, layer.stride, layer.padding).flatten(1)
    patches = F.unfold(
        basis,
        layer.kernel_size,
        padding=layer.padding,  # type: ignore[arg-type]
        stride=layer.stride,
    )
    by_weight = torch.einsum("op,jkp->okj", of_output.flatten(1), patches).reshape(-1, size)
    if layer.bias is not None:
        output = output - layer.bias.double()[:, None, None]
    # Gradients are small numbers: unscaled, they would not count beside the outputs.
    scale = forward.norm() / by_weight.norm().clamp_min(1e-300)
    left = torch.cat([forward.T, scale * by_weight])
    right = torch.cat([output.flatten(), scale * of_weight.flatten()])
    solution: Tensor = torch.linalg.lstsq(left, right[:, None], driver="gelsd").solution
    return solution[:, 0]


def _invert(activation: Activation, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return the input of an activation and its slope there, given its output."""
    if isinstance(activation, nn.LeakyReLU):
        slope = torch.where(value > 0, 1.0, activation.negative_slope)
        return value / slope, slope
    if isinstance(activation, nn.Sigmoid):
        value = value.clamp(EDGE, 1 - EDGE)
        return torch.logit(value), value * (1 - value)
    value = value.clamp(EDGE - 1, 1 - EDGE)
    return torch.atanh(value), 1 - value.square()


def _layers(
    observation: Observation,
) -> tuple[list[tuple[str, nn.Conv2d, Activation]], str]:
    """Return the convolutions with their activations, and the name of the linear layer."""
    module = observation.model.module
    expected = (
        "expected a Sequential of Conv2d and LeakyReLU, Sigmoid or Tanh in turn, Flatten, and a "
        "Linear with a bias ('cnn-leaky', say)"
    )
    children = list(module.named_children())
    if not isinstance(module, nn.Sequential) or len(children) < 4 or len(children) % 2:
        raise AttackError(f"r-gap cannot solve the model: {expected}")
    (_, flatten), (head, linear) = children[-2:]
    if not isinstance(flatten, nn.Flatten) or not isinstance(linear, nn.Linear):
        raise AttackError(f"r-gap cannot solve the model's last layers: {expected}")
    if linear.bias is None:
        raise AttackError(f"r-gap cannot solve a last layer without a bias: {expected}")
    layers = []
    for (name, convolution), (other, activation) in zip(
        children[:-2:2], children[1:-2:2], strict=True
    ):
        if (
            not isinstance(convolution, nn.Conv2d)
            or not isinstance(activation, Activation)
            or convolution.groups != 1
            or convolution.dilation != (1, 1)
        ):
            raise AttackError(f"r-gap cannot solve the layers {name!r} and {other!r}: {expected}")
        layers.append((name, convolution, activation))
    return layers, head


def _input_shapes(
    observation: Observation, layers: Sequence[tuple[str, nn.Conv2d, Activation]]
) -> list[torch.Size]:
    """Return the input shape of each convolution: channels, height, width."""
    shapes, shape = [], torch.Size(observation.space.shape)
    for _, convolution, _ in layers:
        shapes.append(shape)
        shape = _output_shape(convolution, shape)
    return shapes


def _output_shape(layer: nn.Conv2d, shape: torch.Size) -> torch.Size:
    sides = _sides(
        layer, shape, lambda side, kernel, stride, pad: (side + 2 * pad - kernel) // stride
    )
    return torch.Size([layer.out_channels, *(side + 1 for side in sides)])


def _output_padding(layer: nn.Conv2d, shape: torch.Size) -> list[int]:
    """Return the rows and columns at the end of an input that no patch reached."""
    return _sides(
        layer, shape, lambda side, kernel, stride, pad: (side + 2 * pad - kernel) % stride
    )


def _sides(
    layer: nn.Conv2d, shape: torch.Size, rule: Callable[[int, int, int, int], int]
) -> list[int]:
    assert not isinstance(layer.padding, str)
    return [
        rule(*values)
        for values in zip(shape[1:], layer.kernel_size, layer.stride, layer.padding, strict=True)
    ]
