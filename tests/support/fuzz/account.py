"""What became of each message: it ended as one outcome, it waits for a reason, or the account has a problem.

A message that workers gave up, or that waits, is in the broker with the text that was sent. One that is gone
has an outcome on record under its id. Nothing may stay in line, be held by nobody's doing, or be gone
without an outcome; what ran did not run twice.
"""

import base64
import json
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kombu.compression import decompress
from redis import Redis

from seawall.cluster import MICROSECONDS

DELIVERY_LIMIT = 3
CONSUMED = "seawall:{celery}"
"""The queue that the worker consumes; what is said to others waits there."""

ENDS = ("success", "dead", "cancelled")
_SHOWN = 3000


@dataclass
class Broker:
    """All that lies in the broker's queues: texts by where they are."""

    places: dict[str, list[tuple[str, bytes]]] = field(default_factory=lambda: defaultdict(list))
    reasons: dict[str, list[str]] = field(default_factory=dict)
    nowhere: list[bytes] = field(default_factory=list)
    strikes: int = 0
    most_deaths: int = 0

    @classmethod
    def read(cls, client: "Redis") -> "Broker":
        """Look at every queue."""
        found = cls()
        for key in client.scan_iter("seawall:{*}:messages"):
            found._read_queue(client, key.decode("utf-8", "surrogateescape").removesuffix(":messages"))
        return found

    def _read_queue(self, client: Any, base: str) -> None:
        base_key = base.encode("utf-8", "surrogateescape")
        left: dict[bytes, bytes] = client.hgetall(base_key + b":messages")
        histories = client.hgetall(base_key + b":history")
        for place in ("dead", "delayed", "ready", "suspects"):
            consumed = base == CONSUMED or place in ("dead", "delayed")
            for tag in client.zrange(base_key + b":" + place.encode(), 0, -1):
                self._put(place if consumed else "elsewhere", tag, left, histories)
        for key in client.scan_iter(_escaped(base_key) + b":parked:*"):
            for tag in client.zrange(key, 0, -1):
                self._put("parked", tag, left, histories)
        for key in client.scan_iter(_escaped(base_key) + b":held:*"):
            for tag in client.hkeys(key):
                self._put("held", tag, left, histories)
        self.nowhere += left.values()

    def unsettled(self) -> Iterator[tuple[str, str, bytes]]:
        """What workers have still to do: place, tag and text."""
        for place in ("ready", "suspects", "held"):
            for tag, text in self.places[place]:
                if place != "held" or not waits(text):
                    yield place, tag, text

    def _put(self, place: str, tag: bytes, left: dict[bytes, bytes], histories: dict[bytes, bytes]) -> None:
        text = left.pop(tag, None)
        name = tag.decode(errors="replace")
        if text is None:
            self.nowhere.append(f"{place} {name} has no message, or is in two places".encode())
            return
        self.places[place].append((name, text))
        if (known := histories.get(tag)) is not None:
            history = json.loads(known)
            self.strikes += history["strikes"]
            self.reasons[name] = [why for _, _, why in history["events"]]
            self.most_deaths = max(self.most_deaths, deaths(self.reasons[name]))


def deaths(reasons: Iterable[str]) -> int:
    """How many of the events in a message's history are the end of a process."""
    return sum("exited" in why or "lost" in why for why in reasons)


def _escaped(text: bytes) -> bytes:
    for each in (b"\\", b"*", b"?", b"["):
        text = text.replace(each, b"\\" + each)
    return text


def outcomes(path: Path) -> tuple[dict[str, Counter[str]], int]:
    """What workers wrote down: states by task id, and how many processes were forked."""
    by_id: dict[str, Counter[str]] = defaultdict(Counter)
    forked = 0
    for line in path.read_text().splitlines():
        name, state, _pid = json.loads(line)
        if name is None:
            forked += 1
        else:
            by_id[name][state] += 1
    return by_id, forked


def id_of(text: bytes) -> str | None:
    """The id that a worker finds in a message, or None."""
    try:
        message = json.loads(text)
        headers = message.get("headers") or {}
        name = headers.get("id") if "id" in headers else _body_of(message, headers).get("id")
        return name if isinstance(name, str) else None
    except Exception:  # noqa: BLE001 - then it has none that anybody could read
        return None


def _body_of(message: Any, headers: Any) -> Any:
    body = message["body"]
    encoded = message["properties"].get("body_encoding") == "base64"
    raw = base64.b64decode(body.encode()) if encoded else body.encode()  # as kombu does
    return json.loads(decompress(raw, headers["compression"]) if headers.get("compression") else raw)


def waits(text: bytes) -> bool:
    """Whether a worker holds it for its moment: the stock transport's clients leave that to workers."""
    try:
        message = json.loads(text)
        if (message.get("headers") or {}).get("eta"):
            return True
        body = (
            base64.b64decode(message["body"].encode())
            if message["properties"].get("body_encoding") == "base64"
            else b"{}"
        )
        fields = json.loads(body)
        return isinstance(fields, dict) and bool(fields.get("eta"))
    except Exception:  # noqa: BLE001 - then nobody could know its moment
        return False


@dataclass
class Round:
    """What was sent in one round."""

    texts: list[bytes] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    refused: list[tuple[str | None, Exception]] = field(default_factory=list)
    neighbours: list[str] = field(default_factory=list)
    broadcasts: int = 0

    @property
    def sent(self) -> int:
        """Messages and calls, without the neighbours."""
        return len(self.texts) + len(self.calls) + len(self.refused) + self.broadcasts


def _is_of_one_call(name: str) -> bool:
    """Whether it is no mutated id: a canvas may have used that one too, and its ids are not kept."""
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False


def problems(
    sent: Round, broker: Broker, states: dict[str, Counter[str]], ran: dict[str, int], *, again: bool
) -> Iterator[str]:
    """What is wrong, a line each; `again` if a process was killed, so that others may have run twice."""
    yield from _of_places(broker)
    here = Counter(text for kept in broker.places.values() for _, text in kept)
    kept_ids = Counter(filter(None, map(id_of, here.elements())))

    def ended(name: str | None) -> bool:
        return name is not None and (kept_ids[name] > 0 or any(states[name][state] for state in ENDS))

    for text, many in Counter(sent.texts).items():
        if here[text] > many:
            yield f"in the broker {here[text]} times, sent {many} times: {shown(text)}"
        if here[text] < many and not ended(id_of(text)):
            yield f"gone without an outcome, runs ended as {runs(states, id_of(text))}: {shown(text)}"
    ids = Counter(filter(None, [*map(id_of, sent.texts), *sent.calls]))
    yield from (
        f"accepted and gone without an outcome, runs ended as {runs(states, name)}: {name!r}"
        for name in sent.calls
        if not ended(name)
    )
    for name, refusal in sent.refused:
        if name is not None and _is_of_one_call(name) and ids[name] == 0 and ended(name):
            yield f"refused ({type(refusal).__name__}: {refusal}) and in line all the same: {name!r}"
    if not again:
        dead = {id_of(text) for _, text in broker.places["dead"]}
        yield from _of_runs(ids, states, dead)
    yield from of_neighbours(sent.neighbours, ran, again=again)


def _of_runs(ids: Counter[str], states: dict[str, Counter[str]], dead: set[str | None]) -> Iterator[str]:
    for name, many in ids.items():
        if not _is_of_one_call(name):
            continue
        if (times := states[name]["success"]) > many:
            yield f"ran {times} times, was sent {many} times: {name!r}"
        if many == 1 and times and name in dead:
            yield f"succeeded and is a dead letter: {name!r}"


def _of_places(broker: Broker) -> Iterator[str]:
    for place, tag, text in broker.unsettled():
        yield f"still {place}: {tag} {shown(text)}"
    for text in broker.nowhere:
        yield f"nowhere: {shown(text)}"
    for tag, text in broker.places["dead"]:
        reasons = broker.reasons.get(tag)
        if not reasons or not reasons[-1]:
            yield f"a dead letter without a reason: {tag} {shown(text)}"
        elif deaths(reasons) > DELIVERY_LIMIT:
            yield f"killed more than {DELIVERY_LIMIT} processes: {reasons} {shown(text)}"


def of_neighbours(names: Iterable[str], ran: dict[str, int], *, again: bool) -> Iterator[str]:
    for name in names:
        if (times := ran.get(name, 0)) != 1 and not (again and times):
            yield f"neighbour {name} ran {times} times"


def runs(states: dict[str, Counter[str]], name: str | None) -> dict[str, int]:
    """How the runs of a task ended: a lost one that was retried was lost on its way back."""
    return dict(states.get(name or "", {}))


def shown(text: bytes) -> str:
    """The beginning of a message."""
    return repr(text[:_SHOWN])


def soon_due(broker_client: Any, within: float) -> int:
    """How many of the delayed messages are due within so many seconds."""
    due = (time.time() + within) * MICROSECONDS
    return sum(
        int(broker_client.zcount(key, "-inf", due))
        for key in broker_client.scan_iter("seawall:{celery}:delayed")
    )
