# ruff: noqa: E501 - a table of command lines
"""Secrets on command lines, as shells, `subprocess` and `ps` show them.

A program is known by its name; `_OPTIONS` says which of its options are followed by a secret, and `_TYPED`
where a secret stands without an option. What a shell puts into a program's input is one where the program
reads a password there. Options with a secret name (`--password`) are a matter of `names`.
"""

import functools
import re
from collections.abc import Sequence
from typing import Final

from seawall.redaction.names import is_secret
from seawall.redaction.urls import HIDDEN

_REACH: Final = 1024
"""Characters behind a program's name in which its options are looked for."""

_OPTIONS: Final = (
    # programs, a word that must follow, options; a last character says that the secret begins behind it in
    # the value (`-u ann:S`), and `!` that it stands in the same word (`-pS`)
    ("curl", "", "-[A-Za-z]{0,8}u: -[A-Za-z]{0,8}U: -u:! -U:! -E: --cert: -[a-zA-Z]{0,8}b= --cookie="),
    ("http https xh httpie", "", "-a: --auth:"),
    ("http https xh httpie", "bearer", "-a --auth"),
    ("ab", "", "-A: -P:"),
    ("ttyd", "", "-c: --credential:"),
    ("jenkins-cli jenkins-cli.jar", "", "-auth:"),
    ("skopeo", "", "--src-creds: --dest-creds: --creds:"),
    ("lftp", "", "-u, -u,!"),
    ("smbclient smbget rpcclient net winexe", "", "-U%"),
    ("kubectl oc", "secret", "--from-literal="),
    ("docker podman buildah skopeo crane helm oc nerdctl az", "login", "-p"),
    ("az", "create", "-p"),
    ("az", "user", "-p"),
    ("az", "keys", "--key-value"),
    ("cf ilorest", "login", "-p"),
    ("cypher-shell beeline evil-winrm hydra crackmapexec mutool snowsql racadm", "", "-p"),
    ("altool ncftpput ncftpget uv add-user.sh aircrack rdesktop", "", "-p -p!"),
    ("security", "", "-w -P -p -k"),
    ("dsadd dsmod", "", "-pwd"),
    ("mysql mysqldump mysqladmin mysqlimport mysqlshow mysqlcheck mysqlbinlog mysqlsh", "", "-p!"),
    ("mariadb mariadb-dump mariadb-admin 7z 7za 7zr unrar rar", "", "-p! -hp!"),
    ("sshpass twine poetry smbmap rdesktop mongo mongosh mongodump mongorestore cqlsh", "", "-p"),
    ("rabbitmqadmin psexec useradd usermod", "", "-p"),
    ("sshpass twine cqlsh mongosh mongo mongodump mongorestore", "", "-p!"),
    ("sqlcmd bcp tsql", "", "-P -P!"),
    ("ipmitool knife mosquitto_pub mosquitto_sub", "", "-P"),
    ("vsql", "", "-w"),
    ("stomp", "", "-W"),
    ("swaks", "", "-ap"),
    ("sendemail", "", "-xp"),
    ("nodetool", "", "-pw"),
    ("caddy", "hash", "-p --plaintext"),
    ("slappasswd ldappasswd", "", "-s -a"),
    ("signtool", "", "/p"),
    ("influx anaconda k3s rancher vagrant uv", "", "-t"),
    ("ffmpeg", "", "-decryption_key -encryption_key"),
    ("qpdf", "", "--encrypt"),
    ("zip unzip", "", "-P -P!"),
    ("ssh-keygen", "", "-N -P"),
    ("redis-cli", "", "-a -a!"),
    ("openssl", "", "-k -K -psk -hmac -macopt:"),
    ("ldapsearch ldapmodify ldapadd ldapdelete ldappasswd ldapwhoami", "", "-w -w!"),
    ("plink pscp psftp putty", "", "-pw"),
    ("pdftotext pdftoppm pdfinfo", "", "-upw -opw"),
    ("snmpwalk snmpget snmpset", "", "-A -X -c"),
    ("doctl vercel", "", "-t"),
    ("gh", "secret", "-b --body"),
    ("dotnet gem", "push", "-k --key"),
    ("aws", "put-parameter", "--value"),
    ("az", "keyvault", "--value"),
    ("schtasks", "", "/rp"),
    ("xfreerdp", "", "/p:!"),
    ("fly flyctl supabase doppler", "secrets", "set="),
    ("heroku dokku", "config:set", "config:set="),
    ("eb", "setenv", "setenv="),
    ("railway", "variables", "set="),
    ("vault", "put", "put="),
    ("vault", "patch", "patch="),
    ("vault", "write", "write="),
    ("netsh", "set", "set="),
)  # fmt: skip
_ASSIGNMENTS: Final = frozenset({"set=", "config:set=", "put=", "patch=", "write=", "setenv="})
"""Not options but words, behind which every `name=value` is a secret."""

_BETWEEN: Final = """(?:[ ]|['"],[ ]?['"])"""
"""What is between two words: a blank, or where a list is shown, the end and the beginning of its items."""
_TYPED: Final = {
    "login": r"""(?:vault|cargo)[ ]login[ ](?!token=)(?:-no-\w{1,16}+[ ]|--?registry[ ][^\s'"]{1,64}+[ ])?(?!-)""",
    "vault": r"""vault[ ](?:token[ ](?:lookup|revoke|renew)|operator[ ]unseal|unwrap)[ ](?!-)""",
    "consul": r"""consul[ ]acl[ ]token[ ]read[ ]-id[ ]""",
    "etcdctl": r"""etcdctl[ ]user[ ]add[ ][^\s:'"]{1,64}+:""",
    "bw": r"""bw[ ](?:unlock|login[ ][^\s'"]{1,64}+)[ ](?!-)""",
    "consul etcdctl": r"""(?:consul[ ]kv|etcdctl)[ ]put[ ][^\s'"]{0,128}?(?:passw|token|secret)[^\s'"]{0,64}+[ ]""",
    "lpass": r"""lpass[ ]login[ ]--plaintext[ ][^\s'"]{1,64}+[ ]""",
    "cf": r"""cf[ ]auth[ ][^\s'"]{1,64}+[ ]""",
    "pulumi": r"""pulumi[ ]config[ ]set[ ](?:--secret[ ])?[^\s'"]{1,64}+[ ]""",
    "neo4j-admin": r"""neo4j-admin[ ](?:dbms[ ])?set-initial-password[ ]""",
    "ansible-vault": r"""ansible-vault[ ]encrypt_string[ ](?:--name[ ][^\s'"]{1,64}+[ ])?['"]?(?!-)""",
    "salt": r"""salt[ ][^\s]{1,64}+[ ](?:shadow\.set_password[ ][^\s]{1,64}+|mysql\.user_create[ ][^\s]{1,64}+[ ][^\s]{1,64}+)[ ]""",
    "openssl": r"""openssl[ ]passwd[ ](?:-salt[ ][^\s'"]{1,64}+[ ]|-\w{1,6}+[ ]){0,4}(?!-)""",
    "mkpasswd": r"""mkpasswd[ ](?:-m[ ][^\s'"]{1,32}+[ ])?(?!-)""",
    "samba-tool": r"""samba-tool[ ]user[ ]create[ ][^\s'"]{1,64}+[ ](?!-)""",
    "htpasswd": r"""htpasswd[ ]-[a-zA-Z]{0,4}?n[a-zA-Z]{0,4}+[ ](?:\d{1,2}+[ ])?[^\s'"]{1,64}+[ ]
        |htpasswd[ ]-[a-zA-Z]{0,4}?b[a-zA-Z]{0,4}+[ ](?:[^\s'"]{1,256}+[ ](?=[^\s'"]{1,256}+[ ]\S))?[^\s'"]{1,64}+[ ]""",
    "smbclient": r"""smbclient[ ]//[^\s'"]{1,128}+[ ](?!-)""",
    "rclone": r"""rclone[ ]config[ ]create[ ][^\n]{0,256}?[ ](?:pass|secret_access_key)[ ]
        |rclone[ ]obscure[ ]""",
    "mc": r"""mc[ ]admin[ ]user[ ]add[ ][^\s'"]{1,64}+[ ][^\s'"]{1,64}+[ ]
        |mc[ ](?:alias[ ]set|config[ ]host[ ]add)[ ][^\s'"]{1,64}+[ ][^\s'"]{1,256}+[ ][^\s'"]{1,256}+[ ]""",
    "npm": r"""(?:npm|pnpm)[ ]set[ ][^\s=]{0,256}?(?:token|_password)[\w.-]{0,64}+[ ]""",
    "bundle": r"""bundle[ ]config[ ](?:set[ ])?(?:--global[ ])?[^\s'"]{1,128}+[ ][^\s:'"]{1,64}+:""",
    "composer": r"""composer[ ]config[ ](?:--global[ ])?(?:http-basic\.[^\s]{1,64}+[ ][^\s]{1,64}+|[a-z]{1,16}+-(?:oauth|token)\.[^\s]{1,64}+|bearer\.[^\s]{1,64}+)[ ]""",
    "nuget": r"""nuget[ ]setapikey[ ]""",
    "dotnet": r"""dotnet[ ]user-secrets[ ]set[ ]['"]?[^\s'"]{1,64}+['"]?[ ]['"]?""",
    "db2": r"""db2[ ]connect[ ]to[ ][^\s]{1,64}+[ ]user[ ][^\s]{1,64}+[ ]using[ ]['"]?""",
    "isql": r"""isql[ ](?:-\w[ ])?[^\s'"]{1,64}+[ ][^\s'"]{1,64}+[ ]""",
    "mosquitto_passwd": r"""mosquitto_passwd[ ]-[bc]{1,2}+[ ][^\s]{1,64}+[ ][^\s]{1,64}+[ ]""",
    "add-user": r"""add-user\.sh[ ](?!-)[^\s'"]{1,64}+[ ]""",
    "locksettings": r"""locksettings[ ]set-(?:pin|password)[ ]""",
    "adb": r"""adb[ ]pair[ ][^\s]{1,64}+[ ]""",
    "aws": r"""aws[ ]rds[ ]generate-db-auth-token[ ]\|[ ]
        |aws[ ]configure[ ]set[ ](?:[\w-]{1,32}+\.)?(?:aws_secret_access_key|aws_session_token)[ ]""",
    "wpa_cli": r"""wpa_cli[ ]set_network[ ]\d{1,3}+[ ]psk[ ]['"]{0,2}""",
    "curl": r"""curl[^\n]{0,128}?[ ](?:-x|--proxy|--socks5)[ ][^\s:@/]{1,64}+:(?=[^\s@]{1,128}+@)""",
    "curlftpfs impacket .py": r"""(?:curlftpfs|impacket-\w{1,32}+|\w{1,32}+\.py)[ ][\w./-]{1,64}+:(?=[^\s@/]{1,128}+@)""",
    "ngrok": r"""ngrok[ ](?:config[ ]add-)?authtoken[ ]""",
    "snyk": r"""snyk[ ]auth[ ]""",
    "vncpasswd": r"""vncpasswd[ ]""",
    "redis-cli": r"""redis-cli[ ]auth[ ]""",
    "wpa_passphrase": r"""wpa_passphrase[ ][^\s'"]{1,64}+[ ]""",
    "rabbitmqctl": r"""rabbitmqctl[ ](?:add_user|change_password|authenticate_user)[ ]['"]?[^\s'"]{1,64}+['"]?[ ]['"]?""",
    "mysqladmin": r"""mysqladmin\b[^\n]{0,128}?[ ]password[ ]""",
    "npm yarn poetry": r"""(?:npm|yarn|poetry)[ ]config[ ](?:set[ ])?[^\s=]{0,256}?(?:token|_password)[\w.-]{0,64}+[ ]""",
    "poetry": r"""poetry[ ]config[ ]http-basic\.[^\s'"]{1,64}+[ ][^\s'"]{1,64}+[ ]""",
    "net": r"""net[ ]use[ ](?:[a-z]:[ ])?(?:\\\\|https?:)[^\s]{1,256}+[ ](?![/*])(?:/user:[^\s'"]{1,64}+[ ])?
        |net[ ]use[ ](?:[a-z]:[ ])?\\\\[^\s]{1,256}+[ ]/user:[^\s'"]{1,64}+[ ](?!/)
        |net[ ]user[ ][^\s/]{1,64}+[ ](?![/*])""",
    "pdftk": r"""pdftk\b[^\n]{0,256}?[ ]\w{2,5}put_pw[ ]""",
    "nmcli": r"""nmcli\b[^\n]{0,128}?[ ]password[ ]""",
    "sftp scp": r"""(?:sftp|scp)(?=[ '"])[^\n]{0,128}?[ ][\w.]{1,64}+:(?=[^\s@/]{1,128}+@)""",
    "sqlplus impdp expdp sqlldr exp imp rman": r"""(?:sqlplus|impdp|expdp|sqlldr|(?:exp|imp)(?=[ ][^\s/]{1,64}+/\S{1,256}+[ ]\w{1,16}+=)|rman[ ]target)[ ](?:-\w[ ])?(?:userid=)?[\w.]{1,64}+/(?!/)""",
    "connect-az": r"""connect-az\w{1,16}+[ ]-credential[ ][^\s]{1,64}+[ ]""",
    "convertto-securestring": r"""convertto-securestring[ ](?:-string[ ])?['"]?""",
    "pscredential": r"""pscredential\]?(?:::new)?\(['"][^'"\n]{0,128}+['"],[ ]?['"]""",
    "jdbc:oracle": r"""jdbc:oracle:thin:[\w.]{1,64}+/""",
}  # fmt: skip
"""What stands before a secret that has no option, by what is in all of it."""
_PIPED: Final = re.compile(
    r"(?<![\w.-])((?:echo|printf)[ ](?:(?:-\w{1,3}|['\"]%s(?:\\n)?['\"])[ ])?)[^|\n]{1,512}+"
    r"(?=\|[^\n]{0,256}?(?:stdin|with-token|sudo -\w{0,3}S|chpasswd|kinit|passw|passphrase|secret|token|login|vault|luks|twine"
    r"|cryptsetup|ssh-add|kubeseal|kubectl apply|pass insert|pubkey))"
)
_WRITTEN: Final = re.compile(
    r"(<\((?:echo|printf)[ ](?:-\w{1,3}[ ])?)[^)\n]{1,512}+"
    r"|(?<![\w.-])((?:echo|printf)[ ](?:-\w{1,3}[ ])?)[^|<>\n]{1,512}+"
    r"(?=>{1,2}[ ]?[^\s]{0,128}?(?:passw|token|secret|credential|pgpass|netrc))"
)
_CONNECT: Final = re.compile(
    r"(\bconnect[ (]['\"]?\w{1,64}+/)[^\s'\"@/]{1,256}+(?=@|['\"]?[ ]as[ ])", re.IGNORECASE
)
_HERE: Final = re.compile(
    r"((?:stdin|token|passw|secret|kinit|key-file|login|keystore|pass insert|keyring|borg init|kubeseal|pwprompt|askpass|user = )[^\n<]{0,128}+<<<[ ]?)"
    r"(?:'[^'\n]*+'?|\"[^\"\n]*+\"?|[^\s|;)]++)"
)
_EXPORTED: Final = re.compile(
    r"(?<![\w.-])((?:setx|setenv|export|set -gx|ENV)[ ]{1,4}+([A-Za-z_]\w{1,64}+)[ ]{1,4}+)[^\s=][^\n;]*+"
)
_PROGRAMS: Final = sorted({each for row in _OPTIONS for each in row[0].split()}, key=len, reverse=True)
_PROGRAM: Final = re.compile(rf"(?<![\w.-])({'|'.join(map(re.escape, _PROGRAMS))})(?=(?:\.exe)?['\"]?[\s,])")

_KNOWN: Final = frozenset(
    {
        *_PROGRAMS, "vault", "cargo", "ngrok", "snyk", "rclone", "vncpasswd", "wpa_passphrase", "rabbitmqctl",
        "npm", "yarn", "net", "mc", "htpasswd", "pdftk", "nmcli", "sqlplus", "impdp", "expdp", "sftp", "scp",
        "consul", "etcdctl", "bw", "lpass", "pulumi", "neo4j-admin", "ansible-vault", "salt", "mkpasswd", "samba-tool",
        "pnpm", "bundle", "composer", "nuget", "db2", "isql", "mosquitto_passwd", "adb", "wpa_cli", "curlftpfs", "sqlldr",
        "exp", "imp", "rman",
    }
)  # fmt: skip
_WRAPPED: Final = 4
"""Words of a list among which a program is looked for: behind `sudo -u x`, for example."""
_PACKED: Final = {ord(plain): chr(code) for code, plain in enumerate(" \t\n\r'\"", 1)}
_UNPACKED: Final = {ord(packed): chr(plain) for plain, packed in _PACKED.items()}
"""What would end a word stands for itself otherwise while a list is looked at as one line."""

_WORD: Final = 5
"""Letters from which a program's name is hardly a part of a word."""
HINTS: Final = (
    " -", "'-", '"-', "/p:", "/p ", "/rp", "s set", "g:set", "s', 'set", "<<<", "echo ", "printf ", "setx ", "setenv ",
    "export ", "set -gx ", "env ", "connect ", "connect(", "netsh", "vault", "railway",
    *(f"{hint}{end}" for hints in _TYPED for hint in hints.split() for end in ((" ", "'", '"') if len(hint) < _WORD else ("",))),
)  # fmt: skip
"""One of these is in every command line that is known here."""


def _option(option: str) -> str:
    """A pattern of what an option of `_OPTIONS` hides: a group that is kept, and the secret behind it."""
    if option in _ASSIGNMENTS:
        return rf"(?<![\w-]){option[:-1]}['\"]?[,\s][^\n=]{{0,128}}?=|(?<=[\s'\"])[A-Za-z_]\w{{0,64}}+="
    glued = option.endswith("!")
    option = option.removesuffix("!")
    option, separator = (
        (option[:-1], option[-1]) if option[-1] in ":=,%" and option != "/p:" else (option, "")
    )
    gap = "['\"]?" if glued else r"(?:['\"],\s?[bu]?['\"]|[\s=]{1,2}['\"]?)"
    kept = rf"[^\s'\"{separator}]{{1,128}}+{separator}['\"]?" if separator else ""
    begins = "(?<=[ '\"])" if option.startswith("-") else r"(?<![\w-])"
    return rf"{begins}{option}{gap}{kept}"


# Compiled for a text that needs them: together they would take every program a fiftieth of a second at once.


@functools.cache
def _typed(hints: str) -> re.Pattern[str]:
    """What hides the secrets that stand behind these of `_TYPED`."""
    before = rf"((?<![\w.-])(?:{_TYPED[hints]}))[^\s'\"@|;]++"
    return re.compile(before.replace("[ ]", _BETWEEN), re.IGNORECASE | re.VERBOSE)


@functools.cache
def _rules(program: str) -> list[tuple[str, re.Pattern[str]]]:
    """The rows of `_OPTIONS` for one of `_PROGRAMS`: the word that must follow, and what hides the secrets."""
    return [(word, _row(options)) for programs, word, options in _OPTIONS if program in programs.split()]


@functools.cache
def _row(options: str) -> re.Pattern[str]:
    kept = "|".join(map(_option, options.split()))
    return re.compile(rf"({kept})(?:(?<=['\"])[^'\"\n]++|[^\s'\"]++)")


def without_typed(text: str, seen: str) -> str:
    """`text` without those; `seen` is `text` in lower case."""
    if not any(hint in seen for hint in HINTS):
        return text
    if "connect" in seen and "/" in seen:
        text = _CONNECT.sub(rf"\1{HIDDEN}", text)
    text = _HERE.sub(rf"\1{HIDDEN}", _PIPED.sub(rf"\1{HIDDEN} ", text))
    if "echo " in seen or "printf " in seen:
        text = _WRITTEN.sub(lambda each: f"{each[1] or each[2]}{HIDDEN}", text)
    text = _EXPORTED.sub(lambda each: f"{each[1]}{HIDDEN}" if is_secret(each[2]) else each[0], text)
    for hints in _TYPED:
        if any(hint in seen for hint in hints.split()):
            text = _typed(hints).sub(rf"\1{HIDDEN}", text)
    return _without_options(text)


def hide_in_words(words: Sequence[str]) -> list[str]:
    """A command as a list of words, without secrets; any other list as it is."""
    shown = list(words)
    if _KNOWN.isdisjoint(word.rpartition("/")[2] for word in shown[:_WRAPPED]):
        return shown
    looked_at = [word[:_REACH].translate(_PACKED) or "\0" for word in shown]
    line = " ".join(looked_at)
    found = without_typed(line, line.lower()).split(" ")
    if len(found) != len(looked_at):
        return [shown[0], *[HIDDEN] * (len(shown) - 1)]
    for place, (before, after) in enumerate(zip(looked_at, found, strict=True)):
        if after != before:
            shown[place] = after.translate(_UNPACKED)
    return shown


def _without_options(text: str) -> str:
    programs = list(_PROGRAM.finditer(text))
    pieces = [text[: programs[0].start()]] if programs else [text]
    for number, found in enumerate(programs, 1):
        upto = programs[number].start() if number < len(programs) else len(text)
        end = min(upto, found.end() + _REACH)
        if (line := text.find("\n", found.end(), end)) >= 0:
            end = line
        pieces += (found[0], _hidden(found[1], text[found.end() : end]), text[end:upto])
    return "".join(pieces)


def _hidden(program: str, words: str) -> str:
    for word, pattern in _rules(program):
        if word in words:
            words = pattern.sub(rf"\1{HIDDEN}", words)
    return words
