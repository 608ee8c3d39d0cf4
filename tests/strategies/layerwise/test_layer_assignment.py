from hypothesis import given
from hypothesis import strategies as st

from atoll.strategies.layerwise.layer_assignment import deal_layers


@given(
    st.integers(1, 12),
    st.lists(st.lists(st.integers(0, 14), min_size=1, max_size=9), min_size=1, max_size=4),
)
def test_layers_are_served_alike_over_clients_and_rounds(layers, rounds):
    dealt = [0] * layers
    for capacities in rounds:
        before = list(dealt)
        assigned = deal_layers(dict(enumerate(capacities)), dealt)
        for client, capacity in enumerate(capacities):
            chosen = assigned.get(client, [])
            assert len(chosen) == len(set(chosen)) == min(capacity, layers)
            assert chosen == sorted(chosen)
        assert max(dealt) - min(dealt) <= 1
        served = [after - earlier for after, earlier in zip(dealt, before, strict=True)]
        assert sum(served) == sum(min(capacity, layers) for capacity in capacities)


def test_early_layers_come_first_where_not_all_can_be_served():
    assert deal_layers({7: 3, 9: 2}, [0] * 10) == {7: [0, 1, 2], 9: [3, 4]}
