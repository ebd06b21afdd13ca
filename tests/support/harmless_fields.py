# ruff: noqa: E501 - a table of texts
"""2,000 fields, lines and messages without any secret: what redaction leaves as it is."""

from typing import Final

WORDS: Final = (
    "authorization required", "401 Authorization Required", "pinned", "pinned to version 3", "tokenizer", "tokenizers>=0.20",
    "password reset mail sent", "the password was changed", "password must not be empty", "forgot your password?",
    "passwords do not match", "no token was given", "token expired", "the token has expired", "invalid token",
    "token refresh failed", "unexpected token < in JSON at position 0", "unexpected token: EOF", "SyntaxError: unexpected token",
    "secret santa", "open secret", "secretary of the board", "keynote", "key not found", "primary key violated",
    'duplicate key value violates unique constraint "users_pkey"', "foreign key constraint fails", "missing key",
    "KeyError: 'name'", "sort by key", "pin the dependency", "spinning up", "opinionated", "pinpoint", "shipping address",
    "authors and editors", "author not found", "authenticated as ann", "authentication failed", "authentication required",
    "session closed", "session expired", "new session started", "the session has ended", "cookies are disabled",
    "cookie consent given", "cookie banner shown", "credit card declined", "credited 5 EUR", "accredited", "basic plan",
    "Basic authentication is disabled", "bearer bonds", "the bearer of this letter", "digest of the week", "weekly digest sent",
    "otpauth is not installed", "adopted", "compassion", "bypassed", "trespass", "passing", "passenger list", "passport office",
    "signature required on delivery", "signature verification failed", "assigned to ann", "significant", "design review",
    "jwt library not found", "two-factor authentication enabled", "login succeeded", "login failed for user ann",
    "user ann has no password", "access denied", "access key rotated", "api is down", "api version 3", "private beta",
    "private repository", "encryption at rest is on", "certificate expires in 3 days", "hash mismatch", "checksum ok",
    "password policy updated", "password length 12", "token bucket is empty", "rate limit of 5 tokens", "max_tokens=4096",
    "total_tokens: 312", "prompt_tokens=12 completion_tokens=300", "tokens per second: 42.5", "key=value pairs expected",
    "the password is required", "the password is wrong", "password is too short", "password was rejected", "token was revoked",
    "the token for user ann expired", "password for ann was changed", "password set for user ann", "password changed by ann",
    "password reset for ann@example.org", "secret shop was created", "token count 17", "token sha256 expected", "token v2 expired",
    "password must have 8 to 64 characters", "api key ends in 4 days", "PIN entry failed 3 times", "pin 4 of the connector",
    "token expired at 2031-01-02T03:04:05Z", "password file /etc/shop/passwd is missing", "private key file key.pem not found",
    "enable secret scanning", "secret scanning is on", "set password policy", "password policy is invalid", "token issuer is wrong",
    "login as ann", "login failed for user ann", "logged in as ann", "credentials are missing", "credentials for ann expired",
    "https://h.example/login/form", "https://h.example/auth/realms/shop", "https://h.example/verify/email", "https://h.example/token/12345",
    "https://h.example/cb?code=404&state=done", "https://h.example/x?code=de&sid=12", "https://h.example/x?s=shoes&st=open",
    "verification code sent", "your code is ready", "use it as your login", "cookie banner is shown", "session 17 closed",
    "connect to db/shop failed", "cannot connect to tcp/ip", "etcdctl put name ann", "vault kv get secret/shop", "vault status",
    "git config user.name ann", "docker run -e MODE=x shop", "kubectl create token shop", "echo done > out.txt", "echo done | sort",
    "openssl version", "mc ls shop", "npm set fund false", "kind: ConfigMap data: x", "login()", "get_token()", "db.auth()",
    "10.0.0.1:5432:up", "file.py:12:34:error", "expected token end of file", "unexpected token in line 3", "token is 17 days old",
    "press any key to continue", "hotkey pressed", "monkeypatch", "turkey", "donkey", "keyboard layout", "keyspace", "keyframe",
)  # fmt: skip

STATEMENTS: Final = (
    "select id, name from {t} where id = $1", "insert into {t} (id, kind, created_at) values ($1, $2, $3)",
    "update {t} set name = $1 where id = $2 returning id", "delete from {t} where created_at < now() - interval '7 days'",
    "select password_hash is not null from {t}", "alter table {t} add column note text", "create index on {t} (key)",
    "select count(*) from {t} where token is null", "explain analyze select 1 from {t}", "vacuum analyze {t}",
)  # fmt: skip
TABLES: Final = (
    "users",
    "orders",
    "tokens",
    "sessions",
    "secrets",
    "api_keys",
    "cookies",
    "passwords",
    "pins",
    "mails",
)

LINES: Final = (
    "order {n} of customer {m} took {f} s", "GET /users/{n}?page={m}&sort=asc 200 {f}", "user{n}@example.org signed up",
    "mail to ann.{n}@example.com was sent", "task shop.charge[{u}] succeeded in {f}s: {n}", "{u}", "{n}", "{f}",
    "host=db{n}.example.org port={m} dbname=shop", "10.0.{b}.{b}:{m} refused the connection", "retry {n} of {m} in {f} s",
    "2031-01-02T03:04:05.{n}Z", "+49 30 {m}", "IBAN DE{m}", "sha256:{u}", "v{b}.{n}.{m}", "https://h{n}.example.org/a/b-{m}?page={n}",
    '{{"id": {n}, "email": "user{m}@example.org", "total": {f}}}', "{{'id': {n}, 'state': 'done', 'rows': {m}}}",
    "Order(id={n}, customer={m}, total={f})", "/var/lib/shop/{n}/{m}.csv", "C:\\shop\\{n}\\{m}.csv", "0x{n}f", "{n}%",
    "user_id={n} task_id={u}", "key_id: {n}", "session_count={n}", "tokens_used={n}", "author_id={n}", "primary_key={n}",
    "passenger_count={n}", "pin_count: {n}", "X-Request-Id: {u}", 'ETag: "{u}"', "Content-Length: {n}", "traceparent: 00-{u}-01",
)  # fmt: skip


def fields() -> list[str]:
    """2,000 of them."""
    found = [*WORDS, *(each.format(t=table) for each in STATEMENTS for table in TABLES)]
    number = 0
    while len(found) < 2000:
        number += 1
        line = LINES[number % len(LINES)]
        n = number * 7919
        found.append(line.format(n=n, m=n * 31 % 100_003, f=n / 8, b=number % 256, u=f"{n * 104_729:032x}"))
    return found
