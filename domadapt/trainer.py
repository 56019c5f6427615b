"""`Trainer`: the only training loop."""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from domadapt import checkpoint, ops, rows
from domadapt.batches import BatchStream, balancing_weights, batch_loader
from domadapt.compatibility import check_terms, check_together
from domadapt.curves import History, Log, Window, look_steps
from domadapt.data.views import Views
from domadapt.devices import make_accelerator
from domadapt.doctor import Doctor
from domadapt.errors import Diverged, DomadaptError
from domadapt.inference import outputs_of
from domadapt.methods import Method, SourceView, TargetView
from domadapt.network import Network
from domadapt.optimizers import make_optimizer
from domadapt.sharpness import climb, descend
from domadapt.stopping import LowestLoss
from domadapt.strategies.lora import merged
from domadapt.strategies.tuning import tuning_of
from domadapt.task import Batch, Task
from domadapt.training import Training

#: How many times a run the pseudo-labels of class-balanced batches are renewed.
BALANCES = 10
#: The shares of a run after which `Trainer.fit` asks whether it is worth going on.
CHECKS = (0.5, 0.75)
#: What is asked: why it is hopeless to train this network on; an empty answer goes on.
Watch = Callable[[Network], str]
#: What is told at a look: the step, and the network that would be kept if it were the last. It may
#: read it, and must not change it.
Look = Callable[[int, Network], None]


class Trainer:
    """Minimises a method's losses over a task.

    Args:
        method: the method, with its network.
        task: what to learn from; target labels are not reachable from here.
        views: how raw samples become inputs.
        training: the settings.
        checkpoint_path: where the state is kept for resuming; None keeps none.
        track: "tensorboard" or "wandb", where the curves are sent as well.
        track_folder: where a tracker keeps its files.
        key: what the checkpoint must have been made with (a hash of configuration and data); one
            made with another is refused.
    """

    def __init__(
        self,
        method: Method,
        task: Task,
        views: Views,
        training: Training,
        *,
        checkpoint_path: Path | None = None,
        key: str = "",
        track: str | None = None,
        track_folder: Path | None = None,
    ) -> None:
        self.method, self.task, self.views, self.training = method, task, views, training
        self.path = checkpoint_path
        self.key = key
        self.history: History = {}
        self.step = 0
        per_pass = math.ceil(len(task.target_train) / self._size_t)
        #: The steps of this run: those of the settings, unless the method has its own measure.
        self.steps = method.steps_for(training.steps, per_pass)
        #: The running average of the network, where one is kept.
        self.average: Network | None = None
        #: What a closed-form method makes of the rows.
        self.features: rows.Features | None = None
        #: Why training ended before its last step; empty where it did not.
        self.stopped = ""
        self._weights_t: Tensor | None = None
        self._saved = 0
        self._held_out = math.nan
        self.track = track
        self.accelerator = make_accelerator(training, track, track_folder)
        method.open_set = task.open_set
        fp16 = self.accelerator.scaler is not None
        check_together(method, task, training, self.accelerator.num_processes, fp16)
        #: Looks at the method eight times a run, and changes nothing.
        self.doctor = Doctor(method, self.steps, closer=self.accelerator.num_processes == 1)
        #: Watches the losses on held-out samples, where the settings ask for it.
        self.lowest = (
            LowestLoss(method, task, views, training.patience, self.steps, training.batch_size)
            if training.patience
            else None
        )
        #: What of the network trains, and when; None where all of it does, as the method says.
        self.tuning = (
            tuning_of(method.network, training, self.steps, method.name, _copies(method))
            if method.trains
            else None
        )

    @property
    def _size_t(self) -> int:
        return self.training.target_batch_size or self.training.batch_size

    def _setup(self) -> None:
        """Tell the method of the data and make what it keeps of them."""
        task, method = self.task, self.method
        method.batch_statistics = self.training.batch_statistics
        method.n_domains, method.open_set = len(task.source_names), task.open_set
        method.setup(len(task.source_train), len(task.target_train))

    def _move(self) -> None:
        """Train on rows as a closed-form method moves them; it is fitted unless that was done."""
        if self.features is None:
            self.features = rows.fit(self.method, self.task, self.views)
        normalize = self.method.network.normalize
        self.task = rows.moved(self.task, self.views, self.features, normalize)

    def fit(
        self,
        on_log: Callable[[Log], None] | None = None,
        watch: Watch | None = None,
        look: Look | None = None,
        looks: int = 0,
    ) -> Network:
        """Train to the last step, from the checkpoint if there is one; returns the network.

        Args:
            on_log: is told of each point of the learning curves.
            watch: is asked after half and three quarters of the steps whether to go on. Where it
                names a reason not to, training ends there and `stopped` holds the reason.
            look: is shown the network on the way, after each of `look_steps` but the last, which is
                returned. Its time does not count.
            looks: how often, the end included.

        Raises:
            Diverged: a loss became NaN or infinite; it names the term and the step. The last
                checkpoint, made while all was finite, stays.
        """
        training, method, accelerator = self.training, self.method, self.accelerator
        torch.manual_seed(training.seed + 7919 * accelerator.process_index)
        self._setup()
        method.to(accelerator.device)
        if training.channels_last and self.task.kind == "image":
            method.network.to(memory_format=torch.channels_last)
        if training.compile:
            method.network.backbone.compile()
        method.train()
        if training.ema:
            self.average = copy.deepcopy(method.network).requires_grad_(False)
        if training.balance and method.needs_target:
            self._weights_t = torch.ones(len(self.task.target_train)).double()
        # The optimiser is made after the move, over the parameters that are trained.
        tuning = self.tuning
        bare = make_optimizer(method, training, tuning)
        if tuning is not None:
            tuning.begin()
        if self.path is not None and self.path.exists():
            self._restore(bare)
        if method.closed_form:
            self._move()
        model, optimizer = accelerator.prepare(method, bare)
        # Only fp16's loss scaling needs accelerate's own backward and step; beside it they search
        # the disk for optional packages at every step, which a small network feels.
        scaled = accelerator.scaler is not None and method.trains
        own = {id(p) for p in method.network.parameters()}
        parts = (
            [p for p in method.network.parameters() if p.requires_grad],
            [p for p in method.parameters() if id(p) not in own and p.requires_grad],
        )
        if self.track is not None:
            accelerator.init_trackers("domadapt", config=_plain(asdict(training)))
        window = Window()
        seen = set() if look is None or looks < 1 else set(look_steps(self.steps, looks)[:-1])
        started = time.perf_counter() - (self.history["seconds"][-1] if self.history else 0.0)
        batches = self._batches()
        over = self.lowest is not None and self.lowest.over
        for step in range(self.step, self.step if over else self.steps):
            progress = step / self.steps
            if method.refreshes and self._due(step, method.refreshes):
                self._refresh(progress)
            if self._weights_t is not None and step and self._due(step, BALANCES):
                self._balance()
                batches = self._batches(step)
            if tuning is not None:
                tuning.enter(step)
            factor = training.lr_factor(progress) if tuning is None else tuning.lr_factor(step)
            for group in bare.param_groups:
                group["lr"] = group["initial_lr"] * factor
            for micro in range(training.accumulate):
                last = micro == training.accumulate - 1
                batch = self._place(next(batches))
                # While a strategy holds back what will train, there is nothing yet to judge.
                judged = tuning is None or tuning.settled
                if micro == 0 and judged and self.doctor.due(step):
                    self._examine(batch, bare)
                if tuning is not None:
                    tuning.hold()
                if method.critic_steps and micro == 0:
                    self._train_critic(batch, bare)
                climbed = (
                    climb(method, batch, training.sam, accelerator.autocast) if training.sam else []
                )
                with nullcontext() if last else accelerator.no_sync(model):
                    losses = model(batch)
                    total = losses.total
                    penalty = None if tuning is None else tuning.penalty()
                    if penalty is not None:
                        total = total + penalty
                    if training.accumulate > 1:
                        total = total / training.accumulate
                    if scaled:
                        accelerator.backward(total)
                    elif method.trains:
                        total.backward()
                descend(climbed)
                if penalty is None:
                    window.add(losses.terms, losses.weights)
                else:
                    window.add({**losses.terms, "l2_sp": penalty}, {**losses.weights, "l2_sp": 1.0})
            if training.clip is not None:
                accelerator.unscale_gradients(optimizer)
                for part in parts:
                    if part:
                        nn.utils.clip_grad_norm_(part, training.clip)
            if scaled:
                optimizer.step()
            else:
                bare.step()
            bare.zero_grad()
            method.after_step(progress)
            if self.average is not None:
                # The first steps are forgotten sooner, so that a short run is averaged as well.
                decay = min(training.ema, (1 + step) / (10 + step))
                ops.ema_update(self.average, method.network, decay)
            self.step = step + 1
            if look is not None and self.step in seen:
                # Before the checkpoint of the step: where that is, the look has been.
                started += self._show(look)
            if watch is not None and self.step in [int(self.steps * share) for share in CHECKS]:
                self._share_buffers()
                self.stopped = watch(method.network)
            over = self._is_over() if self.lowest is not None else False
            due = self.step % training.log_every == 0 or self.step == self.steps
            if due or over or self.stopped:
                self._log(window, bare, time.perf_counter() - started, on_log)
            # What is stopped saves nothing more: a run that is killed now asks again.
            if self.stopped:
                break
            if due or over:
                self._maybe_save(bare)
            if over:
                break
        if self.track is not None:
            accelerator.end_training()
        if self.lowest is not None and not self.stopped:
            self.lowest.restore(method.network)
        if tuning is not None:
            tuning.end()
        self._share_buffers()
        network = self._adapted()
        if training.channels_last and self.task.kind == "image":
            # Laid out as a model that is read from a file is, so that both give the same bits.
            network.to(memory_format=torch.contiguous_format)
        network = rows.folded(network, self.features)
        broken = [n for n, p in network.named_parameters() if not torch.isfinite(p).all()]
        if broken:
            raise self._diverged(f"the weights of {broken[0]}", self.step)
        network.eval()
        return network

    def _adapted(self) -> Network:
        """The network as it would be kept now."""
        return merged(self.method.adapted() if self.average is None else self.average)

    def _show(self, look: Look) -> float:
        """Let `look` see the network as it is now; returns the seconds it took."""
        begun = time.perf_counter()
        self._share_buffers()
        if self.accelerator.is_main_process:
            look(self.step, rows.folded(self._adapted(), self.features))
        return time.perf_counter() - begun

    def _is_over(self) -> bool:
        """Whether the held-out loss has not fallen for long enough; it is measured where due."""
        lowest = self.lowest
        assert lowest is not None
        if lowest.due(self.step):
            self._held_out = lowest.look(self.step, self.accelerator.device)
        return lowest.over

    def _examine(self, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
        """Let the doctor look at the method as it is before this step."""
        accelerator = self.accelerator
        self.doctor.examine(
            batch,
            self.step,
            device=accelerator.device,
            optimizer=optimizer,
            history=self.history,
            autocast=accelerator.autocast(),
            scale=1.0 if accelerator.scaler is None else accelerator.scaler.get_scale(),
        )

    def _train_critic(self, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
        """Steps of the method's own modules alone, on what the network says as it is."""
        method, autocast = self.method, self.accelerator.autocast
        with torch.no_grad(), autocast(), ops.kept_statistics(method.network):
            out = method.outputs(batch)
        for _ in range(method.critic_steps):
            with autocast():
                loss = method.critic_loss(out, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()

    def rehearse(self, fitted: bool = True) -> None:
        """One batch through the method without training, so that what would fail fails now.

        The method is spent by it: its statistics and random numbers have moved.

        Args:
            fitted: whether a closed-form method is fitted, for which the features must be there.

        Raises:
            DomadaptError: `Method.terms` returned something else than scalars by name, or a
                setting ``x_weight`` has no term ``x`` to weight.
        """
        method = self.method
        self._setup()
        if method.closed_form and fitted:
            self._move()
        batch = self._stream()[0]
        with torch.no_grad():
            out = method.outputs(batch)
            terms = method.terms(out, batch)
        if method.critic_steps:
            method.critic_loss(out, batch)
        check_terms(method, terms)

    def _batches(self, step: int | None = None) -> Any:
        training = self.training
        cuda = self.accelerator.device.type == "cuda"
        first = (self.step if step is None else step) * training.accumulate
        return batch_loader(self._stream(), first, training.workers, cuda)

    def _stream(self) -> BatchStream:
        training, method = self.training, self.method
        return BatchStream(
            self.task.source_train if method.needs_source else None,
            self.task.target_train if method.needs_target else None,
            self.views,
            batch_size_s=training.batch_size,
            batch_size_t=self._size_t,
            strong=method.needs_strong,
            seed=training.seed,
            steps=self.steps,
            accumulate=training.accumulate,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            labelled=self.task.target_labelled,
            weights_s=self._weights_s(),
            weights_t=self._weights_t,
        )

    def _weights_s(self) -> Tensor | None:
        y = self.task.source_train.y
        return balancing_weights(y) if self.training.balance and y is not None else None

    def _balance(self) -> None:
        """Weigh the target's samples by how often their predicted class is predicted."""
        self._share_buffers()
        place = self.accelerator.device
        target = outputs_of(self.method.network, self.task.target_train, self.views, device=place)
        self._weights_t = balancing_weights(target.logits.argmax(1))

    def _place(self, batch: Batch) -> Batch:
        device = self.accelerator.device
        return batch if device.type == "cpu" else batch.to(device)

    def _due(self, step: int, times: int) -> bool:
        """Whether something that happens so many times a run, evenly spaced, happens now."""
        steps, times = self.steps, min(times, self.steps)
        return step == 0 or step * times // steps != (step - 1) * times // steps

    def _share_buffers(self) -> None:
        """Give every process the first one's buffers (running statistics), as a save would."""
        if self.accelerator.num_processes > 1:
            for buffer in self.method.buffers():
                torch.distributed.broadcast(buffer, 0)

    def _refresh(self, progress: float) -> None:
        self._share_buffers()
        network, place = self.method.network, self.accelerator.device
        source_val = None
        if self.method.needs_source_val:
            val = outputs_of(network, self.task.source_val, self.views, device=place)
            assert val.y is not None
            source_val = SourceView(val.logits.to(place), val.z.to(place), val.y.to(place))
        target = outputs_of(network, self.task.target_train, self.views, device=place)
        view = TargetView(target.logits.to(place), target.z.to(place), source_val)
        self.method.refresh(view, progress)

    def _log(
        self,
        window: Window,
        optimizer: torch.optim.Optimizer,
        seconds: float,
        on_log: Callable[[Log], None] | None,
    ) -> None:
        losses, culprit = window.close()
        lr = max(float(group["lr"]) for group in optimizer.param_groups)
        point = {"step": float(self.step), "seconds": seconds, "lr": lr}
        point |= {f"loss/{name}": value for name, value in losses.items()}
        point |= {f"weight/{name}": value for name, value in window.weights.items()}
        point |= self.doctor.columns()
        if self.lowest is not None:
            point["loss/held_out"] = self._held_out
            self._held_out = math.nan
        if culprit is not None:
            raise self._diverged(f"the loss term {culprit!r}", self.step)
        known = len(self.history.get("step", []))
        for name in {**self.history, **point}:
            # A point for every curve, so that all are equally long: NaN where a term was not there.
            curve = self.history.setdefault(name, [math.nan] * known)
            curve.append(point.get(name, math.nan))
        if self.track is not None:
            self.accelerator.log(point, step=self.step)
        if on_log is not None and self.accelerator.is_main_process:
            news = self.doctor.news()
            on_log(Log(self.step, self.steps, losses, window.weights, lr, seconds, news))

    def _diverged(self, what: str, step: int) -> Diverged:
        first = max(0, step - self.training.log_every)
        kept = (
            f"The checkpoint of step {self._saved} is kept at {self.path}. " if self._saved else ""
        )
        return Diverged(
            f"Training of {self.method.name} stopped: {what} became NaN or infinite between steps "
            f"{first} and {step}. {kept}Lower the learning rate (now {self.training.lr:g}), set "
            "clip=1, or lower that term's weight."
        )

    def _maybe_save(self, optimizer: torch.optim.Optimizer) -> None:
        every = self.training.checkpoint_every
        if self.path is None or not every or self.step // every == self._saved // every:
            return
        self._saved = self.step
        if not self.accelerator.is_main_process:
            return
        state = {f"method/{k}": v for k, v in checkpoint.module_state(self.method).items()}
        tensors, plain = checkpoint.optimizer_state(optimizer)
        state |= {f"optimizer/{k}": v for k, v in tensors.items()}
        if self.average is not None:
            state |= {f"average/{k}": v for k, v in checkpoint.module_state(self.average).items()}
        if self._weights_t is not None:
            state["sampling/target"] = self._weights_t
        if self.features is not None:
            state |= {f"features/{k}": v for k, v in self.features.tensors().items()}
        stopping = None
        if self.lowest is not None:
            best, stopping = self.lowest.state()
            state |= {f"lowest/{k}": v for k, v in best.items()}
        state["random/cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            state["random/cuda"] = torch.cuda.get_rng_state(self.accelerator.device)
        scaler = self.accelerator.scaler
        about = {
            "key": self.key,
            "method": self.method.name,
            "step": self.step,
            "history": self.history,
            "doctor": self.doctor.state(),
            "optimizer": plain,
            "scaler": None if scaler is None else scaler.state_dict(),
            "stopping": stopping,
            "training": asdict(self.training),
        }
        checkpoint.save_tensors(self.path, state, about)

    def _restore(self, optimizer: torch.optim.Optimizer) -> None:
        assert self.path is not None
        tensors, about = checkpoint.load_tensors(self.path)
        if about["key"] != self.key or about["method"] != self.method.name:
            raise DomadaptError(
                f"{self.path} was made with other settings or other data; resume with the same, or "
                "choose another folder."
            )
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, value in tensors.items():
            where, _, key = name.partition("/")
            parts[where][key] = value
        if self.average is not None:
            checkpoint.load_module_state(self.average, parts["average"], self.path)
        self._weights_t = parts["sampling"].get("target")
        if self.method.closed_form:
            self.features = rows.Features(**parts["features"])
        checkpoint.load_module_state(self.method, parts["method"], self.path)
        checkpoint.load_optimizer_state(optimizer, parts["optimizer"], about["optimizer"])
        # Only the first process's numbers were kept; the others draw new ones of their own.
        if self.accelerator.is_main_process:
            torch.set_rng_state(parts["random"]["cpu"])
        else:
            torch.manual_seed(
                hash((self.training.seed, self.accelerator.process_index, about["step"])) % 2**63
            )
        if "cuda" in parts["random"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(parts["random"]["cuda"], self.accelerator.device)
        if about["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(about["scaler"])
        if self.lowest is not None:
            self.lowest.load(parts["lowest"], about["stopping"])
        self.history = about["history"]
        self.doctor.restore(about["doctor"])
        self.step = self._saved = about["step"]


def _copies(method: Method) -> list[Network]:
    """The networks of the same form that a method keeps beside its own, such as a teacher."""
    form = {n: p.shape for n, p in method.network.named_parameters()}
    return [
        m
        for m in method.modules()
        if isinstance(m, Network)
        and m is not method.network
        and {n: p.shape for n, p in m.named_parameters()} == form
    ]


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Values that every tracker takes: None becomes a word."""
    return {k: "none" if v is None else v for k, v in values.items()}
