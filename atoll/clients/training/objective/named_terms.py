"""Terms by name: ours, and the user's own by ``module:attribute``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import ConfigRecord, RecordDict
from torch import Tensor, nn

from atoll.clients.settings import ClientSettings, TermSettings
from atoll.clients.tasks.task import Task
from atoll.clients.training.objective.client_objective import NamedTerm
from atoll.clients.training.objective.term import ObjectiveTerm, TermBatch, TermContext, TermRun
from atoll.errors import InvalidExperimentError
from atoll.registry import Registry
from atoll.user_code.error_places import user_code
from atoll.validation import validated

KEY = "client.objective"
_PLACE = "atoll.clients.training.terms"
TERMS: Registry[type[ObjectiveTerm]] = Registry(
    "term of an objective",
    {
        "sam": f"{_PLACE}.flat_minima:SharpnessAware",
        "gradient-norm": f"{_PLACE}.flat_minima:GradientNormPenalty",
        "fedlc": f"{_PLACE}.label_skew:LogitCalibration",
        "fedrs": f"{_PLACE}.label_skew:RestrictedSoftmax",
        "moon": f"{_PLACE}.contrast:ModelContrast",
        "elr": f"{_PLACE}.noisy_labels:EarlyLearning",
        "nested-dropout": f"{_PLACE}.noisy_labels:NestedDropout",
        "co-teaching": f"{_PLACE}.noisy_labels:CoTeaching",
        "ps-kd": f"{_PLACE}.soft_targets:SelfDistillation",
        "backslash": f"{_PLACE}.coding_rate:CodingRate",
        "gradient-boosting": f"{_PLACE}.boosting:GradientBoosting",
        "r-amt": f"{_PLACE}.masks:RegularizedMasks",
        "conr": f"{_PLACE}.imbalanced_targets:ContrastiveRegularizer",
        "scaffold": f"{_PLACE}.drift_correction:ControlVariates",
        "feddyn": f"{_PLACE}.drift_correction:DynamicRegularizer",
        "fednova": f"{_PLACE}.reported_updates:NormalizedUpdates",
        "fedexp": f"{_PLACE}.reported_updates:ReportedNorms",
        "selection": f"{_PLACE}.score_histogram:ScoreHistogram",
    },
)
# A strategy's message that holds a record of this name and a term's asks for that term.
RECORD = "objective."


class FunctionTerm(ObjectiveTerm):
    """A user's own function of a batch, as a term."""

    reference: str

    def begin(self, context: TermContext) -> TermRun:
        """Return the function as a loss."""
        found: Any = TERMS.find(self.reference, KEY)

        def loss(batch: TermBatch) -> Tensor:
            with user_code(f"{KEY}.name = {self.reference!r}"):
                value: Any = found(batch)
            if isinstance(value, Tensor) and value.dim() == 0:
                return value
            shown = f"a {type(value).__name__}"
            if isinstance(value, Tensor):
                shown = f"a tensor of shape {tuple(value.shape)}"
            raise InvalidExperimentError(
                f"{KEY}.name = {self.reference!r}: returned {shown}; expected a scalar tensor"
            )

        return TermRun(loss=loss)


def find_terms(entries: Sequence[TermSettings]) -> list[NamedTerm]:
    """Return the terms of ``[[client.objective]]``; those of weight 0 are left out.

    Raises
    ------
    InvalidExperimentError
        If a name is neither known nor importable, is there twice, or arguments are wrong.
    """
    found: dict[str, NamedTerm] = {}
    for entry in entries:
        given = {"weight": entry.weight} if "weight" in entry.model_fields_set else {}
        term = _named(entry.name, {**given, **entry.arguments})
        if term.name in found:
            raise InvalidExperimentError(
                f"{KEY}.name = {entry.name!r}: is there twice; expected each term once"
            )
        strategy = term.term.of_strategy
        if strategy is not None:
            raise InvalidExperimentError(
                f"{KEY}.name = {entry.name!r}: is a part of a strategy, which asks clients for it; "
                f"expected strategy.name = {strategy!r} in its place"
            )
        found[term.name] = term
    terms = [named for named in found.values() if named.term.weight]
    _check_second_gradients(terms)
    return terms


def _check_second_gradients(terms: Sequence[NamedTerm]) -> None:
    """Refuse terms that must see each step once beside one that has its loss computed again."""
    again = [named.name for named in terms if named.term.asks_for_second_gradient]
    once = [named.name for named in terms if named.term.once_a_step]
    if again and once:
        raise InvalidExperimentError(
            f"{KEY} has {once[0]!r} and {again[0]!r}: the second computes each step's loss twice, "
            "and the first remembers each; expected one without the other"
        )


def terms_in(records: RecordDict) -> list[NamedTerm]:
    """Return the terms that a strategy's message asks for.

    Each is a ``ConfigRecord`` named ``objective.TERM`` with the term's settings.
    """
    return [
        _named(name.removeprefix(RECORD), dict(record))
        for name, record in records_of_terms(records).items()
    ]


def records_of_terms(records: RecordDict) -> dict[str, ConfigRecord]:
    """Return the records by which a strategy's message asks for terms; none, if it does not."""
    # RecordDict.config_records would check the type of every record, for every client.
    return {
        name: record
        for name, record in records.items()
        if name.startswith(RECORD) and isinstance(record, ConfigRecord)
    }


def record_of_term(term: ObjectiveTerm) -> ConfigRecord:
    """Return the record by which a strategy asks for a term."""
    return ConfigRecord(term.model_dump())


def check_models(terms: Sequence[NamedTerm], model: nn.Module) -> None:
    """Refuse terms that cannot act on a model.

    Raises
    ------
    InvalidExperimentError
        With the term's name, and what was expected.
    """
    for named in terms:
        try:
            named.term.check_model(model)
        except ValueError as error:
            raise InvalidExperimentError(f"{KEY}.name = {named.name!r}: {error}") from None


def check_terms(terms: Sequence[NamedTerm], task: Task, settings: ClientSettings) -> None:
    """Refuse terms that have no meaning for a task or a way of local training.

    Raises
    ------
    InvalidExperimentError
        With the term's name, and what was expected.
    """
    for named in terms:
        try:
            named.term.check(task, settings)
        except ValueError as error:
            raise InvalidExperimentError(f"{KEY}.name = {named.name!r}: {error}") from None


def obstacle_to_vectorizing(terms: Sequence[NamedTerm]) -> str | None:
    """Return why vectorised clients cannot train with the terms, or None if they can."""
    for named in terms:
        obstacle = named.term.obstacle_to_vectorizing()
        if obstacle is not None:
            return f"client.objective has {named.name!r}: {obstacle}"
    return None


def _named(name: str, arguments: Mapping[str, Any]) -> NamedTerm:
    found: Any = TERMS.find(name, f"{KEY}.name")
    known = TERMS.check(name, f"{KEY}.name")
    prefix = f"{KEY} {known!r}: "
    if inspect.isclass(found) and issubclass(found, ObjectiveTerm):
        return NamedTerm(known, validated(found, arguments, prefix=prefix))
    if not callable(found):
        raise InvalidExperimentError(
            f"{KEY}.name = {name!r}: is a {type(found).__name__}, expected a function of a batch "
            "or a class derived from ObjectiveTerm"
        )
    return NamedTerm(
        known, validated(FunctionTerm, {"reference": name, **arguments}, prefix=prefix)
    )
