"""Names of the tensors of a model that stay with each client: by group of layers or by pattern."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from atoll.clients.arrays.travelling import travelling_state
from atoll.clients.models.head import find_head
from atoll.error_messages import closest
from atoll.errors import InvalidExperimentError

KEY = "client.local"
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def local_names(model: nn.Module, local: Sequence[str], key: str = KEY) -> frozenset[str]:
    """Return the names of a model's tensors that stay with each client.

    Parameters
    ----------
    model : nn.Module
        The federation's.
    local : Sequence[str]
        "norm": layers that normalise, running statistics included; "head": the last layer;
        "body": all but the head; "embedding": embedding tables; or a pattern of names of
        ``state_dict()``, with ``*`` for any characters.
    key : str
        The experiment key that holds them, for errors.

    Raises
    ------
    InvalidExperimentError
        If an entry matches no tensor that travels, or all of them together match every trained
        parameter.

    Examples
    --------
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    >>> sorted(local_names(model, ["norm"])), sorted(local_names(model, ["2.*"]))
    (['1.bias', '1.weight'], ['2.bias', '2.weight'])
    """
    if not local:
        return frozenset()
    shown = list(local) if len(local) > 1 else local[0]
    found: set[str] = set()
    for entry in local:
        matched = matching(model, entry)
        if not matched:
            raise InvalidExperimentError(f"{key} = {shown!r}: {_no_match(model, entry)}")
        found |= matched
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    if trained <= found:
        raise InvalidExperimentError(
            f"{key} = {shown!r}: matches all {len(trained)} trained parameters, so nothing would "
            "be shared; expected some of them"
        )
    return frozenset(found)


def matching(model: nn.Module, entry: str) -> set[str]:
    """Return the names of the tensors that training changes and that an entry matches."""
    names = set(travelling_state(model))
    if entry in GROUPS:
        return names & GROUPS[entry](model)
    return {name for name in names if fnmatchcase(name, entry)}


def _no_match(model: nn.Module, entry: str) -> str:
    names = list(travelling_state(model))
    if entry in GROUPS:
        return f"the model has no trained {ABOUT[entry]}; it has {', '.join(names[:4])}, ..."
    hint = closest(entry, [*GROUPS, *names])
    return f"no trained tensor of the model has such a name; {hint}"


def _of_kinds(*kinds: type[nn.Module]) -> Callable[[nn.Module], set[str]]:
    def names(model: nn.Module) -> set[str]:
        return {
            f"{prefix}.{name}" if prefix else name
            for prefix, module in model.named_modules(remove_duplicate=False)
            if isinstance(module, kinds)
            for name in module.state_dict()
        }

    return names


def _head(model: nn.Module) -> set[str]:
    try:
        head = find_head(model)
    except ValueError:
        return set()
    prefix = next(name for name, module in model.named_modules() if module is head)
    return {f"{prefix}.{name}" if prefix else name for name in head.state_dict()}


def _body(model: nn.Module) -> set[str]:
    return set(model.state_dict()) - _head(model)


GROUPS: dict[str, Callable[[nn.Module], set[str]]] = {
    "norm": _of_kinds(*NORMS),
    "head": _head,
    "body": _body,
    "embedding": _of_kinds(*EMBEDDINGS),
}
ABOUT = {
    "norm": "layer that normalises",
    "head": "head",
    "body": "layer before its head",
    "embedding": "embedding table",
}
