"""Routing: routes of every kind, exchanges of every type, broadcasts."""

from typing import Any

from support.features.app import tell
from support.features.application import app
from support.features.look import Look, feature, short


def route(look: Look, name: str) -> Any:
    return look.end(app.send_task(name))


@short
def task_routes_by_name(look: Look) -> Any:
    return route(look, "routed.exactly")


@feature
def task_routes_by_pattern(look: Look) -> Any:
    return route(look, "glob.one")


@feature
def task_routes_by_a_function(look: Look) -> Any:
    return route(look, "routed.function")


@feature
def task_routes_by_an_object(look: Look) -> Any:
    return route(look, "team.one")


@feature
def no_route(look: Look) -> Any:
    return route(look, "routed.not")


@feature
def the_call_before_the_route(look: Look) -> Any:
    return look.end(app.send_task("routed.exactly", queue="first"))


@short
def a_direct_exchange(look: Look) -> Any:
    exchange = app.amqp.queues["first"].exchange
    return look.end(tell.apply_async(exchange=exchange, routing_key="first", declare=[exchange]))[1]["place"]


@feature
def a_topic_exchange(look: Look) -> Any:
    """Two queues take a copy each."""
    exchange = app.amqp.queues["warnings"].exchange
    options = {"exchange": exchange, "declare": [exchange]}
    look.task("noted").apply_async((look.key,), routing_key="log.disk.warning", **options)
    twice = look.notes(2)
    look.task("noted").apply_async((look.key,), routing_key="log.disk.error", **options)
    return [twice, look.notes(3)]


@feature
def a_broadcast(look: Look) -> Any:
    """Each worker takes a copy, and each cell."""
    exchange = app.amqp.queues["shouts"].exchange
    look.task("noted").apply_async((look.key,), queue="shouts", declare=[exchange])
    look.notes(1)
    look.settled()
    return look.notes(1)


@feature
def a_queue_that_is_made_when_it_is_missing(look: Look) -> Any:
    result = tell.apply_async(queue="made")
    app.control.add_consumer("made", destination=["one@features"], reply=True, timeout=20, limit=1)
    place = look.end(result)[1]["place"]
    app.control.cancel_consumer("made", destination=["one@features"], reply=True, timeout=20, limit=1)
    return place


@feature
def the_router_asked_by_hand(look: Look) -> Any:
    found = app.amqp.router.route({}, "glob.one", (), {})
    return [found["queue"].name, found["queue"].exchange.name, found["queue"].routing_key]
