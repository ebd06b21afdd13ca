# ruff: noqa: E501 - a table of texts
"""Pairs of messages as libraries and servers print them: of one fault that struck twice, and of two faults.

Each pair is from one raising place, so only the message can tell them apart. A pair is of two faults if
whoever has mended the one still has the other to mend.
"""

from typing import Final

SAME: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "python": (
        (
            "[Errno 2] No such file or directory: '/data/in/a1.csv'",
            "[Errno 2] No such file or directory: '/data/in/zz.csv'",
        ),
        (
            "[Errno 13] Permission denied: '/var/spool/7/x'",
            "[Errno 13] Permission denied: '/var/spool/8/y z'",
        ),
        (
            "[Errno 28] No space left on device: '/tmp/tmpab12cd'",
            "[Errno 28] No space left on device: '/tmp/tmpzz99qq'",
        ),
        ("[Errno 111] Connection refused", "[Errno 111] Connection refused"),
        ("invalid literal for int() with base 10: '12a'", "invalid literal for int() with base 10: ''"),
        ("could not convert string to float: '1,5'", "could not convert string to float: 'n/a'"),
        ("'alice'", "'bob'"),
        (
            "time data '2024-13-01' does not match format '%Y-%m-%d'",
            "time data 'yesterday' does not match format '%Y-%m-%d'",
        ),
        ("Invalid isoformat string: '2024-1-1'", "Invalid isoformat string: 'tomorrow'"),
        ("day is out of range for month", "day is out of range for month"),
        (
            "not enough values to unpack (expected 3, got 2)",
            "not enough values to unpack (expected 3, got 1)",
        ),
        (
            "'utf-8' codec can't decode byte 0xe9 in position 10: invalid continuation byte",
            "'utf-8' codec can't decode byte 0xff in position 0: invalid continuation byte",
        ),
        (
            "'ascii' codec can't encode character '\\xe9' in position 3: ordinal not in range(128)",
            "'ascii' codec can't encode character '\\u20ac' in position 77: ordinal not in range(128)",
        ),
        ("Expecting value: line 1 column 1 (char 0)", "Expecting value: line 17 column 203 (char 4711)"),
        (
            "Unterminated string starting at: line 1 column 5 (char 4)",
            "Unterminated string starting at: line 2 column 50 (char 99)",
        ),
        (
            "Command '['ffmpeg', '-i', 'a.mp4', 'a.webm']' returned non-zero exit status 1.",
            "Command '['ffmpeg', '-i', 'other file.mp4', 'b.webm']' returned non-zero exit status 1.",
        ),
        (
            "Command '['convert', 'x.png']' timed out after 30 seconds",
            "Command '['convert', 'y.png']' timed out after 29.98 seconds",
        ),
        ("list.remove(x): x not in list", "list.remove(x): x not in list"),
        ("array index 5 out of range for length 3", "array index 12 out of range for length 10"),
        (
            "Object of type Decimal is not JSON serializable",
            "Object of type Decimal is not JSON serializable",
        ),
        (
            "day 32 must be in range 1..31 for month 1 in year 2024",
            "day 33 must be in range 1..31 for month 12 in year 1999",
        ),
        (
            "File is not a zip file: <_io.BytesIO object at 0x7f3b2c1d>",
            "File is not a zip file: <_io.BytesIO object at 0x55aa00ff>",
        ),
        ("<Order: 17> is already paid", "<Order: 4711> is already paid"),
        (
            "bad row Row(id=1, name='a', price=Decimal('1.50'))",
            "bad row Row(id=22, name='b c', price=Decimal('17'))",
        ),
    ),
    "psycopg": (
        (
            'duplicate key value violates unique constraint "users_email_key"\nDETAIL:  Key (email)=(a@b.c) already exists.',
            'duplicate key value violates unique constraint "users_email_key"\nDETAIL:  Key (email)=(x@y.z) already exists.',
        ),
        (
            'insert or update on table "orders" violates foreign key constraint "orders_user_fkey"\nDETAIL:  Key (user_id)=(7) is not present.',
            'insert or update on table "orders" violates foreign key constraint "orders_user_fkey"\nDETAIL:  Key (user_id)=(99) is not present.',
        ),
        (
            'invalid input syntax for type integer: "abc"\nLINE 1: select',
            'invalid input syntax for type integer: ""\nLINE 1: select',
        ),
        ('invalid input syntax for type uuid: "17"', 'invalid input syntax for type uuid: "not one"'),
        (
            'date/time field value out of range: "2024-13-01"',
            'date/time field value out of range: "31.31.2024"',
        ),
        ("value too long for type character varying(40)", "value too long for type character varying(40)"),
        (
            "deadlock detected\nDETAIL:  Process 11 waits for ShareLock on transaction 5",
            "deadlock detected\nDETAIL:  Process 99 waits for ShareLock on transaction 6",
        ),
        (
            "canceling statement due to statement timeout\nCONTEXT:  while locking tuple (0,1)",
            "canceling statement due to statement timeout\nCONTEXT:  while locking tuple (7,3)",
        ),
        (
            'connection failed: connection to server at "10.0.0.5", port 5432 failed: Connection refused\n\tIs the server running?',
            'connection failed: connection to server at "10.0.0.77", port 6432 failed: Connection refused\n\tIs the server running?',
        ),
        (
            'could not translate host name "db-1.internal" to address: Name or service not known',
            'could not translate host name "db-22.internal" to address: Name or service not known',
        ),
        ('password authentication failed for user "alice"', 'password authentication failed for user "bob"'),
        (
            "could not serialize access due to concurrent update",
            "could not serialize access due to concurrent update",
        ),
        (
            "consuming input failed: server closed the connection unexpectedly",
            "consuming input failed: server closed the connection unexpectedly",
        ),
    ),
    "redis": (
        (
            "Error 111 connecting to 10.1.2.3:6379. Connection refused.",
            "Error 111 connecting to cache-2.internal:6380. Connection refused.",
        ),
        ("Timeout reading from 10.1.2.3:6379", "Timeout reading from localhost:6380"),
        ("MOVED 3999 127.0.0.1:6381", "MOVED 12182 127.0.0.1:6390"),
        (
            "Error while reading from 10.0.0.1:6379 : (104, 'Connection reset by peer')",
            "Error while reading from 10.0.0.9:6379 : (104, 'Connection reset by peer')",
        ),
        ("Too many connections (1001)", "Too many connections (2000)"),
        (
            "user_script:17: unknown key order:4711 script: 2067d915024a3e1657c4169c84f809f8ec75faf5",
            "user_script:17: unknown key order:99 script: 2067d915024a3e1657c4169c84f809f8ec75faf5",
        ),
    ),
    "requests": (
        (
            "404 Client Error: Not Found for url: https://api.example.com/users/17",
            "404 Client Error: Not Found for url: https://api.example.com/users/99?full=1",
        ),
        (
            "503 Server Error: Service Unavailable for url: http://10.0.0.1:8080/",
            "503 Server Error: Service Unavailable for url: http://10.0.0.2:8080/x",
        ),
        (
            "HTTPConnectionPool(host='10.0.0.1', port=80): Max retries exceeded with url: /a (Caused by NewConnectionError('<urllib3.connection.HTTPConnection object at 0x7f11>: Failed to establish a new connection: [Errno 111] Connection refused'))",
            "HTTPConnectionPool(host='10.0.0.2', port=8080): Max retries exceeded with url: /b?c=1 (Caused by NewConnectionError('<urllib3.connection.HTTPConnection object at 0x7fbb>: Failed to establish a new connection: [Errno 111] Connection refused'))",
        ),
        (
            "HTTPSConnectionPool(host='api.example.com', port=443): Read timed out. (read timeout=5)",
            "HTTPSConnectionPool(host='api2.example.com', port=443): Read timed out. (read timeout=5)",
        ),
        (
            "('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))",
            "('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))",
        ),
        (
            "Invalid URL '17': No scheme supplied. Perhaps you meant https://17?",
            "Invalid URL 'foo bar': No scheme supplied. Perhaps you meant https://foo bar?",
        ),
        ("Exceeded 30 redirects.", "Exceeded 30 redirects."),
    ),
    "httpx": (
        (
            "Client error '404 Not Found' for url 'https://a.example/x/1'\nFor more information check: https://httpstatuses",
            "Client error '404 Not Found' for url 'https://a.example/x/2'\nFor more information check: https://httpstatuses",
        ),
        (
            "Server error '500 Internal Server Error' for url 'https://a.example/x/1'",
            "Server error '500 Internal Server Error' for url 'https://b.example/y'",
        ),
        ("[Errno -2] Name or service not known", "[Errno -2] Name or service not known"),
        ("The read operation timed out", "The read operation timed out"),
        (
            "Request URL is missing an 'http://' or 'https://' protocol.",
            "Request URL is missing an 'http://' or 'https://' protocol.",
        ),
    ),
    "aiohttp": (
        (
            "Cannot connect to host api.example.com:443 ssl:default [Connect call failed ('10.0.0.1', 443)]",
            "Cannot connect to host api.example.net:443 ssl:default [Connect call failed ('10.0.0.9', 443)]",
        ),
        (
            "404, message='Not Found', url='https://a.example/1'",
            "404, message='Not Found', url='https://a.example/22'",
        ),
    ),
    "botocore": (
        (
            "An error occurred (NoSuchKey) when calling the GetObject operation: The specified key does not exist.",
            "An error occurred (NoSuchKey) when calling the GetObject operation: The specified key does not exist.",
        ),
        (
            "An error occurred (ThrottlingException) when calling the PutItem operation (reached max retries: 4): Rate exceeded",
            "An error occurred (ThrottlingException) when calling the PutItem operation (reached max retries: 10): Rate exceeded",
        ),
        (
            'Could not connect to the endpoint URL: "https://s3.eu-west-1.amazonaws.com/bucket/1"',
            'Could not connect to the endpoint URL: "https://s3.eu-west-1.amazonaws.com/other/2"',
        ),
        (
            "An error occurred (AccessDenied) when calling the AssumeRole operation: User: arn:aws:iam::123456789012:user/a is not authorized",
            "An error occurred (AccessDenied) when calling the AssumeRole operation: User: arn:aws:iam::210987654321:user/b is not authorized",
        ),
    ),
    "pydantic": (
        (
            "1 validation error for Order\nprice\n  Input should be a valid number [type=float_type, input_value='x', input_type=str]",
            "1 validation error for Order\nprice\n  Input should be a valid number [type=float_type, input_value='yy', input_type=str]",
        ),
        (
            "2 validation errors for Order\nprice\n  Field required",
            "2 validation errors for Order\nprice\n  Field required",
        ),
    ),
    "sqlalchemy": (
        (
            '(psycopg2.errors.UniqueViolation) duplicate key value violates unique constraint "users_pkey"\nDETAIL:  Key (id)=(1)',
            '(psycopg2.errors.UniqueViolation) duplicate key value violates unique constraint "users_pkey"\nDETAIL:  Key (id)=(2)',
        ),
        (
            "QueuePool limit of size 5 overflow 10 reached, connection timed out, timeout 30.00 (Background on this error at: https://sqlalche.me/e/20/3o7r)",
            "QueuePool limit of size 20 overflow 0 reached, connection timed out, timeout 10.00 (Background on this error at: https://sqlalche.me/e/20/3o7r)",
        ),
        (
            "Can't reconnect until invalid transaction is rolled back.",
            "Can't reconnect until invalid transaction is rolled back.",
        ),
        (
            "Instance <Order at 0x7f0011223344> is not bound to a Session",
            "Instance <Order at 0x7fffeeddccbb> is not bound to a Session",
        ),
    ),
    "django": (
        ("Order matching query does not exist.", "Order matching query does not exist."),
        (
            "get() returned more than one Order -- it returned 2!",
            "get() returned more than one Order -- it returned 17!",
        ),
        (
            "Invalid HTTP_HOST header: 'a.example'. You may need to add 'a.example' to ALLOWED_HOSTS.",
            "Invalid HTTP_HOST header: '10.0.0.1:80'. You may need to add '10.0.0.1' to ALLOWED_HOSTS.",
        ),
        (
            "Field 'id' expected a number but got 'abc'.",
            "Field 'id' expected a number but got 'None of these'.",
        ),
    ),
    "celery": (
        (
            "Worker exited prematurely: signal 9 (SIGKILL) Job: 17.",
            "Worker exited prematurely: signal 9 (SIGKILL) Job: 4711.",
        ),
        ("TimeLimitExceeded(30)", "TimeLimitExceeded(30.5)"),
        (
            "Task of kind 'shop.pay' never registered, please make sure it's imported.",
            "Task of kind 'shop.pay' never registered, please make sure it's imported.",
        ),
        ("revoked: 3f8e1d42-9f57-4b7a-8f0e-0123456789ab", "revoked: aaaaaaaa-9f57-4b7a-8f0e-0123456789ab"),
    ),
    "mysql": (
        (
            "(1062, \"Duplicate entry 'a@b.c' for key 'users.email'\")",
            "(1062, \"Duplicate entry 'x@y.z' for key 'users.email'\")",
        ),
        (
            "(2003, \"Can't connect to MySQL server on '10.0.0.1' ([Errno 111] Connection refused)\")",
            "(2003, \"Can't connect to MySQL server on '10.0.0.2' ([Errno 111] Connection refused)\")",
        ),
        (
            "(1205, 'Lock wait timeout exceeded; try restarting transaction')",
            "(1205, 'Lock wait timeout exceeded; try restarting transaction')",
        ),
        (
            "(1406, \"Data too long for column 'name' at row 1\")",
            "(1406, \"Data too long for column 'name' at row 17\")",
        ),
    ),
    "elasticsearch": (
        (
            "NotFoundError(404, 'not_found', {'_index': 'docs-2024.01', '_id': '1', 'found': False})",
            "NotFoundError(404, 'not_found', {'_index': 'docs-2024.02', '_id': '22', 'found': False})",
        ),
        (
            "ConnectionTimeout caused by - ReadTimeoutError(HTTPConnectionPool(host='es-1', port=9200): Read timed out. (read timeout=10))",
            "ConnectionTimeout caused by - ReadTimeoutError(HTTPConnectionPool(host='es-7', port=9200): Read timed out. (read timeout=10))",
        ),
    ),
    "stripe": (
        (
            "Request req_AbC123dEf456: No such customer: 'cus_9s6XKzkNRiz8i3'",
            "Request req_ZyX987wVu654: No such customer: 'cus_4fdAW5ftNQow1a'",
        ),
        ("Request req_1: Your card was declined.", "Request req_2: Your card was declined."),
    ),
    "grpc": (
        (
            "<_InactiveRpcError of RPC that terminated with:\n\tstatus = StatusCode.UNAVAILABLE",
            "<_InactiveRpcError of RPC that terminated with:\n\tstatus = StatusCode.UNAVAILABLE",
        ),
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:50051: Failed to connect to remote host",
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.2:50051: Failed to connect to remote host",
        ),
    ),
    "paramiko": (
        (
            "[Errno None] Unable to connect to port 22 on 10.0.0.1",
            "[Errno None] Unable to connect to port 22 on 10.0.0.2",
        ),
        ("Server 'a.example' not found in known_hosts", "Server 'b.example' not found in known_hosts"),
    ),
    "pillow": (
        (
            "cannot identify image file <_io.BytesIO object at 0x7f00>",
            "cannot identify image file <_io.BytesIO object at 0x7fff>",
        ),
        ("cannot identify image file '/data/a.png'", "cannot identify image file '/data/ein bild.png'"),
        (
            "image file is truncated (17 bytes not processed)",
            "image file is truncated (4 bytes not processed)",
        ),
        (
            "Image size (200000000 pixels) exceeds limit of 178956970 pixels, could be decompression bomb DOS attack.",
            "Image size (999999999 pixels) exceeds limit of 178956970 pixels, could be decompression bomb DOS attack.",
        ),
    ),
    "smtplib": (
        ("{'a@b.c': (550, b'5.1.1 User unknown')}", "{'x@y.z': (550, b'5.1.1 User unknown')}"),
        ("(535, b'5.7.8 Authentication failed: 7d4f')", "(535, b'5.7.8 Authentication failed: 99aa')"),
    ),
    "pandas": (
        (
            "Usecols do not match columns, columns expected but not found: ['a', 'b']",
            "Usecols do not match columns, columns expected but not found: ['c']",
        ),
        (
            "Length mismatch: Expected axis has 5 elements, new values have 4 elements",
            "Length mismatch: Expected axis has 7 elements, new values have 6 elements",
        ),
    ),
    "xml": (
        (
            "not well-formed (invalid token): line 1, column 0",
            "not well-formed (invalid token): line 44, column 17",
        ),
        ("mismatched tag: line 3, column 2", "mismatched tag: line 99, column 12"),
    ),
    "jinja2": (("unexpected '}' at line 3", "unexpected '}' at line 8"),),
    "boto3": (
        (
            "Failed to upload /tmp/a.bin to bucket/a: An error occurred (SlowDown) when calling the PutObject operation: Please reduce your request rate.",
            "Failed to upload /tmp/b.bin to bucket/b: An error occurred (SlowDown) when calling the PutObject operation: Please reduce your request rate.",
        ),
    ),
    "kafka": (
        (
            "KafkaTimeoutError: Failed to update metadata after 60.0 secs.",
            "KafkaTimeoutError: Failed to update metadata after 5.0 secs.",
        ),
        ("NoBrokersAvailable: ['10.0.0.1:9092']", "NoBrokersAvailable: ['10.0.0.2:9092', '10.0.0.3:9092']"),
    ),
    "an application": (
        (
            "Order 17 of customer alice@example.com cannot be shipped",
            "Order 4711 of customer bob@example.org cannot be shipped",
        ),
        ("tenant \u201cacme\u201d has no plan", "tenant \u201cother one\u201d has no plan"),
        ("no price for SKU AB-123-X in EUR", "no price for SKU ZZ-999-Q in EUR"),
        ("timeout after 1.52s (limit 1.5s)", "timeout after 17.03s (limit 1.5s)"),
        ("job failed at 2024-01-02T03:04:05Z", "job failed at 2025-11-29 23:59:59+00:00"),
        ('payload {"id": 1, "tags": ["a"]} is too old', 'payload {"id": 2, "tags": ["b", "c"]} is too old'),
        ("import of batch 3f2a failed: 17 of 200 rows", "import of batch 99ff failed: 1 of 3 rows"),
        ("user `alice` is locked", "user `bob` is locked"),
    ),
}

DIFFERENT: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "python": (
        ("'NoneType' object has no attribute 'price'", "'NoneType' object has no attribute 'name'"),
        ("'NoneType' object has no attribute 'price'", "'Order' object has no attribute 'price'"),
        ("name 'foo' is not defined", "name 'bar' is not defined"),
        ("No module named 'numpy'", "No module named 'pandas'"),
        (
            "cannot import name 'a' from 'shop' (/srv/shop/__init__.py)",
            "cannot import name 'b' from 'shop' (/srv/shop/__init__.py)",
        ),
        (
            "pay() missing 1 required positional argument: 'amount'",
            "pay() missing 1 required positional argument: 'currency'",
        ),
        ("pay() got an unexpected keyword argument 'tip'", "pay() got an unexpected keyword argument 'note'"),
        (
            "pay() missing 1 required positional argument: 'amount'",
            "refund() missing 1 required positional argument: 'amount'",
        ),
        (
            "unsupported operand type(s) for +: 'int' and 'str'",
            "unsupported operand type(s) for +: 'int' and 'NoneType'",
        ),
        ('can only concatenate str (not "int") to str', 'can only concatenate str (not "NoneType") to str'),
        ("'int' object is not iterable", "'NoneType' object is not iterable"),
        ("'dict' object is not callable", "'str' object is not callable"),
        (
            "Object of type Decimal is not JSON serializable",
            "Object of type datetime is not JSON serializable",
        ),
        ("[Errno 2] No such file or directory: '/a'", "[Errno 13] Permission denied: '/a'"),
        ("[Errno 111] Connection refused", "[Errno 113] No route to host"),
        (
            "local variable 'x' referenced before assignment",
            "local variable 'total' referenced before assignment",
        ),
        (
            "'utf-8' codec can't decode byte 0xe9 in position 1: invalid start byte",
            "'ascii' codec can't decode byte 0xe9 in position 1: ordinal not in range(128)",
        ),
        (
            "Command '['ffmpeg', '-i', 'a']' returned non-zero exit status 1.",
            "Command '['ffmpeg', '-i', 'a']' died with <Signals.SIGKILL: 9>.",
        ),
        ("division by zero", "float division by zero"),
        ("Expecting value: line 1 column 1 (char 0)", "Extra data: line 1 column 1 (char 0)"),
    ),
    "psycopg": (
        ('column "price" does not exist\nLINE 1: select', 'column "name" does not exist\nLINE 1: select'),
        ('relation "orders" does not exist', 'relation "users" does not exist'),
        ("function pay(integer) does not exist", "function refund(integer) does not exist"),
        (
            'duplicate key value violates unique constraint "users_email_key"',
            'duplicate key value violates unique constraint "users_name_key"',
        ),
        (
            'null value in column "price" of relation "orders" violates not-null constraint',
            'null value in column "name" of relation "orders" violates not-null constraint',
        ),
        (
            'new row for relation "orders" violates check constraint "positive"',
            'new row for relation "orders" violates check constraint "in_stock"',
        ),
        (
            'insert or update on table "orders" violates foreign key constraint "orders_user_fkey"',
            'insert or update on table "orders" violates foreign key constraint "orders_shop_fkey"',
        ),
        ("permission denied for table orders", "permission denied for table users"),
        ('invalid input syntax for type integer: "a"', 'invalid input syntax for type uuid: "a"'),
        ("value too long for type character varying(40)", "value too long for type character varying(200)"),
        ("canceling statement due to statement timeout", "canceling statement due to lock timeout"),
        ("canceling statement due to statement timeout", "canceling statement due to user request"),
        (
            'connection to server at "10.0.0.5", port 5432 failed: Connection refused',
            'connection to server at "10.0.0.5", port 5432 failed: FATAL:  too many connections for role "app"',
        ),
        ('syntax error at or near "form"', 'syntax error at or near "selct"'),
        ("operator does not exist: integer = text", "operator does not exist: uuid = text"),
        ('type "money2" does not exist', 'type "colour" does not exist'),
    ),
    "redis": (
        (
            "Error 111 connecting to 10.1.2.3:6379. Connection refused.",
            "Error 113 connecting to 10.1.2.3:6379. No route to host.",
        ),
        (
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "OOM command not allowed when used memory > 'maxmemory'.",
        ),
        (
            "unknown command 'JSON.SET', with args beginning with: 'a' ",
            "unknown command 'BF.ADD', with args beginning with: 'a' ",
        ),
        (
            "NOPERM User app has no permissions to run the 'flushall' command",
            "NOPERM User app has no permissions to run the 'keys' command",
        ),
    ),
    "requests": (
        (
            "404 Client Error: Not Found for url: https://a.example/1",
            "403 Client Error: Forbidden for url: https://a.example/1",
        ),
        (
            "500 Server Error: Internal Server Error for url: https://a.example/1",
            "503 Server Error: Service Unavailable for url: https://a.example/1",
        ),
        (
            "HTTPSConnectionPool(host='a', port=443): Read timed out. (read timeout=5)",
            "HTTPSConnectionPool(host='a', port=443): Max retries exceeded with url: / (Caused by SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired (_ssl.c:997)')))",
        ),
        ("Invalid URL '17': No scheme supplied.", "Invalid URL '17': No host supplied"),
    ),
    "httpx": (
        (
            "Client error '404 Not Found' for url 'https://a.example/1'",
            "Client error '429 Too Many Requests' for url 'https://a.example/1'",
        ),
        (
            "Server error '500 Internal Server Error' for url 'https://a.example/1'",
            "Server error '502 Bad Gateway' for url 'https://a.example/1'",
        ),
        ("[Errno -2] Name or service not known", "[Errno -3] Temporary failure in name resolution"),
    ),
    "aiohttp": (
        (
            "404, message='Not Found', url='https://a.example/1'",
            "500, message='Internal Server Error', url='https://a.example/1'",
        ),
    ),
    "botocore": (
        (
            "An error occurred (NoSuchKey) when calling the GetObject operation: The specified key does not exist.",
            "An error occurred (NoSuchBucket) when calling the GetObject operation: The specified bucket does not exist",
        ),
        (
            "An error occurred (AccessDenied) when calling the GetObject operation: Access Denied",
            "An error occurred (AccessDenied) when calling the PutObject operation: Access Denied",
        ),
        (
            "An error occurred (404) when calling the HeadObject operation: Not Found",
            "An error occurred (403) when calling the HeadObject operation: Forbidden",
        ),
    ),
    "pydantic": (
        (
            "1 validation error for Order\nprice\n  Input should be a valid number",
            "1 validation error for User\nprice\n  Input should be a valid number",
        ),
        (
            "1 validation error for Order\nprice\n  Input should be a valid number [type=float_type, input_value='x', input_type=str]",
            "1 validation error for Order\nname\n  Field required [type=missing, input_value={'a': 1}, input_type=dict]",
        ),
    ),
    "sqlalchemy": (
        (
            '(psycopg2.errors.UndefinedColumn) column "a" does not exist',
            '(psycopg2.errors.UndefinedTable) relation "a" does not exist',
        ),
        (
            '(psycopg2.errors.UniqueViolation) duplicate key value violates unique constraint "users_pkey"',
            '(psycopg2.errors.UniqueViolation) duplicate key value violates unique constraint "orders_pkey"',
        ),
        (
            "Mapper 'Mapper[Order(orders)]' has no property 'price'",
            "Mapper 'Mapper[Order(orders)]' has no property 'name'",
        ),
    ),
    "django": (
        ("Order matching query does not exist.", "User matching query does not exist."),
        (
            "Cannot resolve keyword 'prize' into field. Choices are: id, price",
            "Cannot resolve keyword 'nome' into field. Choices are: id, price",
        ),
        ("Field 'id' expected a number but got 'abc'.", "Field 'user_id' expected a number but got 'abc'."),
        ("The SECRET_KEY setting must not be empty.", "The ROOT_URLCONF setting must not be empty."),
    ),
    "celery": (
        (
            "Worker exited prematurely: signal 9 (SIGKILL) Job: 17.",
            "Worker exited prematurely: signal 11 (SIGSEGV) Job: 17.",
        ),
        ("Worker exited prematurely: exitcode 1 Job: 1.", "Worker exited prematurely: exitcode 155 Job: 1."),
        (
            "Task of kind 'shop.pay' never registered, please make sure it's imported.",
            "Task of kind 'shop.ship' never registered, please make sure it's imported.",
        ),
        ("Received unregistered task of type 'shop.pay'.", "Received unregistered task of type 'shop.ship'."),
    ),
    "mysql": (
        (
            "(1062, \"Duplicate entry 'a' for key 'users.email'\")",
            "(1062, \"Duplicate entry 'a' for key 'users.name'\")",
        ),
        ("(1146, \"Table 'shop.orders' doesn't exist\")", "(1146, \"Table 'shop.users' doesn't exist\")"),
        (
            "(1054, \"Unknown column 'price' in 'field list'\")",
            "(1054, \"Unknown column 'name' in 'field list'\")",
        ),
        (
            "(1205, 'Lock wait timeout exceeded; try restarting transaction')",
            "(1213, 'Deadlock found when trying to get lock; try restarting transaction')",
        ),
    ),
    "elasticsearch": (
        (
            "NotFoundError(404, 'index_not_found_exception', 'no such index [a]')",
            "RequestError(400, 'index_not_found_exception', 'no such index [a]')",
        ),
        (
            "RequestError(400, 'mapper_parsing_exception', 'failed to parse')",
            "RequestError(400, 'search_phase_execution_exception', 'failed to parse')",
        ),
    ),
    "stripe": (
        ("Request req_1: Your card was declined.", "Request req_1: Your card has insufficient funds."),
        ("Request req_1: No such customer: 'cus_1'", "Request req_1: No such price: 'cus_1'"),
    ),
    "grpc": (
        ("StatusCode.UNAVAILABLE: failed to connect", "StatusCode.DEADLINE_EXCEEDED: failed to connect"),
    ),
    "ssl": (
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired (_ssl.c:997)",
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:997)",
        ),
        (
            "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:997)",
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed (_ssl.c:997)",
        ),
    ),
    "smtplib": (
        ("(535, b'5.7.8 Authentication failed')", "(550, b'5.1.1 User unknown')"),
        ("(421, b'Too many connections')", "(452, b'Too many connections')"),
    ),
    "pillow": (
        ("cannot identify image file '/a'", "cannot write mode RGBA as JPEG"),
        ("cannot write mode RGBA as JPEG", "cannot write mode P as JPEG"),
    ),
    "pymongo": (
        (
            "E11000 duplicate key error collection: shop.orders index: number_1 dup key: { number: 1 }",
            "E11000 duplicate key error collection: shop.users index: email_1 dup key: { email: 1 }",
        ),
    ),
    "kubernetes": (("(404)\nReason: Not Found", "(409)\nReason: Conflict"),),
    "jinja2": (
        ("'price' is undefined", "'name' is undefined"),
        ("No filter named 'money'.", "No filter named 'colour'."),
    ),
    "pandas": (
        (
            "Missing column provided to 'parse_dates': 'day'",
            "Missing column provided to 'parse_dates': 'month'",
        ),
        (
            "You are trying to merge on object and int64 columns for key 'a'.",
            "You are trying to merge on object and float64 columns for key 'a'.",
        ),
    ),
    "an application": (
        ("setting SHOP_URL is missing", "setting SHOP_KEY is missing"),
        ("no price for SKU AB-123 in EUR", "no price for SKU AB-123 in USD"),
        ("payment provider said: card expired", "payment provider said: card stolen"),
        ("step 'import' failed", "step import failed: no rows"),
        ("exit code 1", "exit code 137"),
        ("status 404 for order 17", "status 500 for order 17"),
    ),
}
