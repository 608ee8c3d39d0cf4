import pytest

from atoll.attacks.defenses.dp_sgd import DPSGD
from atoll.attacks.defenses.mixup import MixUp
from atoll.attacks.defenses.order import check_order
from atoll.attacks.defenses.precode import Precode
from atoll.attacks.defenses.pruning import TopK
from atoll.errors import InvalidExperimentError


@pytest.mark.parametrize("inside", [MixUp(), TopK(acts_on="step")])
def test_nothing_acts_on_gradients_inside_dp_sgd(inside: object) -> None:
    with pytest.raises(InvalidExperimentError, match="after 'dp-sgd': it would act inside"):
        check_order([DPSGD(), inside])


def test_what_stands_outside_or_changes_the_loss_alone_is_allowed() -> None:
    check_order([TopK(), TopK(acts_on="step"), DPSGD(), Precode(), TopK()])
