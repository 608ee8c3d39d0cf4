import pytest
from flwr.clientapp import mod

from atoll.clients.mods import find_mods
from atoll.clients.settings import ModSettings
from atoll.errors import InvalidExperimentError


def test_mods_are_found_by_name_and_by_reference() -> None:
    found = find_mods(["message_size_mod", "flwr.clientapp.mod:fixedclipping_mod"])
    assert found == [mod.message_size_mod, mod.fixedclipping_mod]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fixedcliping_mod", r"client.mods = 'fixedcliping_mod': no such mod.*'fixedclipping_mod'"),
        ("flwr.clientapp.mod:nothing", "no attribute 'nothing'"),
        ("sys:path", "client.mods has 'sys:path': a list, expected a callable"),
    ],
)
def test_wrong_mods_are_clear_errors(name: str, message: str) -> None:
    with pytest.raises(InvalidExperimentError, match=message):
        find_mods([name])


def test_a_class_takes_the_other_keys_of_its_entry() -> None:
    [found] = find_mods(
        [
            ModSettings(
                name="LocalDpMod", clipping_norm=2.0, sensitivity=1.0, epsilon=3.0, delta=1e-4
            )
        ]
    )
    assert isinstance(found, mod.LocalDpMod)
    assert (found.clipping_norm, found.epsilon) == (2.0, 3.0)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (ModSettings(name="message_size_mod", norm=1), "with norm = 1: it is a function"),
        (ModSettings(name="LocalDpMod", deltas=1), "deltas = 1: no such argument.*'delta'"),
        (ModSettings(name="LocalDpMod"), "clipping_norm is not set"),
        (
            ModSettings(
                name="LocalDpMod", clipping_norm=-1, sensitivity=1.0, epsilon=3.0, delta=1e-4
            ),
            "clipping_norm = -1: expected greater than or equal",
        ),
    ],
)
def test_wrong_arguments_are_clear_errors(entry: ModSettings, message: str) -> None:
    with pytest.raises(InvalidExperimentError, match=f"client.mods has {entry.name!r}.*{message}"):
        find_mods([entry])
