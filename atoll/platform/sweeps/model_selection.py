"""Model selection: which hyper-parameters and which round a figure is reported for.

The rules are those of DomainBed (Gulrajani and Lopez-Paz, 2021, arXiv 2007.01434, section 3). Each
is a criterion, a figure for every round of every run (the task's main metric stands in place of the
accuracy, the least one where it is an error):

- training-domain validation: the mean accuracy on the training domains' test examples;
- leave-one-domain-out: the mean, over the training domains, of the accuracy on that domain when it
  is held out too (which takes a run more for each);
- oracle: the accuracy on the held-out domain itself, at the last round or at the best one. It is
  no selection that one could do, but a bound; with one set of hyper-parameters "oracle (last)" is
  simply the last round.

Hyper-parameters are chosen once for all seeds, by the criterion's mean over the seeds at each
one's best round, so that the spread over seeds is a method's own; then each run's round is chosen
by its own criterion. DomainBed chooses hyper-parameters again for each seed, which mixes the two.
Hyper-parameters of which a run was stopped early are chosen only where there are no others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atoll.clients.tasks.directions import direction_of


@dataclass(frozen=True)
class Curve:
    """A finished trial's metric over its rounds.

    Attributes
    ----------
    method, hyperparameters : str
        The method, and the rest of the grid's choices as JSON.
    seed : int
        The run's seed.
    held_out : tuple[str, ...]
        Domains that no client had, in alphabetical order.
    training : tuple[str, ...]
        Domains that clients had.
    rounds : NDArray[int64]
        The rounds after which the model was evaluated.
    values : Mapping[str, NDArray[float64]]
        The metric by domain, one a round.
    metric : str
        The task's main metric: "accuracy".
    is_whole : bool
        Whether the run came to its end; else its sweep stopped it early.
    """

    method: str
    hyperparameters: str
    seed: int
    held_out: tuple[str, ...]
    training: tuple[str, ...]
    rounds: NDArray[np.int64]
    values: Mapping[str, NDArray[np.float64]]
    metric: str = "accuracy"
    is_whole: bool = True

    def mean_over(self, domains: Sequence[str]) -> NDArray[np.float64]:
        """Return the mean over some domains, each counting the same, by round."""
        values: NDArray[np.float64] = np.mean([self.values[name] for name in domains], axis=0)
        return values

    def score(self, domains: Sequence[str]) -> NDArray[np.float64]:
        """Return the same, so that more is better: negative where the metric is an error."""
        mean = self.mean_over(domains)
        return -mean if direction_of(self.metric) == "lower" else mean


@dataclass(frozen=True)
class Choice:
    """Choice of a rule, for one method and one held-out domain.

    Attributes
    ----------
    rule : str
        The rule.
    curves : tuple[Curve, ...]
        The chosen hyper-parameters' runs, by seed.
    places : tuple[int, ...]
        Which of its evaluated rounds is reported, for each of them.
    """

    rule: str
    curves: tuple[Curve, ...]
    places: tuple[int, ...]

    def values_on(self, domain: str) -> NDArray[np.float64]:
        """Return each run's metric on a domain at its chosen round."""
        at = zip(self.curves, self.places, strict=True)
        return np.array([curve.values[domain][place] for curve, place in at])

    @property
    def rounds(self) -> list[int]:
        """The chosen round of each run."""
        return [int(c.rounds[p]) for c, p in zip(self.curves, self.places, strict=True)]


Criterion = Callable[[Curve], NDArray[np.float64] | None]


def choose(curves: Sequence[Curve], others: Sequence[Curve]) -> list[Choice]:
    """Apply every rule that can be applied.

    Parameters
    ----------
    curves : Sequence[Curve]
        All runs of one method with one set of held-out domains.
    others : Sequence[Curve]
        The method's runs with one more domain held out, for leave-one-domain-out validation.

    Returns
    -------
    list[Choice]
        One a rule, in the order of this module's description.
    """
    target = curves[0].held_out or curves[0].training
    curves = _whole(curves)

    def validation(curve: Curve) -> NDArray[np.float64] | None:
        return curve.score(curve.training) if curve.held_out else None

    def leave_one_out(curve: Curve) -> NDArray[np.float64] | None:
        return _leave_one_out(curve, others)

    def oracle(curve: Curve) -> NDArray[np.float64]:
        return curve.score(target)

    def oracle_at_last(curve: Curve) -> NDArray[np.float64]:
        reached = np.full(len(curve.rounds), -np.inf)
        reached[-1] = oracle(curve)[-1]
        return reached

    rules: dict[str, Criterion] = {
        "training-domain validation": validation,
        "leave-one-domain-out": leave_one_out,
        "oracle (last)": oracle_at_last,
        "oracle (best)": oracle,
    }
    made = (_choice(rule, curves, criterion) for rule, criterion in rules.items())
    return [choice for choice in made if choice is not None]


def _choice(rule: str, curves: Sequence[Curve], criterion: Criterion) -> Choice | None:
    """Choose the hyper-parameters with the best mean over seeds, and each run's best round."""
    best: tuple[float, Choice] | None = None
    for hyperparameters in dict.fromkeys(curve.hyperparameters for curve in curves):
        own = sorted(
            (curve for curve in curves if curve.hyperparameters == hyperparameters),
            key=lambda curve: curve.seed,
        )
        figures = [values for curve in own if (values := criterion(curve)) is not None]
        if len(figures) < len(own):
            continue
        # The first of equal rounds, and of equal hyper-parameters.
        places = tuple(int(np.argmax(values)) for values in figures)
        score = float(np.mean([v[p] for v, p in zip(figures, places, strict=True)]))
        if best is None or score > best[0]:
            best = score, Choice(rule, tuple(own), places)
    return None if best is None else best[1]


def _whole(curves: Sequence[Curve]) -> Sequence[Curve]:
    """Return the runs of hyper-parameters of which no run was stopped early, if there are any."""
    stopped = {curve.hyperparameters for curve in curves if not curve.is_whole}
    return [curve for curve in curves if curve.hyperparameters not in stopped] or curves


def _leave_one_out(curve: Curve, others: Sequence[Curve]) -> NDArray[np.float64] | None:
    """Return the mean score on each training domain when it is held out too."""
    figures = []
    for domain in curve.training:
        wanted = tuple(sorted((*curve.held_out, domain)))
        for other in others:
            is_same = (other.hyperparameters, other.seed) == (curve.hyperparameters, curve.seed)
            if is_same and other.held_out == wanted and np.array_equal(other.rounds, curve.rounds):
                figures.append(other.score([domain]))
                break
        else:
            return None
    values: NDArray[np.float64] = np.mean(figures, axis=0)
    return values
