# ruff: noqa: E501 - a table of texts
"""Tokens of services, each with a beginning that the service documents, and calls that take a secret.

The tokens are put together here, so none stands in this file.
"""

from typing import Final

_MIXED: Final = "Xk9vQ2mZ7rT4aB3cD5eF6gH8"
_HEX: Final = "9f86d081884c7d659a2feaa0c55ad015"
_BEGUN: Final = (
    "whsec_", "gldt-", "glrt-", "glc_eyJv", "sk-proj-", "sk-ant-api03-", "dckr_pat_", "lin_api_", "sq0atp-",
    "EAACEdEose0cBA", "GOCSPX-", "HRKU-AA", "ATATT3xFfGF0", "NRAK-", "sntrys_eyJp", "pscale_tkn_",
    "pscale_pw_", "fm2_", "LTAI5t", "figd_", "CFPAT-", "EZAK", "FLWSECK_TEST-", "xoxe-1-",
    "sk.eyJ1IjoiYW5u.abc", "ops_eyJ", "AGE-SECRET-KEY-1QQ", "github_pat_11AAAA_", "ya29.a0Af", "phx_",
    "tskey-auth-",
)  # fmt: skip
_BEFORE_HEX: Final = (
    "shpat_", "shpss_", "shpca_", "dapi", "rubygems_", "sbp_", "doo_v1_", "pul-", "shippo_live_",
    "xapp-1-A0-1-", "key-",
)  # fmt: skip
_OTHERWISE: Final = (
    "glsa_{R}_6f7a8b9c", "hf_{R}aaBB12", "ntn_{R}{R}", "sq0csp-{R}{R}e", "1//0{R}{R}", "sntryu_{H}{H}",
    "dp.pt.{R}{R}", "PMAK-{R}-{R}", "MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ.{R}abc",
    "{H}-us12", "1234567890:{R}{R}", "v1.0-{H}{H}", "r8_{R}abcdef", "gsk_{R}{R}", "xai-{R}{R}", "pplx-{R}{R}",
    "AIzaSy{R}aaaaaaaaa", "nvapi-{R}{R}", "ASIAABCDEFGHIJKLMNOP", "npm_{R}{R}", "nfp_{R}{R}",
    "SG.{R}.{R}{R}",
)  # fmt: skip
TOKENS: Final = (
    *(f"{begin}{_MIXED}{_MIXED}" for begin in _BEGUN),
    *(f"{begin}{_HEX}" for begin in _BEFORE_HEX),
    *(form.format(R=_MIXED, H=_HEX) for form in _OTHERWISE),
)

CALLED: Final = (
    "{('password',): 'S'}", "postgres://u:a S@h/d", 'dsn "postgres://u:a"S@h/d"', "postgres://u:a>S@h/d",
    "https://S:x-oauth-basic@github.com/a", "https://h/d?a=1&sas=S", "otpcode=S", "pincode: S", "securityCode=S",
    "mfa_code=S", "ssn=S", "motdepasse=S", "contraseña=S", "mnemonic: S", "seed_phrase=S", "private_pem=S", "hmac=S",
    "xsrf: S",
    "db.example:6543:shop:ann:S", "*:*:*:ann:S", "<Morsel: sid=S>", "saml_response=S", "deviceCode=S", "recovery-code: S",
    "https://h/?next=%2Fa%26sid%3DS", "user='ann:S'", "select pgp_sym_decrypt_bytea(data, 'S')", "ACL: user ann on ~* +@all >S",
    "logging in as: ann S", "got header X-Y with value S", "SVIX-Signature: v1,S",
    'org.apache.kafka.common.security.plain.PlainLoginModule required username="a" password="S";',
    "sasl_plain_password='S'", '{"auths": {"ghcr.io": {"auth": "S"}}}', "client-key-data: S",
    "//packages.example/:_authToken=S", "index-url = https://user:S@host/simple",
    "simple_bind_s('cn=admin,dc=x', 'S')", "mysqli_connect('localhost', 'root', 'S', 'db')",
    "new PDO('mysql:host=h', 'root', 'S')",
    'DriverManager.getConnection("jdbc:mysql://h/d", "root", "S")',
    "jdbc:mysql://h/d?user=u&password=S", "jdbc:sqlserver://h;user=u;password=S;", "secret_key_base: S",
    "SECRET_KEY = 'S'", "smtplib.SMTP.login('ann', 'S')", 'server.login("ann@x.com", "S")',
    "imap.login('ann','S')", "ftp = FTP('h', 'ann', 'S')", "ftplib.FTP('h', user='ann', passwd='S')",
    "paramiko.connect('h', username='ann', password='S')", "ssh.connect('h', 22, 'ann', 'S')",
    "requests.get(url, auth=('ann', 'S'))", "auth=('ann', 'S')",
    "httpx.BasicAuth(username='ann', password='S')", "HTTPBasicAuth('ann','S')",
    "boto3.client('s3', aws_access_key_id='AK', aws_secret_access_key='S')", "Minio('h', 'ak', 'S')",
    "Minio('h', access_key='ak', secret_key='S')", "Redis(host='h', password='S')",
    "MongoClient('mongodb://u:S@h')", "cx_Oracle.connect('scott', 'S', 'h/x')",
    "cx_Oracle.connect('scott/S@h/x')", "oracledb.connect(user='a', password='S', dsn='x')",
    "snowflake.connector.connect(user='a', password='S')", "pika.PlainCredentials('guest', 'S')",
    "PlainCredentials('guest','S')", "kombu.Connection('amqp://guest:S@h')",
    "ldap3.Connection(s, 'cn=a', 'S')", "Fernet(b'S')", "jwt.encode({}, 'S', algorithm='HS256')",
    "hashlib.pbkdf2_hmac('sha256', b'S', b'salt', 1)", "hmac.new(b'S', msg, 'sha256')",
    "os.environ['DB_PASSWORD'] = 'S'", "os.environ.get('API_KEY', 'S')", "getenv('TOKEN', 'S')",
    "config.set('db', 'password', 'S')", "keyring.set_password('svc', 'ann', 'S')",
    "User.objects.create_user('ann', 'a@x.com', 'S')", "user.set_password('S')",
    "authenticate(username='ann', password='S')", "check_password('S', hash)", "generate_password_hash('S')",
    "bcrypt.hashpw(b'S', salt)", "argon2.hash('S')", "URLSafeTimedSerializer('S')",
    "itsdangerous.Signer('S')", "Signer('S')", "TimestampSigner(key='S')", "app.secret_key = 'S'",
    "app.config['SECRET_KEY'] = 'S'", "stripe.api_key = 'S'", "openai.api_key = 'S'",
    "openai.OpenAI(api_key='S')", "twilio.rest.Client('AC1', 'S')", "SendGridAPIClient('S')",
    "telebot.TeleBot('S')", "WebClient(token='S')", "tweepy.OAuthHandler('ck', 'S')", "Github('S')",
    "github.Github(login_or_token='S')", "gitlab.Gitlab('https://h', private_token='S')",
    "jira.JIRA('https://h', basic_auth=('a', 'S'))", "Elasticsearch(['h'], http_auth=('e', 'S'))",
    "Elasticsearch(cloud_id='x', api_key=('id', 'S'))", "InfluxDBClient(url='h', token='S', org='o')",
    "consul.Consul(token='S')", "hvac.Client(url='h', token='S')", "nats.connect('nats://u:S@h')",
    "celery -b amqp://u:S@h worker", "gunicorn -e SECRET=S app", "uvicorn app --env TOKEN=S",
    "docker run -e DB_PASSWORD=S x", "docker run --env TOKEN=S x", "docker build --build-arg TOKEN=S .",
    "podman run -e PGPASSWORD='S' x", "kubectl run x --env=TOKEN=S",
    "kubectl create secret docker-registry r --docker-password=S", "helm upgrade x --set db.password=S",
    "flyctl secrets set A=S", "psql postgres://a:S@h/x -c 'select'", "pg_dump --dbname=postgresql://a:S@h/x",
    "mongodump --uri mongodb://a:S@h --password S", "restic -r s3:x --password-command 'echo S'",
    "rsync --password-file=/x rsync://a:S@h/m", "wget --header='Authorization: Bearer S' h",
    "curl -H 'PRIVATE-TOKEN: S' h", "curl -F token=S h", "curl --data-urlencode 'password=S' h",
    "curl -XPOST -d '{\"client_secret\":\"S\"}' h", "X-Vault-Token: S", "X-Consul-Token: S", "X-Auth-Key: S",
    "X-Shopify-Access-Token: S", "Ocp-Apim-Subscription-Key: S", "X-Figma-Token: S", "DD-API-KEY: S",
    "Api-Key: S", "apikey: S", "X-RapidAPI-Key: S", "x-functions-key: S", "Circle-Token: S",
    "X-GitHub-Token: S", "X-Hub-Signature-256: sha256=S", "X-Twilio-Signature: S", "X-Slack-Signature: v0=S",
    "Stripe-Signature: t=1,v1=S", "Webhook-Signature: v1,S",
)  # fmt: skip
"""`S` stands for the secret."""

HARMLESS: Final = (
    "cus_NffrFeUfNV2Hib", "pi_3MtwBwLkdIwHu7ix28a3tqPa", "hf_transfer is installed", "pul-request-12", "sgp_region_1",
    "phx_office_2", "shop-7f9c6d5b7-abcde", "commit 9f86d081884c7d659a2feaa0c55ad015", "duffel_bag_count", "shippo_client",
    "pscale_cluster_name", "xapp-router", "API-1234", "sk-region", "re_compiled_2", "fm2_radio", "dp.pt.x", "sl.1.2.3",
    "a task-1b671a64-40d5-491e-99b0-da01ff1f3341", "gsk_company", "the disk-usage-report-2030-01-01-daily", "npm_config_cache",
    "hvs.example.org", "v1.0-rc1", "key-value", "key-1", "127.0.0.1:5432:up", "at 12:30:45:123", "a:80:b:c", "db:5432 is up",
    "model.Client(name='x')", "create_order('ann', 'x')", "function-signature(a, b)",
)  # fmt: skip
"""Words and identifiers that begin or look like those."""
