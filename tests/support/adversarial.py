# ruff: noqa: E501 - a table of texts
"""Texts that come close, again and again, to what redaction looks for."""

from collections.abc import Iterator
from typing import Final

PIECES: Final = (
    "a", "A", "1", " ", "\t", "\n", "=", ":", ",", ";", "&", "@", "/", "\\", "'", '"', "-", "_", ".", "+",
    "(", "[", "{", ")", "]", "}", "<", ">", "a.", "a-", "a b ", "://", "a://", "x://u:", "x://@", "//",
    "token", "token ", "token=", "token='", 'token="', "token=\\", "token =,", "token:[", "token={", "'token':",
    "cookie", "cookie=", "cookie: ", "'cookie=x", '"cookie: ', "set-cookie='", "bearer ", "basic aaa", "password=a,",
    "--token ", "Key (", "Key (password)=(", "-----BEGIN PRIVATE KEY-----", "-----", "AKIA", "eyJ", "eyJa.eyJ",
    "ghp_", "sk_live_", "input_value=", "[type=", '\\"', '{\\"token\\":\\"', "x-amz-signature=", "sig=",
    "hooks.slack.com/", "%3D", "password:\n", "password:\n - ", " password:\n  ", "password: |\n  ", "<a b='", "<token>",
    "<a name='token' ", "'loc': ('token'", "name='token' ", "token=f(", "token='a'b", "-u a:", "mysql -p", "a:b@tcp(",
    "\x1b[3", "\x1b[1m", ":\\/", "%3a%2f%2f", "name=a\r\n", "host a@", "port 'a", "path': '/token', 'value': {", "'AUTH' 'a' ", "HSET a ",
    "update token', [", "args=", "expected token a, got '", "password: !a #", "sess=", "kty 'd': '", "$4\r\nAUTH\r\n", "é", "\ud800", "İ", "\0",
)  # fmt: skip
"""What patterns look for, and its parts."""


def texts(size: int) -> Iterator[str]:
    """Each piece over and over; before and behind them what may begin or end a match."""
    for piece in PIECES:
        many = piece * (size // len(piece))
        yield many
        yield f"{many} http://x"
        yield f"token='{many}"
