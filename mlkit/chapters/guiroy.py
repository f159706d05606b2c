"""Which claim of paper 003 belongs to which figure, and to which of the trainings at hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from mlkit.chapters.claims import (
    ACCURACY,
    ROLES,
    Claim,
    Found,
    Records,
    above,
    below,
    correlates,
    falls_after_the_best,
    flattens,
    grows,
    overfits,
)
from mlkit.chapters.epochs import curves
from mlkit.chapters.settings import Setting
from mlkit.landscape.study import Correlation, across_runs, correlation, over_epochs
from mlkit.stored import Record

META = ("MAML", "FOMAML")
ERROR = "test_mean_squared_error"


def is_photographs(setting: Setting) -> bool:
    """Say whether a setting stands where the paper has miniImageNet: any data but Omniglot."""
    return ROLES.get(setting.data) != "omniglot"


def flatness(records: Records) -> Iterator[Claim]:
    """Yield the claims of figures 2 to 4: flatter with training, after the best accuracy too, as the support loss."""
    for (setting, method), record in records.items():
        where = f"{setting}, {method}"
        if method in META:
            yield Claim("003/F2", "curvature rises to a peak, then falls", where, record, flattens(record))
        if setting.shots == 1 and is_photographs(setting):
            if method == "FOMAML":
                yield from _overfitting(where, record)
            elif method == "finetuning":
                yield from _finetuned(where, record, records.get((setting, "MAML")))


def _overfitting(where: str, record: Record) -> Iterator[Claim]:
    yield Claim("003/F3a", "accuracy falls after its best epoch", where, record, overfits(record))
    for figure, name, what in (("003/F3b", "support_loss", "support loss"), ("003/F3c", "curvature", "curvature")):
        yield Claim(figure, f"{what} goes on falling after that", where, record, falls_after_the_best(record, name))


def _finetuned(where: str, record: Record, maml: Record | None) -> Iterator[Claim]:
    if maml:
        yield Claim("003/F4a", "accuracy below that of MAML", where, record, below(record, maml, ACCURACY))
    found = correlates(record, "curvature", "support_loss")
    for figure in ("003/F4b", "003/F4c"):
        yield Claim(figure, "curvature goes with the support loss", where, record, found)


def trajectories(records: Records) -> Iterator[Claim]:
    """Yield the claims of figures 5, 6a, 13 and 15: aligned trajectories generalize; finetuned ones do not grow."""
    for (setting, method), record in records.items():
        where, photographs = f"{setting}, {method}", is_photographs(setting)
        if method in META:
            says, found = "cosine goes with accuracy", correlates(record, "trajectory_cosine")
            if photographs and setting.shots == 1:
                yield Claim("003/F5a" if method == "FOMAML" else "003/F5b", says, where, record, found)
            if photographs or method == "MAML":
                yield Claim("003/F13", says, where, record, found)
        elif photographs and (maml := records.get((setting, "MAML"))):
            found = below(record, maml, "trajectory_cosine")
            yield Claim("003/F6a", "cosine below that of MAML", where, record, found)
        if photographs:
            yield _length("003/F15a" if setting.shots == 1 else "003/F15b", where, method, record)


def _length(figure: str, where: str, method: str, record: Record) -> Claim:
    found = grows(record, "displacement_norm")
    if method in META:
        return Claim(figure, "trajectories grow longer", where, record, found)
    opposite = Found(found.holds is not True, found.value, found.note)
    return Claim(figure, "trajectories do not grow longer", where, record, opposite)


def gradients(records: Records) -> Iterator[Claim]:
    """Yield the claims of figures 6b, 7 and 14: tasks whose gradients agree generalize, at one inner step."""
    for (setting, method), record in records.items():
        where, photographs = f"{setting}, {method}, T = 1", is_photographs(setting)
        if method in META:
            says, found = "gradient product goes with accuracy", correlates(record, "gradient_product")
            if photographs and setting.shots == 5:
                yield Claim("003/F7a" if method == "FOMAML" else "003/F7b", says, where, record, found)
            yield Claim("003/F14", says, where, record, found)
        elif photographs and (maml := records.get((setting, "MAML"))):
            found = below(record, maml, "gradient_product")
            yield Claim("003/F6b", "gradient product below that of MAML", where, record, found)


def waves(records: Mapping[int, Record]) -> Iterator[Claim]:
    """Yield the claims of figure 8 about regression, of records by number of shots k: within each k, and over all k.

    Fewer k than the paper's 2 to 15 show what the figure asks, but do not answer it.
    """
    own = "003/" if set(records) >= set(range(2, 16)) else ""
    first = next(iter(records.values()))
    within = {k: through(record) for k, record in records.items()}
    values = np.array([found.value for found in within.values()])
    up = sum(found.low > 0 for found in within.values())
    note = f"median R = {np.median(values):.2f}; above 0 with its interval for {up} of {len(values)} k"
    found = Found(up > len(values) / 2, float(np.median(values)), note)
    for panel in "abcd":
        says = "through training, gradient product goes with negative error"
        yield Claim(f"{own}F8{panel}", says, f"k = {min(records)} to {max(records)}", first, found)
    if len(records) >= 3:
        over = over_models(records)
        says = "over k, gradient product goes with the last negative error"
        found = Found(above(over.low, over.high), over.value, f"{over} over {over.count} models")
        yield Claim(f"{own}F8e", says, f"k = {min(records)} to {max(records)}", first, found)


def through(record: Record) -> Correlation:
    """Correlate gradient product and negative error of waves over epochs, run by run; interval over the runs."""
    return across_runs(-r for r in over_epochs(curves(record), "gradient_product", ERROR).runs)


def over_models(records: Mapping[int, Record]) -> Correlation:
    """Correlate the last gradient product with the last negative error, over models."""
    product, error = ([last(record, name) for record in records.values()] for name in ("gradient_product", ERROR))
    return correlation(product, [-value for value in error])


def representations(records: Records) -> Iterator[Claim]:
    """Yield the claim of figure 9: images whose representations agree belong to a network that generalizes."""
    for (setting, method), record in records.items():
        if method == "MAML":
            says, found = "representation product goes with accuracy", correlates(record, "representation_product")
            yield Claim("003/F9", says, f"{setting}, {method}", record, found)


def over_shots(records: Records) -> Iterator[Claim]:
    """Yield the claim of figure 10: over models trained with k shots, the same goes with their last accuracy."""
    for data, ways, method in dict.fromkeys((setting.data, setting.ways, method) for setting, method in records):
        members = [record for (s, m), record in records.items() if (s.data, s.ways, m) == (data, ways, method)]
        if len(members) >= 3 and method in META:
            product, accuracy = ([last(r, name) for r in members] for name in ("representation_product", ACCURACY))
            found = correlation(product, accuracy)
            kept = Found(above(found.low, found.high), found.value, f"{found} over {found.count} numbers of shots")
            says = "over k, representation product goes with accuracy"
            yield Claim("003/F10", says, f"{data}, {ways}-way, {method}", members[0], kept)


def last(record: Record, name: str) -> float:
    """Return a quantity at the end of training, averaged over seeds."""
    return float(curves(record).mean(name)[-1])
