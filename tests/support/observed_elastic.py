"""The end of Elastic's agent: what it would send over the network is written down."""

import gzip
import json
from typing import Any

from elasticapm.transport.base import Transport as Base

from support.observed import record


class Transport(Base):  # type: ignore[misc, unused-ignore] # Elastic's agent has no types
    """Takes batches of documents, one a line, packed."""

    def send(self, data: Any, forced_flush: bool = False) -> None:  # noqa: ARG002, FBT002 - Elastic's
        for line in gzip.decompress(data).splitlines():
            ((kind, document),) = json.loads(line).items()
            if kind == "transaction":
                record(kind, task=document["name"], result=document["result"], type=document["type"])
            elif kind == "error":
                error = document["exception"]
                record(kind, task=document["culprit"], error=[error["type"], error["message"]])
