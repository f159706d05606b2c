"""What the chapters on objective landscapes share: settings, trainings, panels, and the claims they check."""

from mlkit.chapters.claims import RULES, Claim, answer, answers, table
from mlkit.chapters.epochs import curves
from mlkit.chapters.pairs import difference, gain
from mlkit.chapters.panels import EVERY, NAMES, SHORT, band, clouds, cost, histories, panels, together
from mlkit.chapters.settings import Setting, execution, experiment, reload, settings, trainings, untrained

__all__ = [
    "EVERY",
    "NAMES",
    "RULES",
    "SHORT",
    "Claim",
    "Setting",
    "answer",
    "answers",
    "band",
    "clouds",
    "cost",
    "curves",
    "difference",
    "execution",
    "experiment",
    "gain",
    "histories",
    "panels",
    "reload",
    "settings",
    "table",
    "together",
    "trainings",
    "untrained",
]
