"""`ask` has the reader predict before the answer is shown; it needs no kernel."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Sequence
from dataclasses import dataclass

from IPython.display import HTML, display


@dataclass(frozen=True)
class Question:
    """A question with its choices, one of which, `answer`, is right for the reason `why`.

    Raises:
        ValueError: fewer than two choices, two are the same, the answer is none of them, or words are missing.
    """

    words: str
    choices: Sequence[str]
    answer: str
    why: str

    def __post_init__(self) -> None:
        if len(set(self.choices)) < max(2, len(self.choices)):
            raise ValueError(f"expected two different choices or more, got {list(self.choices)}")
        if self.answer not in self.choices:
            raise ValueError(f"expected an answer out of {list(self.choices)}, got {self.answer!r}")
        if not (self.words.strip() and self.why.strip()):
            raise ValueError(f"expected words that ask and explain, got {self.words!r} and {self.why!r}")


def ask(question: Question) -> None:
    """Display a question; its answer unfolds when the reader asks for it, on a page once a choice is made."""
    display(HTML(as_question(question)))


def as_question(question: Question) -> str:
    """Return the HTML that `ask` displays: radio buttons and a `<details>`, which keys and screen readers know."""
    name = hashlib.sha256(repr(question).encode()).hexdigest()[:12]
    choices = "".join(
        f'<label><input type="radio" name="predict-{name}"> {html.escape(choice, quote=False)}</label>'
        for choice in question.choices
    )
    words, answer, why = (html.escape(each, quote=False) for each in (question.words, question.answer, question.why))
    return (
        f'<div class="predict"><fieldset><legend>{words}</legend>{choices}</fieldset>'
        f"<details><summary>Show the answer</summary><p><strong>{answer}</strong>. {why}</p></details></div>"
    )
