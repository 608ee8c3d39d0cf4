"""The table of alignment methods and clients' mods, each entry of it on real clients.

An update is what a client's reply changes of the broadcast model (a reply that is a gradient is
one). "Exact": the replies have the same bits. "Unbiased": what a mod adds is the same for every
method, and known to be of mean zero. "Inexact": queries are answered, and cotangents made, as
without the mod; the reply is the mod's of the plain one. "Refused": the run would not be what it
says, in the way that the reason gives.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message

from atoll.attacks.defenses import DEFENSES
from atoll.attacks.defenses.base.defense import Task
from atoll.clients.mods import CLIENT_MODS
from atoll.clients.settings import ClientSettings, ModSettings
from atoll.errors import InvalidExperimentError
from atoll.platform.config.client_mods import named_mods, with_references
from atoll.platform.config.combinations import (
    Kind,
    Status,
    Traffic,
    check_combinations,
    kind_of,
    traffic_of,
    verdict_of,
)
from atoll.strategies import build_strategy
from atoll.strategies.alignment import ALIGNMENT_STRATEGIES
from tests.support.strategies import defended_models
from tests.support.strategies.small_federation import (
    LAYOUTS,
    SmallFederation,
    make_federation,
    values,
)

pytestmark = pytest.mark.slow

RATE = 0.5
LAYOUT = LAYOUTS["several domains on a client"]
NOW = {"anneal_rounds": 0}
STEPPED = {"server_optimizer": "sgd", "server_learning_rate": 1.0}
GRADIENT = {"client_update": "gradient", **STEPPED}
# What each method needs to be at work in the first round.
NEEDED: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("IRM", "VREx", "Fishr"), NOW),
    "EQRM": {**NOW, "quantile_learning_rate": None},
    "CMA": {"classes": 3},
    **dict.fromkeys(("ANDMask", "SANDMask", "MLDG", "Fish"), STEPPED),
}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, NEEDED.get(name, {})) for name in ALIGNMENT_STRATEGIES},
    "ERM with l2": ("ERM", {"l2": 0.1}),
    "ERM with diagnostics": ("ERM", {"diagnostics_every": 1}),
    "ERM, gradients": ("ERM", GRADIENT),
    "HGP, gradients": ("HGP", GRADIENT),
    "HGP, quadratic": ("GradientAlignment", {"client_update": "quadratic"}),
}
# Arguments with which each mod does something to these small updates.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "clipping": {"bound": 1e-3},
    "outpost": {"decay": 0.0},
    "orthogonal": {"trials": 2},
    "LocalDpMod": {"clipping_norm": 1.0, "sensitivity": 1.0, "epsilon": 8.0, "delta": 1e-5},
}
BOTH = ("gaussian-noise", "clipping", "top-k", "sign", "quantization", "nearest-quantization")
MODS: dict[str, dict[str, Any]] = {
    **{name: {"name": name, **ARGUMENTS.get(name, {})} for name in (*CLIENT_MODS, *DEFENSES)},
    **{
        f"{name}, on steps": {"name": name, "acts_on": "step", **ARGUMENTS.get(name, {})}
        for name in (*BOTH, "outpost")
    },
}
DETERMINISTIC = ("clipping", "top-k", "sign", "nearest-quantization")
PAIRS = [(method, mod) for method in METHODS for mod in MODS]
MEASURED = (Traffic.MOMENTS, Traffic.MEASURED_GRADIENTS)
# Of the pairs that are allowed, those that are run: each method with a mod of each kind, and each
# mod with a method of each kind.
OF_EACH_KIND = {"message_size_mod", "top-k", "top-k, on steps", "gaussian-noise", "dp-sgd"}
OF_EACH_TRAFFIC = {"ERM", "SD", "HGP", "ERM, gradients", "HGP, gradients"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors of some values each: threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("defended")


def model_for(method: str, mod: str) -> str:
    if METHODS[method][0] == "FedSR":
        return f"{defended_models.__name__}:gaussian"
    return f"{defended_models.__name__}:bottleneck" if mod == "precode" else "double_model"


def client_settings(mod: str | None) -> ClientSettings:
    mods = () if mod is None else (ModSettings(**MODS[mod]),)
    return ClientSettings(learning_rate=RATE, batch_size=1000, epochs=1, mods=mods)


@dataclass
class Round:
    """What went out in a round, what came back, and what was answered to queries."""

    sent: list[Message]
    replies: list[Message]
    queries: list[Message]
    answers: list[Message]
    after: dict[str, np.ndarray]
    before: dict[str, np.ndarray]
    is_gradient: bool = False
    updates: list[dict[str, np.ndarray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for reply in self.replies:
            if not reply.has_error():
                own = values(reply.content["arrays"])
                self.updates.append(
                    own if self.is_gradient else {k: v - self.before[k] for k, v in own.items()}
                )


class Federations:
    """Federations by mod and model, and their rounds; each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[tuple[str | None, str], SmallFederation] = {}
        self.rounds: dict[tuple[str, str | None, str], Round] = {}

    def of(self, mod: str | None, model: str) -> SmallFederation:
        if (mod, model) not in self.made:
            place = self.folder / str(len(self.made))
            client = with_references(client_settings(mod))
            self.made[mod, model] = make_federation(place, LAYOUT, client=client, model=model)
        return self.made[mod, model]

    def round(self, method: str, mod: str | None, model: str) -> Round:
        key = (method, mod, model)
        if key not in self.rounds:
            self.rounds[key] = self._run(method, mod, model)
        return self.rounds[key]

    def _run(self, method: str, mod: str | None, model: str) -> Round:
        name, arguments = METHODS[method]
        federation, answered = self.of(mod, model), list[Message]()
        grid = federation.grid
        grid.sent = []
        app = grid.app

        def answering(message: Message, context: Any) -> Message:
            reply = app(message, context)
            if message.metadata.message_type != "train":
                answered.append(reply)
            return reply

        grid.app = answering  # type: ignore[assignment]
        try:
            torch.manual_seed(0)
            np.random.seed(0)
            random.seed(0)
            strategy = build_strategy(name, arguments)
            messages = list(strategy.configure_train(1, federation.arrays, ConfigRecord(), grid))
            queries = list(grid.sent)
            replies = grid.send_and_receive(messages)
            after = strategy.aggregate_train(1, replies)[0]
        finally:
            grid.app = app
        before = values(federation.arrays)
        is_gradient = arguments.get("client_update") == "gradient"
        return Round(
            messages,
            replies,
            queries,
            answered,
            before if after is None else values(after),
            before,
            is_gradient,
        )


@pytest.fixture(scope="module")
def federations(folder: Path) -> Federations:
    return Federations(folder)


def pair(method: str, mod: str) -> tuple[Any, str, Any]:
    return (strategy_of(method), *named_mod(mod))


@cache
def strategy_of(method: str) -> Any:
    return build_strategy(*METHODS[method])


@cache
def named_mod(mod: str) -> tuple[str, Any]:
    [named] = named_mods(client_settings(mod))
    return named


@pytest.mark.parametrize(("method", "mod"), PAIRS, ids=lambda name: name.replace(" ", "-"))
def test_what_the_table_says_of_a_pair_is_so(
    method: str, mod: str, federations: Federations
) -> None:
    strategy, name, made = pair(method, mod)
    verdict = verdict_of(strategy, name, made)
    assert verdict is not None
    if verdict.status is Status.REFUSED:
        with pytest.raises(InvalidExperimentError, match="expected one without the other") as error:
            check_combinations(strategy, [(name, made)])
        assert len(str(error.value).splitlines()) == 1
        return
    check_combinations(strategy, [(name, made)])
    if mod not in OF_EACH_KIND and method not in OF_EACH_TRAFFIC:
        return
    model = model_for(method, mod)
    if _cannot_act(made, federations.of(mod, model)):
        return
    plain, defended = (federations.round(method, which, model) for which in (None, mod))
    assert not [reply.error for reply in defended.replies if reply.has_error()]
    assert same_messages(plain.answers, defended.answers)
    assert same_messages(plain.sent, defended.sent)
    if verdict.status is Status.EXACT:
        assert same(plain.after, defended.after)
        return
    assert not same(plain.after, defended.after), "the mod does nothing, so nothing is tested"
    if verdict.status is Status.UNBIASED:
        assert_unbiased(name, made, plain, defended, federations.round("ERM", None, model))
    elif name in DETERMINISTIC:
        assert_of_the_plain_update(made, plain, defended)


def _cannot_act(mod: Any, federation: SmallFederation) -> bool:
    """Tell whether a defense refuses the model, before the run."""
    try:
        mod.check_model(federation.model)
    except (AttributeError, ValueError) as error:
        return isinstance(error, ValueError)
    return False


def same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[key], other[key]) for key in one)


def same_messages(some: list[Message], others: list[Message]) -> bool:
    return len(some) == len(others) and all(
        content_of(a) == content_of(b) for a, b in zip(some, others, strict=True)
    )


def content_of(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, record in message.content.items():
        for key, value in record.items():
            is_array = hasattr(value, "numpy")
            found[f"{name}/{key}"] = value.numpy().tobytes() if is_array else value
    return found


def trained(update: dict[str, np.ndarray]) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(v)) for v in update.values() if v.dtype.kind == "f"]


def assert_unbiased(name: str, mod: Any, plain: Round, defended: Round, erm: Round) -> None:
    """What is added is noise of mean zero: of one scale, or within the step of two levels."""
    rate = 1.0 if plain.is_gradient or mod.acts_on == "update" else RATE
    for ours, theirs in zip(plain.updates, defended.updates, strict=True):
        for without, with_noise in zip(trained(ours), trained(theirs), strict=True):
            added = with_noise - without
            if name == "gaussian-noise":
                assert float(added.abs().max()) < 6 * rate * mod.std
                if added.numel() > 3:
                    assert 0.2 * rate * mod.std < float(added.std()) < 3 * rate * mod.std
            else:
                step = without.norm() / mod.levels
                assert float(added.abs().max()) <= float(step) * (1 + 1e-4)


def assert_of_the_plain_update(mod: Any, plain: Round, defended: Round) -> None:
    """After one step of SGD an update is a step's gradient times the learning rate."""
    factor = -RATE if mod.acts_on == "step" and not plain.is_gradient else 1.0
    for ours, theirs in zip(plain.updates, defended.updates, strict=True):
        without = [values / factor for values in trained(ours)]
        expected = mod.apply(Task(without), lambda task, without=without: list(without))
        for found, wanted in zip(trained(theirs), expected, strict=True):
            torch.testing.assert_close(found, wanted * factor, rtol=1e-4, atol=1e-7)


# --- what is refused would not be what it says ---------------------------------------------------


def refused_pairs(methods: set[str], *kinds: Kind) -> Iterator[tuple[str, str]]:
    """Yield what is refused of some methods and the mods of a kind; at least one of each method."""
    for method in methods:
        found = [mod for mod in MODS if kind_of(*named_mod(mod)) in kinds]
        verdicts = [verdict_of(strategy_of(method), *named_mod(mod)) for mod in found]
        assert all(v is not None and v.status is Status.REFUSED for v in verdicts)
        yield from ((method, mod) for mod in found)


def test_a_guarantee_would_not_cover_the_moments(federations: Federations) -> None:
    methods = {"HGP", "VREx", "CMA", "FedDGGA", "ERM with diagnostics", "HGP, gradients"}
    for method, mod in refused_pairs(methods, Kind.DP_UPDATE, Kind.FLOWER_DP):
        model = model_for(method, mod)
        assert traffic_of(strategy_of(method)) in MEASURED
        plain, private = (federations.round(method, which, model) for which in (None, mod))
        assert plain.answers
        assert same_messages(plain.answers, private.answers), method


def test_a_mod_would_see_nothing_where_clients_get_queries_alone(federations: Federations) -> None:
    for method, mod in (("MLDG", "top-k"), ("MLDG", "dp-sgd"), ("ANDMask", "local-dp")):
        plain, defended = (federations.round(method, w, "double_model") for w in (None, mod))
        assert same(plain.after, defended.after)
        assert plain.replies == defended.replies == []


def test_a_step_would_not_be_asked_for_where_clients_reply_with_gradients(
    federations: Federations,
) -> None:
    for method in ("ERM, gradients", "HGP, gradients"):
        for mod in ("top-k, on steps", "gaussian-noise, on steps", "dp-sgd", "mixup", "soteria"):
            found = federations.round(method, mod, "double_model")
            assert all(reply.has_error() for reply in found.replies)
            assert "does not ask for such mods" in found.replies[0].error.reason


def test_a_loss_of_the_mods_own_would_lose_the_penalty(federations: Federations) -> None:
    """With MixUp as a defense, no method's penalty changes anything."""
    plain = federations.round("ERM", "mixup", "double_model")
    for method in ("HGP", "CORAL", "ERM with l2", "SD"):
        assert not same(
            federations.round(method, None, "double_model").after,
            federations.round("ERM", None, "double_model").after,
        )
        assert same(federations.round(method, "mixup", "double_model").after, plain.after)


def test_flowers_mods_would_have_every_client_fail(federations: Federations) -> None:
    methods = {"ERM", "SD", "HGP", "FedGMA", "HGP, gradients"}
    for method, mod in refused_pairs(methods, Kind.ONE_RECORD):
        found = federations.round(method, mod, model_for(method, mod))
        assert all(reply.has_error() for reply in found.replies), (method, mod)


def test_flowers_local_dp_would_take_a_gradient_for_a_model(federations: Federations) -> None:
    """It clips what the reply is away from the broadcast model, and not the gradient."""
    found = federations.round("ERM, gradients", "LocalDpMod", "double_model")
    plain = federations.round("ERM, gradients", None, "double_model")
    for noisy, gradient in zip(found.updates, plain.updates, strict=True):
        before = np.concatenate([v.ravel() for v in found.before.values()])
        apart = [np.concatenate([v.ravel() for v in u.values()]) for u in (noisy, gradient)]
        assert np.linalg.norm(apart[1] - before) > 1.0 > np.linalg.norm(apart[1])
        assert not np.allclose(apart[0], apart[1])
    sent = federations.round("SD", "LocalDpMod", "double_model")
    assert all(reply.has_error() for reply in sent.replies)


def test_dp_sgd_would_lose_terms_that_are_no_sum_over_examples(federations: Federations) -> None:
    """The l2 term's gradient is no example's: DP-SGD leaves it out, and says nothing."""
    [(_, made)] = named_mods(client_settings("dp-sgd"))
    assert same(
        federations.round("ERM", "dp-sgd", "double_model").after,
        federations.round("ERM with l2", "dp-sgd", "double_model").after,
    )
    assert made.acts_on == "step"
