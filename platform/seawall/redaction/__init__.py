"""Secrets are replaced by `***` before anything is shown: arguments, messages, URLs. Pure.

By key while they are values (`values`), by structure where a text has one (`texts`, `urls`), by one rule for
names (`names`), and by value, wherever the secret arguments of a call turn up again (`secret_values`). What a
task receives is never changed, only what is shown of it, and that is bounded (`bounds`).
"""

from seawall.redaction.bounds import ARGUMENTS, FIELD, KEPT, LINE, MESSAGE, STORED, Bound, shortened
from seawall.redaction.exceptions import redact_exception
from seawall.redaction.lines import RedactingFilter
from seawall.redaction.members import Secrecy, Tasks
from seawall.redaction.names import add, is_secret
from seawall.redaction.texts import LONGEST, ends, hide_passwords, is_plain, redact_text
from seawall.redaction.urls import HIDDEN
from seawall.redaction.values import redact, redact_arguments, secret_values

__all__ = [
    "ARGUMENTS",
    "FIELD",
    "HIDDEN",
    "KEPT",
    "LINE",
    "LONGEST",
    "MESSAGE",
    "STORED",
    "Bound",
    "RedactingFilter",
    "Secrecy",
    "Tasks",
    "add",
    "ends",
    "hide_passwords",
    "is_plain",
    "is_secret",
    "redact",
    "redact_arguments",
    "redact_exception",
    "redact_text",
    "secret_values",
    "shortened",
]
