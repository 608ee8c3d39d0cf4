from pathlib import Path

import pytest

from atoll.errors import InvalidExperimentError
from atoll.platform.arenas import arena_checks
from atoll.platform.arenas.arena import run_arena
from atoll.platform.arenas.arena_checks import check_before_run
from atoll.platform.arenas.arena_plan import load_arena
from atoll.platform.config.experiment import load_experiment
from tests.support.paths import ROOT

ARENA = """
[run]
name = "small"
rounds = 2
[data]
dataset = "digits"
clients = 4
examples_per_client = 2
[model]
name = "lenet-sigmoid"
[client]
learning_rate = 0.1
batch_size = 8
[strategy]
fraction_evaluate = 0.0
[ray]
workers = 1
[capture]
nodes = "all"
rounds = [1, 2]
[arena]
seeds = [0]
victims = 1
gallery = 50
sums = ["secagg"]
[arena.attacks.ig]
name = "inverting-gradients"
steps = 20
[arena.attacks.random-image]
[arena.defenses.none]
[arena.defenses.top-k.client]
mods = [{ name = "top-k", pruned = 0.9 }]
[arena.defenses.secagg]
"""

LARGER_GENERATOR = """
from atoll.attacks.generators.conditional import ConditionalGenerator
def make(path):
    return ConditionalGenerator((1, 16, 16), 10, latent=4, width=8)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "arena.toml"
    path.write_text(ARENA)
    return path


def test_federations_are_settings_by_defenses_by_seeds(file: Path) -> None:
    arena = load_arena(file, ["arena.seeds=[0, 1]", "arena.grid.client.batch_size=[8, 16]"])
    described = [
        (t.method, t.seed, t.experiment.client.batch_size) for t in arena.federations.trials
    ]
    assert len(described) == len(set(described)) == 3 * 2 * 2
    assert arena.baseline == "ig"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "arena.attacks.ig.name=dgl",
            "'dgl': no such attack; did you mean",
        ),
        ("arena.attacks.ig.steps=0", "arena.attacks.ig.steps = 0: expected greater than 0"),
        ("arena.attacks.ig.stps=5", "arena.attacks.ig.stps = 5: no such key.*'steps'"),
        ("arena.attacks.ig.defense=adaptive", "is set by arena.knowledge"),
        ('arena.defenses.none.client.mods=["topk"]', r"client.mods = 'topk'.*'top-k'"),
        (
            'arena.defenses.none.client.mods=[{name="top-k", pruned=2.0}]',
            "client.mods has 'top-k' with pruned = 2.0: expected less than 1",
        ),
        (
            'arena.defenses.none.client.mods=["precode"]',
            r"client.mods has 'precode': the model has no variational bottleneck.*"
            r"\(arena.defenses.none\)",
        ),
        ('arena.sums=["nothing"]', "arena.sums has 'nothing': no such defense"),
        ("arena.baseline=dlg", "arena.baseline = 'dlg': no such attack; expected one of ig"),
        ("arena.victims=0", "arena.victims = 0: expected greater than 0"),
        ("capture.rounds=[3]", r"capture.rounds = \[3\]: there is no 3"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is(
    file: Path, override: str, message: str
) -> None:
    with pytest.raises(InvalidExperimentError, match=message):
        load_arena(file, [override])


def test_more_attacks_than_anybody_waits_for_are_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arena_checks, "MAX_JOBS", 23)
    with pytest.raises(
        InvalidExperimentError,
        match="^arena: 3 federations, 2 rounds, 1 victims and 4 attacks make 24 jobs; expected at",
    ):
        load_arena(file)


def test_an_arena_is_no_single_run(file: Path) -> None:
    with pytest.raises(
        InvalidExperimentError, match=r"has a section \[arena\]; expected 'atoll ar"
    ):
        load_experiment(file)


def test_a_file_without_captures_or_arena_says_so(tmp_path: Path) -> None:
    path = tmp_path / "arena.toml"
    path.write_text(ARENA.replace('[capture]\nnodes = "all"\nrounds = [1, 2]\n', ""))
    with pytest.raises(InvalidExperimentError, match=r"has no section \[capture\]"):
        load_arena(path)
    with pytest.raises(InvalidExperimentError, match=r"has no section \[arena\]"):
        load_arena(ROOT / "experiments" / "quickstart.toml")


def test_a_generator_that_is_not_there_is_refused_before_anything_runs(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path / "cache"))
    file.write_text(f"{ARENA}[arena.attacks.gifd]\ngenerator = 'mnist'\n")
    arena = load_arena(file)
    missing = (
        r"arena\.attacks\.gifd: there is no generator of mnist; .*'atoll train-generator mnist'"
    )
    with pytest.raises(InvalidExperimentError, match=missing):
        run_arena(arena, tmp_path / "arena")
    assert not (tmp_path / "arena").exists()


@pytest.mark.parametrize(
    ("attack", "problem"),
    [
        ("linear-layer", "the model's first layer is Conv2d"),
        ("r-gap", "solves for one image, the client trained on 2"),
        ("rog]\nfactor = 3", "factor = 3: images of 8x8 pixels cannot be reduced"),
        (
            "gifd]\ngenerator = 'larger_generator:make'",
            "makes images of 1x16x16, and the victims' are 1x8x8",
        ),
    ],
)
def test_an_attack_that_fits_no_federation_is_refused_before_anything_runs(
    attack: str, problem: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "larger_generator.py").write_text(LARGER_GENERATOR)
    monkeypatch.syspath_prepend(str(tmp_path))
    header, _, rest = attack.partition("]")
    file.write_text(f"{ARENA}[arena.attacks.{header}]{rest}\n")
    with pytest.raises(InvalidExperimentError, match=rf"arena\.attacks\.{header}: .*{problem}"):
        run_arena(load_arena(file), tmp_path / "arena")
    assert not (tmp_path / "arena").exists()


def test_an_attack_that_fits_some_of_the_federations_is_accepted(file: Path) -> None:
    file.write_text(f"{ARENA}[arena.attacks.linear-layer]\n")
    check_before_run(load_arena(file, ["arena.grid.model.name=['lenet-sigmoid', 'mlp']"]))


def test_the_candidate_set_has_its_name_and_the_one_before(file: Path) -> None:
    assert load_arena(file).settings.candidates == 50
    file.write_text(file.read_text().replace("gallery = 50", "candidates = 40"))
    assert load_arena(file).settings.candidates == 40
