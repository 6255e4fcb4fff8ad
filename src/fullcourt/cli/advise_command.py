"""`fullcourt advise`: which mode suits a function, measured on the first lines of its input."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import TYPE_CHECKING, Any

from fullcourt.cli import exits
from fullcourt.cli.map_line import FunctionError, current_folder, error_text, find_function
from fullcourt.cli.map_output import OutputError, standard_streams_for_us

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from fullcourt import Advice

__all__ = ["run_advise"]


class _Refused(Exception):
    """The command cannot be carried out: a line for the user, and the exit status."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def run_advise(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    try:
        advice = _advice(options)
        if options.facts is not None:
            _write_facts(options.facts, advice)
    except _Refused as refusal:
        print(f"fullcourt advise: {refusal}", file=sys.stderr, flush=True)
        return refusal.status
    except OutputError as error:
        print(f"fullcourt advise: cannot write {error.name}: {error.cause.strerror}", file=sys.stderr, flush=True)
        return exits.INPUT_OUTPUT
    if options.json:
        json.dump(_as_json(advice), sys.stdout, indent=2)
        print()
    else:
        _show(advice)
    return exits.OK


def _advice(options: argparse.Namespace) -> Advice[Any]:
    if options.from_facts is not None:
        if options.function is not None:
            raise _Refused("give a function to measure, or --from-facts, not both", exits.USAGE)
        return _from_facts(options.from_facts)
    if options.function is None:
        raise _Refused("give the function as MODULE:FUNCTION, such as math:sqrt", exits.USAGE)
    from fullcourt import advise

    try:
        fn = find_function(options.function, current_folder())
    except FunctionError as error:
        raise _Refused(str(error), exits.USAGE) from None
    with contextlib.ExitStack() as stack:
        # What the function prints goes to stderr; what C code and programs that it starts print, too.
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        stdin, _ = stack.enter_context(standard_streams_for_us(take_output=True))
        source: Iterable[bytes]
        if options.input is None:
            source = io.BufferedReader(stdin)
        else:
            try:
                source = stack.enter_context(open(options.input, "rb"))
            except OSError as error:
                raise _Refused(f"cannot read {options.input}: {error.strerror}", exits.INPUT_OUTPUT) from None
        try:
            return advise(fn, _items(source, as_text=options.lines))
        except _Refused:
            raise
        except KeyboardInterrupt:
            raise
        except OSError as error:
            if options.input is not None and error.filename == options.input:
                raise _Refused(f"cannot read {options.input}: {error.strerror}", exits.INPUT_OUTPUT) from error
            raise _Refused(f"{options.function} failed: {error_text(error)}", exits.FAILED_ITEMS) from error
        except ValueError as error:
            if "there are no items" in str(error):
                raise _Refused(f"{error}", exits.USAGE) from None
            raise _Refused(f"{options.function} failed: {error_text(error)}", exits.FAILED_ITEMS) from error
        except BaseException as error:
            raise _Refused(f"{options.function} failed: {error_text(error)}", exits.FAILED_ITEMS) from error


def _items(source: Iterable[bytes], *, as_text: bool) -> Iterator[Any]:
    for number, line in enumerate(source, 1):
        text = line.rstrip(b"\n").removesuffix(b"\r")
        if as_text:
            yield text.decode("utf-8", "surrogateescape")
        elif text.strip():
            try:
                yield json.loads(text)
            except ValueError as error:
                raise _Refused(
                    f"line {number} is not JSON: {error}. With --lines each line is a str.", exits.USAGE
                ) from None


def _from_facts(path: str) -> Advice[Any]:
    from fullcourt._advise.advice import advise_from
    from fullcourt._advise.facts import Facts

    try:
        with open(path, encoding="utf-8") as file:
            return advise_from(Facts.from_json(json.load(file)))
    except OSError as error:
        raise _Refused(f"cannot read {path}: {error.strerror}", exits.INPUT_OUTPUT) from None
    except (ValueError, AttributeError) as error:
        raise _Refused(f"{path} has no facts: {error}", exits.USAGE) from None


def _write_facts(path: str, advice: Advice[Any]) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(advice.facts.to_json(), file, indent=2)
            file.write("\n")
    except OSError as error:
        raise _Refused(f"cannot write {path}: {error.strerror}", exits.INPUT_OUTPUT) from None


def _as_json(advice: Advice[Any]) -> dict[str, Any]:
    def shown(prediction: Any) -> dict[str, Any]:
        mode = prediction.mode
        rates = {name: getattr(prediction, name) for name in ("rate", "low", "high", "start_s")}
        return {"processes": mode.processes, "threads": mode.threads, "kind": mode.kind, **rates}

    mode = advice.choice
    return {
        "choice": {"processes": mode.processes, "threads": mode.threads, "kind": mode.kind},
        "options": advice.options,
        "reason": advice.reason,
        "caveats": list(advice.caveats),
        "predictions": [shown(prediction) for prediction in advice.predictions],
        "facts": advice.facts.to_json(),
        "n_results": len(advice.results),
    }


def _show(advice: Advice[Any]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(advice)
        return
    from fullcourt._advise.advice import number
    from fullcourt._advise.words import option_words

    console = Console(highlight=False)
    console.print(f"[bold]Use {advice.choice}[/bold]: Pool({option_words(advice.choice)})", markup=True)
    console.print(advice.reason, markup=False)
    for caveat in advice.caveats:
        console.print(f"! {caveat}", style="yellow", markup=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("mode")
    table.add_column("items a second", justify="right")
    table.add_column("range", justify="right")
    table.add_column("")
    best = max(prediction.high for prediction in advice.predictions)
    for prediction in advice.predictions:
        chosen = prediction.mode == advice.choice
        bar = "█" * max(1, round(24 * prediction.rate / best))
        table.add_row(
            f"{'>' if chosen else ' '} {prediction.mode}",
            number(prediction.rate),
            f"{number(prediction.low)} to {number(prediction.high)}",
            bar,
            style="bold" if chosen else None,
        )
    console.print(table)
