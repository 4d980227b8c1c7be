"""The loop of a training: steps, and what happens between them."""

import copy
import signal
import time
from typing import Any, final

from rheos.core.draws import Draws
from rheos.core.errors import NonFiniteError
from rheos.core.field import Field
from rheos.core.objectives import Objective
from rheos.data.dataset import Batch, Data
from rheos.train.checkpoint import restore
from rheos.train.dist import Team
from rheos.train.engine import Engine, trained
from rheos.train.files import Files
from rheos.train.interrupt import Interruption, how_to_go_on, interruptible
from rheos.train.options import Options
from rheos.train.pictures import Pictures
from rheos.train.plans import Plans
from rheos.train.progress import Bar
from rheos.train.run import Run

__all__ = ["Session"]


@final
class Session:
    """One call of `fit`, in one process.

    Args:
        field: Trained in place.
        objective: Calibrated.
        data: Rows.
        options: How.
        config: As in config.json.
        team: The processes.
        files: The run directory, or None.
    """

    def __init__(
        self,
        field: Field,
        objective: Objective,
        data: Data,
        options: Options,
        config: dict[str, Any],
        team: Team,
        files: Files | None,
    ) -> None:
        self.data, self.options, self.config, self.team, self.files = data, options, config, team, files
        self.steps: int = config["steps"]
        # sharding changes a network in place, so what is handed out in the end is copied before
        self.copy = copy.deepcopy(field) if team.size > 1 and options.parallel == "fsdp" else None
        self.engine = Engine(field, objective, options, team, self.steps)
        self.plans = Plans(self.engine, self._batch, options)
        self.pictures = Pictures(field, objective, data, options) if files and options.sample_every else None
        self.lines: list[dict[str, Any]] = []
        self.done, self._before, self._begun = 0, 0.0, time.perf_counter()

    def train(self, progress: bool | None) -> Run:
        """From the first step, or from the checkpoint, to the last."""
        self._enter()
        show = progress if self.team.leads else False
        with interruptible() as wish, self.engine.compiled(), Bar(self.steps, self.done, show) as bar:
            for step in range(self.done, self.steps):
                self.engine.take(step, self.plans(step))
                self.done = step + 1
                bar.step(self.done)
                last = self.done == self.steps
                if last or self.done % self.options.log_every == 0:
                    bar.loss(self.done, self._log())
                if self._due(self.options.sample_every):
                    self._show()
                stop = self._stop(wish)
                if stop or self._due(self.options.save_every):
                    self._save()
                if stop and not last:
                    self._leave(wish)
        return self._run()

    def _enter(self) -> None:
        """Write the beginning of a run, or go on from its newest checkpoint."""
        if self.files is None:
            return
        if not self.files.began:
            self.files.begin(self.config, self.engine.checkpoint(0, 0.0))
        else:
            checkpoint, folder = self.files.newest()
            self.engine.resume(checkpoint, folder)
            self.files.publish(folder)
            self.done, self._before = checkpoint.step, float(checkpoint.state["seconds"])
        if self.data.coded is not None:
            self.files.codec(self.data.coded)
        self.files.start(self.config, self.done)

    def _batch(self, step: int) -> Batch:
        options, data = self.options, self.data
        draws = Draws.training(options.seed, step, options.batch, device=data.x.device).fold("data")
        batch = data.batch(data.indices(options.seed, step, options.batch), draws)
        device = self.team.device
        return Batch(batch.x.to(device), {name: v.to(device) for name, v in batch.cond.items()})

    def _due(self, every: int) -> bool:
        """Whether something that happens now and then, and at the end, happens now."""
        return self.done == self.steps or (every > 0 and self.done % every == 0)

    def _log(self) -> float:
        first = self.done - self.engine.window.count + 1
        means = self.engine.window.means()
        loss = means.pop("loss")
        if loss - loss != 0:
            self._refuse(f"The loss became NaN or infinite between steps {first} and {self.done}")
        rate = self.options.rate(self.done - 1, self.steps)
        values: dict[str, float | None] = {"loss": loss, "lr": rate}
        values |= {name: v if v - v == 0 else None for name, v in means.items()}
        self.lines.append({"step": self.done, **values})
        if self.files is not None:
            self.files.log(self.done, values)
        return loss

    def _refuse(self, what: str) -> None:
        options = self.options
        kept = f" The last good checkpoint is in {self.files.path}." if self.files is not None else ""
        remedy = f"Lower lr={options.lr:g}" + (f" or clip={options.clip:g}" if options.clip else ", or set clip=1")
        half = f", or leave precision={options.precision!r}" if options.precision != "fp32" else ""
        raise NonFiniteError(f"{what}. {remedy}{half}, and look at the data's range.{kept}", step=self.done)

    def _show(self) -> None:
        if self.pictures is None or self.pictures.kind is None or self.files is None:
            return
        pictures, done = self.pictures, self.done
        shown = pictures.draw(done, self.engine.sampling)  # by every process: they may share the network
        if shown is not None:
            self.files.picture(done, lambda: pictures.png(shown, done))

    def _save(self) -> None:
        if not self.engine.finite():
            self._refuse(f"The weights became NaN or infinite before step {self.done} was over")
        if self.files is not None:
            seconds = self._before + time.perf_counter() - self._begun
            self.files.save(self.engine.checkpoint(self.done, seconds))

    def _stop(self, wish: Interruption) -> bool:
        """Whether any process was asked to stop; several ask each other now and then only."""
        if self.team.size == 1:
            return wish.signal != 0
        return self.done % self.options.log_every == 0 and self.team.any(wish.signal != 0)

    def _leave(self, wish: Interruption) -> None:
        kept = "nothing was kept, because no directory was given"
        if self.files is not None:
            kept = f"the checkpoint is in {self.files.path}. {how_to_go_on()}"
        wish.signal = wish.signal or signal.SIGTERM
        wish.stop(f"Stopped after step {self.done} of {self.steps}; {kept}.")

    def _run(self) -> Run:
        """What `fit` returns."""
        tensors = {k: {n: v.clone() for n, v in kind.items()} for k, kind in self.engine.weights().items()}
        field = self.copy or copy.deepcopy(self.engine.field)
        restore(trained(field), tensors.get("ema", tensors["model"]), None)
        field.eval().requires_grad_(False)
        path = self.files.path if self.files is not None else None
        codec = getattr(self.data.coded, "codec", None)
        run = Run(self.config, self.done, field, tensors, path, self.lines, codec)
        if self.files is not None:
            self.files.describe(self.config, self.done, run.metrics() if self.team.leads else [])
        return run
