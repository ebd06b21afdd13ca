# ruff: noqa: E501 - a table of texts
"""A second set of pairs like `failure_pairs`, of other libraries, that no rule was written for.

It is measured and not tuned to: what it finds is mended in general and shown by pairs of the first set.
"""

from typing import Final

Pairs = dict[str, tuple[tuple[str, str], ...]]

SAME: Final[Pairs] = {
    "aiohttp": (
        ("Cannot connect to host api-3.example:443 ssl:default [Name or service not known]", "Cannot connect to host api-17.example:443 ssl:default [Name or service not known]"),
        ("Response payload is not completed: <TransferEncodingError: 400, message='Not enough data to satisfy transfer length header.'>", "Response payload is not completed: <TransferEncodingError: 400, message='Not enough data to satisfy transfer length header.'>"),
    ),
    "asyncpg": (
        ('prepared statement "__asyncpg_stmt_1a__" does not exist', 'prepared statement "__asyncpg_stmt_2f__" does not exist'),
        ("invalid input for query argument $1: 'abc' ('str' object cannot be interpreted as an integer)", "invalid input for query argument $1: 'x y' ('str' object cannot be interpreted as an integer)"),
    ),
    "pymongo": (
        ('E11000 duplicate key error collection: shop.users index: email_1 dup key: { email: "a@b.c" }', 'E11000 duplicate key error collection: shop.users index: email_1 dup key: { email: "x@y.z" }'),
        ("mongo-1:27017: [Errno 111] Connection refused (configured timeouts: socketTimeoutMS: 20000.0ms, connectTimeoutMS: 20000.0ms), Timeout: 30s, Topology Description: <TopologyDescription id: 65a1b2c3d4e5f60718293a4b, topology_type: Unknown>", "mongo-2:27017: [Errno 111] Connection refused (configured timeouts: socketTimeoutMS: 20000.0ms, connectTimeoutMS: 20000.0ms), Timeout: 30s, Topology Description: <TopologyDescription id: 75a1b2c3d4e5f60718293a99, topology_type: Unknown>"),
    ),
    "kafka-python": (
        ("[Error 6] NotLeaderForPartitionError: shop-orders-3", "[Error 6] NotLeaderForPartitionError: shop-orders-11"),
        ("Batch for TopicPartition(topic='orders', partition=0) containing 3 record(s) expired: 30 seconds have passed since batch creation plus linger time", "Batch for TopicPartition(topic='orders', partition=7) containing 41 record(s) expired: 31 seconds have passed since batch creation plus linger time"),
    ),
    "urllib3": (
        ("HTTPSConnectionPool(host='a.example', port=443): Read timed out. (read timeout=5.0)", "HTTPSConnectionPool(host='b.example', port=8443): Read timed out. (read timeout=4.997)"),
        ("('Connection broken: IncompleteRead(512 bytes read, 1024 more expected)', IncompleteRead(512 bytes read, 1024 more expected))", "('Connection broken: IncompleteRead(9 bytes read, 70 more expected)', IncompleteRead(9 bytes read, 70 more expected))"),
    ),
    "google-cloud": (
        ("404 GET https://storage.googleapis.com/storage/v1/b/a/o/x.csv?alt=json: No such object: a/x.csv", "404 GET https://storage.googleapis.com/storage/v1/b/b/o/dir%2Fy.csv?alt=json: No such object: b/dir/y.csv"),
        ("Timeout of 60.0s exceeded, last exception: 503 Getting metadata from plugin failed", "Timeout of 120.0s exceeded, last exception: 503 Getting metadata from plugin failed"),
    ),
    "azure": (
        ("The specified blob does not exist.\nRequestId:1b0f3b2c-0d9c-4f9e-8d43-b8a0f6a3c111\nTime:2024-01-02T03:04:05.0000000Z", "The specified blob does not exist.\nRequestId:99999999-0d9c-4f9e-8d43-b8a0f6a3c222\nTime:2025-11-02T13:14:15.0000000Z"),
    ),
    "openai": (
        ("Error code: 429 - {'error': {'message': 'Rate limit reached for gpt-4 in organization org-abc on tokens per min. Limit: 10000, Used: 9999', 'type': 'tokens'}}", "Error code: 429 - {'error': {'message': 'Rate limit reached for gpt-4 in organization org-xyz on tokens per min. Limit: 30000, Used: 29871', 'type': 'tokens'}}"),
    ),
    "pika": (
        ("ChannelClosedByBroker: (404) \"NOT_FOUND - no queue 'orders' in vhost '/'\"", "ChannelClosedByBroker: (404) \"NOT_FOUND - no queue 'mails' in vhost '/prod'\""),
    ),
    "cassandra": (
        ("errors={'10.0.0.1:9042': 'Client request timeout. See Session.execute[_async](timeout)'}, last_host=10.0.0.1:9042", "errors={'10.0.0.2:9042': 'Client request timeout. See Session.execute[_async](timeout)'}, last_host=10.0.0.2:9042"),
    ),
    "docker": (
        ('404 Client Error for http+docker://localhost/v1.43/containers/3f2a9c/json: Not Found ("No such container: 3f2a9c")', '404 Client Error for http+docker://localhost/v1.44/containers/web/json: Not Found ("No such container: web")'),
    ),
    "pyyaml": (
        ('mapping values are not allowed here\n  in "a.yml", line 3, column 8', 'mapping values are not allowed here\n  in "b.yml", line 70, column 1'),
    ),
    "numpy": (
        ("operands could not be broadcast together with shapes (3,4) (5,)", "operands could not be broadcast together with shapes (7,) (2,2)"),
        ("cannot reshape array of size 12 into shape (5,2)", "cannot reshape array of size 100 into shape (3,3,3)"),
    ),
    "zipfile and tarfile": (
        ("Bad CRC-32 for file 'a/b.txt'", "Bad CRC-32 for file 'other name.bin'"),
        ("\"There is no item named 'x.xml' in the archive\"", "\"There is no item named 'y/z.xml' in the archive\""),
    ),
    "pyjwt": (
        ("The token is not yet valid (iat)", "The token is not yet valid (iat)"),
    ),
    "websockets": (
        ("received 1011 (internal error) keepalive ping timeout; then sent 1011 (internal error) keepalive ping timeout", "received 1011 (internal error) keepalive ping timeout; then sent 1011 (internal error) keepalive ping timeout"),
    ),
    "pyodbc": (
        ("('22001', \"[22001] [Microsoft][ODBC Driver 18 for SQL Server][SQL Server]String or binary data would be truncated in table 'shop.dbo.users', column 'name'. Truncated value: 'abc'. (2628) (SQLExecDirectW)\")", "('22001', \"[22001] [Microsoft][ODBC Driver 18 for SQL Server][SQL Server]String or binary data would be truncated in table 'shop.dbo.users', column 'name'. Truncated value: 'long word'. (2628) (SQLExecDirectW)\")"),
    ),
    "selenium": (
        ('Message: no such element: Unable to locate element: {"method":"css selector","selector":".a"}\n  (Session info: chrome=120.0.6099.109)', 'Message: no such element: Unable to locate element: {"method":"css selector","selector":"#pay > b"}\n  (Session info: chrome=131.0.1.2)'),
    ),
    "jsonschema": (
        ("'abc' is not of type 'integer'\n\nFailed validating 'type' in schema['properties']['age']:\n    {'type': 'integer'}", "'x y' is not of type 'integer'\n\nFailed validating 'type' in schema['properties']['age']:\n    {'type': 'integer'}"),
    ),
    "twilio": (
        ("HTTP 400 error: Unable to create record: The 'To' number +4915112345 is not a valid phone number.", "HTTP 400 error: Unable to create record: The 'To' number +1555987 is not a valid phone number."),
    ),
    "redis cluster": (
        ("MOVED 3999 10.0.0.1:6381", "MOVED 12182 10.0.0.7:6382"),
        ("Command # 3 (SET user:17 x) of pipeline caused error: OOM command not allowed when used memory > 'maxmemory'.", "Command # 9 (SET user:99 y) of pipeline caused error: OOM command not allowed when used memory > 'maxmemory'."),
    ),
}  # fmt: skip

DIFFERENT: Final[Pairs] = {
    "aiohttp": (
        ("404, message='Not Found', url='https://a.example/x'", "503, message='Service Unavailable', url='https://a.example/x'"),
        ("Cannot connect to host a.example:443 ssl:default [Connect call failed ('10.0.0.1', 443)]", "Cannot connect to host a.example:443 ssl:default [Name or service not known]"),
    ),
    "sqlalchemy": (
        ("(sqlite3.OperationalError) no such table: orders", "(sqlite3.OperationalError) database is locked"),
        ("Can't locate revision identified by 'a1b2c3'", "Multiple head revisions are present for given argument 'head'"),
        ("Object '<Order at 0x7f00>' is already attached to session '3' (this is '7')", "Parent instance <Order at 0x7f00> is not bound to a Session; lazy load operation of attribute 'lines' cannot proceed"),
    ),
    "django": (
        ("{'email': ['Enter a valid email address.']}", "{'name': ['This field is required.']}"),
        ("NOT NULL constraint failed: shop_order.total", "NOT NULL constraint failed: shop_order.customer_id"),
        ("Cannot resolve keyword 'naem' into field. Choices are: id, name", "Cannot resolve keyword 'totl' into field. Choices are: id, total"),
    ),
    "boto3": (
        ("An error occurred (ThrottlingException) when calling the PutItem operation (reached max retries: 4): Rate exceeded", "An error occurred (ConditionalCheckFailedException) when calling the PutItem operation: The conditional request failed"),
        ("An error occurred (AccessDenied) when calling the GetObject operation: Access Denied", "An error occurred (AccessDenied) when calling the PutObject operation: Access Denied"),
        ('Parameter validation failed:\nMissing required parameter in input: "Bucket"', 'Parameter validation failed:\nMissing required parameter in input: "Key"'),
    ),
    "grpc": (
        ("<AioRpcError of RPC that terminated with:\n\tstatus = StatusCode.DEADLINE_EXCEEDED", "<AioRpcError of RPC that terminated with:\n\tstatus = StatusCode.PERMISSION_DENIED"),
    ),
    "pymongo": (
        ("not primary, full error: {'ok': 0.0, 'errmsg': 'not primary', 'code': 10107, 'codeName': 'NotWritablePrimary'}", "Authentication failed., full error: {'ok': 0.0, 'errmsg': 'Authentication failed.', 'code': 18, 'codeName': 'AuthenticationFailed'}"),
        ('E11000 duplicate key error collection: shop.users index: email_1 dup key: { email: "a" }', 'E11000 duplicate key error collection: shop.orders index: number_1 dup key: { number: "a" }'),
    ),
    "kafka-python": (
        ("[Error 6] NotLeaderForPartitionError: orders-3", "[Error 7] RequestTimedOutError: orders-3"),
        ("[Error 29] TopicAuthorizationFailedError: orders", "[Error 30] GroupAuthorizationFailedError: orders"),
    ),
    "asyncpg": (
        ('column "totl" does not exist', 'relation "order" does not exist'),
        ('null value in column "name" of relation "users" violates not-null constraint', 'null value in column "email" of relation "users" violates not-null constraint'),
    ),
    "urllib3": (
        ("HTTPSConnectionPool(host='a', port=443): Max retries exceeded with url: /x (Caused by SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired (_ssl.c:1006)')))", "HTTPSConnectionPool(host='a', port=443): Max retries exceeded with url: /x (Caused by ResponseError('too many 503 error responses'))"),
    ),
    "google-cloud": (
        ("403 POST https://bigquery.googleapis.com/bigquery/v2/projects/p/jobs: Access Denied: Project p: User does not have bigquery.jobs.create permission", "404 POST https://bigquery.googleapis.com/bigquery/v2/projects/p/jobs: Not found: Dataset p:shop"),
    ),
    "azure": (
        ("(AuthorizationFailure) This request is not authorized to perform this operation.", "(ContainerNotFound) The specified container does not exist."),
    ),
    "openai": (
        ("Error code: 429 - {'error': {'message': 'Rate limit reached', 'code': 'rate_limit_exceeded'}}", "Error code: 401 - {'error': {'message': 'Incorrect API key provided', 'code': 'invalid_api_key'}}"),
    ),
    "pika": (
        ("(404) \"NOT_FOUND - no queue 'orders' in vhost '/'\"", "(406) \"PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'orders' in vhost '/'\""),
    ),
    "pyjwt": (
        ("Signature has expired", "Signature verification failed"),
    ),
    "websockets": (
        ("received 1001 (going away); then sent 1001 (going away)", "no close frame received or sent"),
        ("server rejected WebSocket connection: HTTP 401", "server rejected WebSocket connection: HTTP 503"),
    ),
    "marshmallow": (
        ("{'age': ['Not a valid integer.']}", "{'email': ['Missing data for required field.']}"),
    ),
    "numpy": (
        ("cannot convert float NaN to integer", "cannot convert float infinity to integer"),
    ),
    "kubernetes": (
        ("(409)\nReason: Conflict", "(422)\nReason: Unprocessable Entity"),
    ),
    "ldap3": (
        ("LDAPInvalidCredentialsResult - 49 - invalidCredentials - None - None - bindResponse - None", "LDAPInsufficientAccessRightsResult - 50 - insufficientAccessRights - None - None - addResponse - None"),
    ),
}  # fmt: skip
