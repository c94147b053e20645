"""The JSON API of contracts: each route hands over to the workflow and the queries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated
from uuid import UUID, uuid4

from flask import Blueprint, Flask, current_app, url_for

from contracts import queries
from contracts.model.contract import Contract
from contracts.route.schemas import Accepted, ContractIn, ContractOut, WorkflowOut
from contracts.worker.tasks import preparation
from mainstay.errors import Conflict, NotFound
from mainstay.http.flask import Page, Rows, Work, idempotent, operation, work
from mainstay.tasks.celery import get_celery_app
from mainstay.tasks.workflow import WorkflowState

__all__ = ["register_blueprints"]

blueprint = Blueprint("contracts", __name__)
KeyedWork = Annotated[Work, idempotent]
PlainWork = Annotated[Work, work]
Placed = tuple[Accepted, dict[str, str]]
"""What was accepted, and the headers that say where it is."""


def register_blueprints(app: Flask) -> None:
    """Add the routes; called by `create_app`, which looks for this here."""
    prefix = app.extensions["mainstay"].settings.api_primary_path
    app.register_blueprint(blueprint, url_prefix=f"/{prefix}/contracts")


@blueprint.post("")
@operation(status=202, tags=["contracts"])
def create(body: ContractIn, w: KeyedWork) -> Placed:
    """Accept a contract, and have it validated, rendered and made known."""
    id = uuid4()
    celery_app = get_celery_app(current_app)
    canvas = preparation(celery_app, id)
    workflow_id = celery_app.workflows.start(canvas, name="contract", session=w.session)
    contract = Contract(id=id, **body.model_dump(), status="draft", workflow_id=workflow_id)
    w.session.add(contract)
    return _accepted(contract)


@blueprint.get("")
@operation(tags=["contracts"])
def contracts(page: Page, w: PlainWork) -> Rows[ContractOut]:
    """List the contracts, newest first."""
    wanted = queries.newest(limit=page.limit, offset=page.offset, position=page.position)
    rows = w.session.scalars(wanted).all()
    states = _states(w, rows)
    total = w.session.scalar(queries.total()) if page.count else None
    return page.rows(
        rows,
        lambda row: (row.created_at, row.id),
        show=lambda row: _shown(row, states),
        total=total,
    )


@blueprint.get("/<uuid:id>")
@operation(tags=["contracts"])
def contract(id: UUID, w: PlainWork) -> ContractOut:
    """Show one contract."""
    row = _find(w, id)
    return _shown(row, _states(w, [row]))


@blueprint.get("/<uuid:id>/workflow")
@operation(tags=["contracts"])
def workflow(id: UUID, w: PlainWork) -> WorkflowOut:
    """Tell what has become of each step of a contract."""
    workflow_id = _find(w, id).workflow_id
    w.rollback()  # one connection a request is enough
    found = get_celery_app(current_app).workflows.get(workflow_id)
    if found is None:
        raise NotFound(f"the steps of contract {id} are no longer kept")
    return WorkflowOut.model_validate(found)


@blueprint.post("/<uuid:id>/retry")
@operation(status=202, tags=["contracts"])
def retry(id: UUID, w: PlainWork) -> Placed:
    """Do the step again that failed, and then what waits for it."""
    row = _find(w, id)
    try:
        get_celery_app(current_app).workflows.retry(row.workflow_id, session=w.session)
    except NotFound as error:
        raise Conflict(f"{error}: the steps of contract {id} are no longer kept") from error
    return _accepted(row)


def _find(w: Work, id: UUID) -> Contract:
    found = w.session.get(Contract, id)
    if found is None:
        raise NotFound(f"there is no contract {id}")
    return found


def _states(w: Work, contracts: Iterable[Contract]) -> Mapping[str, WorkflowState]:
    ids = [each.workflow_id for each in contracts]
    return get_celery_app(current_app).workflows.states(ids, session=w.session)


def _shown(contract: Contract, states: Mapping[str, WorkflowState]) -> ContractOut:
    shown = ContractOut.model_validate(contract)
    state = states.get(contract.workflow_id)
    # Workflows are forgotten some time after their end, which then was not a success.
    has_failed = state is WorkflowState.FAILURE or (state is None and contract.status != "active")
    return shown.model_copy(update={"status": "failed"}) if has_failed else shown


def _accepted(contract: Contract) -> Placed:
    where = url_for("contracts.contract", id=contract.id)
    return Accepted.model_validate(contract, from_attributes=True), {"Location": where}
