"""What an operation takes from a request, and how its answer is written."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any

import pytest
from flask import Flask, Response, jsonify
from flask.testing import FlaskClient
from pydantic import BaseModel, Field

from mainstay import Service
from mainstay.http.flask import CurrentUser, Header, IfMatch, create_app, operation, require_role


class Order(BaseModel):
    name: Annotated[str, Field(max_length=5)]
    lines: list[int] = []


class Full(Order):
    secret: str = "hunter2"


class Colour(enum.Enum):
    RED = "red"


@dataclass(frozen=True)
class Filter:
    colour: Colour
    sizes: Annotated[list[int], Field(max_length=3)]
    since: date | None = None


def tenant() -> str:
    return "north"


@pytest.fixture
def app(service: Service) -> Flask:
    return create_app(service, __name__)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def pointers(answer: Any, status: int = 422) -> list[str]:
    assert answer.status_code == status, answer.text
    return [error["pointer"] for error in answer.json["errors"]]


# --- what it takes --------------------------------------------------------------------------


def test_plain_types_come_from_the_path_or_else_the_query(app: Flask, client: FlaskClient) -> None:
    @app.get("/orders/<order_id>")
    @operation
    def read(order_id: int, detail: bool = False, colour: Colour = Colour.RED) -> list[Any]:
        return [order_id, detail, colour]

    assert client.get("/orders/7?detail=yes&colour=red").json == [7, True, "red"]
    assert client.get("/orders/7").json == [7, False, "red"]
    answer = client.get("/orders/x?detail=maybe&colour=blue")
    assert pointers(answer) == ["/order_id", "/detail", "/colour"]


def test_one_view_may_stand_under_several_rules(app: Flask, client: FlaskClient) -> None:
    @app.get("/orders/<order_id>")
    @app.get("/orders")
    @operation
    def read(order_id: int = 0) -> int:
        return order_id

    assert client.get("/orders/7").json == 7
    assert client.get("/orders?order_id=8").json == 8
    assert client.get("/orders").json == 0


def test_a_list_is_a_name_that_comes_several_times(app: Flask, client: FlaskClient) -> None:
    @app.get("/sum")
    @operation
    def total(number: list[int]) -> int:
        return sum(number)

    assert client.get("/sum?number=1&number=2").json == 3
    assert pointers(client.get("/sum?number=1&number=x")) == ["/number/1"]
    assert pointers(client.get("/sum")) == ["/number"]


def test_a_data_class_is_a_group_of_the_query(app: Flask, client: FlaskClient) -> None:
    @app.get("/shirts")
    @operation
    def shirts(filter: Filter) -> list[Any]:
        return [filter.colour, filter.sizes, filter.since]

    answer = client.get("/shirts?colour=red&sizes=1&sizes=2&since=2026-01-02")
    assert answer.json == ["red", [1, 2], "2026-01-02"]
    assert pointers(client.get("/shirts?colour=blue&sizes=x")) == ["/colour", "/sizes/0"]


def test_a_header_has_a_name_of_its_own(app: Flask, client: FlaskClient) -> None:
    @app.get("/tag")
    @operation
    def tag(if_match: IfMatch = None, depth: Annotated[int, Header("X-Depth")] = 1) -> list[Any]:
        return [if_match, depth]

    headers = {"If-Match": '"a"', "X-Depth": "3"}
    assert client.get("/tag", headers=headers).json == ['"a"', 3]
    assert client.get("/tag").json == [None, 1]
    answer = client.get("/tag", headers={"X-Depth": "x"})
    assert pointers(answer) == ["/X-Depth"]
    assert answer.json["errors"][0]["detail"].startswith("header parameter: ")  # type: ignore[index]


def test_a_function_provides_what_its_parameter_is(app: Flask, client: FlaskClient) -> None:
    @app.get("/tenant")
    @operation
    def show(where: Annotated[str, tenant]) -> str:
        return where

    assert client.get("/tenant").json == "north"


def test_a_body_may_be_left_away_where_there_is_a_default(app: Flask, client: FlaskClient) -> None:
    @app.put("/order")
    @operation
    def put(order: Order | None = None) -> str:
        return order.name if order else "none"

    assert client.put("/order").json == "none"
    assert client.put("/order", json={"name": "a"}).json == "a"


@pytest.mark.parametrize("body", [[], 0, "", False, None])
def test_a_body_is_taken_as_it_is_and_not_for_nothing(
    app: Flask, client: FlaskClient, body: object
) -> None:
    @app.post("/orders")
    @operation
    def create(order: Order) -> Order:
        return order

    assert pointers(client.post("/orders", json=body)) == [""]


def test_everything_that_does_not_fit_is_named_at_once(app: Flask, client: FlaskClient) -> None:
    @app.post("/orders/<order_id>")
    @operation
    def create(order_id: int, order: Order, depth: int = 1) -> Order:
        return order

    answer = client.post("/orders/x?depth=y", json={"name": "too long"})
    assert pointers(answer) == ["/order_id", "/depth", "/name"]


def test_a_second_body_is_a_mistake_of_the_author() -> None:
    with pytest.raises(TypeError, match=r"'more' of .*create is a second body besides 'order'"):

        @operation
        def create(order: Order, more: Order) -> Order:
            return order


def test_any_number_of_arguments_is_a_mistake_of_the_author() -> None:
    with pytest.raises(TypeError, match=r"'more' of .* stands for any number"):

        @operation
        def create(**more: int) -> int:
            return 0


# --- what it answers ------------------------------------------------------------------------


def test_what_the_annotation_does_not_promise_does_not_leave(
    app: Flask, client: FlaskClient
) -> None:
    @app.get("/order")
    @operation
    def read() -> Order:
        return Full(name="a")

    assert client.get("/order").json == {"name": "a", "lines": []}


def test_an_answer_that_is_not_what_was_promised_is_our_failure(
    app: Flask, client: FlaskClient
) -> None:
    @app.get("/order")
    @operation
    def read() -> Order:
        return {"name": 5}  # type: ignore[return-value]  # what this is about

    assert client.get("/order").status_code == 500


class Queued(BaseModel):
    ticket: int


def test_an_answer_of_another_status_is_the_one_that_is_promised_there(
    app: Flask, client: FlaskClient
) -> None:
    @app.post("/orders/<when>")
    @operation(responses={202: Queued})
    def create(when: str) -> Order | tuple[Queued, int]:
        return Order(name="a") if when == "now" else (Queued(ticket=7), 202)

    assert client.post("/orders/now").json == {"name": "a", "lines": []}
    answer = client.post("/orders/later")
    assert (answer.status_code, answer.json) == (202, {"ticket": 7})
    document: Any = client.get("/api/v1/openapi.json").json
    responses = document["paths"]["/orders/{when}"]["post"]["responses"]
    for status, model in {"200": "Order", "202": "Queued"}.items():
        schema = responses[status]["content"]["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{model}"}


def test_status_and_headers_may_come_with_the_answer(app: Flask, client: FlaskClient) -> None:
    @app.post("/orders")
    @operation(status=201)
    def create(status: int = 0) -> tuple[Order, int, dict[str, str]]:
        return Order(name="a"), status or 202, {"Location": "/orders/1"}

    answer = client.post("/orders")
    assert (answer.status_code, answer.headers["location"]) == (202, "/orders/1")
    assert answer.json == {"name": "a", "lines": []}


def test_no_content_has_none(app: Flask, client: FlaskClient) -> None:
    @app.delete("/orders/<int:order_id>")
    @operation(status=204)
    def delete(order_id: int) -> None: ...

    answer = client.delete("/orders/1")
    assert (answer.status_code, answer.data) == (204, b"")
    assert "content-type" not in answer.headers


def test_a_response_of_the_authors_passes_as_it_is(app: Flask, client: FlaskClient) -> None:
    @app.get("/own")
    @operation
    def own() -> Response:
        return Response("<p>hello</p>", status=203)

    answer = client.get("/own")
    assert (answer.status_code, answer.text) == (203, "<p>hello</p>")


# --- the document ---------------------------------------------------------------------------


def documented(client: FlaskClient, path: str, method: str) -> Any:
    document: Any = client.get("/api/v1/openapi.json").json
    return document["paths"][path][method]


def test_parameters_are_documented_where_they_are(app: Flask, client: FlaskClient) -> None:
    @app.put("/orders/<int:order_id>")
    @require_role("admin")
    @operation(status=202, tags=["orders"], summary="Change", responses={204: None, 301: Order})
    def change(
        order_id: int, order: Order, filter: Filter, user: CurrentUser, if_match: IfMatch = None
    ) -> Order:
        """Change an order."""
        return order

    told = documented(client, "/orders/{order_id}", "put")
    assert (told["summary"], told["description"]) == ("Change", "Change an order.")
    assert (told["tags"], told["security"]) == (["orders"], [{"bearer": []}])
    places = [(one["name"], one["in"], one["required"]) for one in told["parameters"]]
    assert places == [
        ("order_id", "path", True),
        ("colour", "query", True),
        ("sizes", "query", True),
        ("since", "query", False),
        ("If-Match", "header", False),
    ]
    reference = {"$ref": "#/components/schemas/Order"}
    assert told["requestBody"]["content"]["application/json"]["schema"] == reference
    assert told["responses"]["202"]["content"]["application/json"]["schema"] == reference
    assert told["responses"]["301"]["content"]["application/json"]["schema"] == reference
    assert "content" not in told["responses"]["204"]


def test_two_operations_of_one_view_have_names_of_their_own(
    app: Flask, client: FlaskClient
) -> None:
    @app.route("/orders", methods=["GET", "DELETE"])
    @operation
    def orders() -> int:
        return 1

    names = {documented(client, "/orders", one)["operationId"] for one in ("get", "delete")}
    assert len(names) == 2


# --- JSON of plain views --------------------------------------------------------------------


def test_plain_views_write_json_as_operations_do(app: Flask, client: FlaskClient) -> None:
    @app.get("/plain")
    def plain() -> Any:
        return jsonify(
            b=Decimal("1.50"),
            a=datetime(2026, 1, 2, tzinfo=UTC),
            big=2**70,
            text="é",
            model=Order(name="a"),
        )

    assert client.get("/plain").text == (
        '{"b":"1.50","a":"2026-01-02T00:00:00+00:00","big":1180591620717411303424,"text":"é",'
        '"model":{"name":"a","lines":[]}}'
    )


def test_what_json_cannot_hold_is_our_failure(app: Flask, client: FlaskClient) -> None:
    @app.get("/plain")
    def plain() -> Any:
        return jsonify(a=object())

    assert client.get("/plain").status_code == 500
