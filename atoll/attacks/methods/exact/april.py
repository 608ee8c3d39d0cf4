"""APRIL: the tokens of an attention layer in closed form (Lu et al., 2022, arXiv 2112.14087).

Let Z be an image's tokens, and attention take queries, keys and values W Z^T + b straight from
them. The chain rule gives (dl/dZ)^T Z = W^T dl/dW, with the three maps one below the other in W.
The gradient of the position embedding is dl/dZ, so that Z is the solution of a linear system; and
the embedding, which is linear, is undone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from atoll.attacks.base.attack import Reconstruction, SeparateAttack
from atoll.attacks.base.optimization_attack import to_unit
from atoll.attacks.threat.labels import infer_labels
from atoll.attacks.threat.observation import Observation
from atoll.clients.models.images.vision_transformer import VisionTransformer
from atoll.clients.ranges import Share
from atoll.errors import AttackError


class APRIL(SeparateAttack):
    """Tokens from the gradients of the position embedding and of the first attention.

    It is exact for one image after one step of plain SGD, if a token is at least as wide as there
    are patches, and as a patch has values.

    Attributes
    ----------
    tolerance : float
        Singular values below this share of the largest count as zero.
    """

    tolerance: Share = 1e-7

    def check(self, observation: Observation) -> None:
        """Refuse other models, several images, and sizes without a single solution."""
        model = _transformer(observation)
        patches, width = model.embedding.position.shape
        values = model.embedding.map.in_features
        if observation.num_images != 1:
            raise AttackError(
                f"{observation.name}: has {observation.num_images} images; APRIL expected one, as "
                "the gradient of the position embedding is the sum over images"
            )
        if width < max(patches, values):
            raise AttackError(
                f"model.width = {width}: APRIL expected at least the {patches} patches and the "
                f"{values} values of a patch"
            )

    def reconstruct(self, observation: Observation, seed: int) -> Reconstruction:
        """Solve for the tokens, then for the patches."""
        model = _transformer(observation)
        names, target = observation.model.names, observation.target
        parameters = {
            name: parameter.double() for name, parameter in observation.model.parameters.items()
        }
        maps = "blocks.0.attention.inputs.weight"
        slope = target[names.index("embedding.position")].double()
        product = parameters[maps].T @ target[names.index(maps)].double()
        tokens = torch.linalg.pinv(slope.T, rtol=self.tolerance) @ product
        embedding = model.embedding
        known = parameters["embedding.position"] + parameters["embedding.map.bias"]
        patches = (tokens - known) @ torch.linalg.pinv(parameters["embedding.map.weight"]).T
        size = observation.space.shape[1:]
        images = F.fold(patches.T[None], size, embedding.patch, stride=embedding.patch)
        return Reconstruction(
            to_unit(observation, images).float(), infer_labels(observation).cpu(), "inferred"
        )


def _transformer(observation: Observation) -> VisionTransformer:
    module = observation.model.module
    if not isinstance(module, VisionTransformer):
        raise AttackError(
            f"the model is a {type(module).__name__}; APRIL expected model.name = 'vit'"
        )
    first = module.blocks[0]
    if not getattr(first, "is_plain", False):
        raise AttackError(
            "model.first = 'residual': the gradient of the position embedding is not that of the "
            "attention's input alone; APRIL expected model.first = 'attention'"
        )
    return module
