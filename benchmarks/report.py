"""From results to JSON, to a table on the console, and to docs/benchmarks.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.charts import bar_chart
from benchmarks.measuring import OURS, Result

__all__ = ["as_json", "console_table", "merge", "write_documents"]

PEER_ORDER = (OURS, "ideal", "bare", "mp.Pool", "PPE", "TPE", "loky", "joblib", "mpire", "pebble", "ray", "dask")


def as_json(result: Result) -> dict[str, Any]:
    row = result.row
    return {
        "key": row.key,
        "title": row.title,
        "unit": row.unit,
        "note": row.note,
        "values": {peer: [round(v, 6) for v in numbers] for peer, numbers in result.values.items()},
        "median": {peer: round(result.median(peer), 6) for peer in result.values},
        "ours_over": {peer: round(ratio, 4) for peer, ratio in result.ratios.items()},
        "ways": {peer: way for peer, way in result.ways.items() if peer in result.values},
        "absent": result.absent,
        "targets": result.verdicts(),
    }


def merge(path: Path, machine: dict[str, Any], row: dict[str, Any], *, quick: bool) -> None:
    """Put one row into the file, in the place of an older one of that key."""
    data: dict[str, Any] = {"rows": []}
    if path.exists():
        data = json.loads(path.read_text())
    data["machine"] = machine
    data["quick"] = quick
    row["load"] = machine["load"]
    keys = [old["key"] for old in data["rows"]]
    if row["key"] in keys:
        data["rows"][keys.index(row["key"])] = row
    else:
        data["rows"].append(row)
    path.write_text(json.dumps(data, indent=1) + "\n")


def number(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def factor(ratio: float) -> str:
    """Ours over theirs, in words."""
    if ratio <= 0:
        return "-"
    return f"{1 / ratio:.3g}x behind us" if ratio < 0.995 else f"{ratio:.3g}x ahead of us" if ratio > 1.005 else "equal"


def order(peer: str) -> tuple[int, str]:
    return (PEER_ORDER.index(peer) if peer in PEER_ORDER else len(PEER_ORDER), peer)


def console_table(result: Result) -> str:
    lines = []
    for peer in sorted(result.values, key=order):
        ratio = "" if peer not in result.ratios else f"ours / theirs {result.ratios[peer]:.3f}"
        lines.append(f"    {peer:18} {number(result.median(peer)):>10} {result.row.unit}  {ratio}")
    for verdict in result.verdicts():
        against = f"{verdict['peer']} x" if verdict["peer"] else ""
        word = "met" if verdict["met"] else "MISSED"
        lines.append(f"    target {against} {verdict['factor']:.3f}: {verdict['reached']:.3f}  {word}")
    lines += [f"    {peer}: {why}" for peer, why in result.absent.items()]
    return "\n".join(lines)


def target_words(verdict: dict[str, Any], unit: str) -> str:
    mark = "met" if verdict["met"] else "**missed**"
    if verdict["peer"] is None:
        return f"at most {number(verdict['factor'])} {unit}: {number(verdict['reached'])}, {mark}"
    bound = verdict["factor"]
    words = f"1/{1 / bound:.3g} of" if bound < 0.4 else f"{bound:.3g}x"
    return f"at most {words} {verdict['peer']}: {verdict['reached']:.3g}x, {mark}"


def write_documents(data: dict[str, Any], docs: Path) -> None:
    """Write docs/benchmarks.md and the charts that it shows."""
    images = docs / "images"
    images.mkdir(parents=True, exist_ok=True)
    (docs / "benchmarks.md").write_text(document(data))
    for row in data["rows"]:
        if len(row["median"]) > 1:
            (images / f"benchmark-{row['key']}.svg").write_text(
                bar_chart(row["title"].replace("`", ""), row["unit"],
                          sorted(row["median"].items(), key=lambda pair: order(pair[0])), OURS)
            )  # fmt: skip


def document(data: dict[str, Any]) -> str:
    machine = data["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        "# Benchmarks",
        "",
        (
            "Made by `python -m benchmarks` (extra `bench`); this page is generated, the numbers are in"
            " `benchmarks/results.json`."
        ),
        "",
        (
            f"{machine['date']}, {machine['cores']} cores of {machine['processor']}, {machine['memory_gb']} GB,"
            f" {machine['system']}, {machine['python']}; {versions}."
        ),
        "",
        (
            "All contenders of a row are open at once, in one process, and take turns round by round; what stands here"
            " are medians, and the medians of the rounds' ratios. Ray and Dask bring daemons of their own, so they are"
            " measured in a second set, beside `fullcourt` again. Each peer does the work as its users would; *bare* is"
            " two forked workers on socket pairs, written by hand for that work. Start-up, memory and idleness are"
            " measured in a"
            " fresh interpreter each time."
        ),
        "",
        "Two cores shared with other work make single numbers shaky; the ratios hold better. Read the ratios.",
        "",
        "## In short",
        "",
        "| work | unit | fullcourt | best peer | goals |",
        "|---|---|---|---|---|",
    ]
    behind: list[str] = []
    for row in data["rows"]:
        medians = row["median"]
        rivals = {p: r for p, r in row["ours_over"].items() if p not in ("bare", "ideal", "in the caller")
                  and not p.startswith("ours")}  # fmt: skip
        best = max(rivals, key=lambda p: rivals[p], default=None)
        best_words = "" if best is None else f"{best} {number(medians[best])} ({factor(rivals[best])})"
        goals = "; ".join(target_words(v, row["unit"]) for v in row["targets"])
        ours = number(medians[OURS]) if OURS in medians else "-"
        lines.append(f"| [{row['title']}](#{row['key']}) | {row['unit']} | {ours} | {best_words} | {goals} |")
        behind += [
            f"- {row['title']}: {peer} needs {number(medians[peer])} {row['unit']}, we {ours} ({ratio:.3g}x)."
            for peer, ratio in rivals.items()
            if ratio > 1.03
        ]
        behind += [
            f"- {row['title']}: the goal of {target_words(v, row['unit'])}." for v in row["targets"] if not v["met"]
        ]
    lines += ["", "## Where we lose", ""]
    lines += behind or ["In none of these rows."]
    for row in data["rows"]:
        lines += ["", f'## <a id="{row["key"]}"></a>{row["title"]}', ""]
        if row["note"]:
            lines += [row["note"][0].upper() + row["note"][1:] + ".", ""]
        lines += [f"| | {row['unit']} | ours / theirs | spread | how |", "|---|---|---|---|---|"]
        for peer in sorted(row["median"], key=order):
            numbers = row["values"][peer]
            ratio = f"{row['ours_over'][peer]:.3g}" if peer in row["ours_over"] else ""
            spread = f"{number(min(numbers))} to {number(max(numbers))}"
            way = f"`{row['ways'][peer]}`" if peer in row["ways"] else ""
            name = f"**{peer}**" if peer == OURS else peer
            lines.append(f"| {name} | {number(row['median'][peer])} | {ratio} | {spread} | {way} |")
        lines += ["", *(f"Without {peer}: {why}." for peer, why in row["absent"].items())]
        if len(row["median"]) > 1:
            lines += ["", f"![{row['title'].replace('`', '')}](images/benchmark-{row['key']}.svg)"]
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"
