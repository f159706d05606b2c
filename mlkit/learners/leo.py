"""LEO: codes of a few numbers are adapted instead of weights; a decoder turns each code into the weights of a class."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, get_args

import torch
from torch import Tensor

from mlkit.adaptation import Adapted, Descent, InnerLoss, Update, Weights, descend, judge_query, leaves
from mlkit.driver import TaskGradients
from mlkit.learners import common
from mlkit.learners.common import Meta
from mlkit.learners.leo_coder import Coder, Start, Version
from mlkit.learners.leo_parts import Draws, Gaussian, by_class
from mlkit.learners.leo_presets import V1, V3, tuned
from mlkit.losses import TaskLoss, cross_entropy
from mlkit.models.softmax import SoftmaxClassifier
from mlkit.tasks.base import Examples, TaskBatch


@dataclass(frozen=True)
class Walk:
    """How a task was adapted to.

    codes: after 0, 1, ... steps, each (tasks, ways, rows, latents); start: what the first were drawn from, None for a
    prior; tuned: classifiers (tasks, ways, features) decoded from the last codes, then after each step of fine-tuning;
    losses: mean support losses before each step (steps, tasks); divergence: KL of the start (tasks,).
    """

    codes: tuple[Tensor, ...]
    start: Gaussian | None
    tuned: tuple[Tensor, ...]
    losses: Tensor
    divergence: Tensor


@dataclass(frozen=True)
class LEO:
    r"""Learn to encode a few examples into codes and to decode codes into a linear classifier; adapt the codes.

    $$z_n \sim q_{\phi_e}(z | S_n),\quad z_n \leftarrow z_n - \alpha \nabla_{z_n} L_S(w(z)),\quad
    w_n \sim p_{\phi_d}(w | z_n),\quad \min_\phi \sum_i L_{Q_i}(w(z')) + \beta\,KL + \lambda R(\phi)$$
    (paper 004, eq. 3 to 8.) $L_S$ is the sum of the cross-entropies, $L_Q$ their mean. Tasks are of features, as
    `mlkit.tasks.FeatureTasks` draws them. The first version of the paper and the public code, which belongs to the
    third, differ:

    | | v1 | v3 |
    |---|---|---|
    | codes of a class | one, encodings averaged over its examples | one an example, of the same distribution |
    | encoder | as it is | followed by a relation network of 3 layers |
    | deviation of codes | e^u; the paper does not say | max(e^u - 1, 1e-10) |
    | KL | exact, summed over a code, averaged over classes | one sample, averaged over all numbers |
    | orthogonality | L1 norms, encoder and decoder | squared cosines, decoder |

    Evaluation takes the means of all distributions, as the public code does, and codes from a prior by the task's own
    seed, so it repeats exactly. (The paper's "deterministic" row removes sampling "in both training and test": its LEO
    may sample at test.) `LEO.v1` and `LEO.v3` are the presets.

    Args:
        features: numbers that describe an example.
        ways: classes of a task.
        version: see the table.
        latents: numbers of a code.
        hidden: widths of hidden layers, of encoder and decoder alike; none for linear maps.
        inner_steps: updates of the codes in training; test_steps: at meta-test, None for as many.
        finetuning_steps: updates of the decoded weights that follow.
        inner_lr: alpha; finetuning_lr: likewise for the weights, by the features.
        learn_inner_lr: meta-learn both, one rate for each number of a code and for each feature.
        dropout: share of the features dropped, anew at every step, in training.
        kl: beta.
        encoder_penalty: weight of $|\mathrm{stop}(z') - z|^2$, averaged over all numbers.
        l2: weight of the sum of squares of encoder and decoder, halved.
        orthogonality: weight of their distance from orthogonal maps.
        start: "encoder", or "prior": codes from N(0, 1) without looking at the examples (table 2, "random prior").
        deterministic: means instead of samples in training too, and no KL (table 2, "deterministic").
        first_order: treat the inner gradients as constants.

    Raises:
        ValueError: an unknown version or start, or a number out of its range.

    Example:
        >>> sum(tensor.numel() for tensor in LEO.v3().init(torch.Generator()).values())
        172736
    """

    features: int = 640
    ways: int = 5
    version: Version = "v3"
    latents: int = 64
    hidden: tuple[int, ...] = ()
    inner_steps: int = 5
    test_steps: int | None = None
    finetuning_steps: int = 5
    inner_lr: float = 1.0
    finetuning_lr: float = 1e-3
    learn_inner_lr: bool = True
    dropout: float = 0.3
    kl: float = 1e-3
    encoder_penalty: float = 1e-9
    l2: float = 1e-8
    orthogonality: float = 1e-3
    start: Start = "encoder"
    deterministic: bool = False
    first_order: bool = False

    @classmethod
    def v1(cls, shots: int = 1, **changes: Any) -> LEO:
        """Return LEO as the paper's first version tells it: linear maps for 1 shot, a hidden layer of 256 for more.

        The paper does not give beta and lambda; they are ours.
        """
        return cls(**{**V1, "hidden": () if shots == 1 else (256,), **changes})

    @classmethod
    def v3(cls, shots: int = 1, data: str = "mini_imagenet", **changes: Any) -> LEO:
        """Return LEO as the public code does it, with the weights its authors tuned for these shots and data.

        Raises:
            ValueError: they tuned none for such data.
        """
        return cls(**{**V3, **tuned(data, shots)[1], **changes})

    def __post_init__(self) -> None:
        for name, value, valid in (("version", self.version, Version), ("start", self.start, Start)):
            if value not in get_args(valid):
                raise ValueError(f"expected a {name} out of {', '.join(get_args(valid))}; got {value!r}")
        if not 0 <= self.dropout < 1 or self.inner_lr <= 0 or self.finetuning_lr <= 0:
            raise ValueError(
                f"expected dropout in [0, 1), inner_lr > 0 and finetuning_lr > 0, got {self.dropout}, "
                f"{self.inner_lr}, {self.finetuning_lr}"
            )
        steps = self.inner_steps, self.test_steps or 0, self.finetuning_steps
        if min(steps) < 0 or min(self.features, self.ways, self.latents, *self.hidden) < 1:
            raise ValueError(
                f"expected numbers of steps >= 0, got {steps}, and sizes >= 1, got features={self.features}, "
                f"ways={self.ways}, latents={self.latents}, hidden={self.hidden}"
            )

    @cached_property
    def model(self) -> SoftmaxClassifier:
        """The network of a task: the classifier that a code is decoded into."""
        return SoftmaxClassifier(self.features, self.ways)

    @property
    def loss(self) -> TaskLoss:
        """The loss of a task."""
        return cross_entropy

    @cached_property
    def coder(self) -> Coder:
        """What is learned: examples to codes, codes to classifiers."""
        return Coder(self.features, self.ways, self.version, self.latents, self.hidden, self.start)

    def init(self, generator: torch.Generator) -> Meta:
        """Draw Glorot uniform networks, `phi.<network>.<layer>`; `inner_lr.codes` and `inner_lr.weights` as given."""
        meta = self.coder.init(generator)
        if self.learn_inner_lr:
            meta["inner_lr.codes"] = torch.full((self.latents,), self.inner_lr)
            if self.finetuning_steps:
                meta["inner_lr.weights"] = torch.full((self.features,), self.finetuning_lr)
        return meta

    @torch.no_grad()
    def adapt(self, meta: Meta, tasks: TaskBatch, *, steps: int | None = None, trajectory: bool = False) -> Adapted:
        """Adapt to the support sets without a graph; the classifier is `weight` (tasks, ways, features).

        `steps` counts updates of the codes, then, beyond the learner's own number, of the decoded weights.
        """
        walk = self.walk(meta, tasks, steps=steps)
        states = [self.coder.decode(meta, codes) for codes in walk.codes[:-1]] if trajectory else []
        path = tuple(({"weight": weight}, {}) for weight in (*states, *walk.tuned)) if trajectory else ()
        return Adapted({"weight": walk.tuned[-1]}, {}, walk.losses, path)

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """Score features x (tasks, examples, features): (tasks, examples, ways)."""
        return common.predict(self.model, adapted, x)

    def gradients(self, meta: Meta, tasks: TaskBatch, *, query_chunk: int | None = None) -> TaskGradients:
        """Return each task's gradient of its query loss and penalties, through the adaptation."""
        learned = leaves(common.trainable(meta))
        walk = self.walk(learned, tasks, training=True)
        adapted = Adapted({"weight": walk.tuned[-1]}, {"noise": tasks.seeds}, walk.losses)
        adapted = replace(adapted, penalty=self.penalty(learned, walk))
        judged = judge_query(adapted, self._judge, tasks.query, query_chunk=query_chunk)
        return TaskGradients(judged.gradients(learned), judged.losses, judged.outputs, {})

    def describe(self) -> dict[str, Any]:
        """Say what a record must say."""
        weights = sum(tensor.numel() for tensor in self.init(torch.Generator()).values())
        settled = asdict(self) | {"hidden": list(self.hidden), "parameters": weights, "normalization": "none"}
        return {"learner": "LEO", "loss": self.loss.__name__, **settled}

    def walk(self, meta: Meta, tasks: TaskBatch, *, steps: int | None = None, training: bool = False) -> Walk:
        """Adapt to the support sets: the codes first, then the weights decoded from them; see `adapt` for `steps`.

        In training the numbers are those of meta-training, features are dropped, codes and weights are sampled, and the
        graph from `meta` is kept.
        """
        of_codes, of_weights = (self.inner_steps, self.finetuning_steps) if training else self._counts(steps)
        x = by_class(tasks.support, self.ways)  # (tasks, ways, shots, features)
        noise = Draws(tasks.seeds, "support", x) if training else None
        samples = None if self.deterministic else noise
        codes, start, divergence = self._first_codes(meta, x, tasks.seeds, noise)
        labels = torch.arange(self.ways, device=x.device).repeat_interleave(x.shape[2]).expand(len(x), -1)

        def support_loss(weight: Tensor) -> Tensor:
            seen = self._dropped(x, noise).flatten(1, 2)
            return cross_entropy(seen @ weight.mT, labels) * labels.shape[1]  # the sum

        def loss_of_codes(at: Weights, buffers: Weights, _: Examples) -> tuple[Tensor, Weights]:
            return support_loss(self.coder.decode(meta, at["codes"], samples)), buffers

        def loss_of_weights(at: Weights, buffers: Weights, _: Examples) -> tuple[Tensor, Weights]:
            return support_loss(at["weight"]), buffers

        first = self._descend({"codes": codes}, tasks, loss_of_codes, self._step(meta, "codes"), of_codes, training)
        weight = self.coder.decode(meta, first.weights["codes"], samples)
        step = self._step(meta, "weight", rows=codes.shape[2])
        second = self._descend({"weight": weight}, tasks, loss_of_weights, step, of_weights, training)
        losses = [part.losses for part in (first, second) if len(part.losses)]
        return Walk(
            tuple(weights["codes"] for weights, _ in first.trajectory),
            start,
            tuple(weights["weight"] for weights, _ in second.trajectory),
            torch.cat(losses) / labels.shape[1] if losses else torch.empty(0),
            divergence,
        )

    def penalty(self, meta: Meta, walk: Walk) -> Tensor:
        """Return what is added to each task's query loss (tasks,): KL, encoder penalty, L2, orthogonality."""
        moved = (walk.codes[-1].detach() - walk.codes[0]).square().mean((1, 2, 3))
        penalty = self.kl * walk.divergence + self.encoder_penalty * moved
        squares, skew = self.coder.regularizers(meta)
        return penalty + self.l2 / 2 * squares + self.orthogonality * skew

    def _counts(self, steps: int | None) -> tuple[int, int]:
        """Return how many updates of the codes and of the weights there are at meta-test."""
        own = self.inner_steps if self.test_steps is None else self.test_steps
        if steps is None:
            return own, self.finetuning_steps
        of_codes = min(steps, own) if self.finetuning_steps else steps
        return of_codes, steps - of_codes

    def _first_codes(
        self, meta: Meta, x: Tensor, seeds: Tensor, noise: Draws | None
    ) -> tuple[Tensor, Gaussian | None, Tensor]:
        """Return the codes before adaptation, what they were drawn from, and the KL of that (tasks,)."""
        none = x.new_zeros(len(x))
        if self.start == "prior":  # at meta-test too, from the task's own seed
            codes = Draws(seeds, "prior", x).normal(self.ways, self.coder.rows(x.shape[2]), self.latents)
            return codes.requires_grad_(noise is not None), None, none
        start = self.coder.encode(meta, self._dropped(x, noise))
        if noise is None or self.deterministic:
            return start.mean, start, none
        drawn = noise.normal(*start.mean.shape[1:])
        if self.version == "v1":
            divergence = start.divergence().sum(-1).mean((1, 2))
        else:
            divergence = start.sampled_divergence(drawn).mean((1, 2, 3))
        return start.sample(drawn), start, divergence

    def _dropped(self, x: Tensor, noise: Draws | None) -> Tensor:
        return noise.dropped(x, self.dropout) if noise else x

    def _descend(
        self, at: Weights, tasks: TaskBatch, loss: InnerLoss, update: Update, steps: int, training: bool
    ) -> Adapted:
        how = Descent(steps, differentiable=training, second_order=not self.first_order, trajectory=True)
        return descend(at, {}, common.full_batch(tasks), loss=loss, update=update, state=None, how=how)

    def _step(self, meta: Meta, what: str, rows: int = 1) -> Update:
        """Return the gradient step; weights averaged over `rows` codes move by as much less as each of them would."""
        fixed = self.inner_lr if what == "codes" else self.finetuning_lr
        rate = meta.get("inner_lr.codes" if what == "codes" else "inner_lr.weights")  # (tasks, numbers)

        def update(weights: Weights, slopes: Weights, _: Tensor, state: None) -> tuple[Weights, None]:
            of = weights[what]
            lr = fixed if rate is None else rate.view(len(of), *[1] * (of.dim() - 2), -1)
            return {what: of - lr * slopes[what] / rows}, state

        return update

    def _judge(self, adapted: Adapted, query: Examples) -> tuple[Tensor, Tensor]:
        noise = Draws(adapted.buffers["noise"], "query", query.x)
        scores = self._dropped(query.x, noise) @ adapted.weights["weight"].mT
        return cross_entropy(scores, query.y), scores
