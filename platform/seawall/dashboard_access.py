"""Who may use Flower where nobody has set a password: whoever opens a link that is good for one use.

Flower without authentication shows its pages to every user and every program of the machine, and refuses
each of its own buttons. So where neither a password (`FLOWER_BASIC_AUTH`) nor a provider (`FLOWER_AUTH`) is
set, and the API is not opened to all (`FLOWER_UNAUTHENTICATED_API`), it gets a provider that is ours:
`/login?token=...` sets the cookie of a session, for requests from this machine, and from then on that token
is none and another is made. Pages and buttons work as after any other login, with Flower's own defence
against forged requests.

The link goes to whoever supervises this process (`X_SEAWALL_LINK`, by the sd_notify protocol), else to the
terminal that Flower runs on. Nothing else ever shows it: no log, no pipe, no argument, no environment.

`/metrics`, which Flower shows to all, names tasks and workers. It asks for the password where there is one,
and where the link lets people in it is for this machine, on which Prometheus needs no link.
"""

import errno
import hmac
import ipaddress
import logging
import os
import secrets
import sys
from collections.abc import Callable
from typing import Any, Final

import tornado.web
from flower import command
from flower.app import Flower
from flower.utils import strtobool
from flower.views import BaseHandler
from flower.views.monitor import Metrics

from seawall.errors import StartupError
from seawall.worker.lifecycle import notify

log = logging.getLogger("seawall.dashboard")

_USER: Final = "local"
_SETTING: Final = "seawall_link"  # of Flower's tornado application
_PORTS: Final = 100  # that are tried
_EVERYWHERE: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - what Flower may be told to listen on
_CLOSED: Final = (
    "This link was used, or is none. `seawall dashboard --link` prints another, good for one use, in a "
    "terminal of the machine that Flower runs on. For others, set FLOWER_BASIC_AUTH=user:password."
)
_ELSEWHERE: Final = "Metrics are for this machine only: for others, set FLOWER_BASIC_AUTH=user:password."


class Link:
    """The one link that is good now; `announce` hears of each."""

    def __init__(self, announce: Callable[[str], object]) -> None:
        self._announce = announce
        self._token = secrets.token_urlsafe(24)
        self.login = ""

    def open(self, login: str) -> None:
        """From now on Flower listens, and `login` is the address of its login page."""
        self.login = login
        self._announce(f"{login}?token={self._token}")

    def use(self, token: str) -> bool:
        """Whether `token` lets one in; it does so once."""
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            return False
        self._token = secrets.token_urlsafe(24)
        self._announce(f"{self.login}?token={self._token}")
        return True


class Entrance(BaseHandler):  # type: ignore[misc] # Flower has no types
    """Flower's login page, as its option `auth_provider` names it."""

    def get(self) -> None:
        """Let in who has the link, and nobody else."""
        link: Link = self.application.settings[_SETTING]
        if not _is_here(self.request.remote_ip) or not link.use(self.get_argument("token", "")):
            raise tornado.web.HTTPError(403, _CLOSED)  # its page shows that
        self.set_secure_cookie("user", _USER)
        self.set_header("Referrer-Policy", "no-referrer")
        self.redirect(self.reverse_url("main"))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log nothing: the line would have the address with the token that was tried."""


def install() -> None:
    """Prepare Flower's command in this process; before it runs."""
    _close_what_is_open()
    _find_a_free_port()
    Metrics.prepare = _ask_who_scrapes


def _ask_who_scrapes(handler: Any) -> None:
    if handler.application.options.basic_auth:
        handler.get_current_user()  # raises 401
    elif _SETTING in handler.application.settings and not _is_here(handler.request.remote_ip):
        raise tornado.web.HTTPError(403, _ELSEWHERE)


def _close_what_is_open() -> None:
    flowers_own = command.extract_settings

    def extract_settings() -> None:
        if _has_no_password():
            command.options.auth = _USER
            command.options.auth_provider = f"{__name__}.{Entrance.__name__}"
            command.settings[_SETTING] = Link(_announce)
        flowers_own()

    command.extract_settings = extract_settings


def _has_no_password() -> bool:
    chosen = command.options
    is_open = strtobool(os.environ.get("FLOWER_UNAUTHENTICATED_API") or "false")
    return not (chosen.basic_auth or chosen.auth or is_open or chosen.unix_socket)


def _find_a_free_port() -> None:
    """Let Flower take the next port where its own is taken, and say where it is."""
    flowers_own = Flower.start_http_server

    def start_http_server(self: Any) -> Any:
        port = _bound(self, flowers_own)
        if port is not None:
            _say_where(self, port)
        return port

    Flower.start_http_server = start_http_server


def _bound(flower: Any, bind: Callable[[Any], Any]) -> Any:
    wanted = flower.options.port
    for port in range(wanted, min(wanted + _PORTS, 1 << 16)):
        flower.options.port = port
        try:
            bound = bind(flower)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
            continue
        if port != wanted:
            log.warning("port %d is taken by another program: Flower listens on %d", wanted, port)
        return bound
    raise StartupError(f"ports {wanted} to {port} are taken: name a free one in [flower] of fleet.toml")


def _say_where(flower: Any, port: int) -> None:
    address = flower.options.address
    host = "127.0.0.1" if address in _EVERYWHERE else f"[{address}]" if ":" in address else address
    prefix = f"/{flower.options.url_prefix.strip('/')}" if flower.options.url_prefix else ""
    url = f"http{'s' if flower.ssl_options else ''}://{host}:{port}{prefix}"
    link: Link | None = flower.settings.get(_SETTING)
    if link is not None:
        link.open(f"{url}/login")
    if not notify(f"X_SEAWALL_URL={url}"):
        log.warning("Flower is at %s", url)


def _announce(link: str) -> None:
    if not notify(f"X_SEAWALL_LINK={link}") and sys.stdout.isatty():
        print(f"Flower, with a link that is good for one use: {link}", flush=True)  # noqa: T201 - no log may have it


def _is_here(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback
