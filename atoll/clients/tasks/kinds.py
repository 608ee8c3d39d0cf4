"""Kinds of tasks, as files name them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from atoll.clients.tasks.classification import Classification
from atoll.clients.tasks.multi_label import MultiLabel
from atoll.clients.tasks.next_token import NextToken
from atoll.clients.tasks.regression import Regression

AnyTask = Annotated[
    Classification | MultiLabel | Regression | NextToken, Field(discriminator="kind")
]
