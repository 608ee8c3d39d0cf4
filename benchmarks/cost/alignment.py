"""Cost of alignment: federated rounds against FedAvg's, and closed forms against the released.

``python -m benchmarks.cost.alignment`` prints two tables. Every repeat runs all rows one after the
other, and ratios are within a repeat. Rounds are on Ray's workers. Steps are centralised, in this
process on one thread: without a penalty, with Hutchinson's as released (150 Rademacher probes for
each domain and for their mean, each a double backward through the head), and with the exact
diagonal in closed form. What a penalty itself costs is its step less the step without one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial

import torch
from flwr.serverapp.strategy import FedAvg, Strategy
from torch import Tensor

from atoll.clients.apps.client_app import make_client_app
from atoll.clients.data.images.image_tensors import to_tensor
from atoll.clients.models.head import SplitModel
from atoll.clients.models.head_outputs import HeadOutputs
from atoll.clients.models.model_building import build_model
from atoll.clients.moments.head_statistics import HeadGradient, HessianDiagonal
from atoll.clients.moments.statistic import DomainContext
from atoll.platform.config.experiment import Experiment
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.rounds.round_loop import run_rounds
from atoll.platform.runs.federation import Federation, prepare
from atoll.strategies import build_strategy

PROBES = 150
EXACT = {
    "client_update": "gradient",
    "server_optimizer": "adam",
    "server_learning_rate": 4.9e-4,
    "fraction_evaluate": 0.0,
}


def experiment(preset: str, hidden: int, workers: int) -> Experiment:
    """Return Colored MNIST's federation: two domains, a client each, full batches."""
    return Experiment.from_dict(
        {
            "data": {
                "dataset": "colored-mnist",
                "clients": 2,
                "held_out": ["e0.9"],
                "options": {"preset": preset},
                "partition": {"name": "domain"},
            },
            "model": {"name": "mlp-irm", "hidden": hidden},
            "client": {"batch_size": 25_000, "epochs": 1},
            "ray": {"workers": workers},
        }
    )


def strategies() -> dict[str, Strategy]:
    """Return what is timed; the first is what the others are compared with."""
    return {
        "FedAvg": FedAvg(fraction_evaluate=0.0),
        "gradient alone (ERM)": build_strategy("ERM", EXACT),
        "Hutchinson, exact diagonal": build_strategy("Hutchinson", EXACT),
        "Hutchinson, shared probe": build_strategy(
            "Hutchinson", {**EXACT, "estimator": "shared-probes"}
        ),
        "HGP, mean target": build_strategy("HGP", {**EXACT, "target": "mean"}),
        "HGP, attached target": build_strategy("HGP", {**EXACT, "target": "attached"}),
        "Fishr": build_strategy("Fishr", {**EXACT, "anneal_rounds": 0}),
    }


class CentralisedStep:
    """One step on all domains, in this process.

    Parameters
    ----------
    federation : Federation
        Each client's examples are a domain.
    penalty : "none", "released" or "closed form"
        Of Hutchinson's kind.
    """

    def __init__(self, federation: Federation, penalty: str) -> None:
        dataset, spec = federation.dataset, federation.spec
        self.domains = []
        for client in range(len(federation.partition)):
            chosen = federation.partition.indices(client)
            images = to_tensor(dataset.train.images[chosen], dataset.mean, dataset.std)
            self.domains.append((images, torch.from_numpy(dataset.train.labels[chosen])))
        model = build_model(spec.model, dataset.image_shape, len(dataset.classes), 0)
        self.model = SplitModel(model)
        self.penalty = {"released": self.released, "closed form": self.closed_form}.get(penalty)

    def __call__(self) -> None:
        """Compute the gradient of the loss with the penalty."""
        outputs = [self.model(x, y, torch.arange(len(y))) for x, y in self.domains]
        loss = torch.stack([out.losses.mean() for out in outputs]).mean()
        total = loss if self.penalty is None else loss + self.penalty(outputs)
        torch.autograd.grad(total, self.model.parameters)

    def released(self, outputs: list[HeadOutputs]) -> Tensor:
        """Return the penalty as released."""
        losses = [out.losses.mean() for out in outputs]
        found = [self.probed(loss) for loss in (*losses, torch.stack(losses).mean())]
        *own, mean = found
        return sum((part - mean).square().sum() for part in own)

    def probed(self, loss: Tensor) -> Tensor:
        """Return the head's gradient and its Hessian's diagonal from probes."""
        head = list(self.model.head.parameters())
        gradient = torch.autograd.grad(loss, head, create_graph=True)
        diagonal = [torch.zeros_like(parameter) for parameter in head]
        for _ in range(PROBES):
            probes = [torch.randint_like(p, 2) * 2 - 1 for p in head]
            products = torch.autograd.grad(gradient, head, probes, create_graph=True)
            diagonal = [
                d + z * h / PROBES for d, z, h in zip(diagonal, probes, products, strict=True)
            ]
        return torch.cat([part.reshape(-1) for part in (*gradient, *diagonal)])

    def closed_form(self, outputs: list[HeadOutputs]) -> Tensor:
        """Return the penalty with exact diagonals."""
        context = DomainContext("all")
        found = []
        for out in outputs:
            sizes = self.model.sizes(out)
            parts = [
                statistic.total(out, sizes, context, create_graph=True) / len(out)
                for statistic in (HeadGradient(), HessianDiagonal())
            ]
            found.append(torch.cat(parts))
        mean = torch.stack(found).mean(0)
        return sum((part - mean).square().sum() for part in found)


def main() -> None:
    """Time everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="paper", help="tiny, small or paper")
    parser.add_argument("--hidden", type=int, default=390)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = experiment(options.preset, options.hidden, options.workers)
    federation = prepare(settings)
    rounds: dict[str, list[float]] = {}
    steps: dict[str, list[float]] = {}
    centralised = {
        name: CentralisedStep(federation, name) for name in ("none", "released", "closed form")
    }
    with RayGrid(partial(make_client_app, federation.spec), 2, workers=options.workers) as grid:
        timed = {
            name: partial(run_rounds, strategy, grid, federation.initial_arrays, 1)
            for name, strategy in strategies().items()
        }
        # The first repeat pays for models, mapped data and counts of examples, and is left out.
        for repeat in range(options.repeats + 1):
            for kept, calls in ((rounds, timed), (steps, centralised)):
                for name, call in calls.items():
                    started = time.perf_counter()
                    call()
                    if repeat:
                        kept.setdefault(name, []).append(time.perf_counter() - started)
    print_table("round", rounds)
    print_table("centralised step, penalty", steps)
    print_ratios(rounds, steps)


def print_table(title: str, seconds: dict[str, list[float]]) -> None:
    """Print medians, and the ratios to the first row within a repeat."""
    first, base = next(iter(seconds.items()))
    print(f"\n| {title} | seconds | x {first} |\n|---|---|---|")
    for name, times in seconds.items():
        print(f"| {name} | {statistics.median(times):.3f} | {median_ratio(times, base):.2f} |")


def print_ratios(rounds: dict[str, list[float]], steps: dict[str, list[float]]) -> None:
    """Print how much faster ours is than the released form, as a whole and the penalty alone."""
    released, plain, closed = steps["released"], steps["none"], steps["closed form"]
    print()
    for name in ("Hutchinson, exact diagonal", "Hutchinson, shared probe"):
        print(f"a released step / a round of {name}: {median_ratio(released, rounds[name]):.1f}")
    own = statistics.median(a - b for a, b in zip(released, plain, strict=True))
    ours = statistics.median(a - b for a, b in zip(closed, plain, strict=True))
    print(f"the penalty alone, released / closed form: {own:.3f} s / {ours:.3f} s")


def median_ratio(times: list[float], others: list[float]) -> float:
    """Return the median of the ratios within a repeat."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


if __name__ == "__main__":
    main()
