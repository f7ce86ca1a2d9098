"""How far a fit is: a bar where somebody watches, TensorBoard's files beside the history."""

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from torch.utils.tensorboard import SummaryWriter

from clipfh_lib import files

REFRESH = 0.2  # seconds between two drawings of the bar, each of which waits for a GPU


class Board:
    """TensorBoard's file of a fit from an epoch on; what earlier files say of it is passed over.

    Raises:
        InputError: the disk takes no more; so has `add`.
    """

    def __init__(self, folder: Path, epoch: int):
        self.folder = files.make(folder)
        try:
            self.writer = SummaryWriter(str(folder), purge_step=epoch)
        except OSError as error:
            raise files.unwritable(folder, error) from None

    def add(self, epoch: int, row: dict[str, float]) -> None:
        """Write one epoch's row of the history."""
        try:
            for name, value in row.items():
                if name != "epoch":
                    self.writer.add_scalar(name, value, epoch)
            self.writer.flush()
        except OSError as error:
            raise files.unwritable(self.folder, error) from None

    def close(self) -> None:
        """Write what is left, if the disk takes it."""
        with suppress(OSError):
            self.writer.close()


class Bar(TQDMProgressBar):
    """A bar for each epoch: batches a second, loss, rate, and the time that is left of the fit."""

    def init_train_tqdm(self) -> Tqdm:
        """The bar, on stderr."""
        where = {"file": sys.stderr, "leave": True, "dynamic_ncols": True}
        return Tqdm(desc="fit", bar_format=self.BAR_FORMAT, smoothing=0, **where)

    def on_train_start(self, trainer: L.Trainer, *args: object) -> None:
        """Look at the clock."""
        super().on_train_start(trainer, *args)
        self.first, self.began, self.drawn = trainer.current_epoch, time.monotonic(), 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, *args: object) -> None:
        """Begin the bar anew."""
        super().on_train_epoch_start(trainer, *args)
        name = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
        self.train_progress_bar.set_description(name)

    def on_train_batch_end(
        self, trainer: L.Trainer, method: object, outputs: object, batch: object, number: int
    ) -> None:
        """Draw it, now and then."""
        last = number + 1 == self.total_train_batches
        if last or time.monotonic() - self.drawn > REFRESH:
            super().on_train_batch_end(trainer, method, outputs, batch, number)
            self.drawn = time.monotonic()

    def get_metrics(self, trainer: L.Trainer, method: L.LightningModule) -> dict[str, str]:
        """What stands behind the bar."""
        shown = {
            name: f"{float(value):.4g}" for name, value in trainer.progress_bar_metrics.items()
        }
        steps, epoch = self.total_train_batches, trainer.current_epoch - self.first
        done = epoch * steps + self.train_progress_bar.n
        left = (trainer.max_epochs - self.first) * steps - done
        seconds = (time.monotonic() - self.began) / max(done, 1) * left
        rate = f"{trainer.optimizers[0].param_groups[0]['lr']:.3g}"
        return {**shown, "lr": rate, "fit": f"{span(seconds)} left"}


def span(seconds: float) -> str:
    """A duration, in seconds or minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def is_watched() -> bool:
    """Whether somebody sees a bar: a terminal, or a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return sys.stderr.isatty() or hasattr(shell, "kernel")


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's lines on devices, tips and workers; warnings of ours are kept."""
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        try:
            yield
        finally:
            logger.setLevel(before)
