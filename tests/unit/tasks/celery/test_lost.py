from __future__ import annotations

import pytest

from mainstay.outgoing import OutboxMessage
from mainstay.tasks.celery.lost import _again
from mainstay.tasks.celery.workflows import AGAIN, retries_of


@pytest.mark.parametrize(("headers", "retries"), [({}, 0), ({AGAIN: "3"}, 3), ({AGAIN: "²"}, 0)])
def test_a_lost_step_that_is_sent_again_keeps_the_number_of_its_retry(
    headers: dict[str, str], retries: int
) -> None:
    lost = OutboxMessage(
        id="a", kind="task", name="t", destination="q", body=b"", headers=headers, route={}
    )
    again = _again(lost).headers
    assert AGAIN in again
    assert retries_of(again) == retries
