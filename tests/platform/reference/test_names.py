"""Names of every kind: each with one line, and each of its keys with a meaning."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from atoll.clients.models import MODELS
from atoll.errors import UnknownNameError
from atoll.platform.reference import names
from atoll.platform.reference.described_names import described_names
from atoll.platform.reference.docstrings import descriptions_of
from atoll.platform.reference.kinds import KINDS, kinds
from atoll.platform.reference.names import describe_name, names_of, names_with

ALL = [(kind, name) for kind, _ in kinds() for name, _ in names_of(kind)]


@pytest.mark.parametrize(("kind", "name"), ALL, ids=[f"{kind}-{name}" for kind, name in ALL])
def test_a_name_and_its_keys_are_described(kind: str, name: str) -> None:
    named = describe_name(kind, name)
    assert len(named.about) > 5
    undescribed = [key.name for key in named.keys if not key.about]
    assert not undescribed, f"{kind} {name} has keys without a meaning"
    assert all(key.type for key in named.keys)


def test_the_file_of_names_is_what_the_code_says() -> None:
    found = {
        kind: {name: describe_name(kind, name) for name, _ in names_of(kind)} for kind in KINDS
    }
    assert found == described_names(), "run: python -m atoll.platform.reference"


@pytest.mark.slow
def test_with_another_version_of_flower_names_are_described_from_the_code(
    tmp_path: Path,
) -> None:
    recorded = json.loads(names.FILE.read_text())
    del recorded["names"]["strategies"]["FedAvg"]
    (tmp_path / "names.json").write_text(json.dumps(recorded))
    code = "from pathlib import Path; from atoll.platform.reference import names;"
    code += f"names.FILE = Path({str(tmp_path / 'names.json')!r}); {{}}"
    code += "import sys; found = dict(names.names_of('strategies'));"
    code += "print('FedAvg' in found, 'torch' in sys.modules)"
    same = subprocess.run(
        [sys.executable, "-c", code.format("")], capture_output=True, text=True, check=True
    )
    assert same.stdout.split() == ["False", "False"]
    other = code.format("names.versions = lambda: {'flwr': '9.9.9', 'flwr-datasets': '9.9.9'};")
    anew = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=True)
    assert anew.stdout.split() == ["True", "True"]


def test_a_models_keys_are_its_own_arguments() -> None:
    accepted = set(inspect.signature(MODELS["resnet8"]).parameters) - {"image_shape", "classes"}
    keys = {key.name: key for key in describe_name("models", "resnet8").keys}
    assert set(keys) == accepted
    assert keys["norm"].default == '"group"'
    assert keys["norm"].type == '"group", "batch" or "frozen"'


def test_a_range_comes_from_where_it_is_checked() -> None:
    adam = {key.name: key for key in describe_name("strategies", "FedAdam").keys}
    assert adam["fraction_train"].range == "0 to 1"
    assert "train_metrics_aggr_fn" not in adam
    dirichlet = {key.name: key for key in describe_name("partitioners", "dirichlet").keys}
    assert dirichlet["alpha"].default == "required"
    assert dirichlet["seed"].default == "from run.seed"
    hessians = {key.name: key for key in describe_name("strategies", "HGP").keys}
    assert hessians["penalty_weight"].range == "0 to 1e12"


def test_names_that_take_a_key() -> None:
    assert "FedAdam" in names_with("strategies", "eta")
    assert "FedAvg" not in names_with("strategies", "eta")


@pytest.mark.parametrize(
    ("kind", "name", "answer"),
    [
        ("modles", "resnet8", "did you mean 'models'?"),
        ("models", "resnt8", "did you mean 'resnet8'?"),
        ("strategies", "fedavgg", "did you mean 'FedAvg'?"),
    ],
)
def test_a_typo_is_answered_with_the_nearest(kind: str, name: str, answer: str) -> None:
    with pytest.raises(UnknownNameError) as error:
        describe_name(kind, name)
    assert answer in str(error.value)


class Base:
    """A base.

    Parameters
    ----------
    first, second : int
        Two numbers,
        on two lines.
    third
        Without a type.

    Attributes
    ----------
    fourth : :class:`~pathlib.Path`
        A ``path``.

    Examples
    --------
    fifth : int
        No argument.
    """


class Derived(Base):
    """A derived class.

    Parameters
    ----------
    first : int
        As of the base.
    third : str
        Its own.
    """


def test_docstrings_are_read_as_numpydoc_writes_them() -> None:
    assert descriptions_of(Base) == {
        "first": "Two numbers, on two lines.",
        "second": "Two numbers, on two lines.",
        "third": "Without a type.",
        "fourth": "A path.",
    }
    assert descriptions_of(Derived)["third"] == "Its own."
    # "As of the base." says less than the base does.
    assert descriptions_of(Derived)["first"] == "Two numbers, on two lines."
