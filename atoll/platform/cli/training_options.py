"""Options of the commands that train what an attack needs, or train it anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DatasetArgument = Annotated[str, typer.Argument(help="A data set ('atoll list datasets').")]
FilesOption = Annotated[
    Path | None, typer.Option(help="A folder with a data set's files, in place of a download.")
]
SplitOption = Annotated[
    str, typer.Option(help="Which examples it sees: test (clients have none of them) or train.")
]
TrainingOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="steps, width, ...; may be repeated."),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seeds the training.")]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Processor threads.")]
