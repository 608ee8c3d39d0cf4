"""Strategies by name: Flower's, ours, and the user's own by ``module:Class``."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flwr.serverapp import strategy as flower_strategies
from flwr.serverapp.strategy import Strategy

from atoll import flower
from atoll.error_messages import closest
from atoll.errors import InvalidExperimentError
from atoll.lazy import attach
from atoll.registry import Registry
from atoll.strategies.alignment import ALIGNMENT_STRATEGIES
from atoll.strategies.asynchronous import ASYNCHRONOUS_STRATEGIES
from atoll.strategies.heterogeneity import HETEROGENEITY_STRATEGIES
from atoll.strategies.layerwise import LAYERWISE_STRATEGIES
from atoll.strategies.malicious import MALICIOUS_STRATEGIES
from atoll.strategies.robust import ROBUST_STRATEGIES
from atoll.strategies.sec_agg_plus import SecAggPlus
from atoll.strategies.strategy_arguments import check_arguments

if TYPE_CHECKING:
    from atoll.strategies.alignment.alignment_strategy import AlignmentStrategy
    from atoll.strategies.alignment.methods.gradients import (
        MLDG,
        ANDMask,
        DomainGradients,
        Fish,
        GradientStrategy,
        SANDMask,
    )
    from atoll.strategies.alignment.methods.hessians import CMA, HGP, Hutchinson
    from atoll.strategies.alignment.methods.newton import GNS
    from atoll.strategies.alignment.methods.regularizers import (
        CORAL,
        IGA,
        IRM,
        MMD,
        FedIIR,
        Fishr,
        GradientAlignment,
        GradientNorm,
        VREx,
    )
    from atoll.strategies.alignment.methods.representation import FedL2R, FedSR
    from atoll.strategies.alignment.methods.reweighting import AFL, EQRM, ERM, SD, GroupDRO, Mixup
    from atoll.strategies.alignment.methods.updates import FedDGGA, FedGMA
    from atoll.strategies.alignment.moments.domain_moments import Domains
    from atoll.strategies.asynchronous.asynchronous_strategy import AsynchronousStrategy
    from atoll.strategies.asynchronous.deadline import DeadlineFedAvg
    from atoll.strategies.asynchronous.fed_buff import FedBuff
    from atoll.strategies.heterogeneity.data_diet import DataDiet
    from atoll.strategies.heterogeneity.fed_dyn import FedDyn
    from atoll.strategies.heterogeneity.fed_exp import FedExP
    from atoll.strategies.heterogeneity.fed_nova import FedNova
    from atoll.strategies.heterogeneity.scaffold import SCAFFOLD
    from atoll.strategies.layerwise.asynchronous_layerwise import AsynchronousLayerwise
    from atoll.strategies.layerwise.layerwise_strategy import Layerwise
    from atoll.strategies.malicious.feature_fishing import FeatureFishing
    from atoll.strategies.malicious.loki import LOKI
    from atoll.strategies.mean_only import uses_mean_only
    from atoll.strategies.privacy.central_dp import CentralDP
    from atoll.strategies.robust.centered_clipping import CenteredClipping
    from atoll.strategies.robust.fl_trust import FLTrust
    from atoll.strategies.robust.flame import FLAME
    from atoll.strategies.robust.geometric_median import GeometricMedian
    from atoll.strategies.robust.norm_bound import NormBound
    from atoll.strategies.robust.robust_strategy import RobustStrategy

__all__ = [
    "AFL",
    "CMA",
    "CORAL",
    "EQRM",
    "ERM",
    "FLAME",
    "FLOWER_STRATEGIES",
    "GNS",
    "HGP",
    "IGA",
    "IRM",
    "LOKI",
    "MLDG",
    "MMD",
    "SCAFFOLD",
    "SD",
    "STRATEGIES",
    "ANDMask",
    "AlignmentStrategy",
    "AsynchronousLayerwise",
    "AsynchronousStrategy",
    "CenteredClipping",
    "CentralDP",
    "DataDiet",
    "DeadlineFedAvg",
    "DomainGradients",
    "Domains",
    "FLTrust",
    "FeatureFishing",
    "FedBuff",
    "FedDGGA",
    "FedDyn",
    "FedExP",
    "FedGMA",
    "FedIIR",
    "FedL2R",
    "FedNova",
    "FedSR",
    "Fish",
    "Fishr",
    "GeometricMedian",
    "GradientAlignment",
    "GradientNorm",
    "GradientStrategy",
    "GroupDRO",
    "Hutchinson",
    "Layerwise",
    "Mixup",
    "NormBound",
    "RobustStrategy",
    "SANDMask",
    "SecAggPlus",
    "VREx",
    "build_strategy",
    "uses_mean_only",
]

FLOWER_STRATEGIES: dict[str, type[Strategy]] = {
    name: kind
    for name, kind in vars(flower_strategies).items()
    if inspect.isclass(kind) and issubclass(kind, Strategy) and not inspect.isabstract(kind)
}
STRATEGIES: Registry[type[Strategy]] = Registry(
    "strategy",
    {
        **FLOWER_STRATEGIES,
        **ALIGNMENT_STRATEGIES,
        **ASYNCHRONOUS_STRATEGIES,
        **HETEROGENEITY_STRATEGIES,
        **LAYERWISE_STRATEGIES,
        **ROBUST_STRATEGIES,
        "SecAggPlus": SecAggPlus,
        **MALICIOUS_STRATEGIES,
    },
)

_MODULES = {
    "atoll.strategies.privacy.central_dp": ("CentralDP",),
    "atoll.strategies.alignment.moments.domain_moments": ("Domains",),
    "atoll.strategies.alignment.methods.gradients": (
        "ANDMask",
        "DomainGradients",
        "Fish",
        "GradientStrategy",
        "MLDG",
        "SANDMask",
    ),
    "atoll.strategies.alignment.methods.hessians": ("CMA", "HGP", "Hutchinson"),
    "atoll.strategies.alignment.methods.newton": ("GNS",),
    "atoll.strategies.alignment.methods.regularizers": (
        "CORAL",
        "FedIIR",
        "Fishr",
        "GradientAlignment",
        "GradientNorm",
        "IGA",
        "IRM",
        "MMD",
        "VREx",
    ),
    "atoll.strategies.alignment.methods.representation": ("FedL2R", "FedSR"),
    "atoll.strategies.alignment.methods.reweighting": (
        "AFL",
        "EQRM",
        "ERM",
        "GroupDRO",
        "Mixup",
        "SD",
    ),
    "atoll.strategies.alignment.methods.updates": ("FedDGGA", "FedGMA"),
    "atoll.strategies.alignment.alignment_strategy": ("AlignmentStrategy",),
    "atoll.strategies.asynchronous.deadline": ("DeadlineFedAvg",),
    "atoll.strategies.asynchronous.fed_buff": ("FedBuff",),
    "atoll.strategies.asynchronous.asynchronous_strategy": ("AsynchronousStrategy",),
    "atoll.strategies.heterogeneity.data_diet": ("DataDiet",),
    "atoll.strategies.heterogeneity.fed_dyn": ("FedDyn",),
    "atoll.strategies.heterogeneity.fed_exp": ("FedExP",),
    "atoll.strategies.heterogeneity.fed_nova": ("FedNova",),
    "atoll.strategies.heterogeneity.scaffold": ("SCAFFOLD",),
    "atoll.strategies.layerwise.asynchronous_layerwise": ("AsynchronousLayerwise",),
    "atoll.strategies.layerwise.layerwise_strategy": ("Layerwise",),
    "atoll.strategies.malicious.feature_fishing": ("FeatureFishing",),
    "atoll.strategies.malicious.loki": ("LOKI",),
    "atoll.strategies.mean_only": ("uses_mean_only",),
    "atoll.strategies.robust.centered_clipping": ("CenteredClipping",),
    "atoll.strategies.robust.fl_trust": ("FLTrust",),
    "atoll.strategies.robust.flame": ("FLAME",),
    "atoll.strategies.robust.geometric_median": ("GeometricMedian",),
    "atoll.strategies.robust.norm_bound": ("NormBound",),
    "atoll.strategies.robust.robust_strategy": ("RobustStrategy",),
}
__getattr__, __dir__ = attach(__name__, _MODULES)


def build_strategy(name: str, arguments: Mapping[str, Any], key: str = "strategy") -> Strategy:
    """Build a strategy.

    Parameters
    ----------
    name : str
        A name in :data:`STRATEGIES`, or ``module:Class``.
    arguments : Mapping
        Its keyword arguments. A strategy that wraps another (differential privacy) takes it as a
        table of its own: ``strategy = {name = "FedAvg", ...}``.
    key : str
        The experiment key of the section, for errors.

    Raises
    ------
    InvalidExperimentError
        If it does not take an argument, needs one that is not there, or refuses a value.

    Examples
    --------
    >>> from atoll.strategies import build_strategy
    >>> build_strategy("FedAdam", {"eta": 0.01}).eta
    0.01
    """
    kind = STRATEGIES.find(name, f"{key}.name")
    accepted = _accepted(kind)
    for argument, value in arguments.items():
        if accepted is not None and argument not in accepted:
            raise InvalidExperimentError(
                f"{key}.{argument} = {value!r}: {name} has no such argument; "
                f"{closest(argument, list(accepted))}"
            )
    if ":" not in name and not dataclasses.is_dataclass(kind):
        check_arguments(arguments, key)
    # Our clients name their loss so; QFedAvg would look for another name.
    is_told_of_losses = accepted is not None and "train_loss_key" in accepted
    values = {**({"train_loss_key": "loss"} if is_told_of_losses else {}), **arguments}
    wrapped = values.get("strategy")
    if isinstance(wrapped, Mapping):
        inner = {k: v for k, v in wrapped.items() if k != "name"}
        values["strategy"] = build_strategy(
            str(wrapped.get("name", "FedAvg")), inner, f"{key}.strategy"
        )
    try:
        with flower.without_evaluation_warning():
            strategy = kind(**values)
    except InvalidExperimentError:
        raise
    except Exception as error:
        raise InvalidExperimentError(f"{key}.name = {name!r}: {error}") from error
    if not isinstance(strategy, Strategy):
        raise InvalidExperimentError(
            f"{key}.name = {name!r}: makes a {type(strategy).__name__}, expected a Flower Strategy"
        )
    return strategy


def _accepted(kind: Any) -> set[str] | None:
    """Return the names of the keyword arguments, or None where anything is taken."""
    try:
        parameters = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters}
