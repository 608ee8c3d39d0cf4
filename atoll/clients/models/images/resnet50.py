"""ResNet-50 for photographs (He et al., 2016), with pretrained weights and BatchNorm frozen.

Parameters are named as torchvision names them, so that a file of weights saved from there fits.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from atoll.clients.models.pretrained import imagenet_resnet50, read_weights

BLOCKS = (3, 4, 6, 3)
EXPANSION = 4
# What weights from Keras were trained with, and what torchvision's were.
KERAS_EPSILON, TORCHVISION_EPSILON = 1e-3, 1e-5


class FrozenBatchNorm2d(nn.Module):
    """BatchNorm with fixed statistics: examples do not depend on each other, nothing runs.

    Scale and shift are parameters, as in DomainBed; what is frozen is the mean and the variance.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, h, w) to the same shape."""
        scale = self.weight * (self.variance + self.epsilon).rsqrt()
        shift = self.bias - self.mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut."""

    def __init__(
        self, inputs: int, width: int, stride: int, epsilon: float, *, stride_first: bool
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_first else (1, stride)
        outputs = EXPANSION * width
        self.conv1 = nn.Conv2d(inputs, width, 1, first, bias=False)
        self.bn1 = FrozenBatchNorm2d(width, epsilon)
        self.conv2 = nn.Conv2d(width, width, 3, second, 1, bias=False)
        self.bn2 = FrozenBatchNorm2d(width, epsilon)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = FrozenBatchNorm2d(outputs, epsilon)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                FrozenBatchNorm2d(outputs, epsilon),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, 4 width, h / stride, w / stride)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet50(nn.Module):
    """The network; the last layer, ``fc``, is the classifier.

    Attributes
    ----------
    normalization : str or None
        How its weights expect images to be normalised ("caffe" or "imagenet",
        :data:`atoll.clients.data.datasets.folder.NORMALIZATIONS`); None if it has none of its own.
    """

    normalization: str | None = None

    def __init__(self, channels: int, classes: int, epsilon: float, *, stride_first: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        self.bn1 = FrozenBatchNorm2d(64, epsilon)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for stage, blocks in enumerate(BLOCKS):
            width, layers = 64 << stage, []
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(Bottleneck(inputs, width, stride, epsilon, stride_first=stride_first))
                inputs = EXPANSION * width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, channels, h, w) to logits (n, classes)."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for stage in range(len(BLOCKS)):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def resnet50(
    image_shape: tuple[int, int, int], classes: int, weights: str | None = None
) -> nn.Module:
    """Return a ResNet-50 with frozen BatchNorm statistics; 25.6 M parameters for 1,000 classes.

    Parameters
    ----------
    weights : str, optional
        "imagenet": weights trained on ImageNet with Keras (images normalised as "caffe", stride
        in a block's first 1x1 convolution, epsilon 1e-3). Or the path of a state dict with
        torchvision's names, as safetensors or as ``torch.save`` wrote it (images normalised as
        "imagenet", stride in the 3x3 convolution, epsilon 1e-5). The classifier is taken over if
        it has as many classes. By default the parameters are random.
    """
    from_keras = weights == "imagenet"
    epsilon = KERAS_EPSILON if from_keras else TORCHVISION_EPSILON
    model = ResNet50(image_shape[0], classes, epsilon, stride_first=from_keras)
    if weights is not None:
        given = imagenet_resnet50() if from_keras else read_weights(Path(weights).expanduser())
        _load(model, given)
        model.normalization = "caffe" if from_keras else "imagenet"
    return model


def _load(model: ResNet50, given: dict[str, Tensor]) -> None:
    """Copy weights with torchvision's names into the model."""
    own = model.state_dict()
    renamed = {
        key.replace("running_mean", "mean").replace("running_var", "variance"): value
        for key, value in given.items()
        if not key.endswith("num_batches_tracked")
    }
    if len(renamed.get("fc.bias", ())) != model.fc.out_features:
        renamed |= {"fc.weight": own["fc.weight"], "fc.bias": own["fc.bias"]}
    first, channels = renamed.get("conv1.weight"), model.conv1.in_channels
    if first is not None and first.shape[1] != channels:
        # As DomainBed does it: further channels see with the weights of red, green and blue.
        renamed["conv1.weight"] = first[:, [channel % 3 for channel in range(channels)]]
    different = sorted(own.keys() ^ renamed.keys()) or sorted(
        key for key in own if own[key].shape != renamed[key].shape
    )
    if different:
        raise ValueError(f"the weights are not a ResNet-50's: {different[0]} is in one of both")
    model.load_state_dict(renamed)
