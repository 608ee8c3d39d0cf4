"""What was sent and what came back: ids, replies once each, times to live, the nodes' order."""

from __future__ import annotations

import logging
import time

import pytest
from flwr.app import Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from atoll import flower
from atoll.platform.grid.exchange.draws import Draws
from atoll.platform.grid.mailbox import Mailbox
from atoll.platform.grid.node_ids import NodeIds
from atoll.platform.grid.node_queues import NodeQueues


@pytest.fixture(autouse=True)
def _identity() -> None:
    flower.assume_identity()


def message(node: int, ttl: float | None = None) -> Message:
    return Message(RecordDict(), node, "query", ttl=ttl)


def reply_to(request: Message) -> Message:
    return flower.reply(request, RecordDict(), "reply")


def test_each_reply_is_fetched_once_and_then_unavailable() -> None:
    mailbox = Mailbox(3)
    first, second = message(1), message(2)
    posted = mailbox.post([first, second])
    assert mailbox.pull(posted.ids) == []
    pending = mailbox.watch(posted.ids)
    mailbox.deliver(reply_to(second))
    assert pending == {posted.ids[0]}
    [reply] = mailbox.pull(posted.ids)
    assert reply.metadata.src_node_id == 2
    assert reply.metadata.delivered_at
    [again] = mailbox.pull([posted.ids[1]])
    assert again.error.code == flower.MESSAGE_UNAVAILABLE
    assert again.metadata.reply_to_message_id == posted.ids[1]


def test_an_object_that_is_sent_twice_is_delivered_once_under_its_last_id() -> None:
    mailbox, twice = Mailbox(3), message(1)
    posted = mailbox.post([twice, twice])
    assert len(posted.ids) == 2
    assert posted.messages == [twice]
    assert twice.metadata.message_id == posted.ids[1]


def test_a_message_that_was_delivered_is_not_sent_again_and_those_before_it_are() -> None:
    mailbox, sent, new = Mailbox(3), message(1), message(2)
    flower.set_delivered([sent], "2026-11-29T00:00:00+00:00")
    posted = mailbox.post([new, sent, message(3)])
    assert posted.messages == [new]
    assert isinstance(posted.error, ValueError)


def test_a_message_and_its_reply_expire(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("atoll").propagate = True
    mailbox, brief = Mailbox(3), message(1, ttl=0.05)
    posted = mailbox.post([brief])
    assert mailbox.first_expiry(posted.ids) == flower.expiry(brief)
    reply = reply_to(brief)
    mailbox.deliver(reply)
    time.sleep(0.06)
    [answer] = mailbox.pull(posted.ids)
    assert answer.error.code == flower.MESSAGE_UNAVAILABLE
    late = mailbox.post([brief])
    assert late.ids == []
    assert "its time to live has passed" in caplog.text


@given(st.lists(st.lists(st.integers(1, 3), max_size=6), max_size=6), st.data())
def test_a_node_has_one_message_at_a_time_in_the_order_in_which_they_were_sent(
    pushes: list[list[int]], data: st.DataObject
) -> None:
    queues, sent = NodeQueues(), {node: [] for node in (1, 2, 3)}
    under_way: list[Message] = []
    delivered: dict[int, list[Message]] = {node: [] for node in (1, 2, 3)}

    def deliver(messages: list[Message]) -> None:
        for one in messages:
            under_way.append(one)
            delivered[one.metadata.dst_node_id].append(one)

    def end_one() -> None:
        ended = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
        following = queues.ended(ended.metadata.dst_node_id)
        deliver([] if following is None else [following])

    for nodes in pushes:
        messages = [message(node) for node in nodes]
        for one in messages:
            sent[one.metadata.dst_node_id].append(one)
        deliver(queues.admit(messages, one_each=True))
        busy = [one.metadata.dst_node_id for one in under_way]
        assert len(busy) == len(set(busy))
        if under_way and data.draw(st.booleans()):
            end_one()
    while under_way:
        end_one()
    assert delivered == sent


def test_messages_of_one_node_draw_apart() -> None:
    draws = Draws(remembers=True)
    first = draws.number([(1, "train", 3), (1, "train", 3), (2, "train", 3), (1, "query", 3)])
    assert first == ((3,), (3, 1), (3,), (3,))
    assert draws.number([(1, "train", 3), (1, "train", 4)]) == ((3, 2), (4,))
    assert draws.number([(5, "train", None), (5, "train", None)]) == ((1,), (2,))
    forgetful = Draws(remembers=False)
    assert [forgetful.number([(1, "train", 3)]) for _ in range(2)] == [((3,),), ((3,),)]


def test_node_ids_are_a_set_that_can_be_indexed() -> None:
    ids = NodeIds(4)
    assert ids - {2} == {1, 3, 4}
    assert ids | {9} == {1, 2, 3, 4, 9}
    assert list(reversed(ids)) == [4, 3, 2, 1]
    assert ids[0] == 1
    assert 5 not in ids
    assert ids == {1, 2, 3, 4}
