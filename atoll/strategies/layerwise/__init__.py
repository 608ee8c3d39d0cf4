"""Layer-wise strategies: each layer is averaged over the clients that trained it.

For networks whose layers are trained independently (NoProp): a client gets as many layers
as its memory holds, and any vector of layers' versions is a valid model.
"""

# Names of strategies to where they are: a name is checked before torch is loaded.
LAYERWISE_STRATEGIES = {
    "Layerwise": f"{__name__}.layerwise_strategy:Layerwise",
    "AsynchronousLayerwise": f"{__name__}.asynchronous_layerwise:AsynchronousLayerwise",
}
