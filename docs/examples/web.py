"""A web application (plain WSGI: Flask and Django are, too) that submits tasks and says how it is.

Run it with any WSGI server, such as `gunicorn docs.examples.web:application`, or as a script for a look.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from wsgiref.simple_server import make_server

import seawall

app = seawall.Seawall("shop")
StartResponse = Callable[[str, list[tuple[str, str]]], object]


@app.task
def charge(order: int) -> int:
    """What the workers do."""
    return order


descriptions: dict[int, str] = {}  # a cache
seawall.memory.on_pressure(descriptions.clear)  # called where `bootstrap` watches memory


@seawall.service("prices", requires=("redis",), critical=False, attempts=2, timeout="5s")
def prices() -> Iterator[dict[str, int]]:
    """Something of the application's own that lives as long as the process."""
    yield {"book": 12}


def application(environ: dict[str, str], start_response: StartResponse) -> Iterable[bytes]:
    """POST /charge/NUMBER submits a task; GET /ready says whether that would work."""
    system = seawall.bootstrap(app, services=[prices])  # the first request of each process pays for it
    path = environ["PATH_INFO"]
    if path == "/ready":
        report = system.health()
        status, body = ("200 OK" if report.ok else "503 Service Unavailable"), report.as_dict()
    elif path.startswith("/charge/") and path[8:].isdigit():
        status, body = "202 Accepted", {"task": charge.delay(int(path[8:])).id}
    else:
        status, body = "404 Not Found", {"error": "try /ready or /charge/42"}
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(body).encode()]


if __name__ == "__main__":
    with make_server("127.0.0.1", 8000, application) as server:  # type: ignore[arg-type]
        server.serve_forever()
