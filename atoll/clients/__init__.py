"""The client side: data sets, models, local training, statistics, and the Flower ClientApp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.lazy import attach

if TYPE_CHECKING:
    from atoll.clients.apps.batch_app import BatchClientApp
    from atoll.clients.apps.client_app import make_client_app
    from atoll.clients.apps.client_spec import ClientSpec
    from atoll.clients.arrays.model_arrays import ModelArrays
    from atoll.clients.data.catalog.loading import DATASETS, load_dataset
    from atoll.clients.data.client_statistics import fit_to_clients
    from atoll.clients.data.files.dataset import Dataset, Split
    from atoll.clients.data.images.image_tensors import to_tensor
    from atoll.clients.data.inputs.base import Inputs
    from atoll.clients.data.inputs.images import ImageInputs
    from atoll.clients.data.inputs.table import CategoryColumn, NumberColumn, TableInputs
    from atoll.clients.data.inputs.tokens import TokenInputs
    from atoll.clients.data.partitioning.partition import (
        Partition,
        class_histogram,
        partition_dataset,
    )
    from atoll.clients.data.partitioning.partitioners import PARTITIONERS
    from atoll.clients.data.texts.tokenizers import tokenizer_of
    from atoll.clients.data.user_data.loaded_data import LoadedData
    from atoll.clients.models import MODELS
    from atoll.clients.models.head import ModelSizes, SplitModel
    from atoll.clients.models.head_outputs import HeadOutputs
    from atoll.clients.models.model_building import build_model
    from atoll.clients.mods import MODS
    from atoll.clients.moments.head_statistics import (
        HeadGradient,
        HessianDiagonal,
        HessianProbes,
        HessianProduct,
        ProbedDiagonal,
        SquaredHeadGradient,
    )
    from atoll.clients.moments.statistic import DomainContext, Statistic
    from atoll.clients.moments.statistic_names import STATISTICS
    from atoll.clients.moments.statistics import (
        ExampleFeatures,
        FeatureMean,
        FeatureProducts,
        Gradient,
        Loss,
        ScaleGradient,
        ScaleGradientHalves,
        SquaredFeatures,
        SquaredLogits,
    )
    from atoll.clients.noprop.networks.inference import Inference, Noise
    from atoll.clients.noprop.networks.network import NoPropNetwork, noprop_ct, noprop_dt, noprop_fm
    from atoll.clients.personal.method import PersonalClient, PersonalMethod
    from atoll.clients.personal.methods import PERSONAL_METHODS
    from atoll.clients.settings import (
        ClientSettings,
        DataSettings,
        LabelNoise,
        ModelSettings,
        PartitionSettings,
    )
    from atoll.clients.tasks.classification import Classification
    from atoll.clients.tasks.multi_label import MultiLabel
    from atoll.clients.tasks.next_token import NextToken
    from atoll.clients.tasks.regression import Regression
    from atoll.clients.tasks.task import Measured, Task
    from atoll.clients.training.evaluation import Evaluation, evaluate, measure
    from atoll.clients.training.local_training import TrainingResult, train
    from atoll.clients.training.objective.term import (
        ObjectiveTerm,
        TermBatch,
        TermContext,
        TermReply,
        TermRun,
    )
    from atoll.clients.training.step_mods import LocalStep

__all__ = [
    "DATASETS",
    "MODELS",
    "MODS",
    "PARTITIONERS",
    "PERSONAL_METHODS",
    "STATISTICS",
    "BatchClientApp",
    "CategoryColumn",
    "Classification",
    "ClientSettings",
    "ClientSpec",
    "DataSettings",
    "Dataset",
    "DomainContext",
    "Evaluation",
    "ExampleFeatures",
    "FeatureMean",
    "FeatureProducts",
    "Gradient",
    "HeadGradient",
    "HeadOutputs",
    "HessianDiagonal",
    "HessianProbes",
    "HessianProduct",
    "ImageInputs",
    "Inference",
    "Inputs",
    "LabelNoise",
    "LoadedData",
    "LocalStep",
    "Loss",
    "Measured",
    "ModelArrays",
    "ModelSettings",
    "ModelSizes",
    "MultiLabel",
    "NextToken",
    "NoPropNetwork",
    "Noise",
    "NumberColumn",
    "ObjectiveTerm",
    "Partition",
    "PartitionSettings",
    "PersonalClient",
    "PersonalMethod",
    "ProbedDiagonal",
    "Regression",
    "ScaleGradient",
    "ScaleGradientHalves",
    "Split",
    "SplitModel",
    "SquaredFeatures",
    "SquaredHeadGradient",
    "SquaredLogits",
    "Statistic",
    "TableInputs",
    "Task",
    "TermBatch",
    "TermContext",
    "TermReply",
    "TermRun",
    "TokenInputs",
    "TrainingResult",
    "build_model",
    "class_histogram",
    "evaluate",
    "fit_to_clients",
    "load_dataset",
    "make_client_app",
    "measure",
    "noprop_ct",
    "noprop_dt",
    "noprop_fm",
    "partition_dataset",
    "to_tensor",
    "tokenizer_of",
    "train",
]

_MODULES = {
    "atoll.clients.apps.batch_app": ("BatchClientApp",),
    "atoll.clients.apps.client_app": ("make_client_app",),
    "atoll.clients.apps.client_spec": ("ClientSpec",),
    "atoll.clients.arrays.model_arrays": ("ModelArrays",),
    "atoll.clients.data.catalog.loading": ("DATASETS", "load_dataset"),
    "atoll.clients.data.partitioning.partition": (
        "Partition",
        "class_histogram",
        "partition_dataset",
    ),
    "atoll.clients.data.partitioning.partitioners": ("PARTITIONERS",),
    "atoll.clients.data.client_statistics": ("fit_to_clients",),
    "atoll.clients.data.files.dataset": ("Dataset", "Split"),
    "atoll.clients.data.images.image_tensors": ("to_tensor",),
    "atoll.clients.data.inputs.base": ("Inputs",),
    "atoll.clients.data.inputs.images": ("ImageInputs",),
    "atoll.clients.data.inputs.table": ("CategoryColumn", "NumberColumn", "TableInputs"),
    "atoll.clients.data.inputs.tokens": ("TokenInputs",),
    "atoll.clients.data.texts.tokenizers": ("tokenizer_of",),
    "atoll.clients.data.user_data.loaded_data": ("LoadedData",),
    "atoll.clients.models": ("MODELS",),
    "atoll.clients.models.model_building": ("build_model",),
    "atoll.clients.models.head": ("ModelSizes", "SplitModel"),
    "atoll.clients.models.head_outputs": ("HeadOutputs",),
    "atoll.clients.mods": ("MODS",),
    "atoll.clients.moments.statistic": ("DomainContext", "Statistic"),
    "atoll.clients.moments.statistic_names": ("STATISTICS",),
    "atoll.clients.moments.head_statistics": (
        "HeadGradient",
        "HessianDiagonal",
        "HessianProbes",
        "HessianProduct",
        "ProbedDiagonal",
        "SquaredHeadGradient",
    ),
    "atoll.clients.moments.statistics": (
        "ExampleFeatures",
        "FeatureMean",
        "FeatureProducts",
        "Gradient",
        "Loss",
        "ScaleGradient",
        "ScaleGradientHalves",
        "SquaredFeatures",
        "SquaredLogits",
    ),
    "atoll.clients.noprop.networks.inference": ("Inference", "Noise"),
    "atoll.clients.noprop.networks.network": (
        "NoPropNetwork",
        "noprop_ct",
        "noprop_dt",
        "noprop_fm",
    ),
    "atoll.clients.personal.method": ("PersonalClient", "PersonalMethod"),
    "atoll.clients.personal.methods": ("PERSONAL_METHODS",),
    "atoll.clients.settings": (
        "DataSettings",
        "LabelNoise",
        "PartitionSettings",
        "ModelSettings",
        "ClientSettings",
    ),
    "atoll.clients.tasks.classification": ("Classification",),
    "atoll.clients.tasks.multi_label": ("MultiLabel",),
    "atoll.clients.tasks.next_token": ("NextToken",),
    "atoll.clients.tasks.regression": ("Regression",),
    "atoll.clients.tasks.task": ("Measured", "Task"),
    "atoll.clients.training.evaluation": ("Evaluation", "evaluate", "measure"),
    "atoll.clients.training.local_training": ("TrainingResult", "train"),
    "atoll.clients.training.objective.term": (
        "ObjectiveTerm",
        "TermBatch",
        "TermContext",
        "TermReply",
        "TermRun",
    ),
    "atoll.clients.training.step_mods": ("LocalStep",),
}
__getattr__, __dir__ = attach(__name__, _MODULES)
