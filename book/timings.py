"""The tables and figures of the benchmarks page, from what `make bench` stored."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlkit import figures, papers

LIBRARIES = ("mlkit", "learn2learn", "higher", "torchopt")
CURVATURES = ("mlkit", "pyhessian", "pyhessian to 1e-6", "curvlinops")
Row = dict[str, Any]


def page(folder: Path) -> Iterator[str]:
    """Yield the parts of the page; one sentence where nothing is stored."""
    stored = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not stored:
        yield "No measurement ships yet; `make bench` makes one on your machine."
    for content in sorted(stored, key=lambda content: content["benchmark"] != "peers"):
        rows = content["rows"]
        yield f"## {TITLES.get(content['benchmark'], content['benchmark'])}"
        yield from _peers([row for row in rows if "seconds" in row and "best_peer" in row])
        yield from _one_peer([row for row in rows if "ratio" in row and "best_peer" not in row])
        if content["benchmark"] == "segmentation":
            yield from _paper_hours(rows, content["hardware"]["gpu"])
        yield from _curvature([row for row in rows if "eigenvalue_errors" in row])
        yield from _spectra([row for row in rows if "spectrum" in row])
        yield from _bars([row for row in rows if "measure" in row])
        yield from (_steps(row["steps"]) for row in rows if "steps" in row)
        yield from (_chunks(row["chunks"], evidence(content)) for row in rows if "chunks" in row)
        yield f"Measured on {evidence(content)}."


TITLES = {
    "peers": "Next to other libraries",
    "segmentation": "Segmentation",
    "hessian": "Curvature",
    "uho": "Search over update hyperparameters",
    "turtle": "Learned update rules",
    "leo": "Latent embeddings",
    "sampling": "Overheads",
    "memory": "Time and memory",
}


def evidence(content: Row) -> str:
    """Return where and with what a benchmark was measured."""
    hardware, software = content["hardware"], content["software"]
    machine = f"GPU {hardware['gpu']}" if hardware["gpu"] else f"{hardware['cores']} CPU cores ({hardware['cpu']})"
    used = ("torch", *CURVATURES) if content["benchmark"] == "hessian" else ("torch", *LIBRARIES)
    versions = [f"{name} {software[name]}" for name in used if name in software]
    return f"{machine}, {', '.join(versions)}, {content['date'][:10]}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    rule = ("---", *["---:"] * (len(head) - 1))
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _peers(rows: list[Row]) -> Iterator[str]:
    """Yield milliseconds of one meta-iteration by library, then how exact the float32 meta-gradient is."""
    if not rows:
        return
    order = {1: "first", 2: "second"}
    times = [
        (
            f"{row['case']}, {order[row['order']]} order",
            *(_milliseconds(row["seconds"].get(name)) for name in LIBRARIES),
            f"{row['ratio']:.1f}" + _bar(row["bar"]),
        )
        for row in rows
    ]
    yield "Milliseconds of one meta-iteration, and how many times faster than the best of the others:"
    yield _table(("case", *LIBRARIES, "times faster"), times)
    kept = [row for row in rows if row.get("seconds_keeping_memory")]
    if kept:
        ratios = "; ".join(f"{row['case']}, {order[row['order']]} order: {_kept_ratio(row):.1f}" for row in kept)
        yield f"Where the C library is told to keep the memory that is freed: {ratios} times faster."
    exact = [
        (
            f"{row['case']}, {order[row['order']]} order",
            *(_power(row["float32_error"].get(name)) for name in LIBRARIES),
            *(f"{row['peak_bytes'][name] / 2**20:.0f}" for name in ("mlkit", row["best_peer"])),
        )
        for row in rows
    ]
    yield "Relative distance of the float32 meta-gradient from float64, and peak memory above the start in MiB:"
    yield _table(("case", *LIBRARIES, "MiB, mlkit", "MiB, best peer"), exact)
    drawn = [
        (
            f"{row['case']}, {order[row['order']]} order",
            *(_spread(row["float32_errors_on_drawings"][name]) for name in ("mlkit", "learn2learn")),
        )
        for row in rows
        if row.get("float32_errors_on_drawings", {}).get("mlkit")
    ]
    if drawn:
        yield (
            "That was on noise images. On drawings most pixels are zero, some activations lie within rounding of "
            "the kink of a ReLU, and in float32 a task can fall on its other side: in any library. Lowest, median and "
            "highest error of three meta-batches of characters:"
        )
        yield _table(("case", "mlkit", "learn2learn"), drawn)


def _kept_ratio(row: Row) -> float:
    seconds = row["seconds_keeping_memory"]
    return seconds[row["best_peer"]] / seconds["mlkit"]


def _one_peer(rows: list[Row]) -> Iterator[str]:
    """Yield seconds of every way to compute the same, and how exact each is in float32 where that was measured."""
    if not rows:
        return
    names = tuple(rows[0]["seconds"])
    times = [
        (
            row["case"],
            *(f"{row['seconds'][name]:.3g}" for name in names),
            f"{row['ratio']:.1f}" + _bar(row["bar"]),
        )
        for row in rows
    ]
    yield "Seconds, and how many times faster mlkit is:"
    yield _table(("case", *names, "times faster"), times)
    exact = [(row["case"], *(_power(row["float32_error"][n]) for n in names)) for row in rows if "float32_error" in row]
    if exact:
        yield "Relative distance of the float32 result from float64:"
        yield _table(("case", *names), exact)


def _paper_hours(rows: list[Row], gpu: str | None) -> Iterator[str]:
    """Say how long the paper's training takes at the rate that was measured at its size."""
    steps = papers.row("000/T3/Meta-steps").value
    for measured in (one for one in rows if "224 px" in one["case"] and steps):
        hours = steps * measured["seconds"]["mlkit"] / 3600
        yield f"At 224 pixels the {steps:,.0f} outer steps of the preset `paper` take {hours:,.0f} hours at this rate."
        if not gpu:
            yield "On a GPU the rate has not been measured; `python benchmarks/segmentation.py --device cuda` does it."


def _curvature(rows: list[Row]) -> Iterator[str]:
    """Yield seconds and errors of the spectral norms of many Hessians."""
    if not rows:
        return
    yield (
        "Seconds for the largest eigenvalue of the Hessian of every task, and how many times faster mlkit is. "
        "PyHessian runs with its defaults, and once more until two of its estimates agree to 1e-6; curvlinops with "
        "SciPy's `eigsh`:"
    )
    times = [
        (
            row["case"],
            *(f"{row['seconds'][name]:.3g}" for name in CURVATURES),
            *(f"{row['ratios'][name]:.1f}" + _bar(row["bars"].get(name)) for name in CURVATURES[1:]),
        )
        for row in rows
    ]
    yield _table(("case", *CURVATURES, *(f"faster than {name}" for name in CURVATURES[1:])), times)
    yield "Largest relative error over the tasks, against float64:"
    errors = [(row["case"], *(_power(row["eigenvalue_errors"][name]) for name in CURVATURES)) for row in rows]
    yield _table(("case", *CURVATURES), errors)


def _bar(bar: float | None) -> str:
    return f" (bar {bar:g})" if bar else ""


def _spectra(rows: list[Row]) -> Iterator[str]:
    """Yield the errors on matrices whose eigenvalues are known."""
    if rows:
        names = [name for name in CURVATURES if name in rows[0]["spectrum_errors"]]
        yield "Relative error where the spectrum is known, in float64 and with the defaults of each:"
        cells = [(row["spectrum"], *(_power(row["spectrum_errors"][name]) for name in names)) for row in rows]
        yield _table(("eigenvalues", *names), cells)


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.3g}" if seconds < 0.1 else f"{1000 * seconds:.0f}"


def _power(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}"


def _spread(values: list[float]) -> str:
    return ", ".join(_power(value) for value in (min(values), statistics.median(values), max(values)))


def _bars(rows: list[Row]) -> Iterator[str]:
    """Yield what has one number and a bar that it must stay below."""
    if rows:
        cells = [
            (
                row["measure"] + (f": {row['case']}" if "case" in row else ""),
                f"{row['value']:.3g}",
                f"at most {row['bar']:g}" if row["bar"] else "none set",
            )
            for row in rows
        ]
        yield _table(("measure", "value", "bar"), cells)


def _steps(points: list[Row]) -> str:
    """Return time and memory against inner steps, plain and checkpointed."""
    rows = [
        (
            f"{point['steps']}" + (", checkpointed" if point["checkpoint"] else ""),
            _milliseconds(point["seconds"]),
            f"{point['peak_bytes'] / 2**20:.0f}",
        )
        for point in points
    ]
    return _table(("inner steps", "milliseconds", "peak memory (MiB)"), rows)


def _chunks(points: list[Row], where: str) -> str:
    """Return the dial between time and memory: the number of tasks that run at a time."""
    costs: dict[str, figures.Cost] = {}
    labels = {"MAML, query sets one at a time": True, "MAML, query sets together": False}
    for label, single in labels.items():
        line = [p for p in points if (p["query_chunk"] == 1 if single else p["query_chunk"] == p["chunk_size"])]
        columns = [[point[key] for point in line] for key in ("chunk_size", "seconds", "peak_bytes")]
        costs[label] = figures.Cost(*columns)
    alt = "Seconds and peak memory of one meta-iteration against the number of tasks that run at a time."
    return figures.as_html(figures.cost_curves(costs), alt=alt, caption=f"Second order, Omniglot, 16 tasks. {where}.")
