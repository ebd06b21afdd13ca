"""A worker whose machine's clock is wrong by SKEW seconds: `celery -A support.skewed worker`."""

import os
import time
from datetime import datetime
from typing import Any

from celery.worker import request

from support.reef import app

__all__ = ["app"]

SKEW = float(os.environ["SKEW"])
_right = time.time


class _Datetime(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.fromtimestamp(time.time(), tz)


time.time = lambda: _right() + SKEW
vars(request)["datetime"] = _Datetime
