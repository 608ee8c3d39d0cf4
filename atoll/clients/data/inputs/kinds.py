"""Kinds of inputs, as files name them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from atoll.clients.data.inputs.images import ImageInputs
from atoll.clients.data.inputs.table import TableInputs
from atoll.clients.data.inputs.tokens import TokenInputs

AnyInputs = Annotated[ImageInputs | TableInputs | TokenInputs, Field(discriminator="kind")]
