import pytest
from flwr.clientapp import mod

from atoll.clients.mods import find_mods
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
