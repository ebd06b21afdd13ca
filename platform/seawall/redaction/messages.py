"""Secrets in messages of libraries and servers that name elsewhere what the value is, or do not name it.

psycopg, pydantic, requests, httpx, aiohttp, http.client, jsonschema, argparse, attrs, configparser, and the
clients of services that repeat the key which they do not take.
"""

import re
from typing import Final

from seawall.redaction.names import is_secret
from seawall.redaction.rules import Rule, applied, holds_secret_name, if_named
from seawall.redaction.urls import HIDDEN

_KEY: Final = re.compile(r"(Key \(([^)\n]{0,512}+)\)=\()([^\n]*+)")
_BAD_URL: Final = re.compile(
    r"((?:\bnonnumeric port: ['\"]|\bint\(\) with base 10: \\{0,2}['\"]"
    r"|\b(?:Invalid URL|adapters were found for|unknown url type:|URL\()[ ]?['\"]?[^\s:'\"/]{1,64}+:"
    r"|\b(?:from (?:given )?(?:URL )?string"
    r"|Failed to parse:|[Ii]nvalid ?(?:DSN|URI|URL):?|protocol:)[ ]?['\"]?"
    r"(?:[\w+]{1,32}+(?::/(?!/)|//))?[^\s:'\"/]{0,64}+:(?!//)"
    r"|\A(?!(?:e.?mail|mailto|mail|user|to|from|cc|image):)[^\s:'\"/@]{1,64}+:(?=[^\s/@]{1,256}+@(?!sha\d)\S{1,256}+\Z)))"
    r"[^'\" ]{1,256}?(?=@)"
)
_BAD_PORT: Final = re.compile(
    r"(\b(?:(?:non-?numeric|invalid|bad|illegal|unparseable|character in)[ ]port"
    r"(?:[ ](?:number|value|component))?+"
    r"|port[ ](?:could not be cast to integer value as|(?:must be|contains)[ ][^\n'\":]{1,64}?)"
    r"|invalid integer value(?=[ ]\\?\"[^\n]{0,512}?[ ]for connection option)|invalid percent-encoded token"
    r"|in URI \(expected[^\n)]{0,32}+\))(?::|,? not|,? got)?[ ]?\\{0,15}+(['\"`]):?)"
    r"(?!\d{1,5}\\{0,15}+['\"`])[^\n]{1,512}?(?=\\{0,15}+\2)",
    re.IGNORECASE,
)
"""A password with a slash in it: what stands before the slash is taken for the port."""
_BAD_HOST: Final = re.compile(
    r"((?:\b(?:host(?:[ ]?name)?(?=[=:]|[ ]\\{0,15}+['\"])|(?:fail\w{0,3}|could not|cannot|unable)[ ]"
    r"(?:to[ ])?resolve(?:[ ]host\w{0,4}+|(?=[ ]\\{0,15}+['\"]))|dial tcp: lookup"
    r"|lookup(?=[ ][^\s:]{1,256}+: no such)|ENOTFOUND|EAI_AGAIN|Error -?\d{1,5}+ connecting to"
    r"|connect to(?:[ ]host|[ ]\w{1,16}+[ ]server on)|UnknownHostException"
    r"|not known(?:[ ]for)?+|name resolution|label empty or too long\)?+|invalid IPv[46] (?:URL|address)"
    r"|at position \d{1,4}+ of|error while (?:reading from|writing to)|ServerDescription)(?:[=:][ ]?|[ ])\(?)"
    r"\\{0,15}+['\"]?)(?![^\s'\"]{0,32}://)[^\s'\"(]{1,256}(?=@[\w.\[-])"
    r"|(?<![^\s'\"(])[^\s'\"@/(]{1,256}+(?=@[\w.-]{1,128}+(?::\d{1,5}+)?: \[Errno )",
    re.IGNORECASE,
)
"""A password with an `@` in it: what stands behind that is taken for the host."""
_PART: Final = re.compile(
    r"(\bname=\\{0,15}+['\"]?([\w.\[\]-]{1,64}+)[^\r\n]{0,256}?"
    r"(?:(?:\r?\n|(?:\\{1,15}+r)?\\{1,15}+n)[^\r\n\\]{1,256}+){0,4}+(?:\r?\n|(?:\\{1,15}+r)?\\{1,15}+n){2})"
    r"(?:(?!(?:\r?\n|(?:\\{1,15}+r)?\\{1,15}+n)--).)++",
    re.DOTALL,
)
"""Of a form's body in several parts: the name in a header, and below an empty line the value."""
_EMPTY_LINE: Final = re.compile(r"\n\r?\n|n\\{1,15}+(?:r\\{1,15}+)?n")
_TEMPLATE: Final = re.compile(
    r"(\bexpected token [^\n]{0,128}?, got |\bnot parse the remainder: )'[^'\n]*+'([^\n]{0,256}+)"
)
_WORD: Final = re.compile(r"[\w-]{2,64}+")
_LINE: Final = 512
"""Characters before a message of a template's parser in which a secret name is looked for."""
_HEADER_VALUE: Final = re.compile(
    r"(\bheader value:?[ ]b?|\bin header value:[ ]b?)(?:'[^'\n]*+'?|\"[^\"\n]*+\"?)"
)
_CONNINFO: Final = re.compile(r"(\bmissing \\?\"=\\?\" after \\?)\"[^\n]{0,4096}?\"(?= in connection info)")
_ARGUMENT: Final = re.compile(
    r"(\bargument (?:-\w/)?(-{0,2}[\w-]{1,64}+)(?:/-{1,2}[\w-]{1,64}+){0,4}+: "
    r"[^\n:'\"]{0,128}+:? ?)['\"][^\n]*+"
)
_PLACE: Final = re.compile(
    r"(\[line\s{1,4}+\d{1,9}+\]: '([\w.-]{1,128}+)\s{1,8}+)[^'\n]++"
    r"|(\boption '([\w.-]{1,128}+)' in section [^\n]{0,512}?\bRaw value: )[^\n]++"
    r"|(['\"]([\w.-]{1,128}+)['\"] must be [^\n]{0,256}?\(got )(?:'[^'\n]*+'?|\"[^\"\n]*+\"?)"
)
_INSTANCE: Final = re.compile(r"\bOn instance((?:\[[^\]\n]{1,128}+\]){1,32}+):")
_REFUSED: Final = re.compile(
    r"(\b(?:api|access|secret|private)[ ]key(?:[ ]provided)?+"
    r"(?:[ ]?[:=][ ]|(?:[ ]is)?+[ ](?=['\"`]|[\w-]{0,64}\d))['\"`]?)[^\s'\"`]{1,512}(?<![.,])"
    r"|(\b(?:with|using|wrong|bad|incorrect)[ ](?:password|passphrase|passcode|token|api[ ]key|secret)[ ])"
    r"(?:'[^'\n]*+'?|\"[^\"\n]*+\"?|`[^`\n]*+`?)",
    re.IGNORECASE,
)
_HEADER_PART: Final = re.compile(
    r"(\bHeader part \()(?=(?:(?!Header part \()[^\n]){0,4096}?\) from \(b?['\"]([\w-]{1,64}+)['\"])"
    r"[^\n]{0,4096}?(?=\) from \()"
)
_FIELD: Final = re.compile(
    r"""(['"]loc['"]:\s?[(\[]([^)\]\n]{0,512}+)[)\]][^{}\n]{0,512}?['"]input['"]:\s?)[^}\n]*+"""
)
_NAMED: Final = re.compile(
    r"""(\b(?:parameter)?(?:name|key|id|field|header)(?:=['"]?|['"]?:\s{0,4}['"]?)([\w.-]{1,64}+)['"]?[^\n>{}]{0,64}?"""
    r"""[\s,](?:\s{0,20}|parameter)['"]?value['"]?(?:=|:\s?)['"]?)(?:(?<=['"])[^'"\n]++|[^\s'">]++)""",
    re.IGNORECASE,
)
_VALUE_FIRST: Final = re.compile(
    r"""(['"]value['"]:\s?['"])[^'"\n]{1,512}+(?=['"],[^{}\n]{0,64}?['"](?:name|key|id|field|path)['"]:\s?['"]([\w./\\-]{1,128}+)['"])""",
    re.IGNORECASE,
)
_PATCH: Final = re.compile(
    r"""(['"]path['"]:\s?['"](/[\w./~-]{1,128}+)['"],\s?['"]value['"]:\s?)(?:\{[^{}\n]*+\}?|\[[^\[\]\n]*+\]?)"""
)
_DEFAULT: Final = re.compile(
    r"""(\bvariable\s"([\w-]{1,64}+)"\s\{[^}]{0,512}?\bdefault\s{0,8}=\s{0,8})"[^"]*+\"?"""
)
_SUBMITTED: Final = re.compile(
    r"(\bInvalid value for ['\"]?(-{0,2}[\w-]{1,128}+)['\"]?(?: / ['\"]-\w{1,32}+['\"]){0,2}: )"
    r"(?:'[^'\n]*+'?|\"[^\"\n]*+\"?|\S++)"
)
_ROW: Final = re.compile(r"(Failing row contains \()([^\n]*+)")
_INPUT: Final = re.compile(r"(?<=input_value=)[^\n]++")
_TYPE: Final = ", input_type="
_LOCATION: Final = 2048
"""Characters before a value of pydantic's in which its location is looked for."""


def without_messages(text: str, seen: str) -> str:
    """`text` without those; `seen` is `text` in lower case."""
    return applied(RULES, _without_instance(text) if "on instance" in seen else text, seen)


def _without_instance(text: str) -> str:
    """Jsonschema shows below its path what was refused, up to its next sentence."""
    found = _INSTANCE.search(text)
    if found is None or not holds_secret_name(found[1]):
        return text
    end = text.find("\n\nFailed validating")
    return text[: text.rfind("\n", 0, max(0, end)) + 1] + HIDDEN + text[max(0, end) :]


def _placed(found: re.Match[str]) -> str:
    """Of configparser and attrs: what the option or the attribute is called, and then its value."""
    kept = found.lastindex or 0
    return f"{found[kept]}{HIDDEN}" if is_secret(found[kept + 1]) else found[0]


def _input(found: re.Match[str]) -> str:
    """Pydantic shows the input: by its location, and where it is cut, nobody knows a name any more."""
    value, mark, kind = found[0].rpartition(_TYPE)
    if not mark:
        value, kind = found[0], ""
    before = found.string[max(0, found.start() - _LOCATION) : found.start()].split("\n")
    located = len(before) > 1 and any(map(is_secret, before[-2].strip().split(".")))
    cut = "..." in value and not value.startswith(("'", '"'))
    return f"{HIDDEN}{mark}{kind}" if located or cut else found[0]


def _defaulted(found: re.Match[str]) -> str:
    return f'{found[1]}"{HIDDEN}"' if is_secret(found[2]) else found[0]


def _columns(found: re.Match[str]) -> str:
    if not any(map(is_secret, found[2].split(","))):
        return found[0]
    return f"{found[1]}{HIDDEN}{_from_last_bracket(found[3])}"


def _to_last_bracket(found: re.Match[str]) -> str:
    return f"{found[1]}{HIDDEN}{_from_last_bracket(found[2])}"


def _from_last_bracket(text: str) -> str:
    _, bracket, after = text.rpartition(")")
    return bracket + after if bracket else ""


def _template(found: re.Match[str]) -> str:
    """Hidden if something beside it in these lines has a secret name."""
    before = found.string[max(0, found.start() - _LINE) : found.start()].rsplit("\n", 3)[-3:]
    names = _WORD.findall(" ".join((*before, found[2])))
    return f"{found[1]}'{HIDDEN}'{found[2]}" if any(map(is_secret, names)) else found[0]


RULES: Final = (
    Rule(("input_value=",), _INPUT, _input),
    Rule(("key (",), _KEY, _columns, named=True),
    Rule(("value",), _NAMED, if_named, named=True),
    Rule(("input",), _FIELD, if_named, named=True),
    Rule(("path",), _PATCH, if_named, named=True),
    Rule(("value",), _VALUE_FIRST, if_named, named=True),
    Rule(("invalid value for",), _SUBMITTED, if_named, named=True),
    Rule(("variable",), _DEFAULT, _defaulted, named=True),
    Rule(("@",), _BAD_URL),
    Rule((" port", "port ", "integer value", "-encoded token", "in uri ("), _BAD_PORT, rf"\1{HIDDEN}"),
    Rule(("@",), _BAD_HOST, lambda each: f"{each[1] or ''}{HIDDEN}"),
    Rule(("name=",), _PART, if_named, named=True, beside=_EMPTY_LINE),
    Rule(("expected token", "the remainder"), _TEMPLATE, _template, named=True),
    Rule(("header part (",), _HEADER_PART, if_named, named=True),
    Rule(("header value",), _HEADER_VALUE, rf"\1'{HIDDEN}'"),
    Rule(("in connection info",), _CONNINFO, rf'\1"{HIDDEN}"'),
    Rule(("[line", "raw value: ", "must be "), _PLACE, _placed, named=True),
    Rule(("argument ",), _ARGUMENT, if_named, named=True),
    Rule((" key", " pass", " token", " secret"), _REFUSED, lambda each: f"{each[1] or each[2]}{HIDDEN}"),
    Rule(("failing row contains (",), _ROW, _to_last_bracket),
)
"""In this order."""
