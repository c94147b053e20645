"""What the page on workflows shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "workflows.md"


@pytest.mark.usefixtures("eager_database")
def test_the_contract_goes_through_its_steps() -> None:
    (shown,) = re.findall(r"(?ms)^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"))
    contracts = SimpleNamespace(__name__="contracts.worker")
    exec(shown, vars(contracts))  # noqa: S102 - our own page
    app = contracts.celery_app
    workflow = app.workflows.get(contracts.accept("c1"))
    assert (workflow.name, workflow.state) == ("contract", "success")
    assert [step.name.rpartition(".")[2] for step in workflow.steps] == [
        "validate",
        "render",
        "render",
        "notify",
    ]
    assert app.status(workflow.steps[1].task_id).result == "c1.pdf"
    assert app.status(workflow.steps[-1].task_id).result == 2
    contracts.service.lifecycle.stop()
