"""What a method's penalty must be; users write methods of their own."""

from __future__ import annotations

from torch import Tensor

from atoll.errors import EngineError


def check_penalty(method: str, server_round: int, penalty: object) -> Tensor:
    """Return what ``penalty`` returned, if it is a finite scalar.

    Parameters
    ----------
    method : str
        The method's name, for the error.
    server_round : int
        The round.
    penalty : object
        What the method returned.

    Raises
    ------
    EngineError
        If it is no tensor, not of one element, or not finite.
    """
    if not isinstance(penalty, Tensor):
        raise EngineError(
            f"{method}.penalty returned a {type(penalty).__name__}; expected a scalar tensor"
        )
    if penalty.numel() != 1:
        raise EngineError(
            f"{method}.penalty returned a tensor of shape {tuple(penalty.shape)}; expected a scalar"
        )
    if not bool(penalty.isfinite()):
        raise EngineError(
            f"{method}.penalty is {float(penalty.detach())} in round {server_round}; expected a "
            "finite number (a smaller learning rate or penalty_weight may keep it so)"
        )
    return penalty.reshape(())
