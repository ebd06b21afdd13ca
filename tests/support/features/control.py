"""Remote control: what can be asked and told, of the first worker unless it says otherwise."""

from typing import Any

from support.features.app import tell, waits
from support.features.application import app
from support.features.look import Look, feature, short
from support.listening import kinds, listening

ONE = ["one@features"]


def ask(question: str, *args: Any, **kwargs: Any) -> Any:
    """The first worker's answer."""
    inspect = app.control.inspect(destination=ONE, timeout=20, limit=1)
    return (getattr(inspect, question)(*args, **kwargs) or {}).get(ONE[0])


def order(command: str, *args: Any, **kwargs: Any) -> Any:
    """What the first worker says to a command."""
    replied = {} if command == "ping" else {"reply": True}
    answers = getattr(app.control, command)(*args, destination=ONE, timeout=20, limit=1, **replied, **kwargs)
    return [next(iter(each.values())) for each in answers]


def shape(value: Any, depth: int = 2) -> Any:
    """The names within an answer, without what differs each time."""
    if isinstance(value, dict) and depth:
        return {name: shape(each, depth - 1) for name, each in sorted(value.items())}
    return type(value).__name__


@short
def ping(look: Look) -> Any:
    return [ask("ping"), order("ping")]


@short
def active(look: Look) -> Any:
    result = waits.apply_async((look.key,), {})
    look.notes(1)
    (found,) = look.until(lambda: ask("active"))
    look.go()
    look.end(result)
    shown = {name: found[name] for name in ("name", "args", "kwargs", "type", "acknowledged")}
    place = {name: found["delivery_info"].get(name) for name in ("exchange", "routing_key", "redelivered")}
    return [shown, place, sorted(found), found["id"] == result.id, found["worker_pid"] > 0]


@feature
def reserved(look: Look) -> Any:
    held = [waits.delay(look.key) for _ in range(2)]
    look.notes(2)
    waiting = [look.task("echo").delay(number) for number in range(2)]
    found = look.until(lambda: ask("reserved"), 1.0)
    look.go()
    for each in [*held, *waiting]:
        look.end(each)
    return sorted(each["name"] for each in found or ())


@feature
def scheduled(look: Look) -> Any:
    result = look.task("echo").apply_async((1,), countdown=3)
    seen = look.until(lambda: ask("scheduled"))
    result.revoke()
    return [[sorted(each), each["request"]["name"]] for each in seen or ()]


@feature
def revoked(look: Look) -> Any:
    app.control.revoke("revoked-by-name", destination=ONE)
    return look.until(lambda: "revoked-by-name" in (ask("revoked") or ()))


@short
def registered(look: Look) -> Any:
    found = ask("registered", "rate_limit")
    return [[each for each in found if each.startswith(("look.rated", "look.echo", "team"))], len(found) > 40]


@feature
def stats(look: Look) -> Any:
    found = ask("stats")
    pool = {
        name: found["pool"][name]
        for name in ("max-concurrency", "max-tasks-per-child", "put-guarded-by-semaphore")
    }
    return [sorted(found), pool, len(found["pool"]["processes"]), found["total"]["look.echo"] > 0]


@feature
def stats_of_time_limits(look: Look) -> Any:
    return ask("stats")["pool"]["timeouts"]


@feature
def report(look: Look) -> Any:
    return "software -> celery:" in ask("report")["ok"]


@feature
def conf(look: Look) -> Any:
    found = ask("conf")
    return [
        found["result_extended"],
        ":**" in str(found["broker_url"]) or "@" not in str(found["broker_url"]),
    ]


@feature
def clock(look: Look) -> Any:
    return shape(ask("clock"))


@feature
def query_task(look: Look) -> Any:
    result = waits.delay(look.key)
    look.notes(1)
    found = ask("query_task", [result.id])
    look.go()
    look.end(result)
    return [[state, each["name"]] for state, each in found.values()]


@short
def active_queues(look: Look) -> Any:
    found = ask("active_queues")
    return sorted(
        [each["name"], each["exchange"]["type"], each["routing_key"]]
        for each in found
        if "bcast" not in each["name"]
    )


@feature
def objgraph_and_memory(look: Look) -> Any:
    return [shape(ask("memsample")), shape(ask("memdump"))]


@feature
def hello(look: Look) -> Any:
    return shape(ask("hello", "somebody"))


@feature
def commands_of_ones_own(look: Look) -> Any:
    told = app.control.broadcast("shout", {"text": "hey"}, reply=True, destination=ONE, timeout=20, limit=1)
    asked = app.control.broadcast("whisper", reply=True, destination=ONE, timeout=20, limit=1)
    return [told, asked]


@feature
def a_command_that_nobody_knows(look: Look) -> Any:
    return app.control.broadcast("nonsense", reply=True, destination=ONE, timeout=2, limit=1)


@short
def rate_limit(look: Look) -> Any:
    said = order("rate_limit", "look.rated", "5/s")
    found = [each for each in ask("registered", "rate_limit") if "rated" in each]
    back = order("rate_limit", "look.rated", "2/s")
    return [
        said,
        found,
        back,
        order("rate_limit", "look.nowhere", "5/s"),
        order("rate_limit", "look.rated", "x"),
    ]


@feature
def time_limit(look: Look) -> Any:
    said = order("time_limit", "look.naps", soft=0.4, hard=20)
    state, _ = look.end(look.task("naps").delay(1.5))
    return [said, state, order("time_limit", "look.naps", soft=None, hard=None)]


@feature
def events_on_and_off(look: Look) -> Any:
    return [order("disable_events"), order("disable_events"), order("enable_events"), order("enable_events")]


@feature
def heartbeat(look: Look) -> Any:
    with listening(app) as seen:
        app.control.heartbeat(destination=ONE)
        beats = look.until(lambda: [each for each in seen if each["type"] == "worker-heartbeat"])
    return sorted(name for name in beats[0] if not name.startswith("seawall"))


@feature
def events_of_a_task(look: Look) -> Any:
    with listening(app) as seen:
        result = look.task("again").delay(look.key, 1)
        last = {"task-succeeded", "task-retried", "task-sent"}
        look.until(lambda: last <= {each["type"] for each in seen if each.get("uuid") == result.id})
    more = {"name", "queue"}  # a worker of ours says them in each event
    fields = {each["type"]: sorted({*each} - more) for each in seen if each.get("uuid") == result.id}
    return [sorted(kinds(seen, result.id)), fields]


@feature
def queues_added_and_cancelled(look: Look) -> Any:
    said = order("add_consumer", "added")
    result = tell.apply_async(queue="added")
    found = look.end(result)[1]["place"]
    again = order("add_consumer", "added")
    left = order("cancel_consumer", "added")
    unknown = order("cancel_consumer", "unheard")
    names = [each["name"] for each in ask("active_queues")]
    return [said, found, again, left, unknown, "added" in names]


@feature
def pool_grows_and_shrinks(look: Look) -> Any:
    grown = order("pool_grow", 1)
    more = look.until(lambda: len(ask("stats")["pool"]["processes"]) == 3)
    shrunk = order("pool_shrink", 1)
    less = look.until(lambda: len(ask("stats")["pool"]["processes"]) == 2)
    return [grown, more, shrunk, less]


@feature
def autoscale_where_there_is_none(look: Look) -> Any:
    return order("autoscale", 4, 2)


@feature
def pool_restart(look: Look) -> Any:
    said = order("pool_restart")
    return [said, look.end(look.task("echo").delay("after"))]


@feature
def purge(look: Look) -> Any:
    look.settled()
    app.control.purge()
    return [app.control.purge(), app.control.discard_all()]


@feature
def destinations_by_pattern(look: Look) -> Any:
    found = app.control.ping(pattern="one*", matcher="glob", timeout=20, limit=1)
    return [sorted(each) for each in found]
