from __future__ import annotations

import json
import math

import pytest

from mainstay import errors
from mainstay.errors import FieldError, Invalid, MainstayError, Misconfigured, Unavailable, UnderWay
from mainstay.http.problems import Problem, problem_of, status_of


class OutOfStock(errors.Conflict):
    title = "Out of stock"


def test_a_document_has_what_the_contract_says() -> None:
    error = Invalid("the order does not fit", errors=[FieldError("/items/0", "must be text")])
    document = json.loads(problem_of(error).document(instance="/orders", correlation_id="c"))
    assert document == {
        "type": "urn:mainstay:problem:invalid",
        "title": "Request does not fit",
        "status": 422,
        "detail": "the order does not fit",
        "instance": "/orders",
        "correlation_id": "c",
        "errors": [{"pointer": "/items/0", "detail": "must be text"}],
    }


def test_every_error_of_ours_has_a_status() -> None:
    plain = {
        "Malformed": 400, "NotAuthenticated": 401, "NotAllowed": 403, "NotFound": 404,
        "Conflict": 409, "UnderWay": 409, "PreconditionFailed": 412, "TooLarge": 413,
        "UnsupportedType": 415, "Invalid": 422, "Refuse": 400, "Retry": 503, "Unavailable": 503,
        "NotConnected": 503, "Disconnected": 503, "Unconfirmed": 503, "NoRoute": 503,
        "Overloaded": 503, "DeadlineExceeded": 504, "Bury": 500, "Misconfigured": 500,
    }  # fmt: skip
    assert {name: status_of(getattr(errors, name)("x")) for name in plain} == plain


def test_an_authors_error_keeps_its_own_title() -> None:
    problem = problem_of(OutOfStock("no more of these"))
    assert (problem.status, problem.title) == (409, "Out of stock")
    assert problem.type == "urn:mainstay:problem:conflict"


@pytest.mark.parametrize(
    "error", [RuntimeError("the password is hunter2"), Misconfigured("DATABASE_URL is wrong")]
)
def test_what_happened_inside_is_not_told(error: Exception) -> None:
    problem = problem_of(error)
    assert problem.status == 500
    assert str(error) not in problem.detail


def test_a_server_that_is_away_is_a_503_whoever_says_so() -> None:
    problem = problem_of(ConnectionRefusedError("10.0.0.3:5432"))
    assert (problem.status, dict(problem.headers)) == (503, {"retry-after": "1"})
    assert "10.0.0.3" not in problem.detail


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Unavailable("x", retry_after_seconds=2.1), "3"),
        (Unavailable("x", retry_after_seconds=0.0), "1"),
        (UnderWay("x", retry_after_seconds=2.0), "2"),
    ],
)
def test_a_pause_is_told_in_whole_seconds(error: MainstayError, expected: str) -> None:
    assert dict(problem_of(error).headers)["retry-after"] == expected
    assert math.ceil(float(expected)) >= 1


def test_a_status_alone_is_a_problem_too() -> None:
    assert Problem.of_status(418).title == "I'm a Teapot"
    assert Problem.of_status(599).title == "Error"
