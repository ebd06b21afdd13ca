"""Rounds of messages through one real worker on RabbitMQ, with an account once it has stopped.

A message is what the corpus has, in AMQP's own words: its properties, its table of headers with the types
that only such a table has, its bytes. Each has a mark of its own in `message_id`, which no mutation touches.
What a worker rejects goes to a queue of dead letters; what it still held when it stopped is back in line; of
the rest there is an outcome on record under the task's id.
"""

import base64
import binascii
import contextlib
import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import amqp
from amqp.serialization import dumps
from kombu import Connection
from kombu.compression import decompress
from kombu.utils.encoding import ensure_bytes

from support.fuzz import account, mutations
from support.fuzz.app import NEIGHBOURS
from support.fuzz.fuzzer import FORKED_AT_START, LOOK_EVERY, STUCK_FOR, Fuzzer, Plan, Totals
from support.waiting import wait_until

DEAD = "dead-letters"
_QUIET_FOR = 4.0
"""Seconds without a movement after which a worker has done what it will do."""

_UNKNOWN_FOR = "2"
_TYPED: tuple[Any, ...] = (
    *(b"\xff\0", Decimal("1.5"), Decimal(-1), datetime(2026, 1, 1, tzinfo=UTC), 1.5, -1, 2**40),
    *({"nested": [1, {"deep": b"x"}]}, [b"\xff", None], True, None, "", "\0", "ä" * 60),
)
_A_TYPE = 0.15


@dataclass
class Sent:
    """What the server has taken: its task's id, if one can be read, and its text."""

    name: str | None
    waits: bool
    text: bytes


class RabbitFuzzer(Fuzzer):
    """One worker on RabbitMQ, with its results in Redis."""

    def __init__(self, rabbitmq_url: str, redis_url: str, folder: Path, plan: Plan) -> None:
        super().__init__(redis_url, folder, plan)
        self.broker_url = rabbitmq_url
        self.env = {
            "SEAWALL_BROKER_URL": rabbitmq_url,
            "SEAWALL_WORKER__UNKNOWN_FOR": _UNKNOWN_FOR,
            "FUZZ_DEAD_LETTERS": DEAD,
        }
        self._marked: dict[str, Sent] = {}

    @contextlib.contextmanager
    def running(self) -> Iterator["RabbitFuzzer"]:
        """With a worker, and a channel of ours beside it."""
        with Connection(self.broker_url, transport_options={"confirm_publish": True}) as connection:
            self._connection = connection
            self._channel.queue_declare(DEAD, durable=True, auto_delete=False)
            with super().running():
                yield self

    @property
    def _channel(self) -> Any:
        """A channel that works: the server closes one over what it does not accept."""
        channel: Any = self._connection.default_channel
        return channel

    def _consumes(self) -> bool:
        try:
            return bool(self._look("celery").consumer_count)
        except amqp.NotFound:
            return False

    def _look(self, queue: str) -> Any:
        return self._channel.queue_declare(queue, passive=True)

    def _broadcast(self, place: str, text: bytes) -> None:
        exchange = "celery.pidbox" if "pidbox" in place else "celeryev"
        self._publish(_message(text, None, Random(0)), exchange, "")  # noqa: S311 - nothing is drawn

    def _put(self, text: bytes, dice: Random) -> None:
        message = _message(text, uuid.UUID(int=dice.getrandbits(128)).hex, dice)
        if self._publish(message, "", "celery"):
            self._marked[message.properties["message_id"]] = Sent(_id_of(message), _waits(message), text)

    def _publish(self, message: amqp.Message, exchange: str, key: str) -> bool:
        """Whether the server took it, which ends the connection over what it cannot read."""
        try:
            self._channel.basic_publish(message, exchange, key)
        except (amqp.AMQPError, OSError):
            self._connection.close()
            return False
        return True

    def _settle(self, _sent: account.Round) -> None:
        """Wait until nothing moves any more; then the worker stops, and gives back what it holds."""
        last: Any = None
        moved = time.monotonic()

        def quiet() -> bool:
            nonlocal last, moved
            time.sleep(LOOK_EVERY)  # a look costs the server what the worker wants of it
            runs = self._runs()
            now = (self._look("celery").message_count, self._look(DEAD).message_count, self._told())
            if not runs or now != last:
                last, moved = now, time.monotonic()
            return time.monotonic() - moved > (_QUIET_FOR if now[0] == 0 else STUCK_FOR)

        wait_until(quiet, timeout=600, what="the messages to settle")
        self.worker.kill("SIGTERM")
        self.worker.wait(60)

    def _told(self) -> int:
        return self._outcomes.stat().st_size

    def _draw(self, sent: account.Round, number: int) -> None:
        totals = self.totals
        dead, left = self._drained(DEAD), self._drained("celery")
        states, forked = account.outcomes(self._outcomes)
        self._count(sent, states)
        died = forked - FORKED_AT_START[self._plan.pool]
        totals.deaths += died
        totals.became.update(dead=len(dead), waiting=len(left))
        found = [*self._lost(sent, dead, left, states), *self._stuck(left)]
        found += account.of_neighbours(sent.neighbours, self._ran(), again=died > 0)
        totals.problems += [f"round {number}: {problem}" for problem in found]
        self._marked.clear()
        self._outcomes.write_text("")
        self.client.delete(NEIGHBOURS)
        self.worker.start_again()
        wait_until(self._runs, timeout=60, what="the worker")

    def _lost(
        self, sent: account.Round, dead: list[Any], left: list[Any], states: dict[str, Counter[str]]
    ) -> Iterator[str]:
        marks = {each.properties.get("message_id") for each in (*dead, *left)}
        names = {_id_of(each) for each in (*dead, *left)}

        def ended(name: str | None) -> bool:
            return name is not None and (name in names or any(states[name][state] for state in account.ENDS))

        for mark, message in self._marked.items():
            if mark not in marks and not ended(message.name):
                runs = account.runs(states, message.name)
                yield f"gone without an outcome, runs ended as {runs}: {account.shown(message.text)}"
        yield from (
            f"accepted and gone without an outcome, runs ended as {account.runs(states, name)}: {name!r}"
            for name in sent.calls
            if not ended(name)
        )

    def _stuck(self, left: list[Any]) -> Iterator[str]:
        """What came back from the worker and did not wait for a moment of its own."""
        for each in left:
            message = self._marked.get(each.properties.get("message_id"))
            if message is not None and not message.waits:
                yield f"was held: {account.shown(message.text)}"

    def _drained(self, queue: str) -> list[Any]:
        found = []
        while (message := self._channel.basic_get(queue, no_ack=True)) is not None:
            found.append(message)
        return found


def _fits(name: Any, value: Any) -> bool:
    try:
        dumps("F", ({name: value},))
    except Exception:  # noqa: BLE001 - whatever it is that it cannot write
        return False
    return True


def _message(text: bytes, mark: str | None, dice: Random) -> amqp.Message:
    """A text of the corpus's kind in AMQP's own words; what is no JSON is a body without headers."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        return amqp.Message(text, message_id=mark, content_type="application/json", content_encoding="utf-8")
    properties = told["properties"] if isinstance(told.get("properties"), dict) else {}
    headers = told.get("headers")
    headers = {str(name)[:120]: value for name, value in headers.items()} if isinstance(headers, dict) else {}
    headers = {name: value for name, value in headers.items() if _fits(name, value)}
    if mark is not None and headers and dice.random() < _A_TYPE:
        headers[dice.choice([*headers, *mutations.HEADERS])] = dice.choice(_TYPED)
    fields = {
        "content_type": _text(told.get("content-type")),
        "content_encoding": _text(told.get("content-encoding")),
        "reply_to": _text(properties.get("reply_to")),
        "correlation_id": _text(properties.get("correlation_id")),
        "priority": _number(properties.get("priority"), 255),
        "delivery_mode": _number(properties.get("delivery_mode"), 2),
    }
    return amqp.Message(
        _body(told.get("body"), properties),
        application_headers=headers,
        message_id=mark,
        **{name: value for name, value in fields.items() if value is not None},
    )


def _text(value: Any) -> str | None:
    """A short text of AMQP has at most 255 bytes."""
    if not isinstance(value, str):
        return None
    return value.encode("utf-8", "replace")[:250].decode("utf-8", "ignore")


def _number(value: Any, most: int) -> int | None:
    return value if isinstance(value, int) and 0 <= value <= most else None


def _body(body: Any, properties: dict[str, Any]) -> bytes:
    if not isinstance(body, str):
        return json.dumps(body).encode()
    if properties.get("body_encoding") == "base64":
        with contextlib.suppress(binascii.Error, ValueError):
            return base64.b64decode(body)
    return body.encode("utf-8", "surrogatepass")


def _field(message: amqp.Message, name: str) -> Any:
    """What a worker finds under that name, in the headers or, by the first protocol, in the body."""
    headers = message.properties.get("application_headers") or {}
    if name in headers:
        return headers[name]
    with contextlib.suppress(Exception):
        packed = headers.get("compression")
        return json.loads(decompress(ensure_bytes(message.body), packed) if packed else message.body)[name]
    return None


def _id_of(message: amqp.Message) -> str | None:
    found = _field(message, "id")
    return found if isinstance(found, str) else None


def _waits(message: amqp.Message) -> bool:
    return bool(_field(message, "eta"))


def fuzz(
    rabbitmq_url: str,
    redis_url: str,
    folder: Path,
    plan: Plan,
    tell: Callable[[str], object] = lambda _line: None,
) -> Totals:
    """Send so many messages to a worker of that pool on RabbitMQ; the account."""
    with RabbitFuzzer(rabbitmq_url, redis_url, folder, plan).running() as fuzzer:
        return fuzzer.all_rounds(tell)
