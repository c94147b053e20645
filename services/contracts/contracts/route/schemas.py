"""What the contracts service's API takes and gives."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer

from contracts.model.contract import AMOUNT_DIGITS, AMOUNT_PLACES, NAME_LENGTH
from mainstay.tasks.workflow import StepState, WorkflowState

__all__ = ["Accepted", "ContractIn", "ContractOut", "Status", "StepOut", "WorkflowOut"]

Status = Literal["draft", "validated", "rendered", "active", "failed"]
Text = Annotated[str, Field(min_length=1, max_length=NAME_LENGTH)]
Amount = Annotated[Decimal, PlainSerializer(float, return_type=float)]
"""A number in JSON as well: of so few digits, none is lost."""


class ContractIn(BaseModel):
    """A contract that is to be made."""

    model_config = ConfigDict(extra="forbid")

    title: Text
    customer: Text
    amount: Annotated[Decimal, Field(gt=0, max_digits=AMOUNT_DIGITS, decimal_places=AMOUNT_PLACES)]
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$", description="As ISO 4217 has it.")]


class Accepted(BaseModel):
    """A contract that is being worked on, and the workflow that does so."""

    id: UUID
    status: Status
    workflow_id: str


class ContractOut(BaseModel):
    """A contract, and how far it is."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    title: str
    customer: str
    amount: Amount
    currency: str
    status: Status
    workflow_id: str
    document: str | None
    created_at: datetime
    updated_at: datetime


class StepOut(BaseModel):
    """One step of a workflow."""

    model_config = ConfigDict(from_attributes=True)

    name: Annotated[str, AfterValidator(lambda name: name.rpartition(".")[2])]
    task_id: str
    status: Annotated[StepState, Field(validation_alias="state")]
    attempts: int
    started_at: datetime | None
    finished_at: datetime | None
    error: dict[str, Any] | None


class WorkflowOut(BaseModel):
    """What has become of each step, in their order."""

    model_config = ConfigDict(from_attributes=True)

    workflow_id: Annotated[str, Field(validation_alias="id")]
    status: Annotated[WorkflowState, Field(validation_alias="state")]
    steps: list[StepOut]
