"""A filter for handlers that have no formatter of ours."""

import logging

from seawall.redaction.bounds import FIELD, LINE, shortened
from seawall.redaction.texts import ends
from seawall.redaction.values import redact


class RedactingFilter(logging.Filter):
    """On a handler: its lines, tracebacks included, hold no secret that `redact_text` knows."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record; it always passes."""
        if isinstance(record.msg, dict):  # structlog's, for a handler without our formatter
            record.msg = redact(record.msg, bound=FIELD)
            return True
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a malformed call; the handler says so and never its caller
            return True
        if (
            shown := shortened(message, LINE)
        ) != message:  # else others still see the line's template and its values
            record.msg, record.args = shown, None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = ends(record.exc_text, LINE)
        return True
