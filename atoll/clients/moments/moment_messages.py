"""Messages about moments between strategies and clients, as Flower records.

A ``query.moments`` message asks for sums of statistics at the broadcast parameters, by domain. The
training message that follows holds a weight for each domain, and a cotangent for each statistic and
domain. Arrays are named ``<statistic's index>/<domain>``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from atoll.clients.arrays.tensors import tensor_of
from atoll.clients.moments.statistic import Statistic
from atoll.clients.moments.statistic_names import statistic_from_json, to_json
from atoll.flower.arrays import array_record, to_array

MOMENTS = "moments"
QUERY = f"query.{MOMENTS}"
ALIGNMENT = "alignment"
VECTORS = "vectors"
COTANGENTS = "cotangents"
DOMAINS = "domains"

# By statistic's index and domain.
Indexed = Mapping[tuple[int, str], Tensor]


@dataclass(frozen=True)
class MomentsQuery:
    """Query of a strategy for a client's moments.

    Attributes
    ----------
    statistics : tuple[Statistic, ...]
        What to sum; with none, only the numbers of examples are wanted.
    vectors : mapping
        Of a Hessian product, by the statistic's index and domain: shape (k, h).
    examples : int or None
        How many of its examples a client uses in this round; None for all.
    before_gradient : bool
        Whether the client will be asked for a gradient at the same parameters.
    """

    statistics: tuple[Statistic, ...]
    vectors: Indexed = field(default_factory=dict)
    examples: int | None = None
    before_gradient: bool = False

    def records(self) -> dict[str, ConfigRecord | ArrayRecord]:
        """Return the query as records for a message."""
        config = ConfigRecord(
            {
                "statistics": [to_json(s) for s in self.statistics],
                "before-gradient": self.before_gradient,
            }
        )
        if self.examples is not None:
            config["examples"] = self.examples
        records: dict[str, ConfigRecord | ArrayRecord] = {ALIGNMENT: config}
        if self.vectors:
            records[VECTORS] = _to_arrays(self.vectors)
        return records

    @classmethod
    def from_records(cls, records: RecordDict) -> MomentsQuery:
        """Parse the output of :meth:`records`."""
        config = records.config_records[ALIGNMENT]
        return cls(
            _statistics(config),
            _from_arrays(records.array_records.get(VECTORS)),
            _optional_int(config, "examples"),
            bool(config["before-gradient"]),
        )


@dataclass(frozen=True)
class DomainSums:
    """A client's answer: per domain its number of examples, and the sums of statistics.

    Attributes
    ----------
    counts : dict[str, int]
        Examples by domain.
    sums : mapping
        By the statistic's index and domain.
    parameters : Sequence[str]
        The names of the trainable parameters, in the order of a :class:`Gradient`, where one was
        asked for, or nothing but the numbers of examples.
    """

    counts: dict[str, int]
    sums: Indexed
    parameters: Sequence[str] = ()

    def records(self) -> RecordDict:
        """Return the answer's content."""
        counts = list(self.counts.values())
        metrics = MetricRecord({"num-examples": sum(counts), "counts": counts})
        return RecordDict(
            {
                MOMENTS: _to_arrays(self.sums),
                "metrics": metrics,
                DOMAINS: ConfigRecord(
                    {"names": list(self.counts), "parameters": list(self.parameters)}
                ),
            }
        )

    @classmethod
    def from_records(cls, records: RecordDict) -> DomainSums:
        """Parse the output of :meth:`records`.

        Raises
        ------
        KeyError
            If the client does not answer queries for moments.
        """
        names = _texts(records.config_records[DOMAINS], "names")
        counts = records.metric_records["metrics"]["counts"]
        assert isinstance(counts, list)
        return cls(
            dict(zip(names, map(int, counts), strict=True)),
            _from_arrays(records.array_records[MOMENTS]),
            _texts(records.config_records[DOMAINS], "parameters"),
        )


@dataclass(frozen=True)
class Term:
    """One statistic in a client's loss: <cotangent, moment> for each domain.

    Attributes
    ----------
    statistic : Statistic
        Whose moment.
    cotangents : dict[str, Tensor]
        By domain.
    vectors : dict[str, Tensor]
        By domain, of a Hessian product.
    curvatures : dict[str, float]
        By domain: c adds c / 2 ||moment - moment at the broadcast parameters||^2.
    by_node : dict[int, dict[str, Tensor]]
        By node and domain, the cotangents of a statistic with a row an example, each node's being
        those of its own examples.
    """

    statistic: Statistic
    cotangents: Mapping[str, Tensor]
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    curvatures: Mapping[str, float] = field(default_factory=dict)
    by_node: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingTerms:
    """A client's loss in one round, beside the examples' cross-entropy.

    Attributes
    ----------
    weights : dict[str, float]
        By domain: what one example counts for in the mean of the clients' replies.
    loss_weights : dict[str, float]
        By domain: what one example's cross-entropy counts for in the loss.
    terms : tuple[Term, ...]
        The statistics in the loss.
    l2 : float
        The weight of the squared norm of all parameters.
    scale : float
        Multiplies the whole loss.
    replies_gradient : bool
        Whether the client replies with its loss's gradient at the broadcast parameters, over all
        its examples, in the place of trained parameters.
    reports_drift : bool
        Whether it measures how far its steps left that gradient.
    reports_loss_after : bool
        Whether it measures the mean cross-entropy of the model that it trained.
    examples : int or None
        As in :class:`MomentsQuery`.
    mixup : float or None
        The parameter of Mixup's Beta distribution.
    """

    weights: Mapping[str, float]
    loss_weights: Mapping[str, float]
    terms: tuple[Term, ...] = ()
    l2: float = 0.0
    scale: float = 1.0
    replies_gradient: bool = False
    reports_drift: bool = False
    reports_loss_after: bool = False
    examples: int | None = None
    mixup: float | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the loss is the mean cross-entropy, to the bit."""
        ones = [*self.weights.values(), *self.loss_weights.values()]
        is_mean = all(value == 1.0 for value in ones) and self.scale == 1.0 and self.l2 == 0.0
        return is_mean and not self.terms and self.mixup is None

    def of_node(self, node: int) -> TrainingTerms:
        """Return the terms as one node is to have them: the same object where all have the same."""
        if not any(term.by_node for term in self.terms):
            return self
        own = tuple(
            replace(term, cotangents=term.by_node.get(node, {}), by_node={})
            if term.by_node
            else term
            for term in self.terms
        )
        return replace(self, terms=own)

    def records(self, domains: Sequence[str]) -> dict[str, ConfigRecord | ArrayRecord]:
        """Return the terms for a client that holds ``domains``, as records of a message."""
        config = _without_empty(
            {
                "domains": list(domains),
                "weights": [self.weights[name] for name in domains],
                "loss-weights": [self.loss_weights[name] for name in domains],
                "statistics": [to_json(term.statistic) for term in self.terms],
                "l2": self.l2,
                "scale": self.scale,
                "replies-gradient": self.replies_gradient,
                "reports-drift": self.reports_drift,
                "reports-loss-after": self.reports_loss_after,
            }
        )
        if self.examples is not None:
            config["examples"] = self.examples
        if self.mixup is not None:
            config["mixup"] = self.mixup
        if any(term.curvatures for term in self.terms):
            config["curvatures"] = [
                term.curvatures.get(name, 0.0) for term in self.terms for name in domains
            ]
        records: dict[str, ConfigRecord | ArrayRecord] = {ALIGNMENT: config}
        for name, part in ((COTANGENTS, "cotangents"), (VECTORS, "vectors")):
            found = {
                (index, domain): values
                for index, term in enumerate(self.terms)
                for domain, values in getattr(term, part).items()
                if domain in domains
            }
            if found:
                records[name] = _to_arrays(found)
        return records

    @staticmethod
    def are_in(records: RecordDict) -> bool:
        """Tell whether a training message has terms."""
        return ALIGNMENT in records

    @classmethod
    def from_records(cls, records: RecordDict) -> TrainingTerms | None:
        """Parse the output of :meth:`records`; None if the message has none."""
        if not cls.are_in(records):
            return None
        config = records.config_records[ALIGNMENT]
        domains = _texts(config, "domains")
        mixup = config.get("mixup")
        return cls(
            weights=dict(zip(domains, _numbers(config, "weights"), strict=True)),
            loss_weights=dict(zip(domains, _numbers(config, "loss-weights"), strict=True)),
            terms=_terms(records, config, domains),
            l2=float(config["l2"]),  # type: ignore[arg-type]
            scale=float(config["scale"]),  # type: ignore[arg-type]
            replies_gradient=bool(config["replies-gradient"]),
            reports_drift=bool(config["reports-drift"]),
            reports_loss_after=bool(config["reports-loss-after"]),
            examples=_optional_int(config, "examples"),
            mixup=None if mixup is None else float(mixup),  # type: ignore[arg-type]
        )


def _terms(records: RecordDict, config: ConfigRecord, domains: list[str]) -> tuple[Term, ...]:
    cotangents = _from_arrays(records.array_records.get(COTANGENTS))
    vectors = _from_arrays(records.array_records.get(VECTORS))
    curvatures = _numbers(config, "curvatures") if "curvatures" in config else []
    return tuple(
        Term(
            statistic,
            _of_index(cotangents, index),
            _of_index(vectors, index),
            dict(zip(domains, curvatures[index * len(domains) :], strict=False)),
        )
        for index, statistic in enumerate(_statistics(config))
    )


def _of_index(arrays: Indexed, index: int) -> dict[str, Tensor]:
    return {domain: values for (i, domain), values in arrays.items() if i == index}


def _to_arrays(values: Indexed) -> ArrayRecord:
    return array_record(
        {
            f"{index}/{domain}": to_array(tensor.detach().cpu().numpy())
            for (index, domain), tensor in values.items()
        }
    )


def _from_arrays(record: ArrayRecord | None) -> dict[tuple[int, str], Tensor]:
    found = {}
    for key, array in (record or {}).items():
        index, _, domain = key.partition("/")
        found[int(index), domain] = tensor_of(array)
    return found


def _statistics(config: ConfigRecord) -> tuple[Statistic, ...]:
    return tuple(map(statistic_from_json, _texts(config, "statistics")))


def _without_empty(values: Mapping[str, Any]) -> ConfigRecord:
    """Return a record without empty lists: those, Flower's own mods cannot count the bytes of."""
    return ConfigRecord({key: value for key, value in values.items() if value != []})


def _texts(config: ConfigRecord, key: str) -> list[str]:
    return [str(value) for value in config.get(key, [])]  # type: ignore[union-attr]


def _numbers(config: ConfigRecord, key: str) -> list[float]:
    return [float(value) for value in config.get(key, [])]  # type: ignore[union-attr]


def _optional_int(config: ConfigRecord, key: str) -> int | None:
    value = config.get(key)
    return None if value is None else int(value)  # type: ignore[arg-type]
