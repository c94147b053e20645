"""Which messages might anybody put on a queue that no program of ours would send?

Each function makes one out of a seed, and out of the same seed the same one: a sound message to
which something was done. It knows how a message is built, so most of what it makes is wrong in one
place and right in all others, which gets further into a program than noise would.

Each message names its unit in more than one place, and at least one of them is left readable, so
that the books can be kept whatever was done to the others.
"""

from tests.chaos.mutations.calls import CallMessage, call_message, sound_call
from tests.chaos.mutations.tasks import (
    Item,
    TaskMessage,
    control_message,
    item,
    sound_item,
    sound_task,
    task_message,
)
from tests.chaos.mutations.units import AFTER, NOTE, UNIT, unit_of, units_in

__all__ = [
    "AFTER",
    "NOTE",
    "UNIT",
    "CallMessage",
    "Item",
    "TaskMessage",
    "call_message",
    "control_message",
    "item",
    "sound_call",
    "sound_item",
    "sound_task",
    "task_message",
    "unit_of",
    "units_in",
]
