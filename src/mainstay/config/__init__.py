"""Settings: what a process is told from outside, read once, checked whole, and then immutable."""

from mainstay.config.fields import Group, Read, accepts, default_text, is_secret, names, shown
from mainstay.config.messages import Problem
from mainstay.config.refusals import refusals
from mainstay.config.settings import Settings
from mainstay.config.sources import Found, Sources
from mainstay.config.urls import mask
from mainstay.config.values import Environment, LogLevel, rate

__all__ = [
    "Environment",
    "Found",
    "Group",
    "LogLevel",
    "Problem",
    "Read",
    "Settings",
    "Sources",
    "accepts",
    "default_text",
    "is_secret",
    "mask",
    "names",
    "rate",
    "refusals",
    "shown",
]
