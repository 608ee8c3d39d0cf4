"""The parts of Flower's SecAgg+ workflow that only its older API has."""

from flwr.common import Code, FitIns, FitRes, Parameters, Status, parameters_to_ndarrays
from flwr.compat.common.recorddict_compat import (
    arrayrecord_to_parameters,
    fitres_to_recorddict,
    recorddict_to_fitins,
)
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import WorkflowState

__all__ = [
    "Code",
    "FitIns",
    "FitRes",
    "Parameters",
    "Status",
    "WorkflowState",
    "arrayrecord_to_parameters",
    "fitres_to_recorddict",
    "parameters_to_ndarrays",
    "recorddict_to_fitins",
]
