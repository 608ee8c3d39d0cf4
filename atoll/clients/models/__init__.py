"""Models by name; the user's own are given as ``module:callable``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from atoll.registry import Registry

if TYPE_CHECKING:
    from torch import nn

MODELS: Registry[Callable[..., nn.Module]] = Registry(
    "model",
    {
        "linear": "atoll.clients.models.mlp:linear",
        "mlp": "atoll.clients.models.mlp:mlp",
        "boosted-mlp": "atoll.clients.models.mlp:boosted_mlp",
        "mlp-irm": "atoll.clients.models.mlp:irm_mlp",
        "lenet": "atoll.clients.models.images.cnn:lenet",
        "lenet-sigmoid": "atoll.clients.models.images.cnn:sigmoid_lenet",
        "lenet-relu": "atoll.clients.models.images.cnn:relu_lenet",
        "cnn-leaky": "atoll.clients.models.images.cnn:leaky_cnn",
        "imprint": "atoll.clients.models.malicious.imprint_block:imprint",
        "cnn-small": "atoll.clients.models.images.cnn:small_cnn",
        "cnn-pfl": "atoll.clients.models.images.cnn:benchmark_cnn",
        "cnn-domainbed": "atoll.clients.models.images.cnn:domainbed_cnn",
        "resnet8": "atoll.clients.models.images.resnet:resnet8",
        "resnet18": "atoll.clients.models.images.resnet:resnet18",
        "resnet50": "atoll.clients.models.images.resnet50:resnet50",
        "vit": "atoll.clients.models.images.vision_transformer:vit",
        "fishing": "atoll.clients.models.malicious.fishing_head:fishing",
        "gru": "atoll.clients.models.texts.recurrent:gru",
        "char-transformer": "atoll.clients.models.texts.transformer:char_transformer",
        "text-mean": "atoll.clients.models.texts.embedding_mean:text_mean",
        "text-transformer": "atoll.clients.models.texts.transformer:text_transformer",
        "minilm": "atoll.clients.models.texts.minilm:minilm",
        "huggingface": "atoll.clients.models.texts.huggingface:huggingface",
        "gaussian": "atoll.clients.models.images.gaussian_model:gaussian_representation",
        "precode": "atoll.clients.models.variational_bottleneck:precode",
        "table-linear": "atoll.clients.models.tables:table_linear",
        "table-mlp": "atoll.clients.models.tables:table_mlp",
        "ft-transformer": "atoll.clients.models.tables:ft_transformer",
        "noprop-dt": "atoll.clients.noprop.networks.network:noprop_dt",
        "noprop-ct": "atoll.clients.noprop.networks.network:noprop_ct",
        "noprop-fm": "atoll.clients.noprop.networks.network:noprop_fm",
        "chained-blocks": "atoll.clients.noprop.networks.baseline_networks:chained_blocks",
        "equal-cnn": "atoll.clients.noprop.networks.baseline_networks:equal_cnn",
    },
)
