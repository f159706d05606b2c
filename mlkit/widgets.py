"""Live explorers for a running notebook, drawn by the same functions as the pages."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import traitlets
from ipywidgets import HTML, HBox, Layout, VBox

from mlkit.chapters.searches import as_search
from mlkit.controls import Control, Live
from mlkit.figures.page import as_html
from mlkit.figures.searches import Point, Search, search_curves, search_map
from mlkit.figures.standalone import export
from mlkit.records import Record
from mlkit.uho import Objective, Space, Study, Values, along_range
from mlkit.uho.space import WHOLE


class UHOExplorer(VBox):
    """Searches over update hyperparameters to move through: what was believed, and what every number of steps is worth.

    Keys reach every control. With `objectives`, "evaluate here" adapts their validation tasks at the chosen
    hyperparameters and adds the point to both figures.

    Args:
        searches: label (initialization and shots, begins with a method's name) -> a study, or a record of one.
        objectives: label -> what a setting is worth, for those that can be evaluated here.
        space: what may be chosen there.
        words: what the chooser is called; "initialization, shots" with labels such as "FOMAML*, 5-shot" makes two.
        x_title: title of the searched value, with its unit.
        y_title: title of the score, with its unit.
        scale: what scores are multiplied by; 100 for percent.
        jobs: processes for the tasks that are evaluated here.

    Raises:
        ValueError: there is no search, a record is none of a search, or objectives come without a space.

    Example:
        >>> UHOExplorer({"FOMAML*": study}, objectives={"FOMAML*": objective}, space=space)  # doctest: +SKIP
    """

    def __init__(
        self,
        searches: Mapping[str, Study | Record],
        *,
        objectives: Mapping[str, Objective] | None = None,
        space: Space | None = None,
        words: str = "initialization",
        x_title: str = "learning rate",
        y_title: str = "score",
        scale: float = 1.0,
        jobs: int | None = None,
    ) -> None:
        self.searches = {label: as_search(found, label, scale=scale) for label, found in searches.items()}
        self.objectives, self.space, self.scale, self.jobs = dict(objectives or {}), space, scale, jobs
        if self.objectives and space is None:
            raise ValueError("expected a space to choose from beside objectives, got none; pass that of the search")
        self._titles = {"x_title": x_title, "y_title": y_title, "words": words}
        self.curves, self.map = (Live(figure) for figure in self._figures(self.searches))
        for name in words.split(", ") if len(self.searches) > 1 else ():
            traitlets.link((self.curves.controls[name], "chosen"), (self.map.controls[name], "chosen"))
            self.curves.controls[name].observe(lambda _: self._ready(), "chosen")
        self.chosen = {name: self._chooser(name) for name in space.searched} if self.objectives else {}
        self.button = Control(kind="button", words="evaluate here")
        self.button.observe(lambda _: self._clicked(), "chosen")
        self.status = HTML()
        panel = HBox([*self.chosen.values(), self.button], layout=Layout(flex_flow="row wrap", grid_gap="0 1.5em"))
        super().__init__([*([panel, self.status] if self.objectives else []), self.curves, self.map])
        self._ready()

    @property
    def label(self) -> str:
        """Which search is shown."""
        return self.curves.chosen(self._titles["words"]) or next(iter(self.searches))

    @property
    def values(self) -> Values:
        """The hyperparameters that "evaluate here" takes."""
        return self.space.values({name: float(control.text) for name, control in self.chosen.items()})

    def update(self, label: str, found: Study | Record) -> None:
        """Show one of the searches as it stands now, while it goes on; what was evaluated here stays.

        Raises:
            ValueError: it is none of them.

        Example:
            >>> tune(..., on_trial=lambda study: explorer.update("FOMAML*", study))  # doctest: +SKIP
        """
        if label not in self.searches:
            raise ValueError(f"expected a label out of {list(self.searches)}, got {label!r}")
        new = replace(as_search(found, label, scale=self.scale), points=self.searches[label].points)
        self._show(self.searches | {label: new})

    def evaluate(self, values: Values) -> Point:
        """Adapt the validation tasks of the search that is shown, and add the point to the figures.

        Raises:
            ValueError: it has no objective, or its learner no such hyperparameter.
        """
        label, search = self.label, self.searches[self.label]
        if label not in self.objectives:
            raise ValueError(f"expected an objective of {label!r}, got those of {', '.join(self.objectives) or 'none'}")
        (worth,) = self.objectives[label].worth([values], jobs=self.jobs)
        point = Point(values[search.along], self.scale * worth.score, worth.steps, self.scale * worth.curve.numpy())
        self._show(self.searches | {label: replace(search, points=(*search.points, point))})
        return point

    def export(self, path: Path | str, *, title: str = "Update hyperparameters", evidence: str = "") -> Path:
        """Write the figures, with what was evaluated here, into one file that needs no kernel and no network.

        Args:
            path: the file to write.
            title: its heading.
            evidence: what captions add: data, tasks, hardware.
        """
        x, y = self._titles["x_title"], self._titles["y_title"]
        words = (
            f"What each search believed after every trial: {y} against {x} with its 95 % band, the trials colored by "
            "their number of inner steps, and the expected improvement.",
            f"{y} of every trial after every number of inner steps, and as a curve against {x} for a chosen number.",
        )
        figures = zip(self._figures(self.searches), words, strict=True)
        parts = [as_html(figure, alt=said, caption=f"{said} {evidence}") for figure, said in figures]
        return export(path, *parts, title=title)

    def _figures(self, searches: Mapping[str, Search]) -> Iterator[go.Figure]:
        for draw in (search_curves, search_map):
            yield draw(list(searches.values()), **self._titles)

    def _show(self, searches: dict[str, Search]) -> None:
        figures = list(self._figures(searches))  # all of them before one is replaced
        self.searches = searches
        for live, figure in zip((self.curves, self.map), figures, strict=True):
            live.show(figure)

    def _chooser(self, name: str) -> Control:
        """Return the control of a hyperparameter, at the best trial where it is the searched one."""
        grid = np.unique(np.rint(along_range(self.space, name))) if name in WHOLE else along_range(self.space, name)
        search = self.searches[self.label]
        best, at = search.best(len(search.scores)), len(grid) // 2
        if name == search.along and best is not None:
            at = int(np.abs(np.log(grid / search.values[best])).argmin())
        words = self._titles["x_title"] if name == search.along else name.replace("_", " ")
        digits = ".0f" if name in WHOLE else ".3g"
        return Control(kind="range", words=words, choices=[f"{value:{digits}}" for value in grid], chosen=at)

    def _ready(self) -> None:
        self.button.disabled = self.label not in self.objectives

    def _say(self, words: str) -> None:
        self.status.value = f'<span role="status">{html.escape(words)}</span>'

    def _clicked(self) -> None:
        self.button.disabled = True
        self._say("adapting …")
        try:
            point = self.evaluate(self.values)
        except ValueError as error:
            self._say(str(error))
        else:
            score = f"{point.score:.4g} after {point.steps} inner steps" if math.isfinite(point.score) else "diverged"
            self._say(f"{self.label}, {', '.join(f'{k} {v:.3g}' for k, v in self.values.items())}: {score}")
        finally:
            self._ready()
