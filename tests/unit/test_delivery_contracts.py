"""The private names of kombu and Celery that delivery stands on: an upgrade that moves one fails here."""

import inspect
from typing import Any

import pytest
from celery.app.amqp import AMQP
from celery.worker import state
from kombu import Connection
from kombu.transport import redis, virtual


@pytest.mark.parametrize(
    "name",
    [
        "_after_fork", "_basic_cancel", "_brpop_read", "_brpop_start", "_brpop_sent_at", "_delete",
        "_flush_brpop_reauth", "_get", "_get_pool", "_has_queue", "_in_poll", "_fanout_queues",
        "_new_queue", "_purge", "_put", "_put_fanout", "_queue_bind", "_refresh_binding", "_size",
        "keyprefix_binding_permanent", "keyprefix_queue",
    ],
)  # fmt: skip
def test_the_redis_channel_has(name: str) -> None:
    assert hasattr(redis.Channel, name)


@pytest.mark.parametrize("name", ["_get_message_priority", "_inplace_augment_message", "_next_delivery_tag"])
def test_the_virtual_channel_has(name: str) -> None:
    assert hasattr(virtual.Channel, name)


@pytest.mark.parametrize("name", ["_register_BRPOP", "_register_LISTEN", "_unregister_from_poll"])
def test_the_poller_has(name: str) -> None:
    assert hasattr(redis.MultiChannelPoller, name)
    poller: Any = redis.MultiChannelPoller()
    assert poller._fd_to_chan == {}
    assert poller._chan_to_sock == {}
    assert poller._channels == set()


def test_asking_happens_only_when_nothing_is_under_way() -> None:
    poller: Any = redis.MultiChannelPoller
    source = inspect.getsource(poller._register_BRPOP)
    assert "channel._brpop_start()" in source
    assert "_in_poll" in source


def test_the_stock_channel_takes_its_handlers_from_a_table() -> None:
    assert "self.handlers = {'BRPOP': self._brpop_read" in inspect.getsource(redis.Channel.__init__)


def test_closing_waits_only_for_what_is_in_poll() -> None:
    assert "if self._in_poll:" in inspect.getsource(redis.Channel.close)


def test_kombu_leaves_a_broken_connection_to_the_transport() -> None:
    assert "self._transport._collect" in inspect.getsource(Connection.collect)


def test_kombu_takes_the_transport_from_the_url_when_it_switches() -> None:
    assert "_initial_params" in inspect.getsource(Connection.switch)


def test_the_window_counts_what_is_delivered_and_not_dirty() -> None:
    window = inspect.getsource(virtual.QoS)
    assert "len(self._delivered) - len(self._dirty)" in window
    assert "_flush" in window


def test_celery_makes_messages_of_protocol_2() -> None:
    assert {"argsrepr", "kwargsrepr", "time_limit"} <= set(inspect.signature(AMQP.as_task_v2).parameters)
    assert callable(state.maybe_shutdown)
