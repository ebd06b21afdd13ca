"""Submissions that return when replicas have them (`replicas`, off by default).

Replication is asynchronous: a server that dies takes with it what it had confirmed and not passed on. `WAIT`,
sent along with a submission, is answered when so many replicas have received all that this connection wrote
before it. That takes a round trip from the server to its replicas, and none more for the producer.

Whether the next primary is one of them is up to who promotes it: a sentinel takes the replica that has
received most, of those that it reaches and whose priority is the best.
"""

from typing import Any, Final

from redis import Redis
from redis.exceptions import NoScriptError

from seawall.cluster import Argument, Script
from seawall.delivery.refusal import perhaps_accepted

_MILLISECONDS: Final = 1000


def submit(  # noqa: PLR0913 - a verb, and what it is to wait for
    client: "Redis", verb: Script, keys: list[str], arguments: list[Argument], *, replicas: int, within: float
) -> Any:
    """Run a verb that writes, and return its answer once `replicas` have received that.

    Raises:
        OperationalError: kombu's, fewer have within so many seconds; the server has it all the same.
        RedisError: as the verb.
    """
    answer, received = _ask(client, verb.command(keys, arguments), replicas, within)
    if isinstance(answer, NoScriptError):
        answer, received = _ask(client, verb.command(keys, arguments, text=True), replicas, within)
    for each in (answer, received):
        if isinstance(each, Exception):
            raise each
    if received < replicas:
        raise perhaps_accepted(
            f"{received} of {replicas} replicas have received the submission within {within:g} s "
            "(broker_transport_options['delivery']['replicas'])"
        )
    return answer


def _ask(client: "Redis", command: list[Argument], replicas: int, within: float) -> tuple[Any, Any]:
    """Both answers, in one round trip over one connection."""
    with client.pipeline(transaction=False) as pipe:
        pipe.execute_command(*command)  # type: ignore[no-untyped-call]
        pipe.execute_command("WAIT", replicas, max(round(within * _MILLISECONDS), 1))  # type: ignore[no-untyped-call]
        answer, received = pipe.execute(raise_on_error=False)
    return answer, received
