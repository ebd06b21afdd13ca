"""A message as it lies in Redis: what of it the scripts read, and the JSON the worker gets back."""

import json
from datetime import UTC, datetime
from typing import Any, NamedTuple

from kombu.utils.json import dumps as dumps_extended
from kombu.utils.json import loads as loads_extended

from seawall.cluster import MICROSECONDS, micros
from seawall.delivery.claimed import Claimed
from seawall.errors import MessageTooLarge
from seawall.priority import HIGHEST
from seawall.quantity import parse_duration

SUBMISSION = "seawall_submission"
"""Property that names one submission through the producer's retries; it is not sent."""

SUBMITTED = "seawall-submitted"
"""Header with the moment of submission, seconds since the epoch: it tells how long a task waited."""

SHOWN_ARGUMENTS = ("argsrepr", "kwargsrepr")
"""Headers with a call's arguments as logs show them; Celery repeats them among the properties, for nobody."""

_NO_PRIORITY = (None, 0)  # as the stock transport writes it; claim.lua gave the message one
_NOT_SENT = frozenset({SUBMISSION, *SHOWN_ARGUMENTS})
UNIQUE_FOR_DEFAULT = 86_400.0

_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode  # `json.loads` searches for an encoding first
_TYPED = b'"__type__"'  # kombu's JSON for values that JSON lacks
_TEXT, _MAPPING = (str, type(None)), (dict, type(None))  # a union would be made anew at each look


class Envelope(NamedTuple):
    """What `submit.lua` takes for one message; `due` is 0 for now, `unique` is empty for none."""

    id: str
    due: int
    body: str
    unique: str
    unique_for: int


def wrap(message: dict[str, Any], *, level: int, limit: int) -> Envelope:
    """The envelope of a message that kombu prepared.

    An ETA is taken out of the headers and kept by the server instead, so that no worker ever holds the
    message for it; `delayed_until` keeps it readable.

    Raises:
        MessageTooLarge: it takes more than `limit` bytes.
        ConfigError: `unique_for` is not a time.
    """
    properties = {key: value for key, value in message["properties"].items() if key not in _NOT_SENT}
    headers = dict(message["headers"])
    due = _take_eta(headers)
    body = to_json({**message, "headers": headers, "properties": properties})
    _check_size(body, headers, limit)
    submission = message["properties"].get(SUBMISSION) or properties["delivery_tag"]
    return Envelope(f"{level}{submission}", due, body, *_unique_of(headers))


class Stencil:
    """Writes messages that differ in few places: what they share is looked at and encoded once.

    `headers` and `properties` are what all have, `content` is the content's type and encoding. What `fill` is
    given has to have other names.

    Raises:
        ConfigError: as `wrap`.
    """

    def __init__(
        self,
        headers: dict[str, Any],
        properties: dict[str, Any],
        content: dict[str, str],
        *,
        level: int,
        limit: int,
    ) -> None:
        self._shared, self._level, self._limit = headers, level, limit
        self._unique = _unique_of(headers)
        self._begin = f'{to_json(content)[:-1]},"headers":{to_json(headers)[:-1]},'
        self._middle = f',"properties":{to_json(properties)[:-1]},'

    def fill(self, body: str | bytes, headers: dict[str, Any], properties: dict[str, Any]) -> Envelope:
        """The envelope of one of them, with `headers` and `properties` of its own; it may change `headers`.

        Raises:
            MessageTooLarge: as `wrap`.
        """
        due = _take_eta(headers)
        own, place = to_json(headers)[1:], to_json(properties)[1:]
        text = f'{self._begin}{own}{self._middle}{place},"body":{to_json(body)}}}'
        _check_size(text, self._shared, self._limit)
        return Envelope(f"{self._level}{properties['delivery_tag']}", due, text, *self._unique)


def _take_eta(headers: dict[str, Any]) -> int:
    """Write down for readers until when it is delayed, and return that for the server; 0 for now."""
    if not (eta := headers.get("eta")):
        return 0
    due = _micros_of(eta)
    until = eta if isinstance(eta, str) else datetime.fromtimestamp(due / MICROSECONDS, UTC).isoformat()
    headers |= {"eta": None, "delayed_until": until}
    return due


def _unique_of(headers: dict[str, Any]) -> tuple[str, int]:
    # A retry carries its submission on, and does not compete with it for the key.
    key = None if headers.get("retries") else headers.get("unique_key")
    unique = "" if key is None or key is False else str(key)
    return unique, _unique_for(headers) if unique else 0


def _check_size(body: str, headers: dict[str, Any], limit: int) -> None:
    if len(body) > limit:
        name = headers.get("task", "a message")
        raise MessageTooLarge(
            f"{name} takes {len(body)} bytes and max_message is {limit}: store the content elsewhere and "
            "send a reference, or raise broker_transport_options['delivery']['max_message']."
        )


def unwrap(claimed: Claimed) -> dict[str, Any]:
    """The message as kombu expects it, with what delivery knows about it.

    Raises:
        ValueError: it is not a message.
    """
    message = from_json(claimed.body)
    if not isinstance(message, dict) or not isinstance(message.get("properties"), dict):
        raise ValueError("not a kombu message")  # noqa: TRY004 - undecodable either way
    properties = message["properties"]
    _check_frame(message, properties)
    properties["delivery_tag"] = claimed.id
    if claimed.of_stock and properties.get("priority") in _NO_PRIORITY:
        properties["priority"] = HIGHEST - claimed.level
    place = properties["delivery_info"] = properties.get("delivery_info") or {}
    place["queue"] = claimed.queue  # its routing key may be another
    if claimed.history:
        place["redelivered"] = True
        place["strikes"] = json.loads(claimed.history)["strikes"]
    return message


def _check_frame(message: dict[str, Any], properties: dict[str, Any]) -> None:
    """What kombu reads of every message before anybody else does."""
    if not isinstance(message.get("body"), _TEXT):
        raise ValueError("the body is not text")  # noqa: TRY004 - undecodable either way
    if not isinstance(message.get("headers"), _MAPPING):
        raise ValueError("the headers are not a mapping")  # noqa: TRY004
    if not isinstance(properties.get("delivery_info"), _MAPPING):
        raise ValueError("delivery_info is not a mapping")  # noqa: TRY004
    if not isinstance(properties.get("body_encoding"), _TEXT):
        raise ValueError("body_encoding is not text")  # noqa: TRY004
    for name in ("content-type", "content-encoding"):
        if not isinstance(message.get(name), _TEXT):
            raise ValueError(f"{name} is not text")  # noqa: TRY004


def from_json(body: bytes) -> Any:
    """What kombu's JSON says; plain JSON needs none of kombu's types.

    Raises:
        ValueError: it is not JSON.
    """
    text = body.decode()
    try:
        return loads_extended(text) if _TYPED in body else _decode(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except ValueError:
        raise
    except Exception as exc:  # of kombu's types, which make of a stranger's value what they can
        raise ValueError(f"{type(exc).__name__}: {exc}") from exc


def to_json(value: Any) -> str:
    """Compact JSON; what only kombu's knows is written as kombu does."""
    try:
        return _encode(value)
    except TypeError:
        return dumps_extended(value)


def _micros_of(eta: str | datetime | float) -> int:
    if isinstance(eta, int | float):
        return micros(eta)
    moment = datetime.fromisoformat(eta) if isinstance(eta, str) else eta
    return micros((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _unique_for(headers: dict[str, Any]) -> int:
    value = headers.get("unique_for")
    seconds = UNIQUE_FOR_DEFAULT if value is None else parse_duration(value, field="unique_for", least=0.001)
    return round(seconds * 1000)
