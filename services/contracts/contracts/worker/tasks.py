"""The steps of a contract's workflow: what each does, and the status it leaves, are one commit."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from celery import chain, shared_task
from sqlalchemy.orm import Session

from contracts import terms
from contracts.model.contract import Contract
from contracts.worker.base import Step
from mainstay.http.client import Client
from mainstay.retries import Backoff
from mainstay.tasks.celery import App

__all__ = ["preparation"]

# A step that failed in passing is tried again as a whole, so that each try is told.
ONCE = Backoff(attempts=1)


def preparation(celery_app: App, contract_id: UUID) -> Any:
    """Return the canvas of what makes a draft an active contract."""
    tasks = celery_app.tasks
    return chain(
        tasks["contracts.validate"].s(str(contract_id)),
        tasks["contracts.render"].s(),
        tasks["contracts.notify"].s(),
    )


@shared_task(base=Step, name="contracts.validate")
def validate(contract_id: str, *, session: Session) -> str:
    """Check that the contract can be fulfilled."""
    contract = session.get_one(Contract, UUID(contract_id))
    terms.check(contract.amount, contract.currency)
    contract.status = "validated"
    return contract_id


@shared_task(base=Step, name="contracts.render")
def render(contract_id: str, *, session: Session) -> str:
    """Write the contract's document."""
    contract = session.get_one(Contract, UUID(contract_id))
    contract.document = terms.document(
        contract.title, contract.customer, contract.amount, contract.currency, contract.created_at
    )
    contract.status = "rendered"
    return contract_id


@shared_task(base=Step, name="contracts.notify", bind=True)
def notify(self: Step, contract_id: str, *, session: Session) -> str:
    """Tell of the contract, where somebody is to be told; they drop what they were told before, by
    its `Idempotency-Key`.
    """
    contract = session.get_one(Contract, UUID(contract_id))
    session.commit()  # nothing is held open while somebody else works
    url = self.settings.notify_url
    if url is not None:
        told = {"id": contract_id, "title": contract.title, "customer": contract.customer}
        with Client(url, service=self.app.service, backoff=ONCE) as client:
            key = {"Idempotency-Key": self.request.id}
            client.post(url, json=told, headers=key).check()
    contract.status = "active"
    return contract_id
