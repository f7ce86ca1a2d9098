"""One Lightning fit: history, validation, resume after a kill, the best epoch's weights kept."""

import math
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor, nn
from torch.utils.data import DataLoader

from clipfh_lib import files, progress
from clipfh_lib.evaluation import embeddings
from clipfh_lib.files import InputError
from clipfh_lib.models import backbones, checkpoints
from clipfh_lib.runs import Run
from clipfh_lib.schema import LoopParams

BEST = "best.safetensors"
PRECISION = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
ACCELERATOR = {"cpu": "cpu", "cuda": "gpu", "mps": "mps"}


class Check(NamedTuple):
    """How epochs are compared, so that the best one's weights are kept.

    Args:
        measure: called at the end of an epoch, with the method in eval mode; it may leave the
            encoder on the CPU. Its names stand in the history behind `val/`.
        by: the one that decides: `rank1`, `mAP` and `accuracy` are better when larger, `loss` when
            smaller; `last`: the last epoch is kept, whatever is measured.
        every: epochs from one validation to the next; the last epoch has one.
        patience: validations without a gain after which the fit ends.
    """

    measure: Callable[[], dict[str, float]]
    by: str
    every: int
    patience: int


class EpochData(L.LightningDataModule):
    """A loader built anew for each epoch: a resumed fit reads what an unbroken one reads."""

    def __init__(self, make: Callable[[int], DataLoader]):
        super().__init__()
        self.make = make

    def train_dataloader(self) -> DataLoader:
        """The loader of the epoch that the trainer stands at."""
        return self.make(self.trainer.current_epoch)


class _Unfit(Exception):
    """A checkpoint that this fit cannot go on from."""


@dataclass
class _State:
    """What stands in a checkpoint beside Lightning's own; plain values."""

    what: dict[str, object]
    resume_from: str | None
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int | None = None
    best: float = -math.inf  # its measure, or minus its loss
    stale: int = 0  # validations since then
    plateau: dict[str, object] = field(default_factory=dict)
    resumed_at: list[int] = field(default_factory=list)
    threads: int = 0
    seconds: float = 0.0
    gpu_memory_mb: float = 0.0

    def facts(self) -> dict[str, object]:
        """For the manifest."""
        facts = {"best_epoch": self.best_epoch, "resumed_at": self.resumed_at}
        facts |= {"fit_threads": self.threads, "fit_seconds": round(self.seconds, 1)}
        return facts | ({"gpu_peak_memory_mb": self.gpu_memory_mb} if self.gpu_memory_mb else {})


def fit(
    method: L.LightningModule,
    train: Callable[[int], DataLoader],
    run: Run,
    what: dict[str, object],
    how: LoopParams,
    device: str = "auto",
    check: Check | None = None,
    names: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Train, or take up a fit that was cut short, or take the weights of one that was finished.

    Afterwards `method.kept`, and `method.heads` where there is one, hold the weights of the best
    epoch, in eval mode on the CPU; they stand in checkpoints/best.safetensors, with the key.

    Args:
        method: trained in place; draws nothing at random outside its steps. `kept` is the module
            whose weights are kept; a `plateau` of its own, which configure_optimizers may make, is
            stepped with the measure after each validation.
        train: epoch -> loader; the same epoch gives the same batches.
        run: its folder keeps history.csv, checkpoints/ and tensorboard/; its manifest will have the
            best epoch, seconds, threads, and the epochs that the fit was taken up at.
        what: runs.fit_content: what decides the weights; others are not taken up.
        how: epochs of the whole fit, also when it is resumed, and the loop's other parameters.
        device: `auto`, `cpu`, `cuda` or `mps`.
        check: none: the last epoch is kept.
        names: image id of each row, to name the images of a batch that went wrong.

    Returns:
        History, one row an epoch: `epoch` from 0, `lr`, the highest of the epoch and of the first
        group of the optimiser, `lr/<name>` of its other named groups, the mean of all that the
        method logs, and `val/...`, empty in epochs without validation.

    Raises:
        InputError: no such device or precision there, fit.resume_from is of another fit, the loss
            is no finite number, the memory or the disk is full.
    """
    key = files.digest(what)
    target = embeddings.device(device)
    if how.precision == "16" and target.type == "cpu":
        raise InputError("fit.precision: a CPU trains in 32 or bf16, not in 16; choose bf16")
    facts = _finished(method, run, key)
    if facts is not None:
        run.logger.info("weights of these parameters and this code are there; nothing is trained")
    else:
        if (run.folder / "checkpoints" / "fit.json").is_file():
            run.logger.info("checkpoints/best.safetensors is of another fit or damaged: made again")
        facts = _train(method, train, run, what, how, target, check, names)
    run.record(**facts)
    method.eval()
    return pd.read_csv(run.folder / "history.csv")


def _finished(method: L.LightningModule, run: Run, key: str) -> dict[str, object] | None:
    """What the manifest shall say of a finished fit, whose weights the method has then."""
    folder, history = run.folder / "checkpoints", run.folder / "history.csv"
    try:
        done = files.read_sealed(folder / "fit.json")
        whole = done["key"] == key and files.sha256(history) == done["history_sha256"]
    except (OSError, ValueError):
        return None
    # Last: a fit that starts anew must find the method as it was made.
    whole = whole and backbones.restore(method.kept, folder / BEST, key, _heads(method))
    return done["facts"] if whole else None


def _heads(method: L.LightningModule) -> nn.Module | None:
    return getattr(method, "heads", None)


def _train(
    method: L.LightningModule,
    train: Callable[[int], DataLoader],
    run: Run,
    what: dict[str, object],
    how: LoopParams,
    target: torch.device,
    check: Check | None,
    names: Sequence[str] | None,
) -> dict[str, object]:
    state, start = _begin(method, run, what, how, check)
    journal = _Journal(run, how, check, names, state)
    if not journal.is_done():
        with progress.quiet(), _deterministic(), journal.telling(target):
            trainer = L.Trainer(
                max_epochs=how.epochs,
                accelerator=ACCELERATOR[target.type],
                devices=1,
                precision=PRECISION[how.precision],
                accumulate_grad_batches=how.accumulate,
                gradient_clip_val=how.clip,
                gradient_clip_algorithm="norm",
                deterministic=True,
                logger=False,
                enable_progress_bar=progress.is_watched(),
                enable_model_summary=False,
                reload_dataloaders_every_n_epochs=1,
                plugins=[LightningEnvironment()],  # a fit is one process, also within a Slurm job
                callbacks=[journal, *([progress.Bar()] if progress.is_watched() else [])],
            )
            method.train()  # Lightning leaves modules in the mode that they are in
            trainer.fit(method, EpochData(train), ckpt_path=start and str(start))
    journal.keep_best(method)
    return state.facts()


def _begin(
    method: L.LightningModule,
    run: Run,
    what: dict[str, object],
    how: LoopParams,
    check: Check | None,
) -> tuple[_State, Path | None]:
    """State and checkpoint that the fit goes on from, its weights in the method; or a new one."""
    last, threads = run.folder / "checkpoints" / "last.ckpt", torch.get_num_threads()
    found = None
    if last.is_file():
        try:
            found = _taken_up(method, run, last, what, how, check)
        except _Unfit as error:
            run.logger.warning("checkpoints/last.ckpt %s; the fit starts anew", error)
    start = last
    if how.resume_from is not None and (found is None or found.resume_from != how.resume_from):
        start = files.resolve(how.resume_from)
        if not start.is_file():
            raise InputError(f"fit.resume_from: there is no file {start}")
        try:
            found = _taken_up(method, run, start, what, how, check)
        except _Unfit as error:
            raise InputError(f"fit.resume_from: {start} {error}") from None
        found.resume_from = how.resume_from
    if found is None:
        old = [last.with_name(BEST), last.with_name("fit.json")]  # of another fit
        for path in [*old, *(run.folder / "tensorboard").glob("events.*")]:
            path.unlink(missing_ok=True)
        return _State(what, how.resume_from, threads=threads), None
    run.logger.info("taking up the fit at %s", start)
    if how.keep_epochs and start == last:  # it may have been killed between the two
        checkpoints.copy(last, _numbered(last.parent, found.history[-1]["epoch"]))
    if found.threads != threads:
        run.logger.warning(
            "the fit began with %d threads and goes on with %d: its weights may differ in the last "
            "bits from those of an unbroken one",
            *(found.threads, threads),
        )
    found.threads = threads
    return found, start


def _taken_up(
    method: L.LightningModule,
    run: Run,
    path: Path,
    what: dict[str, object],
    how: LoopParams,
    check: Check | None,
) -> _State:
    """State of a checkpoint of this fit; the method gets its weights, best.safetensors the best.

    Raises:
        _Unfit: it is damaged, of other parameters, or the best weights until then are gone; the
            method is as it was.
    """
    content, state = _read(path, what)
    best, heads, epoch = run.folder / "checkpoints" / BEST, _heads(method), None
    if check is not None and check.by != "last":
        epoch, key = state.best_epoch, files.digest(what)
        done = len(state.history) == how.epochs or state.stale >= check.patience
        keys = [_so_far(key, epoch), *([key] if done else [])]
        if not any(backbones.restore(method.kept, best, each, heads) for each in keys):
            source = content
            if epoch != state.history[-1]["epoch"]:
                try:
                    source, _ = _read(_numbered(path.parent, epoch), what)
                except _Unfit:
                    raise _Unfit(
                        f"needs the best weights until then, of epoch {epoch}, which are neither "
                        f"in checkpoints/best.safetensors nor in {_numbered(path.parent, epoch)}"
                    ) from None
            method.load_state_dict(source["state_dict"])
            backbones.save(method.kept, best, keys[0], heads)
    method.load_state_dict(content["state_dict"])
    return state


def _read(path: Path, what: dict[str, object]) -> tuple[dict, _State]:
    """A checkpoint, and what it says of its fit.

    Raises:
        _Unfit: it is damaged, or of other parameters.
    """
    try:
        content = checkpoints.read(path)
        there = content["clipfh"]["what"]
    except (ValueError, KeyError, TypeError) as error:
        raise _Unfit(f"is damaged ({error})") from None
    if other := checkpoints.difference(there, what):
        raise _Unfit(f"is of other parameters ({other})")
    return content, _State(**content["clipfh"])


def _so_far(key: str, epoch: int) -> str:
    """Key of the best weights while the fit goes on."""
    return f"{key}, epoch {epoch}, so far"


def _numbered(folder: Path, epoch: int) -> Path:
    """The checkpoint of one epoch, counted as in history.csv."""
    return folder / f"epoch_{epoch:03d}.ckpt"


class _Journal(Checkpoint):
    """Reseeds each step; at each epoch's end validates, and writes what the run folder keeps.

    It is a Checkpoint for Lightning so that the method's own hooks come before.
    """

    def __init__(
        self,
        run: Run,
        how: LoopParams,
        check: Check | None,
        names: Sequence[str] | None,
        state: _State,
    ):
        self.run, self.how, self.check, self.state = run, how, check, state
        self.names = None if names is None else list(names)
        self.key, self.folder = files.digest(state.what), run.folder / "checkpoints"
        self.best = self.folder / BEST
        self.rates: dict[str, float] = {}
        self.at, self.rows, self.images = (0, 0), None, 0  # epoch and batch, its rows

    def is_done(self) -> bool:
        """Whether no epoch is left."""
        patience = math.inf if self.check is None else self.check.patience
        return len(self.state.history) >= self.how.epochs or self.state.stale >= patience

    # --- while it runs --------------------------------------------------------------------------

    @contextmanager
    def telling(self, target: torch.device) -> Iterator[None]:
        """Tell in one line why a fit cannot go on, and leave the interrupt key as it was."""
        interrupt = signal.getsignal(signal.SIGINT)
        (self.run.folder / "bad_batch.csv").unlink(missing_ok=True)
        self.board = progress.Board(self.run.folder / "tensorboard", len(self.state.history))
        try:
            yield
        except SystemExit as error:
            if not isinstance(error.__context__, KeyboardInterrupt):
                raise
            signal.signal(signal.SIGINT, interrupt)  # Lightning makes a notebook deaf to Ctrl-C
            raise KeyboardInterrupt("the next fit of these parameters goes on from here") from None
        except (RuntimeError, MemoryError) as error:
            if not _is_memory(error):
                raise
            raise InputError(f"out of memory on {target}: {self._ways_out()}") from None
        finally:
            self.board.close()

    def on_train_start(self, trainer: L.Trainer, method: L.LightningModule) -> None:
        if self.state.history:
            self.state.resumed_at.append(trainer.current_epoch)
        if self.state.plateau:
            method.plateau.load_state_dict(self.state.plateau)
        if method.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.began = time.monotonic()

    def on_train_batch_start(
        self, trainer: L.Trainer, method: L.LightningModule, batch: object, number: int
    ) -> None:
        # Lightning keeps no state of random generators: dropout and the like would go on otherwise
        # after a resume. Batches of one step differ.
        self.at, self.rows = (trainer.current_epoch, number), getattr(batch, "rows", None)
        seed = (self.run.params.seed * 1_000_003 + self.at[0]) * 1_000_003 + number
        _reseed(seed % 2**63, method.device)
        self.images += 0 if self.rows is None else len(self.rows)
        for group in trainer.optimizers[0].param_groups:
            name = group.get("name", "")
            self.rates[name] = max(self.rates.get(name, 0.0), float(group["lr"]))

    def on_before_backward(
        self, trainer: L.Trainer, method: L.LightningModule, loss: Tensor
    ) -> None:
        if not torch.isfinite(loss):
            self._stop(f"the loss is {loss.item()}")

    def _stop(self, why: str) -> None:
        """Say in which batch it went wrong, and keep the names of its images.

        Raises:
            InputError: always.
        """
        (epoch, number), rows = self.at, [] if self.rows is None else self.rows.tolist()
        ids = rows if self.names is None else [self.names[row] for row in rows]
        table = pd.DataFrame({"epoch": epoch, "batch": number, "row": rows, "image_id": ids})
        self.run.save_table("bad_batch", table)
        shown = ", ".join(str(name) for name in ids[:3]) + (", ..." if len(ids) > 3 else "")
        ways = "a lower fit.lr" + ("" if self.how.clip else " or fit.clip 1")
        ways += "" if self.how.precision == "32" else " or fit.precision 32"
        raise InputError(
            f"{why} in epoch {epoch + 1} of {self.how.epochs}, batch {number + 1} (images {shown}; "
            f"all are in bad_batch.csv); try {ways}"
        )

    def _ways_out(self) -> str:
        p = self.run.params.fit
        if getattr(p, "sampler", "") == "pk":
            size = f"fit.people {p.people} x fit.images {p.images}"
        else:
            size = f"fit.batch_size {getattr(p, 'batch_size', '')}".strip()
        ways = f"make the batch smaller ({size}), with fit.accumulate for as many images to a step"
        return ways + (", or choose fit.precision bf16" if self.how.precision == "32" else "")

    # --- at the end of an epoch -----------------------------------------------------------------

    def on_train_epoch_end(self, trainer: L.Trainer, method: L.LightningModule) -> None:
        state, epoch = self.state, trainer.current_epoch
        trained = (each for each in method.parameters() if each.requires_grad)
        if not all(bool(torch.isfinite(each).all()) for each in trained):  # last.ckpt stays sound
            self._stop("a weight is no finite number after the last step")
        row = {"epoch": epoch, **self._rates(trainer), **_logged(trainer)}
        validated = self._validate(trainer, method, epoch)
        state.history.append(row | validated)
        seconds = time.monotonic() - self.began
        state.seconds += seconds
        if method.device.type == "cuda":
            peak = round(torch.cuda.max_memory_allocated() / 2**20, 1)
            state.gpu_memory_mb = max(state.gpu_memory_mb, peak)
        self.run.save_table("history", pd.DataFrame(state.history))
        self.board.add(epoch, state.history[-1])
        # Before it the epoch is done again, after it never: what stands above must be there.
        last = checkpoints.write(self.folder / "last.ckpt", trainer.save_checkpoint)
        if self.how.keep_epochs:
            checkpoints.copy(last, _numbered(self.folder, epoch))
        # After last.ckpt: cut short in between, the best weights are those that it holds.
        if validated and state.best_epoch == epoch and self.check.by != "last":
            backbones.save(method.kept, self.best, _so_far(self.key, epoch), _heads(method))
        self._log(state.history[-1], seconds)
        trainer.should_stop = self.is_done()
        self.began, self.images, self.rates = time.monotonic(), 0, {}

    def _rates(self, trainer: L.Trainer) -> dict[str, float]:
        first = trainer.optimizers[0].param_groups[0].get("name", "")
        named = {f"lr/{name}": rate for name, rate in self.rates.items() if name not in ("", first)}
        return {"lr": self.rates[first], **named}

    def _validate(
        self, trainer: L.Trainer, method: L.LightningModule, epoch: int
    ) -> dict[str, float]:
        """Measure, if it is time to, and compare with the best epoch so far."""
        check, state, ends = self.check, self.state, epoch + 1 == self.how.epochs
        if check is None or check.by == "last":
            state.best_epoch = epoch
        if check is None or not (ends or (epoch + 1) % check.every == 0):
            return {}
        modes = {module: module.training for module in method.modules()}
        method.eval()
        with torch.no_grad():
            found = _measured(check, trainer.strategy.root_device)
        method.to(trainer.strategy.root_device)
        for module, mode in modes.items():  # a frozen part may be in eval mode
            module.training = mode
        if check.by != "last":
            value = float(found[check.by])
            worth = -math.inf if math.isnan(value) else -value if check.by == "loss" else value
            state.stale += 1
            if state.best_epoch is None or worth > state.best:
                state.best, state.best_epoch, state.stale = worth, epoch, 0
            if (plateau := getattr(method, "plateau", None)) is not None:
                plateau.step(value)
                state.plateau = plateau.state_dict()
        return {f"val/{name}": float(value) for name, value in found.items()}

    def _log(self, row: dict[str, float], seconds: float) -> None:
        log, state, epochs = self.run.logger, self.state, self.how.epochs
        said = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
        left = (epochs - row["epoch"] - 1) * state.seconds / len(state.history)
        pace = f"{seconds:.1f} s, {self.images / seconds:.0f} images/s, {progress.span(left)} left"
        log.info("epoch %d of %d: %s (%s)", row["epoch"] + 1, epochs, said, pace)
        if self.is_done() and row["epoch"] + 1 < epochs:
            tries = f"{state.stale} validations without a gain in {self.check.by}"
            log.info("the fit ends here: %s since epoch %d", tries, state.best_epoch + 1)

    def on_save_checkpoint(self, trainer: L.Trainer, module: object, checkpoint: dict) -> None:
        checkpoint["clipfh"] = asdict(self.state)

    # --- at the end of the fit ------------------------------------------------------------------

    def keep_best(self, method: L.LightningModule) -> None:
        """Give the method the best epoch's weights, and write them as those of a finished fit."""
        state, heads = self.state, _heads(method)
        if state.best_epoch != state.history[-1]["epoch"]:
            key = _so_far(self.key, state.best_epoch)
            if not any(
                backbones.restore(method.kept, self.best, k, heads) for k in (key, self.key)
            ):
                raise InputError(f"{self.best} was changed while the fit ran: run it again")
        self.run.save_table("history", pd.DataFrame(state.history))
        content = {"key": self.key, "facts": state.facts()}
        content["history_sha256"] = files.sha256(self.run.folder / "history.csv")
        files.write_sealed(self.folder / "fit.json", content)
        backbones.save(method.kept, self.best, self.key, heads)


def _reseed(seed: int, device: torch.device) -> None:
    """Seed what draws; torch.manual_seed would take a millisecond for devices that are not used."""
    torch.default_generator.manual_seed(seed)
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def _deterministic() -> Iterator[None]:
    """The same bits each time; what comes after the fit goes on as it was.

    Memory that nobody reads need not be filled, which is part of torch's setting and takes time.
    """
    memory, before = torch.utils.deterministic, torch.are_deterministic_algorithms_enabled()
    filled, memory.fill_uninitialized_memory = memory.fill_uninitialized_memory, False
    try:
        yield
    finally:
        memory.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(before)


def _measured(check: Check, target: torch.device) -> dict[str, float]:
    try:
        return check.measure()
    except (RuntimeError, MemoryError) as error:
        if not _is_memory(error):
            raise
        raise InputError(
            f"out of memory on {target} in the validation: choose a smaller embed.batch"
        ) from None


def _logged(trainer: L.Trainer) -> dict[str, float]:
    """Means over the epoch of all that the method logged."""
    logged = trainer.callback_metrics
    twice = {f"{name}_{part}" for name in logged for part in ("step", "epoch")}  # if both are
    return {name: float(value) for name, value in logged.items() if name not in twice}


def _is_memory(error: Exception) -> bool:
    """Whether an error says that memory is used up; the CPU's allocator has no class of its own."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    signs = ("DefaultCPUAllocator", "ALLOC_FAILED", "out of memory")
    return any(sign in str(error) for sign in signs)
