"""A learned rule at work: where the rule is known, so is the move; every position of a control draws what it says."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from mlkit import drawings
from mlkit.chapters import update_rules
from mlkit.driver import stack
from mlkit.evaluation import evaluate
from mlkit.figures import Wave, wave_chooser
from mlkit.figures import update_rules as drawn_rules
from mlkit.learners import MAML, MetaLSTM, Turtle, gradient_descent
from mlkit.losses import MEAN_SQUARED_ERROR, mean_squared_error
from mlkit.models import MLP
from mlkit.seeding import seeded
from mlkit.tasks import frozen, sine
from mlkit.wave_explorer import WaveExplorer

WAVES = frozen(sine("huisman", "test", shots=5, query=6), 3, seed=0)
NET = MLP((1, 5, 1))
AT = torch.linspace(-2, 2, 9)
HOW = {"weight": 0.5, "loss": 1.0}


def turtle(**changes) -> Turtle:
    return Turtle(NET, 3, mean_squared_error, hidden_layers=0, **changes)


def lstm() -> MetaLSTM:
    return MetaLSTM(NET, 3, mean_squared_error)


def descending(learner, inner_lr: float = 0.02):
    return stack([gradient_descent(learner, learner.init(seeded("rule")), inner_lr, examples=5)])


@pytest.mark.parametrize("learner", [turtle(), lstm()], ids=["TURTLE", "LSTM"])
def test_a_rule_that_descends_answers_with_a_straight_line_whatever_came_before(learner):
    for past in ((), (AT,), (torch.ones(9), -torch.ones(9))):
        found = update_rules.response(learner, descending(learner), WAVES[:1], AT, past, **HOW)
        assert torch.allclose(found, -0.02 * AT, atol=1e-6)


@pytest.mark.parametrize("learner", [turtle(), lstm()], ids=["TURTLE", "LSTM"])
def test_what_weights_meet_is_the_gradient_and_what_they_do_is_the_rule(learner):
    found = update_rules.met(learner, descending(learner), WAVES[:])
    assert found.gradients.shape == found.moves.shape == (3, 16)
    assert torch.allclose(found.moves, -0.02 * found.gradients, atol=1e-6) and float(found.moves.abs().max()) > 1e-3
    maml = MAML(NET, 0.02, 1, mean_squared_error)
    start = {name: tensor.repeat_interleave(3, 0) for name, tensor in descending(learner).items() if "theta" in name}
    assert torch.allclose(found.losses, maml.adapt(start, WAVES[:]).losses[0])


def test_history_and_mean_rate_enter_the_move():
    learner = turtle()
    meta = learner.init(seeded("rule")) | {
        "phi.head.weight": torch.tensor([[0.0, 1.0]]),
        "phi.head.bias": torch.zeros(1),
    }
    meta |= {name: torch.full_like(tensor, 3.0) for name, tensor in meta.items() if name.startswith("inner_lr")}
    first = update_rules.response(learner, stack([meta]), WAVES[:1], AT, (), **HOW)
    later = update_rules.response(learner, stack([meta]), WAVES[:1], AT, (torch.ones(9),) * 4, **HOW)
    assert torch.allclose(first, 3 * AT)
    assert torch.allclose(later, 3 * (0.9 * torch.ones(9) + 0.1 * AT))


def test_a_forget_gate_shrinks_the_weight_where_there_is_no_gradient():
    learner = lstm()
    meta = descending(learner) | {"phi.forget.bias": torch.tensor([[2.0]])}
    found = update_rules.response(learner, meta, WAVES[:1], torch.zeros(1), (), **HOW)
    assert float(found) == pytest.approx(0.5 * (1 / (1 + math.exp(-2.0)) - 1), rel=1e-5)


def test_responses_have_a_line_for_every_past_and_one_for_maml():
    learner = turtle()
    found = update_rules.responses({"TURTLE": (learner, descending(learner))}, WAVES[:], inner_lr=0.02, shown=10)
    ((label, lines),) = found.curves.items()
    assert label == "TURTLE" and list(lines) == [
        *(f"TURTLE, {history}" for history in update_rules.HISTORIES),
        "MAML, −0.02 × gradient",
    ]
    for moves in lines.values():
        np.testing.assert_allclose(moves, -0.02 * found.gradients, atol=1e-6)
    *drawn, dots = drawn_rules(lines, found.gradients, met=found.met[label]).data
    assert [line.name for line in drawn] == list(lines) and len({line.line.dash for line in drawn[:4]}) == 4
    np.testing.assert_allclose(np.array(dots.y), -0.02 * np.array(dots.x), atol=1e-3)


LEARNERS = {
    "MAML": (maml := MAML(NET, 0.01, 3, mean_squared_error), stack([maml.init(seeded("a"))])),
    "TURTLE": (turtle(), stack([turtle().init(seeded("b"))])),
}


def test_waves_are_adapted_to_as_in_meta_test():
    x, found = update_rules.waves(LEARNERS, WAVES.tasks, WAVES.draws, steps=4)
    for label, (learner, meta) in LEARNERS.items():
        expected = evaluate(learner, meta, WAVES, metric=MEAN_SQUARED_ERROR, steps=range(5))[0]  # (steps, tasks)
        for number, wave in enumerate(found):
            assert wave.predictions[label].shape == (5, len(x))
            np.testing.assert_allclose(wave.errors[label], expected[:, number], rtol=1e-4)
    amplitude, phase = (float(WAVES.draws[name][1]) for name in ("amplitude", "phase"))
    np.testing.assert_allclose(found[1].truth, amplitude * np.sin(x + phase), rtol=1e-4, atol=1e-5)
    assert found[1].name == f"2: amplitude {amplitude:.1f}, phase {phase:.1f}"


def made_up(name: str, scale: float, steps: int = 3) -> Wave:
    curves = scale * np.arange(steps + 1)[:, None] * np.ones(4)
    return Wave(name, np.ones(4), ([0.0], [1.0]), {"MAML": curves}, {"MAML": scale * 10.0 ** -np.arange(steps + 1)})


def test_every_position_of_the_slider_draws_the_step_and_the_errors_so_far():
    figure = wave_chooser([made_up("1", 1.0), made_up("2", 2.0)], np.arange(4))
    (slider,), (menu,) = figure.layout.sliders, figure.layout.updatemenus
    for step, position in enumerate(slider.steps):
        change, traces = position.args
        names = [figure.data[index].name for index in traces]
        assert names == ["MAML"] * 4
        for wave, scale in enumerate((1.0, 2.0)):
            curve, errors = change["y"][2 * wave : 2 * wave + 2]
            assert curve == [scale * step] * 4
            np.testing.assert_allclose(errors[: step + 1], scale * 10.0 ** -np.arange(step + 1))
            assert errors[step + 1 :] == [None] * (3 - step)
    for number, button in enumerate(menu.buttons):
        visible = button.args[0]["visible"]
        assert visible == [number == 0] * 4 + [number == 1] * 4
    assert [trace.visible for trace in figure.data] == list(menu.buttons[0].args[0]["visible"])


def test_errors_beyond_all_bounds_are_drawn_at_the_bound():
    wave = made_up("1", 1.0)
    wave.errors["MAML"][2:] = [1e9, np.inf]
    change, _ = wave_chooser([wave], np.arange(4)).layout.sliders[0].steps[3].args
    assert change["y"][1] == [1.0, 0.1, 1000.0, 1000.0]


def test_waves_that_were_not_adapted_to_alike_are_refused():
    with pytest.raises(ValueError, match=r"expected the same methods and steps for every wave, got .*adapt all alike"):
        wave_chooser([made_up("1", 1.0), made_up("2", 1.0, steps=5)], np.arange(4))


def test_the_explorer_adapts_to_the_wave_that_is_chosen():
    explorer = WaveExplorer(LEARNERS, WAVES.tasks, steps=2)
    controls = explorer.chosen

    def trace(name: str) -> np.ndarray:
        return np.array(next(trace.y for trace in explorer.live.drawn.data if trace.name == name), dtype=float)

    def chosen(name: str) -> float:
        return float(controls[name].text)

    for name in ("amplitude", "phase"):
        controls[name].chosen = 3
        wave = chosen("amplitude") * np.sin(update_rules.POINTS.numpy() + chosen("phase"))
        np.testing.assert_allclose(trace("true curve"), wave, atol=2e-3)
    before = trace("support examples")
    controls["support points"].chosen = 6
    np.testing.assert_array_equal(trace("support examples")[:5], before)
    assert len(trace("support examples")) == 7
    explorer.button.chosen += 1
    assert not np.allclose(trace("support examples")[:5], before)
    slider = explorer.live.controls["inner steps"]
    assert slider.choices == ["0", "1", "2"]
    at_first, slider.chosen = trace("TURTLE"), 2
    assert not np.allclose(trace("TURTLE"), at_first)
    expected = explorer.figure().layout.sliders[0].steps[2].args[0]["y"]
    np.testing.assert_allclose(trace("TURTLE"), expected[2])


def test_the_workflow_is_a_picture():
    svg = ElementTree.fromstring(drawings.meta_lstm_workflow())
    text = "".join(svg.itertext())
    assert all(word in text for word in ("LSTM φ", "query", "∇", "outer loop"))
