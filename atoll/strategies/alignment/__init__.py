"""Strategies that align domains, for a model that generalises to a domain without clients.

A method is a dataclass with its hyper-parameters and one function, ``penalty(domains)``; see
:class:`~atoll.strategies.alignment.alignment_strategy.AlignmentStrategy`.
"""

# Names of strategies to where they are: a name is checked before torch is loaded.
_MODULES = {
    "regularizers": (
        "IRM",
        "VREx",
        "GradientAlignment",
        "GradientNorm",
        "FedIIR",
        "IGA",
        "Fishr",
        "CORAL",
        "MMD",
    ),
    "hessians": ("HGP", "Hutchinson", "CMA"),
    "reweighting": ("ERM", "GroupDRO", "AFL", "EQRM", "SD", "Mixup"),
    "representation": ("FedSR", "FedL2R"),
    "gradients": ("ANDMask", "SANDMask", "MLDG", "Fish"),
    "updates": ("FedGMA", "FedDGGA"),
    "newton": ("GNS",),
}
ALIGNMENT_STRATEGIES = {
    name: f"{__name__}.methods.{module}:{name}"
    for module, names in _MODULES.items()
    for name in names
}
