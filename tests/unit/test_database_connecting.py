import traceback

import psycopg
import pytest
from seawall.database import connecting
from seawall.errors import ConfigError


def parse(url: str) -> connecting.Params:
    return connecting.parse(url, application="shop", connect_timeout=5, options={"statement_timeout": 1000})


def test_ours_is_added_and_what_the_url_says_wins() -> None:
    params = parse("postgresql://u@h/d?connect_timeout=9&options=-c%20statement_timeout%3D5")
    assert params["connect_timeout"] == "9"
    assert params["options"] == "-c statement_timeout=1000 -c statement_timeout=5"
    assert params["fallback_application_name"] == "shop"


def test_the_address_has_no_user_and_no_password() -> None:
    assert connecting.address(parse("postgresql://u:secret@db.example:6000/shop")) == "db.example:6000/shop"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:sec ret@h/d",
        "postgresql://u:%zzsecret@h/d",
        "postgresql://u:s@secret@h/d",
        "postgresql//u:secret@h/d",
        "secret",
    ],
)
def test_a_wrong_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError, match="database_url") as caught:
        parse(url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_an_unavailable_database_is_named_in_one_line() -> None:
    error = connecting.unavailable(parse("postgresql://u:secret@h/d"), psycopg.OperationalError("refused\n\tIs it up?"))
    assert str(error) == "PostgreSQL at h:5432/d cannot be used: refused Is it up?"
