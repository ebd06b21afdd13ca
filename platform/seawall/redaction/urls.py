"""Passwords in URLs, also in those that nobody should have written: with raw `/`, `,`, `;`, `'`, `)` or `@`.

A URL that a parser refuses must not be printed whole either, so the rule is one of its own: what stands
between `://` and the last `@` that can end it is the user's. A user without a password is a token where the
scheme knows no users of that kind (`redis://TOKEN@host`, `https://TOKEN@host`). The path of a webhook is its
password.
"""

import re
from typing import Final

from seawall.redaction.words import is_ordinary

HIDDEN: Final = "***"

_URL: Final = re.compile(
    r"://(?:[^\s:/@\"<>]{1,64}+:(?!\d{1,5}(?:[/\s\"<>?#]|\Z))"
    r"[^\s@/\"<>]{0,64}+[ \"<>][^\s@\"<>]{1,64}+(?=@))?+(?:(?!://)[^\s\"<>])*+"
)
"""The first part: what is no port may be a password with a blank or a quote in it, if an `@` follows."""
_ESCAPED: Final = re.compile(r":(\\{1,15}+/)(?:\\{0,15}+/)((?:(?!:\\)[^\s\"<>])*+)")
"""As JSON may have it: `https:\\/\\/u:S@h`."""
_QUOTED: Final = re.compile(
    r"(%(?:25){0,3}+3A(?:%(?:25){0,3}+2F){2}"
    r"(?:[^\s&'\"%]{1,8}+|%(?!(?:25){0,3}+(?:40|3A|2F))){0,64}+%(?:25){0,3}+3A)"
    r"(?!\d{1,5}+%(?:25){0,3}+2F)(?:[^\s&'\"%]{1,8}+|%(?!(?:25){0,3}+40)){1,128}+(?=%(?:25){0,3}+40)",
    re.IGNORECASE,
)
"""As the field of a query has it."""
_WHOLE: Final = re.compile(r"://(?:(?!://)[^\n])*+", re.DOTALL)
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]{0,31}\Z", re.IGNORECASE)
_LONGEST_SCHEME: Final = 32
_AUTHORITY: Final = re.compile(r"[^/?#]*+")
_WEBHOOK: Final = re.compile(
    r"/(?:webhook\w{0,16}+|with/key|v\d/hook|reset-password|password-reset|password/reset)/[^/\s]",
    re.IGNORECASE,
)
_LINK: Final = re.compile(
    r"/(?:[\w-]{0,32}?(?:reset|verify|confirm|activat|invit|magic)[\w-]{0,32}+|unsubscribe|login|auth|token|key|hooks|ping"
    r"|integration|macros/s)/(?:confirm/)?(?:(?=[\w-]{1,8}/[^/\s])[\w-]{1,8}+/)?([^/\s?#]{6,}+)",
    re.IGNORECASE,
)
"""A link that is a password: whoever has it may do what it says."""
_BOT: Final = re.compile(r"/bot[^/\s]{6,}+(?=/)|/private-[^/\s]{6,}+(?=/)")
_DROPS: Final = frozenset({"ntfy.sh", "hc-ping.com", "webhook.site"})
"""Hosts whose paths are known only to those who may send there."""
_LOOKED_AT: Final = 256
_WEB: Final = frozenset({"http", "https", "ws", "wss"})
_NAMELESS: Final = _WEB | {"redis", "rediss", "valkey", "valkeys", "sentinel", "nats", "unix"}
"""Schemes whose users have no name that is worth showing: alone, it is a token."""
_KINDS: Final = frozenset({"x-oauth-basic", "x-oauth-token", "oauth2"})
"""Passwords that say that the name is a token."""
_TOKEN: Final = 16
"""Characters from which a name with a digit in it is rather a token."""


def hide_in_text(text: str) -> str:
    """`text` with the password of each URL in it replaced by `***`; a URL ends at a blank."""
    if "://" in text:
        text = _URL.sub(_shown, text)
    if ":\\" in text:
        text = _ESCAPED.sub(_shown_escaped, text)
    return _QUOTED.sub(rf"\1{HIDDEN}", text) if "%3" in text or "%25" in text else text


def _shown_escaped(found: re.Match[str]) -> str:
    """Looked at without its backslashes, which stand before each slash."""
    slash, rest = found[1], found[2]
    shown = _without_password(_scheme_before(found), rest.replace(slash, "/"))
    return (
        f"{found[0]}" if shown == rest.replace(slash, "/") else f":{slash}{slash}{shown.replace('/', slash)}"
    )


def hide_in_setting(text: str) -> str:
    """The same for a text that is nothing but URLs, such as a setting: blanks are part of them."""
    return _WHOLE.sub(_shown, text) if "://" in text else text


def _shown(found: re.Match[str]) -> str:
    return "://" + _without_password(_scheme_before(found), found[0][3:])


def _scheme_before(found: re.Match[str]) -> str:
    start = found.start()
    scheme = _SCHEME.search(found.string[max(0, start - _LONGEST_SCHEME) : start])
    return scheme[0].lower() if scheme else ""


def _without_password(scheme: str, rest: str) -> str:
    end = _end_of_user(scheme, rest)
    shown = _user(scheme, rest[:end]) + "@" if end >= 0 else ""
    place = rest[end + 1 :]
    host = place[: _AUTHORITY.match(place).end()]  # type: ignore[union-attr]
    if scheme in _WEB and _is_webhook(host.lower(), place[:_LOOKED_AT]) and len(place) > len(host) + 1:
        place = f"{host}/{HIDDEN}"
    elif scheme in _WEB:
        place = _BOT.sub(f"/{HIDDEN}", _LINK.sub(_linked, place))
    return shown + place


def _linked(found: re.Match[str]) -> str:
    return found[0] if is_ordinary(found[1]) else found[0][: found.start(1) - found.start()] + HIDDEN


def _is_webhook(host: str, place: str) -> bool:
    return (
        host.startswith(("hook.", "hooks."))
        or "webhook" in host
        or host in _DROPS
        or _WEBHOOK.search(place) is not None
    )


def _end_of_user(scheme: str, rest: str) -> int:
    """Where the `@` is that ends user and password; -1 without one."""
    last = rest.rfind("@")
    if last < 0:
        return -1
    authority = rest[: _AUTHORITY.match(rest).end()]  # type: ignore[union-attr]
    inner = authority.rfind("@")
    _, colon, port = authority.partition(":")
    if inner >= 0:  # a password may go on behind what looks like the path
        return rest.partition("?")[0].rfind("@") if colon and ":" in authority[:inner] else inner
    odd = colon and not authority.startswith("[") and not (scheme in _WEB and port.isdecimal())
    return last if odd else -1


def _user(scheme: str, user: str) -> str:
    name, colon, password = user.partition(":")
    if password in _KINDS:
        return f"{HIDDEN}:{password}"
    tokenlike = len(name) >= _TOKEN and any(map(str.isdigit, name[:_LOOKED_AT]))
    if not colon:
        return HIDDEN if tokenlike or (scheme in _NAMELESS and name != "git") else name
    return f"{HIDDEN if tokenlike or (name and not password) else name}:{HIDDEN}"
