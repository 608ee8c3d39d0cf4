"""Files of trained priors: weights, what they are of, and hashes of the images of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from atoll.attacks.generators.checkpoints import fill
from atoll.attacks.priors.convex_network import ConvexNetwork
from atoll.attacks.priors.score_network import ScoreNetwork
from atoll.clients.ranges import Depth, Pixels, Positive, Width
from atoll.errors import AttackError, DataUnavailableError
from atoll.files.atomic import atomic_file
from atoll.files.reading import Line

PriorKind = Literal["lpn", "diffusion"]
ABOUT, SEEN = "atoll-prior", "seen"


class PriorAbout(BaseModel):
    """What a prior's file says about it.

    Attributes
    ----------
    kind : str
        "lpn" or "diffusion".
    dataset, split : str
        What it was trained on.
    shape : list[int]
        Of an example.
    width, layers : int
        Of the network.
    beta : float
        Sharpness of an input-convex network's activation.
    noise : float
        Deviation of the noise of the training; of a score network, the largest.
    """

    model_config = ConfigDict(extra="ignore", strict=True)

    kind: PriorKind
    dataset: Line
    split: Literal["test", "train"]
    shape: Annotated[list[Pixels], Field(min_length=1, max_length=3)]
    width: Width
    layers: Depth
    beta: Positive = 1.0
    noise: Positive

    def network(self) -> nn.Module:
        """Return a network of this kind and size, of random parameters."""
        shape = tuple(self.shape)
        if self.kind == "lpn":
            return ConvexNetwork(shape, self.width, self.layers, self.beta)
        channels, height, width = shape
        return ScoreNetwork((channels, height, width), self.width, self.noise)


def write_prior(
    path: Path, network: nn.Module, about: PriorAbout, seen: NDArray[np.uint64]
) -> None:
    """Write a trained prior's file, atomically.

    Parameters
    ----------
    seen : NDArray[uint64]
        Hashes of the examples of its training.
    """
    tensors = {**network.state_dict(), SEEN: torch.from_numpy(np.sort(seen))}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with atomic_file(path) as partial:
        save_file(contiguous, partial, metadata={ABOUT: about.model_dump_json()})


def read_about(path: Path) -> tuple[PriorAbout, Mapping[str, torch.Tensor]]:
    """Return what a prior's file says about it, and its tensors.

    Raises
    ------
    DataUnavailableError
        If it cannot be read, or is no such file.
    """
    try:
        with safe_open(path, "pt") as file:
            about = PriorAbout.model_validate_json((file.metadata() or {})[ABOUT])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except KeyError as error:
        raise _refused(path, "it does not say which") from error
    except ValidationError as error:
        raise _refused(path, error.errors()[0]["msg"]) from error
    except (OSError, SafetensorError, ValueError) as error:
        raise _refused(path, error) from error
    return about, tensors


def read_prior(path: Path, kind: PriorKind, shape: tuple[int, ...]) -> nn.Module:
    """Return the network of a file, frozen and in evaluation mode.

    Raises
    ------
    DataUnavailableError
        If it cannot be read, or its weights are not those of such a network.
    AttackError
        If it is of another kind, or of examples of another shape.
    """
    about, tensors = read_about(path)
    if about.kind != kind:
        raise AttackError(f"prior_path = {path}: is of kind {about.kind!r}; expected {kind!r}")
    if tuple(about.shape) != shape:
        raise AttackError(
            f"prior_path = {path}: is of examples of shape {_by(about.shape)}; expected those of "
            f"the clients, {_by(shape)}"
        )
    weights = {name: tensor for name, tensor in tensors.items() if name != SEEN}
    build: Callable[[], nn.Module] = about.network
    return fill(build, weights, str(path), f"a {kind} of examples of shape {_by(shape)}")


def _by(shape: list[int] | tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _refused(path: Path, problem: object) -> DataUnavailableError:
    said = " ".join(str(problem).split())
    return DataUnavailableError(
        f"prior_path = {path}: is not a prior of 'atoll train-prior' ({said})"
    )
