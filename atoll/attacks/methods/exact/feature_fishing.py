"""Feature fishing: one example out of many of a class (Wen et al., 2022, second half).

The server, strategy ``FeatureFishing``, searches over the rounds for a threshold of one feature
below which a single example of the class lies. In the update of a round behind that threshold the
layers before the head have the gradient of that example's feature, and the head's row is its whole
feature vector; it is inverted as a batch of one. See
:mod:`atoll.clients.models.malicious.fishing_head`.
"""

from __future__ import annotations

import copy
from dataclasses import replace

from atoll.attacks.methods.exact.class_fishing import ClassFishing, fished_only
from atoll.attacks.threat.observation import Observation
from atoll.attacks.threat.victim_model import VictimModel
from atoll.clients.models.malicious.fishing_head import FishingHead, find_fishing_head


class FeatureFishing(ClassFishing):
    """Inverting Gradients on the examples of the class whose feature is below the threshold.

    The others are blank, and ``found`` says which. The settings are those of
    ``inverting-gradients``. On the head of the first round, which has no threshold, it is class
    fishing.
    """

    def fished(self, observation: Observation) -> Observation | None:
        """Return the observation of these examples on a head that multiplies the feature by 1.

        The client's own multiplies it by so much that images on the other side of the threshold
        have no gradient, from which no search could leave.
        """
        head, at_head = (
            find_fishing_head(observation.model.parameters),
            observation.model.head_index(),
        )
        if head is None or head.feature is None:
            return super().fished(observation)
        target = list(observation.target)
        for place in at_head:
            assert place is not None
            # The class's row is what the others' lack; it may have come back clipped itself.
            rows = target[place].clone()
            rows[head.target] -= rows.sum(0)
            target[place] = rows
        found = fished_only(replace(observation, target=tuple(target)))
        if found is None:
            return None
        scaled = tuple(
            tensor if place in at_head else tensor / head.scale
            for place, tensor in enumerate(found.target)
        )
        return replace(found, model=_unscaled(observation, head), target=scaled)


def _unscaled(observation: Observation, head: FishingHead) -> VictimModel:
    model = observation.model
    module = copy.deepcopy(model.module).requires_grad_(True)
    state = {name: values.clone() for name, values in module.state_dict().items()}
    state[head.weight] /= head.scale
    state[head.bias][head.target] = 0.0
    return VictimModel(module, state, observation.task, model.mode, model.device)
