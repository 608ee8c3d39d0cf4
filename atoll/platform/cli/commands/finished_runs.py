"""``atoll runs``, ``compare``, ``plot`` and ``export``: work with runs that are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from atoll.errors import InvalidExperimentError
from atoll.platform.cli.output.printed_tables import CsvOption, LatexOption, form_of, print_tables
from atoll.platform.cli.terminal import (
    TrustOption,
    clear_errors,
    console,
    errors,
    log_to_terminal,
    say_loading,
)

AnywayOption = Annotated[
    bool, typer.Option("--anyway", help="Even if the figures are of different data.")
]


def runs(
    folder: Annotated[
        Path, typer.Argument(help="The folder that is looked through, four levels deep.")
    ] = Path("runs"),
    name: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Names with * and ?: 'mnist/*'.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="A tag that it has (run.tags); repeatable.")
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(help="finished, running, interrupted, failed or unreadable; repeatable."),
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="run, app, sweep or arena; repeatable.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A key of its configuration; repeatable."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="The metric of the last column, as in rounds.parquet. Default: the main one."
        ),
    ] = None,
    sort: Annotated[
        str, typer.Option(help="date (newest first), name, metric (best first), method, data, ...")
    ] = "date",
    reverse: Annotated[bool, typer.Option("--reverse", help="In the other order.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON, with the whole configuration of each.")
    ] = False,
    latex: LatexOption = False,
    csv: CsvOption = False,
) -> None:
    """Show the runs, sweeps and arenas in a folder.

    The metric is the last one of a run, and of a sweep that of its best trial. A run that no
    process of this machine is running, and that has no result, is "interrupted".

    Example: atoll runs --tag paper --where strategy.name=FedAvg --sort metric
    """
    with clear_errors():
        errors.print(f"{folder}: looking for runs", style="dim", soft_wrap=True, markup=False)
        from atoll.platform.results import inventory

        log_to_terminal("error")
        form = form_of(latex=latex, csv=csv)
        _check(state, inventory.STATES, "--state")
        _check(kind, ("run", "app", "sweep", "arena"), "--kind")
        order = inventory.order_of(sort)
        shown = inventory.Filter(name, tag or (), state or (), kind or (), where or ())
        entries = [e for e in inventory.list_entries(folder, metric) if shown(e)]
        entries.sort(key=order, reverse=reverse)
        if as_json:
            console.out(json.dumps([e.to_json() for e in entries], indent=1), highlight=False)
            return
        print_tables([inventory.table_of_entries(entries, folder)], form)
        for entry in entries:
            if entry.problem:
                errors.print(f"unreadable: {entry.problem}", markup=False, soft_wrap=True)


def compare(
    directories: Annotated[
        list[Path],
        typer.Argument(help="Run directories, or a sweep's directory.", show_default=False),
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(help="A column of rounds.parquet; repeatable. Default: accuracy and loss."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The page (.html); by default comparison.html in the sweep's directory, or the "
            "first free comparison[-n].html here."
        ),
    ] = None,
    anyway: AnywayOption = False,
    latex: LatexOption = False,
    csv: CsvOption = False,
) -> None:
    """Compare runs: what differs, final metrics with intervals over seeds, a page with curves.

    Runs that differ in run.seed alone are one row, with Student's 95 % interval of the mean. Runs
    on different data (another data set, other held-out domains or test examples) are refused.
    Trials of a sweep with other domains held out are compared apart. With --latex or --csv the
    tables alone are written, unless --out is given. An arena's table is shown, too.

    Example: atoll compare runs/fedavg runs/fedavg-2 runs/fedprox --metric server_accuracy
    """
    with clear_errors():
        from atoll.platform.results import comparison, comparison_page, pictures
        from atoll.platform.results.recorded import kind_of

        log_to_terminal("error")
        form = form_of(latex=latex, csv=csv)
        first = directories[0]
        if kind_of(first) == "arena":
            if len(directories) > 1:
                raise InvalidExperimentError(f"{first}: is an arena; expected it alone")
            print_tables(pictures.arena_tables(first), form)
            return
        found = comparison.compare(directories, metric or (), anyway=anyway)
        for warning in found.warnings:
            errors.print(f"warning: {warning}", markup=False, soft_wrap=True)
        if form == "csv":
            print_tables([section.metrics for section in found.sections], form)
        else:
            print_tables(found.tables, form)
        if out is None and form != "text":
            return
        is_sweep = len(directories) == 1 and kind_of(first) == "sweep"
        default = first / comparison_page.PAGE if is_sweep else comparison_page.free_page(Path())
        page = out or default
        comparison_page.write_page(found, page)
        (console if form == "text" else errors).print(f"page: {page}", soft_wrap=True)


def plot(
    directories: Annotated[
        list[Path],
        typer.Argument(help="Runs, a sweep, or an arena: their directories.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="The picture: a name in .pdf, .svg or .png.")],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="A column of rounds.parquet, or 'partition' (the classes of a run's clients); of "
            "an arena psnr, ssim, identified, ...; repeatable: a panel each."
        ),
    ] = None,
    band: Annotated[
        str, typer.Option(help="Over seeds: range, interval (Student's, 95 %) or none.")
    ] = "range",
    held_out: Annotated[
        str | None, typer.Option(help="Of a sweep, the trials that hold out these domains: a+b.")
    ] = None,
    width: Annotated[float, typer.Option(min=1.0, max=20.0, help="Inches of a panel.")] = 3.4,
    y_limits: Annotated[
        tuple[float, float] | None, typer.Option("--ylim", help="The y axis' ends: LOW HIGH.")
    ] = None,
    from_round: Annotated[int, typer.Option(min=0, help="The first round that is drawn.")] = 0,
    log: Annotated[bool, typer.Option("--log", help="A logarithmic y axis.")] = False,
    title: Annotated[str, typer.Option(help="A title; by default there is none.")] = "",
    anyway: AnywayOption = False,
) -> None:
    """Draw a figure for a paper: a line a method, a band over its seeds.

    The y axis is for the rounds after the first quarter, where curves begin far away from where
    they end; --ylim sets it. Trials of a sweep with other domains held out are never pooled: each
    set of held-out domains has a panel. Needs Matplotlib: pip install "atoll[plot]".

    Example: atoll plot runs/sweep --metric server_accuracy --band interval --out accuracy.pdf
    """
    with clear_errors():
        from atoll.platform.results import pictures
        from atoll.platform.results.plots import Look

        log_to_terminal("error")
        _check([band], ("range", "interval", "none"), "--band")
        if y_limits is not None and not y_limits[0] < y_limits[1]:
            raise InvalidExperimentError(
                f"--ylim {y_limits[0]:g} {y_limits[1]:g}: expected the lower end first"
            )
        look = Look(width, y_limits, from_round, log, title)
        pictures.plot(
            directories,
            out,
            metric or (),
            band=pictures.band_of(band),
            held_out=held_out,
            look=look,
            anyway=anyway,
        )
        console.print(f"figure: {out}", soft_wrap=True, markup=False)


def export(
    run_directory: Annotated[Path, typer.Argument(help="The directory of a run.")],
    to: Annotated[
        str, typer.Option("--to", help="torch, safetensors, onnx or huggingface (a folder).")
    ],
    out: Annotated[Path, typer.Option(help="The file or folder; it must not be there yet.")],
    which: Annotated[
        str,
        typer.Option(
            "--round",
            help="last, best (by run.keep_metric; run.keep = 'best' keeps it), or a number.",
        ),
    ] = "last",
    trust_code: TrustOption = False,
) -> None:
    """Export a run's model, with its preprocessing, class names and where it is from.

    torch: a program of torch.export (.pt2), which needs nothing of Atoll. safetensors: the
    tensors. onnx: needs pip install "atoll[export]". huggingface: config.json, model.safetensors,
    preprocessor_config.json or tokenizer.json, and a model card; not of tables. Models take pixels
    in [0, 1], stored rows (float64) or tokens.

    Example: atoll export runs/quickstart --to onnx --out lenet.onnx --round best
    """
    with clear_errors():
        say_loading(run_directory.resolve().name, console, "PyTorch")
        from atoll.platform.results.exports.export import FORMATS, export_run
        from atoll.platform.results.kept_checkpoints import parse_round
        from atoll.platform.results.recorded_run import open_run

        log_to_terminal("info")
        FORMATS.find(to, "--to")
        run = open_run(run_directory, trust_code=trust_code)
        console.print(
            f"exported: {export_run(run, to, out, parse_round(which))}",
            soft_wrap=True,
            markup=False,
        )


def _check(given: list[str] | None, known: tuple[str, ...], option: str) -> None:
    for value in given or ():
        if value not in known:
            raise InvalidExperimentError(f"{option} {value}: expected {', '.join(known)}")
