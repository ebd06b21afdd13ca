"""Messages changed at random: aware of their structure, and byte by byte. The same seed gives the same ones.

A message is a dictionary as kombu's virtual transports have it. What changes is chosen among the parts that
somebody reads: the envelope, the headers, the body (decoded, changed and encoded again), and the text itself.
"""

import base64
import binascii
import copy
import json
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

Dice = random.Random
Message = dict[str, Any]

DEEP: Final = "\0deep\0"
"""Stands for what `json.dumps` cannot write; `written` puts brackets nested thousands deep in its place."""

_DEPTHS: Final = (50, 900, 3000)
_HUGE: Final = 10**400
_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), _HUGE, -_HUGE, 0.5, -0.0, 1e308, 1e-9),
    *(float("nan"), float("inf"), float("-inf"), "", "0", "5m", "inf", "nan", "null", "\0", "a\0b", " "),
    *("caf\udce9", "\ud800", "\U0001f600", "x" * 300, "y" * 3000, "a\nb", "{}", "%s%d{0}{x}", "../../etc"),
    *("celery", "fuzz.echo", "celery.map", "2030-01-01T00:00:00", "99999-01-01", "1970-01-01", "no time"),
    *([], {}, [[]], [None], [None, None], [1, 2], ["x"], [[1], {}, {}], {"a": 1}, {"task": "fuzz.echo"}),
    *({"__type__": "uuid", "__value__": "x"}, {"__type__": "datetime", "__value__": 5}, {"__type__": []}),
    *({"py/object": "os.system"}, {"task": "fuzz.quiet", "args": [], "kwargs": {}, "options": {}}, DEEP),
    *([{"task": "fuzz.quiet", "args": 5}], [{"task": None}], [{"task": "fuzz.echo", "options": 5}]),
    {"task": "fuzz.echo", "args": [], "kwargs": {}, "options": {"countdown": 1e300}, "subtask_type": "group"},
    {"task": "celery.group", "args": [], "kwargs": {"tasks": 5}, "options": {}, "subtask_type": "group"},
    {"task": "celery.chain", "args": [], "kwargs": {"tasks": [{}]}, "options": {}, "subtask_type": "chain"},
    {"task": "celery.chord", "kwargs": {"header": None, "body": {}}, "subtask_type": "chord"},
)
HEADERS: Final = (
    *("lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit"),
    *("root_id", "parent_id", "argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting"),
    *("stamped_headers", "stamps", "compression", "unique_key", "unique_for", "delayed_until"),
    *("seawall-submitted", "seawall-strikes", "headers", "reply_to", "correlation_id", "delivery_info"),
    *("args", "kwargs", "callbacks", "errbacks", "chain", "chord", "hostname", "is_eager", "called_directly"),
    *("taskset", "utc", "redelivered", "properties", "priority", "tenant", "clock", "method", "arguments"),
)
_CONTENT: Final = (
    *("application/json", "application/data", "application/x-python-serialize", "application/x-yaml"),
    *("application/x-msgpack", "text/plain", "no/such", "application/JSON", "", "\udce9"),
)
_ENCODINGS: Final = ("utf-8", "binary", "ascii", "us-ascii", "utf-16", "latin-1", "no-such", "", "base64")
_DELIVERY: Final = (
    *("priority", "delivery_info", "delivery_tag", "reply_to", "correlation_id", "body_encoding"),
    *("delivery_mode", "expiration", "seawall_submission"),
)
_TASKS: Final = (
    *("echo", "fail", "again", "limited", "brief", "budgeted", "on_error", "early", "quiet", "paced"),
    *("tracked", "require", "nobody", "flaky", "fails_somehow"),
)
_BUILT_IN: Final = (
    *("celery.map", "celery.starmap", "celery.chunks", "celery.group", "celery.chain", "celery.chord"),
    *("celery.accumulate", "celery.backend_cleanup", "celery.chord_unlock"),
)


def fresh(text: str, dice: Dice) -> Message:
    """A captured message as if it were sent now, with an id of its own."""
    message: Message = json.loads(text)
    headers, now = message.get("headers") or {}, datetime.now(UTC)
    body = _body_of(message)
    for fields in (headers, body if isinstance(body, dict) else {}):
        if isinstance(fields.get("id"), str):
            fields["id"] = str(uuid.UUID(int=dice.getrandbits(128), version=4))
        for name, seconds in (("eta", 0.2), ("expires", 60), ("delayed_until", 0)):
            moment = fields.get(name)
            if isinstance(moment, str) and "2030" not in moment and "method" not in fields:
                fields[name] = (now + timedelta(seconds=seconds)).isoformat()
            elif isinstance(moment, int | float):  # of remote control
                fields[name] = now.timestamp() + seconds
    if isinstance(body, dict):
        _set_body(message, body)
    return message


def written(message: Any, dice: Dice) -> bytes:
    """A message as text."""
    text = json.dumps(message)
    marker = json.dumps(DEEP)
    for quoted in (marker, json.dumps(marker)[1:-1]):
        if quoted in text:
            depth = dice.choice(_DEPTHS)
            text = text.replace(quoted, "[" * depth + "]" * depth)
    return text.encode()


def mutated(message: Message, dice: Dice, kinds: Counter[str]) -> bytes:
    """It, changed in one to four places; each kind of change that was made is counted."""
    for _ in range(dice.choice((1, 1, 1, 2, 3, 4))):
        change = dice.choices(_CHANGES, _WEIGHTS)[0]
        try:
            message = change(message, dice) or message
        except (AttributeError, TypeError, KeyError, IndexError, ValueError, RecursionError):
            continue  # what an earlier change has made of it has no such part
        kinds[change.__name__.strip("_")] += 1
    text = written(message, dice)
    if dice.random() >= _DAMAGED:
        return text
    kinds["damaged"] += 1
    return damaged(text, dice)


_DAMAGED: Final = 0.12
_SWAPPED: Final = 0.05


def damaged(text: bytes, dice: Dice) -> bytes:
    """Bytes flipped, cut out, repeated, put in; or a field that is there twice."""
    for _ in range(dice.choice((1, 1, 2, 8))):
        at, length = dice.randrange(len(text) + 1), dice.choice((1, 1, 2, 7, 40))
        how = dice.randrange(6)
        if how == 0:
            text = text[:at] + bytes(dice.randrange(256) for _ in range(length)) + text[at + length :]
        elif how == 1:
            text = text[:at] + text[at + length :]
        elif how == 2:
            text = text[:at] + text[at : at + length] + text[at:]
        elif how == 3:
            text = text[:at]
        elif how == 4:
            names = b'"headers":{', b'"properties":{', b'"body":'
            name = dice.choice(names)
            text = text.replace(name, b'"task":5,"id":[],"headers":{},' + name, 1)
        else:
            text = (
                text[:at]
                + dice.choice((b"\xff", b"\\ud800", b"\0", b"NaN", b"1e999", b'"', b"}"))
                + text[at:]
            )
    return text


def any_value(dice: Dice) -> Any:
    """Something hostile, which later changes may change without a trace in the next message."""
    return copy.deepcopy(dice.choice(_VALUES))


def _header(message: Message, dice: Dice) -> None:
    headers = message["headers"]
    name = dice.choice([*headers, *HEADERS]) if dice.random() < 0.5 else dice.choice(HEADERS)
    headers[name] = any_value(dice)


def _drop_header(message: Message, dice: Dice) -> None:
    del message["headers"][dice.choice(list(message["headers"]))]


def _near(message: Message, dice: Dice) -> None:
    """A value of the right type that is odd."""
    headers = message["headers"]
    now = datetime.now(UTC)
    name, value = dice.choice((
        ("retries", dice.choice((0, 1, 2, 3, 50, 2**31, 10**11))),
        ("timelimit", [dice.choice((None, 0, 1e-9, 0.5, 30, 1e11)) for _ in range(2)]),
        ("expires", (now + timedelta(seconds=dice.choice((-1e9, -1, 0.01, 5, 1e9)))).isoformat()),
        ("eta", (now + timedelta(seconds=dice.choice((-1e9, -1, 0.01, 0.3, 0.3)))).isoformat()),
        ("eta", (now + timedelta(seconds=0.1)).replace(tzinfo=None).isoformat()),
        ("id", dice.choice("äx\U0001f600 :{}\n\t/") * dice.choice((1, 60, 100, 255))),
        ("task", f"fuzz.{dice.choice(_TASKS)}"),
        ("task", dice.choice(_BUILT_IN)),
        ("task", dice.choice(("ä", "a\nb", "x" * 3000, "fuzz. echo", "\0", "\ud800", "{0}%s"))),
        ("group", str(uuid.UUID(int=dice.getrandbits(128)))),
        ("group_index", dice.choice((0, 5, 10**11))),
        ("ignore_result", dice.choice((True, False, 0, 1))),
        ("stamped_headers", ["tenant", "nothing"]), ("stamps", {"tenant": ["a"], "x": 5}),
        ("shadow", dice.choice(("ä", "x" * 3000, "%s", "\ud800"))),
        ("argsrepr", "'token=planted" * 300), ("origin", "\udce9"),
        ("seawall-submitted", dice.choice((0, 1e11, now.timestamp() + 1e6))),
        ("seawall-strikes", dice.choice((0, 1, 2, 3, 10**11))),
        ("delayed_until", dice.choice(("now", "1970-01-01T00:00:00", "2030-01-01T00:00:00", ""))),
        ("unique_key", dice.choice(("k", "\ud800", "x" * 3000))),
        ("compression", dice.choice(("application/x-gzip", "application/x-bz2", "no/such", ""))),
        ("replaced_task_nesting", dice.choice((0, 10**6))),
        ("parent_id", "p"), ("root_id", "\ud800"), ("lang", dice.choice(("py", "js", ""))),
    ))  # fmt: skip
    headers[name] = value


def _headers(message: Message, dice: Dice) -> None:
    message["headers"] = any_value(dice)


def _property(message: Message, dice: Dice) -> None:
    properties = message["properties"]
    place = properties["delivery_info"] if dice.random() < 0.3 else properties
    place[dice.choice([*place, *_DELIVERY])] = any_value(dice)


def _frame(message: Message, dice: Dice) -> None:
    name = dice.choice(list(message))
    if dice.random() < 0.3:
        del message[name]
    else:
        message[name] = any_value(dice)


def _content(message: Message, dice: Dice) -> None:
    if dice.random() < 0.5:
        message["content-type"] = dice.choice(_CONTENT)
    else:
        message["content-encoding"] = dice.choice(_ENCODINGS)


def _body(message: Message, dice: Dice) -> None:
    """Somewhere in the decoded body."""
    body = _body_of(message)
    if dice.random() < 0.15:
        body = any_value(dice)
    else:
        _change_within(body, dice)
    _set_body(message, body)


def _embedded(message: Message, dice: Dice) -> None:
    """What is to happen afterwards."""
    body = _body_of(message)
    embedded = body if isinstance(body, dict) else body[2]
    name = dice.choice(("callbacks", "errbacks", "chain", "chord"))
    if dice.random() < 0.6:
        embedded[name] = [_signature(dice) for _ in range(dice.choice((1, 1, 2)))]
        if name == "chord":
            embedded[name] = embedded[name][0]
    elif embedded.get(name):
        _change_within(embedded[name], dice)
    else:
        embedded[name] = any_value(dice)
    _set_body(message, body)


def _signature(dice: Dice) -> Any:
    signature: dict[str, Any] = {
        "task": f"fuzz.{dice.choice(_TASKS)}",
        "args": [],
        "kwargs": {},
        "options": {"task_id": str(uuid.UUID(int=dice.getrandbits(128), version=4))},
        "subtask_type": None,
        "immutable": False,
    }
    if dice.random() < 0.7:
        place = signature if dice.random() < 0.5 else signature["options"]
        options = ("queue", "countdown", "eta", "expires", "priority", "headers", "serializer", "time_limit")
        place[dice.choice([*place, *options])] = any_value(dice)
    return signature


def _encoding(message: Message, dice: Dice) -> None:
    """Another encoding of the same body, or a damaged one."""
    body, how = message["body"], dice.randrange(5)
    if how == 0:
        message["properties"]["body_encoding"] = dice.choice(("base64", "utf-8", None, "rot13"))
    elif how == 1:
        message["body"] = base64.b64encode(damaged(_bytes_of(message), dice)).decode()
        message["properties"]["body_encoding"] = "base64"
    elif how == 2:
        at = dice.randrange(len(body))
        message["body"] = body[:at] + dice.choice("=%\n!ä\ud800") + body[at + 1 :]
    elif how == 3:
        message["body"] = body[: dice.randrange(len(body))]
    else:
        message["body"] = damaged(body.encode(errors="replace"), dice).decode(errors="replace")


def _call(message: Message, dice: Dice) -> None:
    """Hostile arguments of the right types."""
    body = _body_of(message)
    args, kwargs = (body["args"], body["kwargs"]) if isinstance(body, dict) else body[:2]
    if dice.random() < 0.6:
        args.insert(0, any_value(dice))
    else:
        kwargs[dice.choice(("key", "self", "secret", "a b", "\ud800", "", "x" * 300))] = any_value(dice)
    _set_body(message, body)


def _change_within(value: Any, dice: Dice) -> None:
    """Replace, remove or add something in nested lists and mappings."""
    while True:
        keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            if isinstance(value, dict):
                value[dice.choice(HEADERS)] = any_value(dice)
            else:
                value.append(any_value(dice))
            return
        key = dice.choice(keys)
        if isinstance(value[key], dict | list) and dice.random() < 0.7:
            value = value[key]
            continue
        if dice.random() < 0.2:
            del value[key]
        else:
            value[key] = any_value(dice)
        return


def _bytes_of(message: Message) -> bytes:
    body = message["body"]
    if (message.get("properties") or {}).get("body_encoding") == "base64":
        return base64.b64decode(body)
    return bytes(body.encode(errors="surrogatepass"))


def _body_of(message: Message) -> Any:
    try:
        return json.loads(_bytes_of(message))
    except (ValueError, binascii.Error, AttributeError, TypeError, KeyError, RecursionError):
        return None


def _set_body(message: Message, body: Any) -> None:
    text = json.dumps(body)
    if message["properties"].get("body_encoding") == "base64":
        message["body"] = base64.b64encode(text.encode()).decode()
    else:
        message["body"] = text


_CHANGES: Final[tuple[Callable[[Message, Dice], Any], ...]] = (
    *(
        _header,
        _drop_header,
        _near,
        _headers,
        _property,
        _frame,
        _content,
        _body,
        _embedded,
        _encoding,
        _call,
    ),
)
_WEIGHTS: Final = (5, 2, 6, 0.7, 2, 1, 1, 4, 3, 1.5, 4)


def swapped(message: Message, other: Message) -> Message:
    """The headers of one over the body of another."""
    parts = ("body", "content-type", "content-encoding")
    properties = {
        **message["properties"],
        "body_encoding": (other.get("properties") or {}).get("body_encoding"),
    }
    return {**message, **{part: other.get(part) for part in parts}, "properties": properties}


def stream(
    corpus: list[dict[str, str]], dice: Dice, kinds: Counter[str], *, unchanged: float = 0.1
) -> Iterator[bytes]:
    """Messages without end, each from a captured one; some as they were. What was done is counted."""
    while True:
        entry = dice.choice(corpus)
        message = fresh(entry["text"], dice)
        if dice.random() < _SWAPPED:
            kinds["swapped"] += 1
            message = swapped(message, fresh(dice.choice(corpus)["text"], dice))
        if dice.random() < unchanged:
            kinds["unchanged"] += 1
            yield written(message, dice)
        else:
            yield mutated(message, dice, kinds)
