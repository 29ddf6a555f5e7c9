"""One trial's training: a step trains to the next evaluation and yields one dict of metrics.

Every random number follows from ``training/seed`` through three generators: initial weights, order
of the data, noise of the codes. Evaluation draws from its own (``metrics/seed``), and nothing from
torch's global one.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils import get_total_norm

from tune_ddvae.config import OptimiserConfig, TrialConfig
from tune_ddvae.data import Dataset, Split, principal_variances
from tune_ddvae.errors import DivergedError
from tune_ddvae.metrics.evaluate import evaluate
from tune_ddvae.metrics.streams import stream
from tune_ddvae.models import VAE, make_vae
from tune_ddvae.objectives import elbo

_TERMS = ("objective", "log_likelihood", "kl", "divergence")
# Batches between two looks at the terms: on a GPU each look waits for all that is queued.
_BATCHES_PER_LOOK = 50


@dataclass(frozen=True)
class StepResult:
    """What one step yields.

    Attributes:
        epoch: Epochs trained so far.
        metrics: Finite values by name.
        absent: The reason by name for each metric that has no value.
        facts: What the metrics rest on: points, votes, which dimensions are active.
    """

    epoch: int
    metrics: dict[str, float]
    absent: dict[str, str]
    facts: dict[str, Any] = field(default_factory=dict)


class Trainer:
    """Trains one configuration.

    Args:
        config: All that the numbers follow from.
        dataset: Its data; the training split stays on the device.
        device: Where to compute.
        on_batch: Called after each training batch, evaluation batch and metric, so that a watchdog
            can tell slow from stuck.
        rungs: Epochs at which trials are compared: expensive metrics are measured there too.
        is_evaluated: Whether a step ends with an evaluation; else it yields training terms alone.
    """

    def __init__(
        self,
        config: TrialConfig,
        dataset: Dataset,
        device: torch.device,
        on_batch: Callable[[], None] = lambda: None,
        rungs: Sequence[int] = (),
        *,
        is_evaluated: bool = True,
    ) -> None:
        self.config = config
        self.dataset = dataset
        self.device = device
        self.epoch = 0
        self._on_batch = on_batch
        self._rungs = frozenset(rungs)
        self._is_evaluated = is_evaluated
        self._train = _resident(dataset.train, device)
        self._evaluation = _resident(dataset.evaluation, device)
        seed = config.training.seed
        self.vae = new_vae(config, dataset).to(device)
        self._optimiser = _make_optimiser(self.vae, config.optimiser)
        self._order = stream(seed, "order of the data")
        self._noise = stream(seed, "noise", device)

    @property
    def is_done(self) -> bool:
        """Whether all epochs are trained."""
        return self.epoch >= self.config.training.epochs

    def step(self) -> StepResult:
        """Train to the next multiple of ``training/evaluate_every`` and evaluate there.

        Training terms are means over the batches of this step. After the last epoch, where there is
        a validation split, all metrics are measured on the test set too, as ``test/...``.

        Raises:
            DivergedError: Names the term that is not finite, its value and the epoch.
            ValueError: If all epochs are trained.
        """
        epochs = self.config.training.epochs
        if self.epoch >= epochs:
            raise ValueError(f"all {epochs} epochs are trained already")
        start = time.perf_counter()
        terms = [self._train_epoch() for _ in range(self.config.training.evaluate_every)]
        means = torch.cat(terms).double().mean(0).tolist()
        metrics = {f"training/{term}": mean for term, mean in zip(_TERMS, means, strict=True)}
        metrics["training/seconds"] = time.perf_counter() - start
        if not self._is_evaluated:
            return StepResult(self.epoch, metrics, {})

        start = time.perf_counter()
        has_validation = self.dataset.validation is not None
        measured, absent, facts = self._evaluate(
            self._evaluation,
            prefix="",
            with_expensive=self._is_due(),
            # A validation split is measured alike at all epochs; only the last word is the fuller one.
            at_end=self.is_done and not has_validation,
        )
        if self.is_done and has_validation:
            split = _resident(self.dataset.test, self.device)
            test = self._evaluate(split, prefix="test/", with_expensive=True, at_end=True)
            measured, absent, facts = measured | test[0], absent | test[1], facts | test[2]
        metrics |= measured
        metrics["training/evaluation_seconds"] = time.perf_counter() - start
        return StepResult(self.epoch, metrics, absent, facts)

    def state_dict(self) -> dict[str, Any]:
        """All that the next step follows from: model, optimiser, generators, epoch."""
        return {
            "epoch": self.epoch,
            "vae": self.vae.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "order": self._order.get_state(),
            "noise": self._noise.get_state(),
            "device": self.device.type,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from another trainer's ``state_dict``: exactly so on the same kind of device.

        A generator's state means nothing on another kind of device; there the noise starts a new
        stream of its own.
        """
        self.vae.load_state_dict(state["vae"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._order.set_state(state["order"].cpu())
        if state["device"] == self.device.type:
            self._noise.set_state(state["noise"].cpu())
        else:
            purpose = f"noise from epoch {state['epoch']}"
            self._noise = stream(self.config.training.seed, purpose, self.device)
        self.epoch = state["epoch"]

    def _train_epoch(self) -> Float[Tensor, "batches term"]:
        self.vae.train()
        order = torch.randperm(len(self._train), generator=self._order)
        order = order[: self.config.training.images_per_epoch].to(self.device)
        batches = [b for b in torch.split(order, self.config.training.batch_size) if len(b) > 1]
        terms = torch.empty(len(batches), len(_TERMS), device=self.device)
        look_every = 1 if self.device.type == "cpu" else _BATCHES_PER_LOOK
        looked = 0
        for number, batch in enumerate(batches, start=1):
            terms[number - 1] = self._train_batch(batch)
            if number % look_every == 0 or number == len(batches):
                _check_terms(terms[looked:number], self.epoch + 1, looked)
                looked = number
            self._on_batch()
        self.epoch += 1
        _check_state(self.vae, self.epoch)
        return terms

    def _train_batch(self, batch: Int[Tensor, " batch"]) -> Float[Tensor, " term"]:
        inputs = self.dataset.to_float(self._train.gather(batch))
        terms = elbo(self.vae, inputs, self.config.objective, self._noise)
        self._optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(-terms.total)
        self._optimiser.step()
        parts = (terms.total, terms.log_likelihood, terms.kl, terms.divergence)
        return torch.stack([part.detach() for part in parts])

    def _is_due(self) -> bool:
        """Whether the expensive metrics are measured at this epoch."""
        config = self.config.metrics
        every = config.expensive_every
        return (
            self.is_done
            or (every is not None and self.epoch % every == 0)
            or (config.expensive_at_rungs and self.epoch in self._rungs)
        )

    def _evaluate(
        self, split: Split, *, prefix: str, with_expensive: bool, at_end: bool
    ) -> tuple[dict[str, float], dict[str, str], dict[str, Any]]:
        try:
            measured = evaluate(
                self.vae,
                self.dataset,
                split,
                self.config,
                self.device,
                self._on_batch,
                with_expensive=with_expensive,
                at_end=at_end,
            )
        except DivergedError as error:
            raise DivergedError(f"{error}, at epoch {self.epoch}") from error
        return (
            {f"{prefix}{name}": value for name, value in measured.metrics.items()},
            {f"{prefix}{name}": reason for name, reason in measured.absent.items()},
            {f"{prefix}{name}": fact for name, fact in measured.facts.items()},
        )


def new_vae(config: TrialConfig, dataset: Dataset) -> VAE:
    """The untrained model, on the CPU: its initial weights are the same on every device."""
    variances = None
    if config.prior.kind == "anisotropic":
        variances = principal_variances(dataset, config.model.latent_dim)
    return make_vae(config, stream(config.training.seed, "initial weights"), variances)


def _resident(split: Split, device: torch.device) -> Split:
    """The split with its raw inputs on the device; on the CPU the node's shared ones."""
    rows = None if split.rows is None else split.rows.to(device)
    return dataclasses.replace(split, inputs=split.inputs.to(device), rows=rows)


def _make_optimiser(vae: torch.nn.Module, config: OptimiserConfig) -> torch.optim.Adam:
    return torch.optim.Adam(
        vae.parameters(),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        amsgrad=config.amsgrad,
        fused=True,
    )


def _check_terms(terms: Float[Tensor, "batches term"], epoch: int, num_before: int) -> None:
    """Refuse terms that are not finite, naming the first in time."""
    for row, values in enumerate(terms.tolist(), start=num_before + 1):
        if all(map(math.isfinite, values)):
            continue
        # The objective is the sum of the others: blame it only if they are all finite.
        name, value = next(
            (name, value)
            for name, value in (*zip(_TERMS[1:], values[1:], strict=True), (_TERMS[0], values[0]))
            if not math.isfinite(value)
        )
        raise DivergedError(
            f"training/{name} is {value} at epoch {epoch}, batch {row}; it must stay finite: "
            "lower optimiser/learning_rate, objective/alpha or objective/beta"
        )


def _check_state(vae: torch.nn.Module, epoch: int) -> None:
    """Refuse weights and running statistics that are not finite, naming the first."""
    state = [*vae.named_parameters(), *vae.named_buffers()]
    floats = [value.detach() for _, value in state if value.is_floating_point()]
    # The largest magnitude of all: one call, where looking at each costs a tenth of a pinwheel epoch.
    if get_total_norm(floats, norm_type=math.inf).isfinite():
        return
    name, values = next((name, value) for name, value in state if not value.isfinite().all())
    raise DivergedError(
        f"{name} holds {values[~values.isfinite()][0].item()} after epoch {epoch}; it must stay "
        "finite: lower optimiser/learning_rate, objective/alpha or objective/beta"
    )
