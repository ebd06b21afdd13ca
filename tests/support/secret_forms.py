# ruff: noqa: E501, ISC004 - a table of texts
"""How secrets stand in real texts and values, and texts without any: what redaction is judged by.

The forms are those that libraries, shells and servers print. `S` stands for the secret.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, Final

from support import secret_messages, secret_tokens
from support.secret_lines import SAID, TYPED
from support.secret_sentences import ASKED, KEPT, RUN, SPOKEN

SECRETS: Final = ("Xk9vQ2mZ7rT4", "correct-horse.battery", "9182736455", "Zm9vYmFyOmJheg==")

NAMES: Final = (
    "password", "passwd", "passphrase", "pwd", "secret", "token", "api_key", "api-key", "apikey", "dbPassword",
    "clientSecret", "client_secret", "PGPASSWORD", "MYSQL_PWD", "mypassword", "password2", "accesstoken",
    "accessToken", "refresh_token", "jwt", "otp", "pin", "cvv", "cvc", "X-Api-Key", "X-Auth-Token", "secretKey",
    "AWS_SECRET_ACCESS_KEY", "privateKey", "private_key", "session_id", "sessionid", "credentials", "authToken",
    "userPassword", "bot_token", "SECRET_KEY", "encryption_key", "signing_key", "AccountKey", "APIKey", "db.password",
    "newPassword", "password_hash", "csrf_token", "csrftoken", "otp_code", "cardPin", "smtp_pass", "basic_auth",
    "inputPassword", "output_token", "used_token", "prompt_password", "min_password", "no_auth_token", "passkey",
    "output.db_password", "accountkey", "signingkey", "encryptionkey", "masterkey", "pass_word", "passw", "auth_code",
    "authcode", "access_code", "server_key", "aes_key", "auth_header",
)  # fmt: skip

HARMLESS_NAMES: Final = (
    "pinned", "opinion", "tokenizer_count", "secretary", "tokenizer", "passenger", "compass", "bypass", "monkey",
    "keyboard", "spinner", "shipping", "pinterest", "author", "authority", "authored_by", "passage", "passed",
    "cwd", "primary_key", "foreign_key", "sort_key", "keyword", "max_tokens", "prompt_tokens", "token_count",
    "total_tokens", "completion_tokens", "key", "keys", "passive", "encompass", "mapping", "pineapple", "optional",
    "option", "adopt", "topic", "crypto", "session", "signature_count", "hotpink", "tokenization", "secretion",
    "cookiecutter", "passport_country", "password_length", "has_password", "token_type", "user_id", "task_id",
)  # fmt: skip

ASSIGNED: Final = (
    "N=S", "N: S", "N = S", "N='S'", 'N="S"', '"N": "S"', "'N': 'S'", '{"N": "S"}', '{"user": "ann", "N": "S"}',
    "{'N': 'S', 'user': 'ann'}", '{\\"N\\": \\"S\\"}', '{"body": "{\\"N\\": \\"S\\"}"}',
    '{"a": "{\\"b\\": \\"{\\\\\\"N\\\\\\": \\\\\\"S\\\\\\"}\\"}"}', "?N=S&order=1", "https://h.example/x?N=S&a=1",
    "https://h.example/x?a=1&N=S", "N=a,S", "N=a;S", "N=a}S", "N=a S", "N=a)S", "N=a&S", "N='a,S'", 'N="a b;S"',
    "f(N='S')", "Config(user='ann', N='S')", "['--N', 'S']", "('N', 'S')", '["N", "S"]', "[('N', 'S')]",
    '{"N": ["x", "S"]}', "{'N': {'value': 'S'}}", "{'N': ('x', 'S')}", '{"N": {"a]b": ["}", "S"]}}', "N=['x', 'S']",
    "{b'N': b'S'}", "{'N': b'S'}", "export N=S", "N := S", "N=>S", "'N' => 'S'", "<N>S</N>", "N%3DS", "N: 'S',",
    '"N":"S"', '{"N":"a\\"S"}', "{'N': \"S\"}", 'N: "S"', "run --N S --verbose", "run --N=S --verbose",
    "run --N 'S' x", "user=ann N=S", "host=db user=ann N=S dbname=x", "Server=h;User=ann;N=S;", "[N]\nN = S\n",
    "- N: S\n- user: ann",
)  # fmt: skip
"""`N` stands for the name."""

WHOLE: Final = (
    "Authorization: Bearer S", "Authorization: Token S", "Authorization: Basic S", "authorization: S",
    'Authorization: Digest username="ann", realm="x", nonce="n", uri="/", response="S", opaque="o"',
    "Authorization: AWS4-HMAC-SHA256 Credential=A/20300101/eu/s3/aws4_request, SignedHeaders=host, Signature=S",
    "'Authorization': 'Token S'", '"Authorization": "Bearer S"', "[('Authorization', 'Token S')]",
    "Proxy-Authorization: Basic S", "curl -H 'Authorization: Token S' https://h.example/", "curl -u ann:S https://h/",
    "curl --user ann:S https://h/", "Cookie: a=1; session=S", "Set-Cookie: sid=S; Path=/; HttpOnly",
    "'Cookie': 'a=1; sid=S'", "sent Bearer S to the gateway", "X-Api-Key: S", "X-Amz-Security-Token: S",
    "postgres://shop:S@db/x", "postgresql+psycopg://shop:S@db.example:5432/x?sslmode=require", "redis://:S@cache:6379/0",
    "redis://S@cache:6379/0", "rediss://default:S@cache", "amqp://guest:S@mq//", "mongodb+srv://u:S@c.example/x",
    "https://ann:S@h.example/path", "https://S@h.example/1", "('https://ann:S@h.example/', 3)", "x;redis://:S@a;redis://:S@b",
    "postgres://u:a/S@h/d", "postgres://u:a,S@h/d", "postgres://u:a;S@h/d", "postgres://u:a'S@h/d",
    "postgres://u:a)S@h/d", "postgres://u:a@S@h/d", "postgres://u:a?S@h/d", "postgres://u:a#S@h/d",
    "postgres://u:1/S@h/d", "'postgres://u:a/S@h/d'", "https://u:a/S@h/d", "postgres://u@h/d?password=S",
    "https://hooks.slack.com/services/T0/B0/S", "https://discord.com/api/webhooks/123/S",
    "https://hooks.zapier.com/hooks/catch/1/S/", "https://x.webhook.office.com/webhookb2/a@b/IncomingWebhook/S",
    "https://s3.example/b/k?X-Amz-Algorithm=A&X-Amz-Credential=c&X-Amz-Signature=S&X-Amz-Expires=9",
    "https://acc.blob.core.windows.net/c/b?sv=2030-01-01&sp=r&sig=S", "https://storage.example/b?X-Goog-Signature=S",
    "-----BEGIN RSA PRIVATE KEY-----\nMII\nS\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\\nS\\n-----END PRIVATE KEY-----\\n", "-----BEGIN OPENSSH PRIVATE KEY-----\nS",
    "Key (password)=(S) already exists.", "Key (tenant, api_token)=(acme, S) already exists.",
    "DETAIL:  Failing row contains (1, ann, S, null).", "ALTER ROLE shop PASSWORD 'S'", "CREATE USER ann IDENTIFIED BY 'S'",
    "1 validation error for Login\npassword\n  String should have at least 30 characters [type=string_too_short, "
    "input_value='S', input_type=str]",
    "1 validation error for Login\nuser.api_key\n  Input should be a valid integer [type=int_parsing, "
    "input_value='S', input_type=str]\n    For further information visit https://errors.pydantic.dev/2.12/v/int_parsing",
    "1 validation error for Login\nname\n  Field required [type=missing, input_value={'password': 'S', 'a': 1}, "
    "input_type=dict]",
    "1 validation error for Login\nname\n  Field required [type=missing, input_value={'user': 'aaa...word': 'S'}, "
    "input_type=dict]",
    "AccountName=a;AccountKey=S;EndpointSuffix=core.windows.net", "Endpoint=sb://x/;SharedAccessKeyName=n;SharedAccessKey=S",
    "machine h.example login ann password S", "mysql://root:S@127.0.0.1:3306/shop cannot be reached",
    "sshpass -p S ssh x", "docker login -u x -p S", "['mysql', '-pS']", "user:S@tcp(h:3306)/d", "passw0rd=S", "Pa55word: S", 'password is "S"', "the token was 'S'", "password:\n  S\nuser: ann",
    "password: |\n  a\n  S\nuser: ann", "- password: >-\n    S\n  user: ann", "passwords:\n- a\n- S\nuser: ann",
    "db:\n  password:\n    S\n  user: ann", "api_key: |2-\n    S\n", '<add key="password" value="S"/>',
    '<property name="password">S</property>', '<entry key="api_key">S</entry>', '<input value="S" name="password">',
    "<user name='ann' password='S'/>", "<param id='apiKey' default='S'/>", "password\\u003dS", "https://h/?a=1\\u0026token\\u003dS",
    "password\\x3dS", "\\u0022password\\u0022:\\u0022S\\u0022", "&quot;password&quot;:&quot;S&quot;", "password&#61;S", "auth=HTTPBasicAuth('u', 'S')",
    "[{'type': 'x', 'loc': ('body', 'password'), 'msg': 'bad', 'input': 'S'}]", '<input name="password" value="S">',
    "- name: DB_PASSWORD\n  value: S", "https://h/?AWSAccessKeyId=A&Signature=S", "password[]=S", "dbpass=S", "user[password]=S",
    'Digest username="u", response="S"', "https://h/x#access_token=S&x=1", "redis://:a,S@h/0,redis://:b;c@i/0",
    "connection to server at 'db' failed: postgresql://shop:S@db/x", "smtp://user%40x:S@mail:587",
    '{"grant_type": "password", "password": "S", "username": "ann"}', "{'auth_type': 'password', 'secret': 'S'}",
    "{'grant_type': 'refresh_token', 'refresh_token': 'S'}", '{"error":"invalid_token","token":"S"}',
    "{b'type': b'token', b'token': b'S'}", '{"body": "{\\"type\\": \\"token\\", \\"token\\": \\"S\\"}"}',
    "['type' => 'password', 'password' => 'S']", "['--type', 'password', '--password', 'S']",
    "('user', 'password', 'S')", "['grant_type', 'refresh_token', 'refresh_token', 'S']",
    "jwt.exceptions.InvalidTokenError: S", "shop.errors.InvalidToken: token=S", "TokenError: 'S'",
)  # fmt: skip

PRINTED: Final = (
    # cloud signatures
    "https://b.s3.amazonaws.com/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20300101T000000Z&X-Amz-SignedHeaders=host&X-Amz-Signature=S",
    "https://b.s3.amazonaws.com/k?X-Amz-Security-Token=S&X-Amz-Expires=60",
    "GET /k?X-Amz-Signature=S HTTP/1.1", "AWS4-HMAC-SHA256 Credential=A/20300101/eu/s3/aws4_request,SignedHeaders=host,Signature=S",
    "'AWS_SECRET_ACCESS_KEY': 'S'", "aws_secret_access_key = S", "aws configure set aws_secret_access_key S", "AWS_SESSION_TOKEN=S aws s3 ls",
    "https://storage.googleapis.com/b/o?GoogleAccessId=x@y.iam.gserviceaccount.com&Expires=1&Signature=S",
    "https://storage.googleapis.com/b/o?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=c&X-Goog-Signature=S",
    '{"type": "service_account", "private_key_id": "x", "private_key": "-----BEGIN PRIVATE KEY-----\\nS\\n-----END PRIVATE KEY-----\\n"}',
    "https://maps.googleapis.com/maps/api/geocode/json?address=x&key=S",
    "https://a.blob.core.windows.net/c?sv=2030-01-01&ss=b&srt=sco&sp=rl&se=2031-01-01T00:00:00Z&st=2030-01-01T00:00:00Z&spr=https&sig=S",
    "BlobEndpoint=https://a.blob.core.windows.net/;SharedAccessSignature=sv=2030-01-01&sig=S", "SharedAccessSignature sr=x&sig=S&se=1&skn=k",
    "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=S;EndpointSuffix=core.windows.net",
    "client_assertion=S", "sas_token=?sv=2030&sig=S",
    # PEM
    "-----BEGIN EC PRIVATE KEY-----\nS\n-----END EC PRIVATE KEY-----", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nS\n-----END ENCRYPTED PRIVATE KEY-----",
    "-----BEGIN DSA PRIVATE KEY-----\r\nS\r\n-----END DSA PRIVATE KEY-----", "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nS\n-----END PGP PRIVATE KEY BLOCK-----",
    "---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nS\n---- END SSH2 ENCRYPTED PRIVATE KEY ----", "PuTTY-User-Key-File-2: ssh-rsa\nPrivate-Lines: 1\nS",
    # shell
    "PGPASSWORD=S psql -h db", "env MYSQL_PWD=S mysqldump shop", "mysql -uroot -pS shop", "mysql --password=S", "mysqldump -u root --password S", "redis-cli -h c -a S ping",
    "redis-cli --pass S", "redis-cli -u redis://:S@c", 'curl -H "X-Api-Key: S" https://h', "curl -H 'Authorization: Bearer S' https://h", "curl --oauth2-bearer S https://h", "curl -d 'password=S&user=ann' https://h",
    "curl -d '{\"password\": \"S\"}' https://h", "curl https://ann:S@h/", "wget --password=S https://h", "wget --http-password=S https://h", "http POST h password=S", "git clone https://x-access-token:S@github.com/a/b", "git clone https://oauth2:S@gitlab.com/a/b",
    "docker login -u ann --password S", "kubectl create secret generic x --from-literal=password=S", "helm install --set auth.password=S x",
    "openssl enc -k S", "openssl rsa -passin pass:S", "ssh-keygen -P S", "zip -P S a.zip b", "7z x -pS a.7z", "ansible-playbook -e 'db_password=S'", "export TOKEN=S; run", "set -x; TOKEN='S'", "ldapsearch -w S", "smbclient -U ann%S //h/x", "psql 'postgresql://u:S@h/d'", 'psql "host=h user=u password=S"', "gpg --passphrase S", "vault login S", "heroku config:set SECRET_KEY=S", "az login -u x -p S",
    "Command '['psql', 'postgresql://u:S@h/d']' returned non-zero exit status 2.", "Command 'mysqldump -uroot -pS shop' returned non-zero exit status 2.", "Command '['redis-cli', '-a', 'S']' timed out after 5 seconds", "Command '['curl', '-u', 'ann:S', 'https://h']' died", "Command '['curl', '-H', 'X-Api-Key: S']' x",
    # pydantic
    "1 validation error for Settings\ntoken\n  Input should be a valid integer, unable to parse string as an integer [type=int_parsing, input_value='S', input_type=str]",
    "1 validation error for Settings\ndatabase.password\n  Input should be a valid integer [type=int_type, input_value=['x', 'S'], input_type=list]",
    "2 validation errors for L\nuser\n  Field required [type=missing, input_value={'api_key': 'S'}, input_type=dict]\npassword\n  String too short [type=string_too_short, input_value='S', input_type=str]",
    "[{'type': 'missing', 'loc': ('user',), 'msg': 'Field required', 'input': {'password': 'S'}}]",
    "1 validation error for L\n  Value error, no [type=value_error, input_value={'password': 'S'}, input_type=dict]",
    "1 validation error for f\n0.password\n  x [type=x, input_value=b'S', input_type=bytes]",
    # requests / httpx
    "HTTPConnectionPool(host='h', port=80): Max retries exceeded with url: /x?token=S (Caused by NewConnectionError('x'))", "HTTPSConnectionPool(host='h', port=443): Max retries exceeded with url: /x?a=1&api_key=S (Caused by SSLError())",
    "401 Client Error: Unauthorized for url: https://ann:S@h/x", "404 Client Error: Not Found for url: https://h/x?access_token=S", "Client error '401 Unauthorized' for url 'https://h/x?api_key=S'\nFor more information check: https://x",
    "Server error '500' for url 'https://u:S@h/x'", "Invalid URL 'ann:S@h': No scheme supplied. Perhaps you meant https://ann:S@h?", "No connection adapters were found for 'htps://u:S@h'", "Failed to parse: http://u:S@h:port/x", "Headers({'host': 'h', 'authorization': 'Bearer S'})", "Headers([(b'Authorization', b'Token S')])", "<Request('GET', 'https://h/?token=S')>", "Invalid header value b'Bearer S\\n'", "Illegal header value b'Bearer S\\n'", "Header part ('S\\n') from ('Authorization', 'S\\n') must be of type str or bytes", "Cannot connect to host h:1 ssl:default [Connect call failed] url=URL('https://u:S@h/')", "401, message='Unauthorized', url='https://h/?token=S'",
    "nonnumeric port: 'S@h'", "<Prepared [POST]> body=b'password=S&user=a'", "{'data': 'grant_type=password&username=ann&password=S'}", "grant_type=client_credentials&client_id=x&client_secret=S", "refresh_token=S&grant_type=refresh_token", "code=1&code_verifier=S", "SAMLResponse=S", "id_token=S",
)  # fmt: skip
"""The same, as clouds sign, keys are stored, shells are used, and pydantic, requests, httpx and aiohttp print."""

UNNAMED: Final = (
    *WHOLE,
    *PRINTED,
    *TYPED,
    *SAID,
    *ASKED,
    *SPOKEN,
    *RUN,
    *KEPT,
    *secret_tokens.CALLED,
    *secret_messages.URLS,
    *secret_messages.BODIES,
)
"""The forms that have no name of their own to be put in."""

TOKENS: Final = (
    "Token 9944b09199c62bcf9418ad846dd0e4bbdfc6ee4b", "token Zm9vYmFyOmJheg==",
    "AKIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE", "ghp_" + "a1B2" * 9, "github_pat_" + "a1B2c3" * 6,
    "xoxb-" + "1234567890-abcdefghij", "sk_live_" + "a1B2c3D4e5F6", "glpat-" + "a1B2c3D4e5F6g7H8i9J0",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "AIza" + "a1B2c" * 7,
    *secret_tokens.TOKENS,
)  # fmt: skip
"""What is known for a secret by its own form."""

SURROUNDINGS: Final[tuple[Callable[[str], str], ...]] = (
    lambda form: form,
    lambda form: f"it failed: {form}",
    lambda form: f"first line\n{form}\nlast line",
    lambda form: f"({form})",
    lambda form: f"{'x' * 200} {form} {'y' * 200}",
)


def texts() -> Iterator[tuple[str, str, str]]:
    """(the form, the text, the secret in it)."""
    for form in ASSIGNED:
        for place, name in enumerate(NAMES):
            secret = SECRETS[place % len(SECRETS)]
            yield f"{form} N={name}", _filled(form, secret, name), secret
    for form in UNNAMED:
        for secret in SECRETS:
            yield form, _filled(form, secret), secret
    for token in TOKENS:
        yield "token", f"used {token} twice", token


def printed(secret: str) -> Iterator[str]:
    """Each text that has no name of its own, with `secret` in it."""
    for form in UNNAMED:
        yield _filled(form, secret)


def _filled(form: str, secret: str, name: str = "N") -> str:
    """`form` with the secret for each S that stands alone, and the name for each such N."""
    put_in = {"S": secret, "N": name}
    return re.sub(
        r"(?<![A-Za-z])(?<![^-]-)[SN](?![A-Za-z])|(?<=%3D|03d|x3d)S|(?<=u0022)S|(?<=-[pPw])S|(?<=-hp)S|(?<=\[35m)S|(?<=3A)S|(?<=\\n)S|(?<=/bot|MTI-)S|(?<=private-)S|(?<=:-)S|(?<=cli -a)S",
        lambda found: put_in[found[0]],
        form,
    )


VALUES: Final[tuple[Callable[[str], Any], ...]] = (
    lambda s: {"dbPassword": s},
    lambda s: {"passwords": ["x", s]},
    lambda s: {"secret": {"value": s}},
    lambda s: {b"password": s.encode()},
    lambda s: [("Authorization", f"Token {s}")],
    lambda s: (("user", "ann"), ("password", s)),
    lambda s: ["run", "--password", s],
    lambda s: ["run", f"--password={s}"],
    lambda s: ["curl", "-H", f"Authorization: Token {s}"],
    lambda s: ["curl", "-u", f"ann:{s}"],
    lambda s: ["mysql", "-uroot", f"-p{s}", "shop"],
    lambda s: ("/usr/bin/docker", "login", "-u", "x", "-p", s),
    lambda s: ["kubectl", "create", "secret", "generic", "x", f"--from-literal=a={s}"],
    lambda s: ["sudo", "-u", "ann", "sshpass", "-p", s, "ssh", "h"],
    lambda s: {"argv": ["redis-cli", "-a", s, "ping"]},
    lambda s: ["vault", "kv", "put", "x", f"a={s}"],
    lambda s: ["zip", "-9", PurePosixPath("a.zip"), "-P", s, 5],
    lambda s: ["rabbitmqctl", "add_user", "ann", s],
    lambda s: ["openssl", "enc", "-k", f"{s} with blanks"],
    lambda s: {"headers": [["X-Api-Key", s]]},
    lambda s: {"a": {"b": [{"c": {"token": s}}]}},
    lambda s: {"body": f'{{"password": "{s}"}}'},
    lambda s: {"tokens": {s}},
    lambda s: {"tokens": frozenset({s})},
    lambda s: [b"Authorization: Bearer " + s.encode()],
    lambda s: {"url": f"postgres://u:a/{s}@h/d"},
    lambda s: {"env": {"PGPASSWORD": s}},
    lambda s: {"env": ["PGPASSWORD=" + s]},
    lambda s: {"name": "password", "value": s},
    lambda s: {f"https://ann:{s}@h/": 1},
    lambda s: {"auth": ("ann", s)},
    lambda s: [{"Name": "DB_PASSWORD", "Value": s}],
    lambda s: {("password",): s},
    lambda s: bytearray(b"password=" + s.encode()),
    lambda s: {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"password": s}}}}}}}},
)

HARMLESS: Final = (
    *(f"{name}={value}" for name in HARMLESS_NAMES for value in ("5", "on", "ann@example.org")),
    *(f'{{"{name}": "{value}"}}' for name in HARMLESS_NAMES for value in ("5", "x")),
    *(f"order {number} of customer {number * 7} took {number / 8} s" for number in range(60)),
    *(f"user{number}@example.org signed up" for number in range(30)),
    *(f"{number:032x}" for number in range(10**30, 10**30 + 30)),
    *(f"https://h{number}.example.org:8080/a/b-{number}?page={number}&sort=asc#top" for number in range(30)),
    "the tokenizer: failed", "passed 3 of 4", "http://host/path?x=1", "monkey: 5", "select id, name from users where id = $1",
    "insert into tokens (id, kind) values ($1, $2)", "update users set name = $1 where id = $2", "http://h:80/x@2/y",
    "git@github.com:a/b.git", "ssh://git@github.com/a/b", "npm i @scope/pkg@1.2.3", "mail bob@example.org, ann@example.org",
    "2031-01-02T03:04:05.678Z", "10.0.0.1:5432", "C:\\x\\y", "/var/lib/postgresql/18/main", "f(x=1, y='z')", "{}", "[]", "",
    "KeyError: 'order'", 'connection to server at "127.0.0.1", port 5432 failed: Connection refused',
    'null value in column "name" of relation "users" violates not-null constraint',
    "Key (id)=(17) already exists.", "Key (email)=(ann@example.org) already exists.", 'password authentication failed for user "shop"',
    "1 validation error for Order\namount\n  Input should be a valid integer [type=int_parsing, input_value='x', input_type=str]",
    "Task shop.charge[0d9c2f3e-5b1a-4c57-9d1e-2f6a1b3c4d5e] succeeded in 0.0123s: 42", "3 tokens left", "a secret ballot",
    "postgresql://shop@db/x", "redis://cache:6379/0", "amqp://mq//", "the cookie jar is empty", "press any key: y/n",
    "opinion: good", "basic auth is not supported", "bearer of bad news", "token limit=1000 reached", "Token verification failed", "the token expired 3 days ago",
    "password is wrong", "the token is invalid", "the key is 'order'", "tokens:\nuser: ann", "unexpected token:\nuser: ann",
    '<input name="user" value="ann">', '<property name="size">5</property>', "<a href='x'>monkey</a>", "a < b and c > d",
    "users:\n  - ann\n  - bob", "x &quot;user&quot;:&quot;ann&quot;", "set primary_key to 'id'", "pip install pinned==1.0", "10 passed, 2 failed",
    "docker run -p 80:80 -e MODE=x shop", "mysql -h h -u root -P 3306 shop", "curl -sSL -o x https://h.example/x",
    "git push -u origin main", "PASS src/shop.test.js", "--- PASS: TestShop (0.00s)", "250-AUTH PLAIN LOGIN XOAUTH2",
    "export PATH=/usr/bin:$PATH", "unexpected token '<' in JSON", "kubectl get secret shop -o yaml", "ssh -p 22 u@h",
    "echo done | wc -l", 'secrets "shop" not found', "psql -h db -U shop -p 5432 shop", "redis-cli -h cache -p 6379 ping",
    "aws s3 cp x s3://b/k", "az group list", "openssl x509 -in cert.pem -noout", "zip -r a.zip b", "7z x a.7z -oout",
    "net use", "net start w32time", "htpasswd -c f ann", "scp a.txt ann@h:/tmp", "mailto:ann@example.org",
    "email:ann@example.org", "image:tag@sha256:0123abcd", "insert into users (name, password) values ($1, $2)",
    "'name' must be <class 'int'> (got 'x' that is a <class 'str'>).", "argument --size: invalid int value: 'x'",
    "Duplicate entry 'ann@example.org' for key 'users.email'", "invalid literal for int() with base 10: '12a'",
    "unknown command 'FOO', with args beginning with: 'a' 'b'", "AUTH failed", "the api key was rotated", "'x' is not of type 'integer'",
    "No connection adapters were found for 'htp://h.example/x'", "env FOO=1 run", "vault status", "cargo build --release",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----", "Traceback (most recent call last):", "x == 5 and y != 6", *secret_tokens.HARMLESS,
    *secret_messages.HARMLESS,
)  # fmt: skip
"""Texts that are shown as they are."""

LOOKALIKES: Final = (
    "Access denied for user 'ann'@'db' (using password: YES)", "tokens: 512", '{"cached_tokens": 0}', "reasoning_tokens=0",
    "pad_token_id=0", "password_changed=True", "f(token=None, timeout=5)", '{"token": null}', "credentials=None",
    "['email', 'password', 'name']", "fields: ('user', 'password', 'email')", "columns 'id', 'token', 'created_at'",
    'INSERT INTO "auth_user" ("password", "last_login") VALUES (%s, %s)', 'select "users"."password", "users"."email"',
    "INSTALLED_APPS = ['rest_framework.authtoken', 'x']", "['django.contrib.auth', 'django.contrib.sessions']",
    "{'error': 'bad_token', 'detail': 'no such order'}", "grant types: ['password', 'refresh_token', 'client']",
    "botocore.exceptions.NoCredentialsError: Unable to locate credentials", "token-service: restarted",
    "Traceback (most recent call last):\n  x\njwt.exceptions.InvalidTokenError: Not enough segments",
    "paramiko.ssh_exception.PasswordRequiredException: Private key file is encrypted", "tokens.py:12: UserWarning: x",
    "tokenize.TokenError: ('unterminated string literal', (1, 0))", "at com.shop.Token.parse(Token.java:12)",
    "shop.errors.InvalidToken: card of order 17 was declined", "{'token_error': 'expired at noon'}",
)  # fmt: skip
"""Texts that look much like forms of secrets and hold none: none of them may change."""
