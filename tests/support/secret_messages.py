# ruff: noqa: E501 - a table of texts
"""How secrets stand in what libraries say of URLs and hosts, in colours, bodies, YAML, drivers' parameters and cookies.

`S` is the secret. The messages are those of urllib, http.client, httpx, urllib3, requests, aiohttp, libpq, psycopg, SQLAlchemy,
PyMongo, redis-py, PyMySQL, yarl, furl, Go, Node, curl, ssh and Java, where a password with `/`, `@` or `#` in it cuts a URL wrongly.
"""

from typing import Final

URLS: Final = (
    "ValueError: Port could not be cast to integer value as 'S'", "Port could not be cast to integer value as \"a'S\"", "httpx.InvalidURL: Invalid port: 'S'",
    'invalid port number: "S"', "nonnumeric port: 'S'", "http.client.InvalidURL: nonnumeric port: 'S'", "Invalid port 'S'.",
    "port must be an integer, not 'S'", "Port must be an integer between 0 and 65535: 'S'", 'parse "postgres://u:S@h": invalid port ":S" after host',
    'could not translate host name "S@db" to address: Name or service not known', 'could not translate host name \\"S@db\\" to address',
    'invalid integer value "S" for connection option "port"', 'invalid percent-encoded token: "S%zz"',
    'unexpected character "/" in position 3 in URI (expected ":" or "/"): "postgresql://u:S"',
    "failed to resolve host 'S@db': [Errno -2] Name or service not known", "Failed to resolve 'S@db' ([Errno -2] Name or service not known)",
    "HTTPSConnectionPool(host='S@db', port=443): Max retries exceeded with url: / (Caused by NameResolutionError(\"x: Failed to resolve 'S@db' ([Errno -2])\"))",
    "Error -2 connecting to S@h:6379. Name or service not known.", "Error 111 connecting to S@h:6379. Connection refused.",
    "S@h:27017: [Errno -2] Name or service not known", "(2003, \"Can't connect to MySQL server on 'S@h' ([Errno -2] Name or service not known)\")",
    "Unknown MySQL server host 'S@h' (-2)", "dial tcp: lookup S@db on 10.0.0.1:53: no such host", "getaddrinfo ENOTFOUND S@db", "getaddrinfo EAI_AGAIN S@db",
    "curl: (6) Could not resolve host: S@db", "ssh: Could not resolve hostname S@db: Name or service not known", "java.net.UnknownHostException: S@db",
    "Cannot connect to host S@h:443 ssl:default [Name or service not known]", "Could not parse rfc1738 URL from string 'postgres:/u:S@h'",
    "Could not parse SQLAlchemy URL from string 'postgres//u:S@h'", "Failed to parse: https://user:S@h:port/", "Failed to parse: user:S@h",
    "invalid DSN: u:S@h", "https:\\/\\/u:S@h", '{"url":"postgres:\\/\\/u:S@h\\/d"}', '"{\\"url\\": \\"https:\\\\\\/\\\\\\/u:S@h\\\\\\/d\\"}"',
    "https://h.example/?next=https%3A%2F%2Fu%3AS%40h%2Fx",
    "socket.gaierror: [Errno -2] Name or service not known: 'S@db'", "[Errno 8] nodename nor servname provided, or not known: S@db", "Name or service not known (S@db:5432)",
    "Temporary failure in name resolution: S@db:6379", "lookup S@db: no such host", "Error while reading from S@h:6379 : (104, 'Connection reset by peer')",
    "<ServerDescription ('S@h', 27017) server_type: Unknown, error=AutoReconnect('S@h:27017: [Errno -2]')>", "Invalid IPv6 URL: u:S@[h",
    "Request URL is missing an 'http://' or 'https://' protocol: 'u:S@h'", "Invalid IPv4 address: 'S@1.2.3'", "aiohttp.client_exceptions.InvalidURL: u:S@h",
    "Codepoint U+0040 at position 3 of 'S@h' not allowed", "encoding with 'idna' codec failed (UnicodeError: label empty or too long) S@db", "unparseable port 'S'",
    'Illegal character in port: "S"', "https%253A%252F%252Fu%253AS%2540h",
)  # fmt: skip
BODIES: Final = (
    "\x1b[36mpassword\x1b[0m=\x1b[35mS\x1b[0m", "\x1b[1;31mpin\x1b[0m: \x1b[35mS\x1b[0m", "\\x1b[36mapi_key\\x1b[0m=\\x1b[35mS\\x1b[0m",
    '{"line": "\\u001b[36mpassword\\u001b[0m=\\u001b[35mS\\u001b[0m"}', "Authorization: \x1b[33mBearer \x1b[35mS\x1b[0m", "https://u:\x1b[35mS\x1b[0m@h",
    'Content-Disposition: form-data; name="password"\r\n\r\nS\r\n--b--', "b'form-data; name=\"password\"\\r\\n\\r\\nS\\r\\n--b--\\r\\n'",
    '--b\r\nContent-Disposition: form-data; name="user"\r\n\r\nann\r\n--b\r\nContent-Disposition: form-data; name="api_key"\r\nContent-Type: text/plain\r\n\r\nS\r\n--b--',
    'form-data; name="key"; filename="x"\r\n\r\na\r\n--b\r\nform-data; name="user[password]"\n\nS\n--b',
    "password: !vault S", "password: S # comment", "password: !!str S", "password: !!binary |\n  S\nuser: ann", "password: &anchor S",
    "password: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  S\nuser: ann", "password: # of ann\n  S\nuser: ann", "password: | # of ann\n  S\nuser: ann",
    "[SQL: INSERT INTO users (name, password) VALUES (%s, %s)]\n[parameters: ('a', 'S')]",
    "INSERT INTO users (name, password) VALUES (?, ?)\n[generated in 0.00012s] ('a', 'S')", "UPDATE users SET password=? WHERE id=?\n[cached since 3.1s ago] ('S', 3)",
    'executing query "INSERT INTO users (name, password) VALUES (%s, %s)" with params (\'a\', \'S\')',
    '(0.001) INSERT INTO "users" ("name", "password") VALUES (%s, %s); args=(\'ann\', \'S\'); alias=default',
    "UPDATE users SET password = $1 WHERE id = $2\nDETAIL:  parameters: $1 = 'S', $2 = '3'", "('INSERT INTO \"users\" (\"name\", \"password\") VALUES (?, ?)', ['ann', 'S'])",
    "connect.sid=s%3AS", "Cookies: connect.sid=S; a=1", "'connect.sid': 'S'", "laravel_session=S; path=/", "_gitlab_session=S", "rack.session=S", "koa.sess=S",
    "password = {{ a b }}: jinja2.exceptions.TemplateSyntaxError: expected token 'end of print statement', got 'S'",
    '{"value":"S","path":"/password","op":"add"}', '[{"op":"replace","path":"/users/0/apiKey","value":"S"}]', "{'kty': 'RSA', 'n': 'x', 'd': 'S'}",
    '{\\"kty\\":\\"oct\\",\\"k\\":\\"S\\"}', '"HSET" "user:1" "password" "S"', "HSET user:1 name ann password S", "['HSET', 'user:1', 'password', 'S']",
    "['AUTH', 'ann', 'S']", "(b'AUTH', b'ann', b'S')", '1339518083.107412 [0 127.0.0.1:60866] "AUTH" "ann" "S"', '["ACL", "SETUSER", "ann", "on", ">S"]',
    "['HELLO', '3', 'AUTH', 'ann', 'S']", "['CONFIG', 'SET', 'requirepass', 'S']", "('SETEX', 'user:1:token', 60, 'S')",
    '{"op": "replace", "path": "/spec/password", "value": {"x": "S"}}', "{'value': 'S', 'op': 'add', 'path': '/password'}",
    '{"op":"test","value":"S","path":"\\/password"}', '{"name": "password", "type": "text", "value": "S"}', '{"value": "S", "type": "text", "name": "password"}',
    '{"name": "password", "value": "a b S"}', '{"kind":"Secret","data":{"a":{"b":"c"},"x":"S"}}', "\x9b36mpassword\x9b0m=S", "password\x1b(B\x1b[m=S",
    "INSERT INTO users (name, password) VALUES ($1, $2) params=('a', 'S')", "INSERT INTO users (name, password) VALUES ($1, $2) args: ('a', 'S')",
    'INSERT INTO users (name, password) VALUES (?, ?) -- ["ann", "S"]', "select 1 where name = ? and password = ? [generated in 1s] ('a', 'S')",
    "unnamed portal with parameters: $1 = 'S'\nSTATEMENT:  UPDATE users SET password = $1", "wordpress_logged_in_0123abc=S",
    "Could not parse the remainder: 'S' from 'password=x'", 'HSET "u" "password" "S"', "*2\r\n$4\r\nAUTH\r\n$12\r\nS\r\n",
    "b'*3\\r\\n$4\\r\\nAUTH\\r\\n$3\\r\\nann\\r\\n$12\\r\\nS\\r\\n'",
)  # fmt: skip

HARMLESS: Final = (
    "Port could not be cast to integer value as '80'", 'invalid port number: "99999"', "port must be an integer between 0 and 65535", "invalid port",
    'could not translate host name "db" to address: Name or service not known', "failed to resolve host 'db': [Errno -2]", "connect to host github.com port 22",
    "Error 111 connecting to cache:6379. Connection refused.", "db.example.org:27017: [Errno -2] Name or service not known", "lookup of ann@example.org failed",
    "Unknown host for mail to ann@example.org", "\x1b[36muser\x1b[0m=\x1b[35mann\x1b[0m", "\x1b[31mERROR\x1b[0m order 17 of ann@example.org",
    'Content-Disposition: form-data; name="user"\r\n\r\nann\r\n--b--', "user: ann # the first", "user: !!str ann", "[SQL: INSERT INTO users (name) VALUES (%s)]\n[parameters: ('ann',)]",
    "INSERT INTO users (name, age) VALUES (?, ?)\n[generated in 0.00012s] ('ann', 5)", "UPDATE orders SET paid = $1\nDETAIL:  parameters: $1 = 't'", "session=closed", "sid=5",
    "account_sid=AC0123456789abcdef", '{"op":"add","path":"/name","value":"ann"}', "['HSET', 'user:1', 'name', 'ann']",
    '"SET" "order:17" "paid"', "HSET user:1 name ann age 5", "SET search_path TO shop", "https:\\/\\/h.example\\/x", "{'p': 'x', 'd': 'y'}", "C:\\:\\/x",
    "select 1", "update users set name = 'x' with params", "config set to 5",
    '{"name": "password", "x": 1}, {"name": "size", "value": "5 m"}', "order 17 at position 3 of the list", "args: ('ann', 5)", "Name or service not known",
    "Could not parse the remainder: '17' from 'order=17'", "*2\r\n$3\r\nGET\r\n$3\r\nann\r\n", "select name from users where id = ? [generated in 1s] (17,)",
    "https%3A%2F%2Fh.example%3A8080%2Fann%40x", "host ann@example.org", "failed to resolve ann@example.org",
    "protocol: https, mail ann@example.org", "host: db.example.org, owner ann@example.org",
)  # fmt: skip
