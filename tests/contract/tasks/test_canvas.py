"""What people compose with Celery's canvas is done, wherever its results are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import chain, chord, group
from celery.canvas import Signature, chunks, xmap, xstarmap

from mainstay.config import Settings
from mainstay.errors import Misconfigured
from mainstay.tasks.celery import App, create_celery_app
from tests.contract.tasks.rooms import CeleryRoom
from tests.waiting import PATIENCE_SECONDS


@pytest.fixture
def app(results_room: tuple[CeleryRoom, App]) -> App:
    return results_room[1]


CANVASES: dict[str, tuple[Callable[[Callable[..., Signature]], Any], Any]] = {
    "chain": (lambda s: chain(s("add", 1, 2), s("add", 3), s("add", 4)), 10),
    "group": (lambda s: group(s("add", 1, 1), s("add", 2, 2)), [2, 4]),
    "chord": (lambda s: chord([s("add", 1, 1), s("add", 2, 2)], s("listed")), [[2, 4]]),
    "chain with a group": (
        lambda s: chain(s("add", 1, 1), group(s("add", 1), s("add", 2)), s("listed")),
        [[3, 4]],
    ),
    "chord of chains": (
        lambda s: chord([chain(s("add", 1, 1), s("add", 1)), s("add", 2, 2)], s("listed")),
        [[3, 4]],
    ),
    "chord in a chord": (
        lambda s: chord(
            [chord([s("add", 1, 1), s("add", 2, 2)], s("listed")), s("add", 3, 3)], s("listed")
        ),
        [[[[2, 4]], 6]],
    ),
    "replaced by a group": (lambda s: chain(s("fans_out", 1), s("listed")), [[2, 3]]),
    "replaced by a task": (
        lambda s: chain(s("ends", "replacing", "k"), s("listed")),
        [["instead"]],
    ),
}


@pytest.mark.parametrize("canvas", list(CANVASES))
def test_a_canvas_of_tasks_without_options_gives_its_result(app: App, canvas: str) -> None:
    made, result = CANVASES[canvas]

    def signature(name: str, *args: object) -> Signature:
        return app.signature(name, args=args)

    assert made(signature).apply_async().get(timeout=PATIENCE_SECONDS) == result


def test_map_starmap_and_chunks_give_their_results(app: App) -> None:
    add, listed = app.signature("add"), app.signature("listed")
    pairs = [(1, 1), (2, 2), (3, 3)]
    for canvas, result in (
        (xmap(listed, [1, 2], app=app), [[1], [2]]),
        (xstarmap(add, pairs, app=app), [2, 4, 6]),
        (chunks(add, pairs, 2, app=app), [[2, 4], [6]]),
    ):
        assert canvas.apply_async().get(timeout=PATIENCE_SECONDS) == result


def test_a_task_may_return_what_waits_for_others(app: App) -> None:
    id, parent = app.send_task("starts", ignore_result=False).get(timeout=PATIENCE_SECONDS)[0]
    assert parent is None
    assert app.AsyncResult(id).get(timeout=PATIENCE_SECONDS) == 3


def test_a_chord_without_a_result_backend_is_refused_before_any_of_it_is_sent() -> None:
    settings = Settings(env="test", celery_broker_url="memory://", celery_result_backend=None)
    app = create_celery_app(settings)
    sent: list[str] = []
    app.send_task = lambda name, *_, **__: sent.append(name)  # type: ignore[method-assign]
    part = app.signature("add", args=(1, 1))
    for canvas in (chord([part, part], part), chain(part, group(part, part), part)):
        with pytest.raises(Misconfigured, match="CELERY_RESULT_BACKEND"):
            chord([part], canvas, app=app).apply_async()
    assert not sent
