"""Which functions a server offers."""

from __future__ import annotations

from typing import Any

import pytest

from mainstay.errors import Misconfigured, NotFound
from mainstay.rpc import Functions
from mainstay.rpc.target import Resolver


class Service:
    secret = "s"

    def call(self, data: Any) -> Any:
        return data

    def other(self, data: Any) -> Any:
        return data


def test_of_an_object_only_call_can_be_reached() -> None:
    resolve = Resolver(Service(), "q")
    assert resolve("")(5) == 5
    for name in ("call", "other", "__class__", "secret"):
        with pytest.raises(NotFound, match="one function, unnamed"):
            resolve(name)


def test_functions_are_known_as_plain_or_async() -> None:
    functions = Functions()

    @functions.function
    def plain(data: Any) -> Any:
        return data

    @functions.function(name="later")
    async def waits(data: Any) -> Any:
        return data

    resolve = Resolver(functions, "q")
    assert dict(functions) == {"plain": plain, "later": waits}
    assert len(functions) == 2
    assert not resolve.is_async("plain")
    assert resolve.is_async("later")
    assert resolve.has_blocking
    assert resolve.has_async
    assert "later" in resolve
    assert "waits" not in resolve


def test_an_object_that_is_called_may_be_async() -> None:
    class Waits:
        async def __call__(self, data: Any) -> Any:
            return data

    assert Resolver({"waits": Waits()}, "q").is_async("waits")


def test_two_functions_of_one_name_are_refused() -> None:
    functions = Functions()
    functions.function(name="size")(len)
    with pytest.raises(Misconfigured, match="'size'"):
        functions.function(name="size")(str)


def test_what_has_no_call_is_refused() -> None:
    with pytest.raises(Misconfigured, match="call\\(data\\)"):
        Resolver(object(), "q")  # type: ignore[arg-type]  # what is tested
