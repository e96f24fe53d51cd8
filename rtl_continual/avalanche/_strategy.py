"""Routed tickets as an Avalanche strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from avalanche.core import BasePlugin, SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.templates import SupervisedTemplate
from avalanche.training.utils import trigger_plugins
from pydantic import BaseModel
from torch import nn
from torch.utils.data import DataLoader

from rtl_continual.avalanche._batches import (
    CachedLoader,
    JointOrder,
    check_batch,
    check_sample,
    loader_options,
)
from rtl_continual.avalanche._growth import ExperienceGrowth
from rtl_continual.avalanche._model import RoutedModel
from rtl_continual.avalanche._random import same_random_state
from rtl_continual.avalanche._setup import (
    drive,
    give_router,
    idle_groups,
    make_bank,
    make_config,
    quiet_evaluator,
)
from rtl_continual.avalanche._unfinished import UnfinishedTickets, cluster_name, cluster_sizes
from rtl_continual.backbones import Backbone
from rtl_continual.discovery import DiscoveryConfig
from rtl_continual.errors import RTLError
from rtl_continual.routing import Router
from rtl_continual.tickets import Prediction, TicketBank
from rtl_continual.training import (
    TicketConfig,
    TicketLearner,
    commit_tickets,
    drive_together,
    joint_parameter_groups,
)

__all__ = ["RoutedTickets", "TicketPlugin"]


class TicketPlugin(SupervisedPlugin):
    """A plugin with one event more than Avalanche's own.

    Any plugin may simply have the method; deriving from this class says so.
    """

    def after_ticket_added(self, strategy: RoutedTickets, **kwargs: Any) -> Any:
        """Called when an experience's ticket has joined ``strategy.bank``, as its last one.

        With ``growth="discover"`` several can join at once, as its last ones, in one call.
        """


class RoutedTickets(SupervisedTemplate):
    """Learn one ticket for each training experience, and answer by routing.

    Each experience is taken as one cluster. Training on it creates a ticket when it starts and
    appends it to :attr:`bank` when it ends, before the plugins' ``after_training_exp`` and the
    final periodic evaluation. Training on the same experience again adds a second ticket.
    With ``growth="discover"`` nobody has to say where a domain begins: an experience is taken
    apart into clusters, and those that no ticket serves yet get a ticket each. These are trained
    together with the router, their batches taking turns. An experience that brings nothing new is
    not trained on. A piece of the next domain at its end waits for the next experience
    (``discovery.hold_back``, :attr:`waiting`); the last of the stream lets nothing wait.
    The backbone and earlier tickets never change. Evaluation reads images alone: no task label,
    no experience number, no domain name.

    Give either a backbone with the number of classes, or a bank.

    Args:
        backbone: the frozen network; goes to ``device``.
        num_classes: outputs of every ticket's head.
        bank: tickets to go on from; on ``device`` already. It is extended in place.
        criterion: loss of outputs and targets; default: that of the classification task.
        config: how tickets are learned.
        router: chooses tickets; default: the bank's own, or a flat router.
        router_config: options of a router by name, ``FlatRouterConfig`` for instance, in its place.
        growth: ``per_experience``, or ``discover`` to find the clusters without names.
        discovery: options of ``growth="discover"``.
        seed: of everything random; the same seed and data give the ticket that
            ``learn_ticket`` gives.
        cache_trunk: keep each experience's trunk activations in memory while it is learned.
            Images are then taken once, with the evaluation transforms, and in training
            ``mb_x`` holds activations. Up to ``config.cache_bytes``.
        train_mb_size: images per step; default ``config.batch_size``.
        train_epochs: passes over an experience; default ``config.epochs``.
        eval_mb_size: images per batch in evaluation.
        device: where to compute.
        plugins: Avalanche plugins.
        evaluator: Avalanche's ``EvaluationPlugin``, or what makes one; ``None`` measures nothing.
        eval_every: see Avalanche's templates; a ticket in training takes part in these
            evaluations as it stands.
        peval_mode: whether ``eval_every`` counts epochs or iterations.

    Raises:
        RTLError: if the arguments do not fit together.

    Example:
        >>> from rtl_continual.backbones import build_backbone
        >>> strategy = RoutedTickets(backbone=build_backbone("glyphnet", weights="random:0"),
        ...                          num_classes=10, evaluator=None)
        >>> len(strategy.bank)
        0
    """

    PLUGIN_CLASS = TicketPlugin
    dataloader: Any
    _own_loader: Any
    _order: JointOrder
    _mb_features: torch.Tensor | None

    def __init__(
        self,
        *,
        backbone: Backbone | None = None,
        num_classes: int | None = None,
        bank: TicketBank | None = None,
        criterion: Callable[..., torch.Tensor] | None = None,
        config: TicketConfig | None = None,
        router: Router | None = None,
        router_config: BaseModel | None = None,
        growth: Literal["per_experience", "discover"] = "per_experience",
        discovery: DiscoveryConfig | None = None,
        seed: int = 0,
        cache_trunk: bool = False,
        train_mb_size: int | None = None,
        train_epochs: int | None = None,
        eval_mb_size: int = 256,
        device: str | torch.device = "cpu",
        plugins: Sequence[BasePlugin] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] | None = default_evaluator,
        eval_every: int = -1,
        peval_mode: str = "epoch",
        **kwargs: Any,
    ) -> None:
        device = torch.device(device)
        self.bank = make_bank(backbone, num_classes, bank, criterion, device)
        give_router(self.bank, router, router_config)
        self.config = make_config(config or TicketConfig(), train_mb_size, train_epochs)
        if growth not in ("per_experience", "discover"):
            raise RTLError(f"growth must be 'per_experience' or 'discover', got {growth!r}")
        if growth != "discover" and discovery is not None:
            raise RTLError("discovery's options need growth='discover'")
        self.growth = ExperienceGrowth(self.bank, discovery) if growth == "discover" else None
        self.seed = seed
        self.cache_trunk = cache_trunk
        self.mb_prediction: Prediction | None = None
        self._unfinished: UnfinishedTickets | None = None
        super().__init__(
            model=RoutedModel(self.bank),
            optimizer=TicketLearner.build_optimizer(idle_groups(self.bank, self.config, device)),
            criterion=self.bank.task.loss,
            train_mb_size=self.config.batch_size,
            train_epochs=self.config.epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=plugins,
            evaluator=quiet_evaluator() if evaluator is None else evaluator,
            eval_every=eval_every,
            peval_mode=peval_mode,
            **kwargs,
        )

    @property
    def learner(self) -> TicketLearner | None:
        """The ticket that is being learned, between the start and the end of an experience.

        Of several, the one that the present batch belongs to.
        """
        return self.model.learner

    @property
    def _current(self) -> UnfinishedTickets:
        assert self._unfinished is not None, "only inside a training experience"
        return self._unfinished

    @property
    def _learner(self) -> TicketLearner:
        assert self.model.learner is not None, "only inside a training experience"
        return self.model.learner

    def train(
        self, experiences: Any, eval_streams: Sequence[Any] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Learn a ticket from each of the experiences, in order.

        Args:
            experiences: one experience, or several.
            eval_streams: what periodic evaluations use; default: ``experiences``.
            **kwargs: ``num_workers``, ``shuffle``, ``drop_last`` and every other argument of
                ``DataLoader`` that does not decide what a batch is; the rest goes to plugins.

        Returns:
            The last value of every metric.

        Raises:
            DataError: if the data cannot be used, or training diverges.
            RTLError: for a loader argument that cannot be honoured.
        """
        if eval_streams is not None:
            # The template writes into it, which a tuple or a stream would not survive.
            eval_streams = list(eval_streams)
        try:
            if self.growth is None:
                return super().train(experiences, eval_streams, **kwargs)
            given = experiences if isinstance(experiences, Iterable) else [experiences]
            for experience in given:
                part = self.growth.look(experience, partial(self._plain_loader, kwargs))
                seen = [experience] if eval_streams is None else eval_streams
                if part is not None:
                    super().train(part, list(seen), **kwargs)
                self.growth.settle()
            return dict(self.evaluator.get_last_metrics())
        finally:
            self._end_ticket()

    @property
    def waiting(self) -> int:
        """Samples that wait for the next experience (``growth="discover"``)."""
        waits = None if self.growth is None else self.growth.waiting
        return 0 if waits is None else len(waits.dataset)

    def train_waiting(
        self, eval_streams: Sequence[Any] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Decide on the samples that wait, where no experience follows that they could wait for.

        A stream's last experience lets nothing wait, so this is for those who stop before it.

        Args:
            eval_streams: as in :meth:`train`; default: the samples themselves.
            **kwargs: as in :meth:`train`.

        Returns:
            The last value of every metric.
        """
        if self.growth is None or self.growth.waiting is None:
            return dict(self.evaluator.get_last_metrics())
        return self.train(self.growth.waiting, eval_streams, **kwargs)

    def _plain_loader(self, kwargs: dict[str, Any], dataset: Any) -> DataLoader[Any]:
        """Samples in their own order, loaded as the caller of :meth:`train` wants it."""
        workers = int(kwargs.get("num_workers", 0))
        others = {k: v for k, v in kwargs.items() if k in ("timeout", "prefetch_factor")}
        options = self._loader_options(dataset, workers, kwargs.get("pin_memory"), False, others)
        return DataLoader(dataset, batch_size=256, **options)

    @torch.no_grad()
    def eval(self, exp_list: Any, **kwargs: Any) -> dict[str, Any]:
        """Evaluate by routing; the global random state is left as it was.

        Args:
            exp_list: one experience, several, or a stream.
            **kwargs: loader arguments and the plugins' own, as in :meth:`train`.

        Returns:
            The last value of every metric.
        """
        try:
            with same_random_state(self.device):
                if self._unfinished is not None:
                    work = self._unfinished
                    self.model.show_unfinished(work.learners, work.mixtures, work.infos)
                return super().eval(exp_list, **kwargs)
        finally:
            self.model.hide_unfinished()

    def train_dataset_adaptation(self, **kwargs: Any) -> None:
        """Take the experience's data with its training transforms."""
        super().train_dataset_adaptation(**kwargs)
        check_sample(self.adapted_dataset, f"training data of '{cluster_name(self.experience)}'")

    def eval_dataset_adaptation(self, **kwargs: Any) -> None:
        """Take the experience's data with its evaluation transforms."""
        super().eval_dataset_adaptation(**kwargs)
        check_sample(self.adapted_dataset, "evaluation data")

    def make_train_dataloader(
        self,
        num_workers: int = 0,
        shuffle: bool = True,
        pin_memory: bool | None = None,
        persistent_workers: bool = False,
        drop_last: bool = False,
        **kwargs: Any,
    ) -> None:
        """Batches in the order of ``learn_ticket``; see :meth:`train` for the arguments."""
        dataset = self.adapted_dataset
        sizes = [*cluster_sizes(self.experience, len(dataset)).values()]
        self._order = JointOrder(
            sizes, self.train_mb_size, self.seed, shuffle=shuffle, drop_last=drop_last
        )
        options = self._loader_options(dataset, num_workers, pin_memory, persistent_workers, kwargs)
        self.dataloader = DataLoader(dataset, batch_sampler=self._order, **options)
        self._own_loader = self.dataloader

    def make_eval_dataloader(
        self,
        num_workers: int = 0,
        shuffle: bool = False,
        pin_memory: bool | None = None,
        persistent_workers: bool = False,
        drop_last: bool = False,
        **kwargs: Any,
    ) -> None:
        """Batches for evaluation. ``drop_last`` is for training: here every image counts."""
        dataset = self.adapted_dataset
        options = self._loader_options(dataset, num_workers, pin_memory, persistent_workers, kwargs)
        self.dataloader = DataLoader(
            dataset, batch_size=self.eval_mb_size, shuffle=shuffle, **options
        )

    def _loader_options(
        self,
        dataset: Any,
        num_workers: int,
        pin_memory: bool | None,
        persistent_workers: bool,
        others: dict[str, Any],
    ) -> dict[str, Any]:
        return loader_options(
            dataset,
            self.seed,
            num_workers=num_workers,
            pin_memory=self.device.type == "cuda" if pin_memory is None else pin_memory,
            persistent_workers=persistent_workers,
            others=others,
        )

    def model_adaptation(self, model: nn.Module | None = None) -> nn.Module:
        """Nothing: Avalanche adapts for evaluation experiences too, and tickets must not."""
        return self.model if model is None else model

    def make_optimizer(self, **kwargs: Any) -> None:
        """Nothing: Avalanche would hand every parameter to the optimizer, the backbone's too."""

    def check_model_and_optimizer(
        self, num_workers: int = 0, pin_memory: bool | None = None, **kwargs: Any
    ) -> None:
        """Start a ticket, and let the optimizer drive it alone.

        The optimizer object stays, so that schedulers stay attached to it.
        """
        # What the router will meet is not augmented, so its statistics must not be either.
        dataset = self.adapted_dataset.eval()
        kwargs.pop("persistent_workers", None)
        options = self._loader_options(dataset, num_workers, pin_memory, False, kwargs)
        self._unfinished = UnfinishedTickets(
            self.bank,
            self.experience,
            DataLoader(dataset, batch_size=256, **options),
            self._order,
            self.config,
            epochs=self.train_epochs,
            seed=self.seed,
            cache_trunk=self.cache_trunk,
        )
        learners = self._unfinished.learners
        drive(self.optimizer, joint_parameter_groups(learners))
        drive_together(learners, self.optimizer)
        self.model.begin(learners)
        if self.cache_trunk:
            self.dataloader = self._own_loader = self._unfinished.cached_loader

    def _before_training_exp(self, **kwargs: Any) -> None:
        # A stop in the last epoch of one experience would otherwise end the next one unlearned.
        self._stop_training = False
        super()._before_training_exp(**kwargs)
        learners, steps = self._current.learners, len(self.dataloader)
        # A plugin may have put its own loader in place, with its own number of steps.
        if len(learners) == 1:
            learners[0].total_steps = max(1, steps * self.train_epochs)
        elif self.dataloader is not self._own_loader:
            raise RTLError(
                f"{len(learners)} new tickets are learned together, and a plugin has replaced the "
                "loader: nobody can say which ticket a batch is of; train without that plugin"
            )

    def training_epoch(self, **kwargs: Any) -> None:
        """One pass over the experience."""
        super().training_epoch(**kwargs)
        self._current.order.next_epoch()

    def _train_exp(self, experience: Any, eval_streams: Any = None, **kwargs: Any) -> None:
        super()._train_exp(experience, eval_streams, **kwargs)
        tickets = self._current.finish()
        commit_tickets(self.bank, tickets, self._current.learners[0].gate)
        if self.growth is not None:
            self.growth.commit(tickets)
        self._end_ticket()
        trigger_plugins(self, "after_ticket_added", **kwargs)

    def _end_ticket(self) -> None:
        self._unfinished = None
        self.model.end()
        drive(self.optimizer, idle_groups(self.bank, self.config, self.device))

    def _unpack_minibatch(self) -> None:
        if self.is_training:
            self.model.learner = self._current.learner_of(self.clock.train_epoch_iterations)
        if not self._cached:
            where = "training data" if self.is_training else "evaluation data"
            check_batch(self.mbatch, self.bank, where)
        super()._unpack_minibatch()

    @property
    def _cached(self) -> bool:
        """Whether the batches are trunk activations."""
        return self.is_training and isinstance(self.dataloader, CachedLoader)

    def forward(self) -> torch.Tensor:
        """Outputs for the mini-batch, from its images alone."""
        if self._cached:
            self._mb_features = self.mbatch[2]
            return self._learner.forward(self.mb_x)
        outputs = self.model(self.mb_x)
        # Kept here, because a plugin may run the model on other images before the loss.
        self._mb_features = self.model.features
        self.mb_prediction = None if self.is_training else self.model.prediction
        return outputs

    def criterion(self) -> torch.Tensor:
        """The ticket's loss in training, the task's in evaluation."""
        if self.is_training:
            return self._learner.loss(self.mb_output, self.mb_y, self._mb_features)
        return super().criterion()

    def optimizer_step(self) -> None:
        """One update of the ticket: its rates, its parameters, every few steps its mask."""
        self._learner.update()
