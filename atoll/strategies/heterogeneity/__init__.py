"""Strategies for clients with different data: drift corrected, steps normalised, or extrapolated.

Each asks its clients for a term of their objective (``atoll/clients/training/terms``).
"""

# Names of strategies to where they are: a name is checked before torch is loaded.
HETEROGENEITY_STRATEGIES = {
    "SCAFFOLD": f"{__name__}.scaffold:SCAFFOLD",
    "DataDiet": f"{__name__}.data_diet:DataDiet",
    "FedDyn": f"{__name__}.fed_dyn:FedDyn",
    "FedNova": f"{__name__}.fed_nova:FedNova",
    "FedExP": f"{__name__}.fed_exp:FedExP",
}
