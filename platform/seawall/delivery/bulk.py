"""Submitting many tasks at once.

Celery spends some 600 us on publishing one task, most of it on work that is the same for every task of a
kind. Here the first task of a kind (its name and options) goes through Celery's own router and message
format; the others share what that made, encoded once, and differ in id, arguments and ETA. Messages travel
some hundred to a round trip, each batch confirmed by the server and atomic: all of it is in line, or none.
The server takes one batch while the next is written here.

Where something depends on the single task (publish signals are connected, routes are functions, an `expires`,
a link, a canvas that is no plain task) Celery publishes each, still into the same batches.
"""

import itertools
import os
import secrets
import time
import uuid
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

from celery import Celery, current_app, signals
from kombu.serialization import dumps

from seawall.backoff import equal_jitter
from seawall.delivery.channel import Channel
from seawall.delivery.envelope import SUBMITTED, Envelope, Stencil, to_json
from seawall.delivery.refusal import LONGEST_PAUSE, PERMANENT, submitting, time_is_over
from seawall.delivery.submission import check_arguments, check_options
from seawall.policy import DEFAULT
from seawall.redaction import ARGUMENTS, redact_arguments

_PER_ROUND_TRIP = 500
_FIRST_PAUSE = 0.05  # seconds between two attempts
_OWN = frozenset({"countdown", "eta", "task_id"})  # what a plain task's options may have of its own
_SINGLE = frozenset({"expires", "link", "link_error", "chain", "chord", "group_id", "stamped_headers"})
_VARYING = frozenset(
    {"id", "root_id", SUBMITTED, "eta", "argsrepr", "kwargsrepr", "correlation_id", "delivery_tag"}
)
_REPR_LENGTH = 1024
_IDS_AT_ONCE = 256


def submit_many(signatures: Iterable[Any], *, app: Celery | None = None) -> list[str]:
    """Submit plain signatures (`task.s(...)`) in batches; returns their task ids in order.

    Raises:
        ConfigError: no worker could ever run one of them (see `submission`).
        QueueFull, MessageTooLarge, AlreadySubmitted: as when submitting one. The batches before are in line.
        OperationalError: the broker refuses, or has not answered for ten seconds; so are they then.
    """
    app = app or current_app
    with app.producer_or_acquire() as producer:
        with submitting():
            channel = producer.channel
        if not isinstance(channel, Channel):
            return [signature.apply_async(producer=producer).id for signature in signatures]
        with _Batch(channel, retry=app.conf.task_publish_retry).collecting() as batch:
            return list(_submit(app, producer, signatures, batch))


class _Batch:
    """What is submitted to a channel, held back until it fills a round trip."""

    def __init__(self, channel: Channel, *, retry: bool = True) -> None:
        self._channel = channel
        self._retry = retry
        self._waiting: dict[str, list[Envelope]] = {}
        self._sender = ThreadPoolExecutor(1, "seawall-submit")  # its thread starts with the first full batch
        self._on_its_way: Future[None] | None = None

    def add(self, queue: str, envelope: Envelope) -> None:
        """Hold a message back; a full round trip goes at once."""
        waiting = self._waiting.setdefault(queue, [])
        waiting.append(envelope)
        if len(waiting) >= _PER_ROUND_TRIP:
            self._send_aside(queue)

    def stencil(
        self, headers: dict[str, Any], properties: dict[str, Any], content: dict[str, str]
    ) -> Stencil:
        """For messages as the channel would submit them."""
        return self._channel.stencil(headers, properties, content)

    def _send_aside(self, queue: str) -> None:
        """Send a batch from a thread, once the one before is confirmed: they stay in order."""
        self._confirm()
        self._on_its_way = self._sender.submit(self._send, queue, self._waiting.pop(queue))

    def _send(self, queue: str, batch: list[Envelope]) -> None:
        """Submit a batch, over a new connection if the answer is lost: the server knows a batch again."""
        pause = _FIRST_PAUSE
        with submitting():
            while True:
                try:
                    return self._channel.submit(queue, batch)
                except self._channel.connection_errors as exc:
                    if isinstance(exc, PERMANENT) or not self._retry or time_is_over():
                        raise
                time.sleep(equal_jitter(pause))
                pause = min(2 * pause, LONGEST_PAUSE)

    def _confirm(self) -> None:
        sent, self._on_its_way = self._on_its_way, None
        if sent is not None:
            sent.result()

    @contextmanager
    def collecting(self) -> Iterator["_Batch"]:
        """Take what is published on the channel within the block, and send the rest at its end."""
        self._channel.collect = self.add
        try:
            with self._sender:
                yield self
                self._confirm()
                for queue in list(self._waiting):
                    self._send(queue, self._waiting.pop(queue))
        finally:
            self._channel.collect = None


class _Kind(NamedTuple):
    """What all tasks of one name and options share."""

    queue: str
    stencil: Stencil
    embed: dict[str, Any]
    serializer: str
    function: Callable[..., Any] | None
    redact: frozenset[str]


def _submit(app: Celery, producer: Any, signatures: Iterable[Any], batch: _Batch) -> Iterator[str]:
    kinds: dict[Hashable, _Kind | None] = {}
    ids, tags = _random_ids(), _tags()
    one_by_one = bool(
        signals.before_task_publish.receivers
        or signals.after_task_publish.receivers
        or signals.task_sent.receivers
        or app.conf.task_send_sent_event
        or app.conf.task_routes
        or app.conf.task_always_eager
        or app.conf.task_inherit_parent_priority
    )
    for signature in signatures:
        kind = None if one_by_one else _kind_of(app, batch, signature, kinds)
        if kind is None:
            yield str(signature.apply_async(producer=producer).id)
        else:
            check_arguments(signature["task"], signature["args"], signature["kwargs"])
            own = {name: value for name, value in signature["options"].items() if name in _OWN}
            task_id = {**own, **check_options(signature["task"], own)}.get("task_id") or next(ids)
            batch.add(kind.queue, _envelope(kind, signature, task_id, next(tags)))
            yield task_id


def _kind_of(app: Celery, batch: _Batch, signature: Any, kinds: dict[Hashable, _Kind | None]) -> _Kind | None:
    """The kind of a signature, or None if Celery has to publish it."""
    name, options = signature["task"], signature["options"]
    if signature.get("subtask_type") or not _SINGLE.isdisjoint(options):
        return None
    shared = {option: value for option, value in options.items() if option not in _OWN}
    key = (name, tuple(sorted(shared.items())))
    try:
        if key not in kinds:
            kinds[key] = _make_kind(app, batch, name, shared)
        return kinds[key]
    except TypeError:  # an option that cannot be a key, such as a Queue
        return None


def _make_kind(app: Celery, batch: _Batch, name: str, options: dict[str, Any]) -> _Kind | None:
    if (note := getattr(app, "note_submission", None)) is not None:  # Celery's own app has none
        note(name)
    task = app._tasks.get(name)  # type: ignore[attr-defined]  # noqa: SLF001 - as send_task does
    given = {**{key: value for key, value in _exec_options(task).items() if value is not None}, **options}
    given |= check_options(name, given)
    if given.get("expires") is not None:
        return None
    if task is not None:
        given.setdefault("ignore_result", task.ignore_result)
    serializer = given.pop("serializer", None) or app.conf.task_serializer
    compression = given.pop("compression", None)
    routed = app.amqp.router.route(dict(given), name)
    queue = routed.get("queue")
    if compression or queue is None or queue.exchange.type != "direct":
        return None
    template = app.amqp.as_task_v2("", name, (), {}, argsrepr="", kwargsrepr="", **_message_options(given))
    properties = {
        **template.properties,
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": queue.name},
        "priority": given.get("priority") or 0,
        "body_encoding": "utf-8",
    }
    headers = {**template.headers, **(given.get("headers") or {})}
    content_type, content_encoding, _ = dumps(template.body, serializer=serializer)
    return _Kind(
        queue.name,
        batch.stencil(
            {header: value for header, value in headers.items() if header not in _VARYING},
            {name: value for name, value in properties.items() if name not in _VARYING},
            {"content-type": content_type, "content-encoding": content_encoding},
        ),
        template.body[2],
        serializer,
        getattr(task, "run", None),
        getattr(task, "policy", DEFAULT).redact,
    )


def _exec_options(task: Any) -> dict[str, Any]:
    return dict(task._get_exec_options()) if task is not None else {}  # noqa: SLF001 - as send_task does


def _message_options(options: dict[str, Any]) -> dict[str, Any]:
    names = ("time_limit", "soft_time_limit", "ignore_result", "shadow", "reply_to")
    return {name: options[name] for name in names if options.get(name) is not None}


def _envelope(kind: _Kind, signature: Any, task_id: str, tag: str) -> Envelope:
    args, kwargs, options = signature["args"], signature["kwargs"], signature["options"]
    shown = redact_arguments(args, kwargs, function=kind.function, names=kind.redact, bound=ARGUMENTS)
    headers = {
        "id": task_id,
        "root_id": task_id,
        SUBMITTED: time.time(),
        "eta": options.get("eta") or _after(options.get("countdown")),
        "argsrepr": repr(shown[0])[:_REPR_LENGTH],
        "kwargsrepr": repr(shown[1])[:_REPR_LENGTH],
    }
    content = (args, kwargs, kind.embed)
    body = to_json(content) if kind.serializer == "json" else dumps(content, serializer=kind.serializer)[2]
    return kind.stencil.fill(body, headers, {"correlation_id": task_id, "delivery_tag": tag})


def _random_ids() -> Iterator[str]:
    """UUIDs of version 4. Randomness is a system call, so it is asked for by the hundred."""
    while True:
        noise = os.urandom(16 * _IDS_AT_ONCE)
        for start in range(0, len(noise), 16):
            yield str(uuid.UUID(bytes=noise[start : start + 16], version=4))


def _tags() -> Iterator[str]:
    """Names of messages that nobody else gives."""
    own = secrets.token_hex(10)
    return (f"{own}{number:x}" for number in itertools.count())


def _after(countdown: float | None) -> float | None:
    return time.time() + countdown if countdown else None
