"""Model, data, training and test."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split


class Net(nn.Module):
    """A LeNet for images of 28 x 28."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 4 * 4, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = F.relu(self.fc1(x.view(-1, 16 * 4 * 4)))
        return self.fc3(F.relu(self.fc2(x)))


def load_data(path: str, client: int, batch_size: int) -> tuple[DataLoader, DataLoader]:
    """Return a client's examples: four fifths to train on, the rest to test."""
    with np.load(path) as data:
        images, labels = data["images"][client], data["labels"][client]
    whole = TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))
    parts = random_split(whole, [0.8, 0.2], torch.Generator().manual_seed(42))
    train, test = parts
    return DataLoader(train, batch_size, shuffle=True), DataLoader(test, batch_size)


def train(
    net: nn.Module, loader: DataLoader, epochs: int, learning_rate: float, device: torch.device
) -> float:
    """Train; return the mean loss of a batch."""
    net.to(device)
    criterion = nn.CrossEntropyLoss().to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate, momentum=0.9)
    net.train()
    total = 0.0
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(net(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            total += loss.item()
    return total / (epochs * len(loader))


def test(net: nn.Module, loader: DataLoader, device: torch.device) -> tuple[float, float]:
    """Return the mean loss of a batch and the accuracy."""
    net.to(device)
    criterion = nn.CrossEntropyLoss()
    net.eval()
    total, right = 0.0, 0
    with torch.no_grad():
        for images, labels in loader:
            outputs = net(images.to(device))
            total += criterion(outputs, labels.to(device)).item()
            right += int((outputs.argmax(1) == labels.to(device)).sum())
    return total / len(loader), right / len(loader.dataset)
