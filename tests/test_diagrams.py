"""Diagrams and tables of a network say what the network does: they are read off a pass through it."""

from __future__ import annotations

import pytest
import torch

from mlkit.diagrams import cost_table, network
from mlkit.models import EfficientLab
from mlkit.models.tracing import Operation, costs, operations, stages

OPTIONS = [{"variant": "3"}, {"variant": "6-3"}, {"decoder": "rsd_no_residual"}, {"decoder": "auto_deeplab"}]


@pytest.fixture(scope="module")
def traced():
    return {str(options): operations(EfficientLab(width=0.25, **options), 64) for options in OPTIONS}


def only(steps: list[Operation], title: str, block: str) -> tuple[int, Operation]:
    (found,) = [(index, step) for index, step in enumerate(steps) if (step.title, step.block) == (title, block)]
    return found


def test_the_encoder_is_read_off_block_by_block():
    steps = operations(EfficientLab("3"), 224)
    joined = [(step.title, step.repeats, step.shape) for step in stages(steps)[:6]]
    assert joined == [
        ("3×3 convolution", 1, (32, 112, 112)),
        ("MBConv1 3×3", 1, (16, 112, 112)),
        ("MBConv6 3×3", 2, (24, 56, 56)),
        ("MBConv6 5×5", 2, (40, 28, 28)),
        ("MBConv6 3×3", 3, (80, 14, 14)),
        ("MBConv6 5×5", 3, (112, 14, 14)),
    ]
    assert [step.block for step in steps[:12]] == ["stem", *(f"MBConv {i}" for i in range(11))]
    assert [step.inputs for step in steps[:12]] == [(i - 1,) for i in range(12)]


def test_the_decoder_joins_the_end_of_stage_3_and_adds_what_it_enlarged(traced):
    steps = traced[str({"variant": "3"})]
    enlarged, _ = only(steps, "resize", "RSD 3")
    add, last = only(steps, "add", "RSD 3")
    joined = next(step for step in steps if (step.title, step.block) == ("concat", "RSD 3"))
    views = [step for step in steps if (step.title, step.block) == ("concat", "RSD 3")][1]
    assert [steps[i].title for i in views.inputs] == ["1×1 convolution", "3×3 convolution, dilation 2", "mean"]
    assert views.shape == (32 + 32 + 40, 16, 16)
    assert set(joined.inputs) == {enlarged, 3}  # 3: MBConv 2, the end of stage 3
    assert steps[3].block == "MBConv 2"
    assert enlarged in last.inputs
    assert joined.shape == (8 + 32, 16, 16)
    assert steps[-2] == Operation("1×1 convolution", "head", (add,), (2, 16, 16))
    assert steps[-1] == Operation("resize", "head", (len(steps) - 2,), (2, 64, 64))


def test_networks_differ_as_table_1_says(traced):
    plain, both, bare, deeplab = ([(s.title, s.block) for s in traced[str(options)]] for options in OPTIONS)
    assert set(plain) - set(bare) == {("add", "RSD 3")}
    assert ("add", "RSD 6") in set(both) - set(plain)
    assert ("3×3 convolution, dilation 6", "ASPP") in deeplab
    assert not any(block.startswith("RSD") for _, block in deeplab)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_diagram_has_a_box_for_every_operation_and_an_arrow_for_every_tensor(traced, options):
    steps = traced[str(options)]
    figure = network(steps, size=64)
    boxes = [note for note in figure.layout.annotations if note.bordercolor]
    assert len(boxes) == 1 + len(steps)
    assert boxes[0].text == "image<br>3 × 64 × 64"
    assert len({(box.x, box.y) for box in boxes}) == len(boxes), "no box hides another"
    assert len(figure.data) == sum(len(set(step.inputs)) for step in steps)
    for arrow in figure.data:
        assert arrow.y[-1] > arrow.y[0], "every arrow points down"
        across = [box for box in boxes if box.x in arrow.x[2:4] and arrow.y[2] < box.y < arrow.y[3]]
        assert across == [], "no arrow runs through a box"
    assert figure.layout.yaxis.range[0] > max(box.y for box in boxes)


def test_nothing_cannot_be_drawn():
    with pytest.raises(ValueError, match=r"expected the operations of a network, got none"):
        network([], size=64)


def test_costs_are_those_of_the_convolutions():
    rows = {row.block: row for row in costs(EfficientLab("3"), 224)}
    assert rows["stem"].multiply_adds == 112 * 112 * 32 * 27
    assert rows["head"].multiply_adds == 56 * 56 * 112 * 2
    places, skip, as_defined = 56 * 56, 24, 56 * 56 * 112 * (136 + 9 * 136 + 9 * 360)
    at_full_size = places * 112 * (skip + 9 * skip + 9 * 224)  # the rest is enlarged or constant
    assert at_full_size < rows["RSD 3"].multiply_adds < 0.75 * as_defined
    assert sum(row.parameters for row in rows.values()) == 1_368_242
    assert sum(row.statistics for row in rows.values()) == 16_832


def test_a_trace_leaves_the_network_as_it_was():
    model = EfficientLab(width=0.25)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    operations(model, 32)
    costs(model, 32)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_the_table_sums_up():
    rows = costs(EfficientLab("6-3"), 64)
    lines = cost_table(rows).data.splitlines()
    assert len(lines) == len(rows) + 3
    assert "**2,071,714**" in lines[-1]
    assert lines[2].startswith("| stem | 32 × 32 × 32 | 928 | 64 |")
