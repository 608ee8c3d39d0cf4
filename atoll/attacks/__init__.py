"""Attacks of an honest-but-curious server on captures, defenses against them, poisoned clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.attacks.base.attack_names import ATTACKS
from atoll.lazy import attach

if TYPE_CHECKING:
    from atoll.attacks.base.attack import Attack, Reconstruction, SeparateAttack, Stage
    from atoll.attacks.base.group import Group
    from atoll.attacks.base.optimization_attack import (
        OptimizationAttack,
        best_restarts,
        matching_objective,
    )
    from atoll.attacks.capture_validation.replay import Diagnosis, diagnose, diagnose_capture
    from atoll.attacks.captures.capture import Capture, Content, FederationInfo, Truth
    from atoll.attacks.captures.capture_files import (
        find_captures,
        read_capture,
        read_truth,
        write_capture,
    )
    from atoll.attacks.defenses import DEFENSES
    from atoll.attacks.defenses.base.defense import Defense, Estimate, Task
    from atoll.attacks.defenses.clipping import Clipping
    from atoll.attacks.defenses.dp_sgd import DPSGD
    from atoll.attacks.defenses.entropy_coding import EntropyCoding
    from atoll.attacks.defenses.local_dp import LocalDP
    from atoll.attacks.defenses.mixup import MixUp
    from atoll.attacks.defenses.noise import GaussianNoise
    from atoll.attacks.defenses.orthogonal import OrthogonalGradient
    from atoll.attacks.defenses.outpost import Outpost
    from atoll.attacks.defenses.precode import Precode
    from atoll.attacks.defenses.pruning import TopK
    from atoll.attacks.defenses.quantization import NearestQuantization, Quantization, Sign
    from atoll.attacks.defenses.soteria import Soteria
    from atoll.attacks.example_victims import example_victim
    from atoll.attacks.generators import GENERATORS
    from atoll.attacks.generators.staged_generator import Features, StagedGenerator
    from atoll.attacks.metrics.identification import identified
    from atoll.attacks.metrics.image_assignment import assign
    from atoll.attacks.metrics.lpips import LPIPS
    from atoll.attacks.metrics.pixels import mse, psnr
    from atoll.attacks.metrics.ssim import ssim
    from atoll.attacks.metrics.table_cells import cells_right
    from atoll.attacks.metrics.token_overlap import rouge
    from atoll.attacks.optim.matching import COSTS, cosine, squared_l2
    from atoll.attacks.optim.minimize import Minimum, minimize
    from atoll.attacks.optim.priors import total_variation
    from atoll.attacks.optim.step_rules import LBFGS, Adam, SignedAdam
    from atoll.attacks.poisoning import POISONS
    from atoll.attacks.poisoning.backdoors import (
        Backdoor,
        DistributedBackdoor,
        ModelReplacement,
        PixelBackdoor,
    )
    from atoll.attacks.poisoning.collusion import ALIE, InnerProduct, MinMax, MinSum
    from atoll.attacks.poisoning.edge_cases import EdgeCaseBackdoor
    from atoll.attacks.poisoning.example_poison import ExamplePoison, LabelFlip
    from atoll.attacks.poisoning.fang import FangKrum, FangTrimmedMean
    from atoll.attacks.poisoning.honest_updates import CollusionPoison
    from atoll.attacks.poisoning.moments import MomentScaling
    from atoll.attacks.poisoning.poison import Poison
    from atoll.attacks.poisoning.update_poison import GaussianUpdate, SignFlip, UpdatePoison
    from atoll.attacks.priors import PRIORS
    from atoll.attacks.priors.prior import Prior
    from atoll.attacks.threat.capabilities import Capability, Given, ThreatModel
    from atoll.attacks.threat.image_space import ImageSpace
    from atoll.attacks.threat.label_leakage import LeakedLabels, leaked_labels
    from atoll.attacks.threat.labels import infer_labels
    from atoll.attacks.threat.observation import LocalTraining, Observation, PublicData, observe
    from atoll.attacks.threat.table_space import TableSpace
    from atoll.attacks.victims import (
        Attacked,
        References,
        Victim,
        attack_victims,
        observe_victims,
        read_victims,
        references_of,
    )

__all__ = [
    "ALIE",
    "ATTACKS",
    "COSTS",
    "DEFENSES",
    "DPSGD",
    "GENERATORS",
    "LBFGS",
    "LPIPS",
    "POISONS",
    "PRIORS",
    "Adam",
    "Attack",
    "Attacked",
    "Backdoor",
    "Capability",
    "Capture",
    "Clipping",
    "CollusionPoison",
    "Content",
    "Defense",
    "Diagnosis",
    "DistributedBackdoor",
    "EdgeCaseBackdoor",
    "EntropyCoding",
    "Estimate",
    "ExamplePoison",
    "FangKrum",
    "FangTrimmedMean",
    "Features",
    "FederationInfo",
    "GaussianNoise",
    "GaussianUpdate",
    "Given",
    "Group",
    "ImageSpace",
    "InnerProduct",
    "LabelFlip",
    "LeakedLabels",
    "LocalDP",
    "LocalTraining",
    "MinMax",
    "MinSum",
    "Minimum",
    "MixUp",
    "ModelReplacement",
    "MomentScaling",
    "NearestQuantization",
    "Observation",
    "OptimizationAttack",
    "OrthogonalGradient",
    "Outpost",
    "PixelBackdoor",
    "Poison",
    "Precode",
    "Prior",
    "PublicData",
    "Quantization",
    "Reconstruction",
    "References",
    "SeparateAttack",
    "Sign",
    "SignFlip",
    "SignedAdam",
    "Soteria",
    "Stage",
    "StagedGenerator",
    "TableSpace",
    "Task",
    "ThreatModel",
    "TopK",
    "Truth",
    "UpdatePoison",
    "Victim",
    "assign",
    "attack_victims",
    "best_restarts",
    "cells_right",
    "cosine",
    "diagnose",
    "diagnose_capture",
    "example_victim",
    "find_captures",
    "identified",
    "infer_labels",
    "leaked_labels",
    "matching_objective",
    "minimize",
    "mse",
    "observe",
    "observe_victims",
    "psnr",
    "read_capture",
    "read_truth",
    "read_victims",
    "references_of",
    "rouge",
    "squared_l2",
    "ssim",
    "total_variation",
    "write_capture",
]

_MODULES = {
    "atoll.attacks.base.attack": ("Attack", "Reconstruction", "SeparateAttack", "Stage"),
    "atoll.attacks.base.group": ("Group",),
    "atoll.attacks.base.optimization_attack": (
        "OptimizationAttack",
        "best_restarts",
        "matching_objective",
    ),
    "atoll.attacks.capture_validation.replay": ("Diagnosis", "diagnose", "diagnose_capture"),
    "atoll.attacks.captures.capture": ("Capture", "Content", "FederationInfo", "Truth"),
    "atoll.attacks.captures.capture_files": (
        "find_captures",
        "read_capture",
        "read_truth",
        "write_capture",
    ),
    "atoll.attacks.defenses": ("DEFENSES",),
    "atoll.attacks.defenses.clipping": ("Clipping",),
    "atoll.attacks.defenses.base.defense": ("Defense", "Estimate", "Task"),
    "atoll.attacks.defenses.dp_sgd": ("DPSGD",),
    "atoll.attacks.defenses.entropy_coding": ("EntropyCoding",),
    "atoll.attacks.defenses.local_dp": ("LocalDP",),
    "atoll.attacks.defenses.mixup": ("MixUp",),
    "atoll.attacks.defenses.noise": ("GaussianNoise",),
    "atoll.attacks.defenses.orthogonal": ("OrthogonalGradient",),
    "atoll.attacks.defenses.outpost": ("Outpost",),
    "atoll.attacks.defenses.precode": ("Precode",),
    "atoll.attacks.defenses.pruning": ("TopK",),
    "atoll.attacks.defenses.quantization": ("NearestQuantization", "Quantization", "Sign"),
    "atoll.attacks.defenses.soteria": ("Soteria",),
    "atoll.attacks.generators": ("GENERATORS",),
    "atoll.attacks.generators.staged_generator": ("Features", "StagedGenerator"),
    "atoll.attacks.metrics.image_assignment": ("assign",),
    "atoll.attacks.metrics.identification": ("identified",),
    "atoll.attacks.metrics.lpips": ("LPIPS",),
    "atoll.attacks.metrics.pixels": ("mse", "psnr"),
    "atoll.attacks.metrics.table_cells": ("cells_right",),
    "atoll.attacks.metrics.token_overlap": ("rouge",),
    "atoll.attacks.metrics.ssim": ("ssim",),
    "atoll.attacks.optim.matching": ("COSTS", "cosine", "squared_l2"),
    "atoll.attacks.optim.minimize": ("Minimum", "minimize"),
    "atoll.attacks.optim.priors": ("total_variation",),
    "atoll.attacks.optim.step_rules": ("Adam", "LBFGS", "SignedAdam"),
    "atoll.attacks.poisoning": ("POISONS",),
    "atoll.attacks.poisoning.backdoors": (
        "Backdoor",
        "DistributedBackdoor",
        "ModelReplacement",
        "PixelBackdoor",
    ),
    "atoll.attacks.poisoning.collusion": (
        "ALIE",
        "InnerProduct",
        "MinMax",
        "MinSum",
    ),
    "atoll.attacks.poisoning.edge_cases": ("EdgeCaseBackdoor",),
    "atoll.attacks.poisoning.fang": ("FangKrum", "FangTrimmedMean"),
    "atoll.attacks.poisoning.example_poison": (
        "ExamplePoison",
        "LabelFlip",
    ),
    "atoll.attacks.poisoning.honest_updates": ("CollusionPoison",),
    "atoll.attacks.poisoning.moments": ("MomentScaling",),
    "atoll.attacks.poisoning.poison": ("Poison",),
    "atoll.attacks.poisoning.update_poison": (
        "GaussianUpdate",
        "SignFlip",
        "UpdatePoison",
    ),
    "atoll.attacks.priors": ("PRIORS",),
    "atoll.attacks.priors.prior": ("Prior",),
    "atoll.attacks.threat.capabilities": ("Capability", "Given", "ThreatModel"),
    "atoll.attacks.threat.label_leakage": ("LeakedLabels", "leaked_labels"),
    "atoll.attacks.threat.labels": ("infer_labels",),
    "atoll.attacks.threat.image_space": ("ImageSpace",),
    "atoll.attacks.threat.table_space": ("TableSpace",),
    "atoll.attacks.threat.observation": (
        "LocalTraining",
        "Observation",
        "PublicData",
        "observe",
    ),
    "atoll.attacks.example_victims": ("example_victim",),
    "atoll.attacks.victims": (
        "Attacked",
        "References",
        "Victim",
        "attack_victims",
        "observe_victims",
        "read_victims",
        "references_of",
    ),
}
__getattr__, __dir__ = attach(__name__, _MODULES)
