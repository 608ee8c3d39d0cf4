"""Model selection against a brute-force search over hyper-parameters and rounds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.platform.sweeps.model_selection import Choice, Curve, choose

TRAINING = ("a", "b", "c")
RULES = ["training-domain validation", "leave-one-domain-out", "oracle (last)", "oracle (best)"]


def curve(
    values: dict[str, list[float]],
    hyperparameters: str = "{}",
    seed: int = 0,
    held_out: tuple[str, ...] = ("t",),
) -> Curve:
    return Curve(
        "method",
        hyperparameters,
        seed,
        held_out,
        tuple(name for name in TRAINING if name not in held_out),
        np.arange(1, len(values["t"]) + 1) * 10,
        {name: np.array(v) for name, v in values.items()},
    )


def by_rule(curves: list[Curve], others: list[Curve] | None = None) -> dict[str, Choice]:
    return {choice.rule: choice for choice in choose(curves, others or [])}


def test_each_rule_reports_its_own_round() -> None:
    run = curve({"t": [0.1, 0.6, 0.3], "a": [0.7, 0.6, 0.9], "b": [0.8] * 3, "c": [0.8, 0.9, 0.5]})
    others = [
        curve({**run.values, "a": [0.5, 0.1, 0.1]}, held_out=("a", "t")),
        curve({**run.values, "b": [0.5, 0.1, 0.2]}, held_out=("b", "t")),
        curve({**run.values, "c": [0.5, 0.1, 0.3]}, held_out=("c", "t")),
    ]
    chosen = by_rule([run], others)
    assert list(chosen) == RULES
    assert [chosen[rule].rounds for rule in RULES] == [[10], [10], [30], [20]]
    assert [chosen[rule].values_on("t")[0] for rule in RULES] == [0.1, 0.1, 0.3, 0.6]


def test_hyperparameters_are_chosen_once_for_all_seeds() -> None:
    # Better for seed 0, far worse for seed 1: the mean over seeds decides.
    flat = {"a": [0.5], "b": [0.5], "c": [0.5]}
    curves = [
        curve({"t": [0.9], **{n: [0.8] for n in TRAINING}}, '{"x": 1}', 0),
        curve({"t": [0.1], **{n: [0.1] for n in TRAINING}}, '{"x": 1}', 1),
        curve({"t": [0.4], **flat}, '{"x": 2}', 0),
        curve({"t": [0.6], **flat}, '{"x": 2}', 1),
    ]
    choice = by_rule(curves)["training-domain validation"]
    assert {c.hyperparameters for c in choice.curves} == {'{"x": 2}'}
    assert choice.values_on("t").tolist() == [0.4, 0.6]
    assert by_rule(curves)["oracle (last)"].values_on("t").tolist() == [0.9, 0.1]


def test_rules_that_lack_their_runs_are_left_out() -> None:
    run = curve({"t": [0.5], "a": [0.5], "b": [0.5], "c": [0.5]})
    only_two = [
        curve(dict(run.values), held_out=("a", "t")),
        curve(dict(run.values), held_out=("b", "t")),
    ]
    assert list(by_rule([run], only_two)) == [RULES[0], *RULES[2:]]
    no_domains = Curve("m", "{}", 0, (), ("test",), np.array([1]), {"test": np.array([0.5])})
    assert list(by_rule([no_domains])) == RULES[2:]


ACCURACIES = st.integers(0, 100).map(lambda percent: percent / 100)


@pytest.mark.slow
@given(st.data(), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=80)
def test_selection_is_the_best_of_all(data, hypers: int, seeds: int, rounds: int) -> None:
    draw = st.lists(ACCURACIES, min_size=rounds, max_size=rounds)
    curves = [
        curve({name: data.draw(draw) for name in ("t", *TRAINING)}, f'{{"x": {h}}}', seed)
        for h, seed in itertools.product(range(hypers), range(seeds))
    ]
    others = [
        curve(
            {name: data.draw(draw) for name in ("t", *TRAINING)},
            run.hyperparameters,
            run.seed,
            tuple(sorted(("t", domain))),
        )
        for run in curves
        for domain in TRAINING
    ]

    def best(criterion) -> float:
        """The best mean over seeds, over hyper-parameters and each seed's round."""
        scores = []
        for h in range(hypers):
            own = [c for c in curves if c.hyperparameters == f'{{"x": {h}}}']
            scores += [
                np.mean([criterion(c, p) for c, p in zip(own, places, strict=True)])
                for places in itertools.product(range(rounds), repeat=len(own))
            ]
        return max(scores)

    def validation(c: Curve, place: int) -> float:
        return float(np.mean([c.values[name][place] for name in TRAINING]))

    def leave_one_out(c: Curve, place: int) -> float:
        found = [
            o.values[next(iter(set(o.held_out) - {"t"}))][place]
            for o in others
            if (o.hyperparameters, o.seed) == (c.hyperparameters, c.seed)
        ]
        return float(np.mean(found))

    chosen = by_rule(curves, others)
    criteria = {
        RULES[0]: validation,
        RULES[1]: leave_one_out,
        RULES[3]: lambda c, place: c.values["t"][place],
    }
    for rule, criterion in criteria.items():
        choice = chosen[rule]
        at = zip(choice.curves, choice.places, strict=True)
        reached = np.mean([criterion(c, place) for c, place in at])
        assert reached == pytest.approx(best(criterion))
    last, top = (chosen[rule].values_on("t").mean() for rule in RULES[2:])
    assert last <= top + 1e-12
    assert set(chosen[RULES[2]].places) == {rounds - 1}


def test_of_an_error_the_least_is_chosen() -> None:
    def of(hyperparameters: str, values: list[float]) -> Curve:
        rounds = np.arange(1, len(values) + 1)
        given = {"test": np.array(values)}
        return Curve("m", hyperparameters, 0, (), ("test",), rounds, given, metric="rmse")

    chosen = {c.rule: c for c in choose([of("a", [3.0, 1.0, 2.0]), of("b", [5.0, 4.0, 1.5])], [])}
    best, last = chosen["oracle (best)"], chosen["oracle (last)"]
    assert (best.curves[0].hyperparameters, best.rounds) == ("a", [2])
    assert (last.curves[0].hyperparameters, last.rounds) == ("b", [3])
