"""Tables 1 and 2 of paper 004 with every row that it prints, and beside them what ours reached on other features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from IPython.display import Markdown

from mlkit.chapters.latent_embeddings import BASELINE, LEOS, ZERO, Records, Setting
from mlkit.chapters.pairs import gain
from mlkit.papers import rows
from mlkit.status import printed

OURS = {"LEO (ours)": "LEO", BASELINE: BASELINE}  # method as table 1 prints it: the one of ours
SHOTS = (1, 5)


def accuracies(records: Records) -> Markdown:
    """Show table 1: the paper's methods on miniImageNet in its order, beside ours on the data of each setting."""
    kept = _kept(records, ("LEO", BASELINE))
    found: dict[str, dict[int, str]] = {}
    for identity, row in rows().items():
        if identity.startswith("004/T1/"):
            shots = next(k for k in SHOTS if f"/5-way-{k}-shot/" in identity)
            found.setdefault(row.method, {})[shots] = printed(row) or "–"
    head = ["method", *(f"the paper, {k}-shot" for k in SHOTS), *(f"ours, {setting}" for setting in kept)]
    lines = []
    for method, values in found.items():
        ours = (_percent(records, setting, OURS.get(method)) for setting in kept)
        lines.append([method, *(values.get(k, "–") for k in SHOTS), *ours])
    return _table(head, lines)


def ablations(records: Records) -> Markdown:
    """Show table 2: what remains without the encoder or without sampling, 1-shot, and what LEO gains over each."""
    kept = [setting for setting in _kept(records, tuple(LEOS)) if setting.shots == 1]
    paper = {row.method: printed(row) for identity, row in rows().items() if identity.startswith("004/T2/")}
    head = ["method", "the paper"]
    for setting in kept:
        head += [f"ours, {setting}", "LEO minus it, points"]
    lines = []
    for method in (ZERO, BASELINE, *reversed(LEOS)):
        line = [method, paper.get(method, "–")]
        for setting in kept:
            line += [_percent(records, setting, method), _gained(records, setting, method)]
        lines.append(line)
    return _table(head, lines)


def _kept(records: Records, methods: Sequence[str]) -> list[Setting]:
    return list(dict.fromkeys(setting for setting, method in records if method in methods))


def _percent(records: Records, setting: Setting, method: str | None) -> str:
    if method is None or (setting, method) not in records:
        return ""
    scores = records[setting, method].scores
    return f"{100 * scores['mean']:.2f} ± {100 * scores['ci95']:.2f}"


def _gained(records: Records, setting: Setting, method: str) -> str:
    pair = (setting, method), (setting, "LEO")
    if method == "LEO" or any(key not in records for key in pair):
        return ""
    tasks = gain(*(records[key] for key in pair)).tasks
    return f"{tasks.value:+.2f} ± {tasks.ci95:.2f}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> Markdown:
    def joined() -> Iterator[str]:
        yield f"| {' | '.join(head)} |"
        yield "|---|" + "---:|" * (len(head) - 1)
        yield from (f"| {' | '.join(line)} |" for line in lines)

    return Markdown("\n".join(joined()))
