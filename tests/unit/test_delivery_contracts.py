"""The private names of kombu and Celery that delivery stands on: an upgrade that moves one fails here."""

import inspect
from typing import Any

import pytest
from celery.app.amqp import AMQP
from celery.worker import state
from kombu import Connection
from kombu.transport import redis, virtual

from seawall.delivery import older


@pytest.mark.parametrize(
    "name",
    [
        "_after_fork", "_basic_cancel", "_brpop_read", "_brpop_start", "_delete", "_get", "_get_pool",
        "_has_queue", "_in_poll", "_fanout_queues", "_new_queue", "_purge", "_put", "_put_fanout",
        "_queue_bind", "_size", "keyprefix_queue",
    ],
)  # fmt: skip
def test_the_redis_channel_has(name: str) -> None:
    assert hasattr(redis.Channel, name)


@pytest.mark.parametrize(
    "name",
    [
        *("_brpop_sent_at", "_deliver_fanout_message", "_flush_brpop_reauth", "keyprefix_binding_permanent"),
        "prepare_queue_arguments",
    ],
)
def test_the_redis_channel_has_since_5_7_or_ours_has_it_for_older_ones(name: str) -> None:
    assert hasattr(older.Channel, name)
    assert hasattr(redis.Channel, name) or older.Channel is not redis.Channel


def test_the_redis_channel_keeps_how_long_queues_last_or_ours_does() -> None:
    assert "self._expires = {}" in inspect.getsource(older.Channel.__init__) or vars(older)["_Channel"] is (
        older.Channel
    )


def test_bindings_are_refreshed_by_a_script_of_the_channel_or_not_at_all() -> None:
    source = inspect.getsource(vars(redis.Channel)["_queue_bind"])
    assert ("_refresh_binding(" in source) == hasattr(redis.Channel, "_refresh_binding")


@pytest.mark.parametrize("name", ["_get_message_priority", "_inplace_augment_message", "_next_delivery_tag"])
def test_the_virtual_channel_has(name: str) -> None:
    assert hasattr(virtual.Channel, name)


@pytest.mark.parametrize("name", ["_register_BRPOP", "_register_LISTEN", "_unregister_from_poll"])
def test_the_poller_has(name: str) -> None:
    assert hasattr(older.Poller, name)
    poller: Any = older.Poller()
    assert poller._fd_to_chan == {}
    assert poller._chan_to_sock == {}
    assert poller._channels == set()


def test_drain_events_starts_a_poll_as_a_loop_does_in_kombu_or_in_ours() -> None:
    assert "self.on_poll_start()" in inspect.getsource(older.Poller.get)
    poller: Any = older.Poller()
    assert poller.after_read == set()
    assert callable(poller.handle_event)


def test_an_event_loop_goes_on_after_a_connection_is_lost_by_kombu_or_by_us() -> None:
    source = inspect.getsource(redis.Transport.register_with_event_loop)
    assert "cycle._on_connection_disconnect = _on_disconnect" in source
    assert ("loop.on_tick.remove" in source) == (older.Transport is not redis.Transport)


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


@pytest.mark.parametrize(
    ("transport", "shown"),
    [
        ("Transport", "redis://:**@cache:7/2"),
        ("SecureTransport", "rediss://:**@cache:7/2"),
        ("SentinelTransport", "sentinel://:**@cache:7/2"),
    ],
)
def test_a_connection_is_shown_by_its_address(transport: str, shown: str) -> None:
    connection = Connection("redis://:secret@cache:7/2", transport=f"seawall.delivery:{transport}")
    assert connection.transport is not None
    assert connection.as_uri() == shown
    assert connection.as_uri(include_password=True) == shown.replace("**", "secret")
