import pytest

from nbench.errors import ScorerError
from nbench.scoring.judge.address import Address


@pytest.mark.parametrize(
    ("given", "root"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        (" http://127.0.0.1:8000/v1/ ", "http://127.0.0.1:8000"),
        ("https://judge.example.org/team/v1?x=1#y", "https://judge.example.org/team"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
    ],
)
def test_the_forms_that_people_give(given: str, root: str) -> None:
    address = Address.parse(given)
    assert str(address) == root
    assert address.at("/v1/models") == root + "/v1/models"


@pytest.mark.parametrize("given", ["", "127.0.0.1:8000", "ftp://host", "http://", "http://host:port", "judge"])
def test_what_is_no_address_is_refused_with_an_example(given: str) -> None:
    with pytest.raises(ScorerError, match="http://HOST:PORT"):
        Address.parse(given)


@pytest.mark.parametrize("given", ["http://me:secret@host:1", "ftp://me:secret@host"])
def test_a_password_in_the_address_is_refused_and_not_shown(given: str) -> None:
    with pytest.raises(ScorerError) as caught:
        Address.parse(given)
    assert "secret" not in str(caught.value)
    assert "NBENCH_JUDGE_API_KEY" in str(caught.value)


def test_loopback_is_recognised() -> None:
    assert [Address.parse(f"http://{host}:1").loopback for host in ("127.0.0.1", "localhost", "[::1]", "h.org")] == [
        True,
        True,
        True,
        False,
    ]
