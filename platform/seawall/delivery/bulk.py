"""Submitting many tasks at once.

Celery spends some 600 us on publishing one task, most of it on work that is the same for every task of a
kind. Here Celery publishes the first task of a kind (its name and options), and the others are made after
that message: they share all of it, encoded once, but id, arguments and ETA. Messages travel some hundred to a
round trip, each batch confirmed by the server and atomic: all of it is in line, or none. The server takes one
batch while the next is written here.

Where something depends on the single task, Celery publishes each, still into the same batches: an `expires`,
a link, a canvas that is no plain task, routes that are functions, and whatever an application or a tool puts
in between (`_nobody_between`): receivers of signals, methods of the application, its tasks or its producers.
"""

import itertools
import json
import os
import secrets
import time
import uuid
from collections.abc import Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import celery
import kombu
from celery import Celery, current_app, signals
from celery.app.routes import MapRoute, Router
from celery.utils.saferepr import saferepr

from seawall.backoff import equal_jitter
from seawall.delivery.channel import Channel
from seawall.delivery.envelope import SHOWN_ARGUMENTS, SUBMISSION, SUBMITTED, Envelope, Stencil, to_json
from seawall.delivery.refusal import LONGEST_PAUSE, PERMANENT, submitting, time_is_over
from seawall.delivery.submission import check_arguments, check_options
from seawall.policies import secrecy_of
from seawall.redaction import ARGUMENTS, redact_arguments

_PER_ROUND_TRIP = 500
_FIRST_PAUSE = 0.05  # seconds between two attempts
_OWN = frozenset({"countdown", "eta", "task_id"})  # what a plain task's options may have of its own
_SINGLE = frozenset({"expires", "link", "link_error", "chain", "chord", "group_id", "stamped_headers"})
_VARYING = frozenset(
    {"id", "root_id", SUBMITTED, "eta", "correlation_id", "delivery_tag", SUBMISSION, *SHOWN_ARGUMENTS}
)
_KNOWN = tuple(
    str(folder) + os.sep
    for folder in (*(Path(str(each.__file__)).parent for each in (celery, kombu)), Path(__file__).parents[1])
)
"""Where the code of Celery, kombu and Seawall lies."""
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
        self.taken: list[tuple[str, dict[str, Any]]] = []
        """Messages that Celery has published since somebody cleared this."""

    def take(self, queue: str, message: dict[str, Any]) -> None:
        """One that Celery publishes."""
        self.taken.append((queue, message))
        self.add(queue, self._channel.envelope(message))

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
        self._channel.collect = self.take
        try:
            with self._sender:
                yield self
                self._confirm()
                for queue in list(self._waiting):
                    self._send(queue, self._waiting.pop(queue))
        finally:
            self._channel.collect = None


class _Kind(NamedTuple):
    """What all tasks of one name and options share, taken from the message of the first."""

    queue: str
    stencil: Stencil
    embed: dict[str, Any]
    task: Any
    of_a_parent: bool  # the task that submits them is the root of all, or has one

    def envelope(self, signature: Any, task_id: str, tag: str) -> Envelope:
        """The message of another one.

        Raises:
            TypeError: the task's function takes no such arguments.
        """
        args, kwargs, options = signature["args"], signature["kwargs"], signature["options"]
        if getattr(self.task, "typing", False):
            self.task.__header__(*args, **kwargs)
        headers = {
            "id": task_id,
            SUBMITTED: time.time(),
            "eta": options.get("eta") or _after(options.get("countdown")),
            **_shown(self.task, args, kwargs),
        }
        if not self.of_a_parent:
            headers["root_id"] = task_id
        body = to_json((args, kwargs, self.embed))
        return self.stencil.fill(body, headers, {"correlation_id": task_id, "delivery_tag": tag})


def _submit(app: Celery, producer: Any, signatures: Iterable[Any], batch: _Batch) -> Iterator[str]:
    kinds: dict[Hashable, _Kind | None] = {}
    ids, tags = _random_ids(), _tags()
    alike = _are_alike(app, producer)
    parent = app.current_worker_task
    for signature in signatures:
        key = _key_of(signature) if alike else None
        kind = kinds.get(key)
        if kind is None:
            batch.taken.clear()
            yield str(signature.apply_async(producer=producer).id)
            if key is not None and key not in kinds:
                kinds[key] = _kind_of(app, batch, signature)
        else:
            name = signature["task"]
            check_arguments(name, signature["args"], signature["kwargs"])
            own = {name: value for name, value in signature["options"].items() if name in _OWN}
            task_id = {**own, **check_options(name, own)}.get("task_id") or next(ids)
            batch.add(kind.queue, kind.envelope(signature, task_id, next(tags)))
            if parent:
                parent.add_trail(app.AsyncResult(task_id))
            yield task_id


def _are_alike(app: Celery, producer: Any) -> bool:
    """Whether nothing that this application has depends on the single task."""
    amqp: Any = app.amqp
    routes = getattr(amqp.router, "routes", ())
    return not (
        signals.before_task_publish.receivers
        or signals.after_task_publish.receivers
        or signals.task_sent.receivers
        or app.conf.task_send_sent_event
        or app.conf.task_always_eager
        or type(amqp.router) is not Router
        or any(type(route) is not MapRoute for route in routes)
    ) and _nobody_between(
        (app, "send_task"), (amqp, "as_task_v2"), (producer, "publish"), (producer.channel, "basic_publish")
    )


def _nobody_between(*methods: tuple[Any, str]) -> bool:
    """Whether these are Celery's, kombu's or ours, in every class of their objects.

    A wrapper may carry the name and module of what it wraps, but not its code.
    """
    for owner, name in methods:
        found = [vars(each).get(name) for each in (owner, *type(owner).__mro__) if hasattr(each, "__dict__")]
        if not all(each is None or _is_known(each) for each in found):
            return False
    return True


def _is_known(function: Any) -> bool:
    return type(function) is FunctionType and function.__code__.co_filename.startswith(_KNOWN)


def _key_of(signature: Any) -> Hashable | None:
    """What the tasks of one kind have in common, or None if Celery has to publish each of them."""
    options = signature["options"]
    if signature.get("subtask_type") or not _SINGLE.isdisjoint(options):
        return None
    if not _nobody_between((signature, "apply_async")):
        return None
    key = (signature["task"], tuple(sorted((name, options[name]) for name in options.keys() - _OWN)))
    try:
        hash(key)
    except TypeError:  # an option that cannot be a key, such as a Queue
        return None
    return key


def _kind_of(app: Celery, batch: _Batch, signature: Any) -> _Kind | None:
    """The kind of a signature that Celery has published just now, or None if its message can be no model."""
    task = app._tasks.get(signature["task"])  # type: ignore[attr-defined]  # noqa: SLF001 - as send_task does
    if task is not None and not _nobody_between(*((task, name) for name in ("apply_async", "shadow_name"))):
        return None
    if len(batch.taken) != 1:
        return None
    queue, message = batch.taken[0]
    headers, properties = message["headers"], message["properties"]
    plain = message.get("content-type") == "application/json" and properties["body_encoding"] == "utf-8"
    if not plain or "compression" in headers or headers.get("expires") or "lang" not in headers:
        return None
    _, _, embed = json.loads(message["body"])
    if any(embed.values()):
        return None
    of_a_parent = headers.get("root_id") != headers["id"]
    varying = _VARYING - {"root_id"} if of_a_parent else _VARYING
    stencil = batch.stencil(
        {name: value for name, value in headers.items() if name not in varying},
        {name: value for name, value in properties.items() if name not in _VARYING},
        {name: message[name] for name in ("content-type", "content-encoding")},
    )
    return _Kind(queue, stencil, embed, task, of_a_parent)


def _shown(task: Any, args: Any, kwargs: Any) -> dict[str, str]:
    shown = redact_arguments(args, kwargs, bound=ARGUMENTS, **secrecy_of(task))
    return {"argsrepr": saferepr(shown[0], _REPR_LENGTH), "kwargsrepr": saferepr(shown[1], _REPR_LENGTH)}


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
