"""The table of what each mod does to each kind of a method's messages, and the one in the docs."""

from __future__ import annotations

from atoll.platform.config.client_mods import named_mods
from atoll.platform.config.combinations import (
    TABLE,
    Kind,
    Status,
    Traffic,
    kind_of,
    traffic_of,
)
from atoll.strategies import build_strategy
from tests.strategies.alignment.test_defended import METHODS, MODS, client_settings
from tests.support.paths import ROOT


def test_the_table_has_every_entry_and_every_mod_a_place_in_it() -> None:
    assert set(TABLE) == set(Traffic)
    for row in TABLE.values():
        assert set(row) == set(Kind)
        assert all(verdict.reason for verdict in row.values())
    for mod in MODS:
        [(name, made)] = named_mods(client_settings(mod))
        assert kind_of(name, made) is not None, name
    traffics = {traffic_of(build_strategy(*METHODS[method])) for method in METHODS}
    assert traffics == set(Traffic)


def test_the_table_in_the_docs_is_the_one_that_is_used() -> None:
    text = (ROOT / "docs" / "guides" / "defenses.md").read_text()
    start = text.index("| clients send (methods) |")
    rows = [line.strip("|").split("|") for line in text[start:].split("\n\n")[0].splitlines()[2:]]
    by_column = (
        {Kind.OBSERVER},
        {Kind.NOISE_ON_STEP, Kind.NOISE_ON_UPDATE},
        {Kind.STEP, Kind.UPDATE},
        {Kind.DP_STEP},
        {Kind.DP_UPDATE},
        {Kind.FLOWER_DP},
        {Kind.OWN_LOSS},
    )
    for (_, *said), traffic in zip(rows, Traffic, strict=True):
        for words, kinds in zip(said, by_column, strict=True):
            status, _, where = words.strip().partition(", ")
            for kind in kinds:
                found = TABLE[traffic][kind].status
                on_steps = where == "on updates" and "step's" in kind.value
                assert found is (Status.REFUSED if on_steps else Status(status)), (traffic, kind)
