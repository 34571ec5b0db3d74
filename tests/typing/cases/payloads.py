"""Payload types of these cases, one of each kind that `payload_type` is likely to get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import msgspec


class Order(msgspec.Struct):
    number: int


@dataclass
class Refund:
    number: int


class Note(TypedDict):
    text: str
