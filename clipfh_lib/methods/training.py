"""One Lightning fit: optimiser groups, schedule, history, resume after a kill, weights kept."""

import hashlib
import logging
import math
import os
import random
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import nn
from torch.utils.data import DataLoader

from clipfh_lib import files
from clipfh_lib.models import backbones
from clipfh_lib.runs import Run

PRECISION = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
HEX = 64  # letters of a SHA-256
DEVICE = {"auto": "auto", "cpu": "cpu", "cuda": "gpu", "mps": "mps"}


def groups(network: nn.Module, weight_decay: float, still: tuple[str, ...] = ()) -> list[dict]:
    """Optimiser groups: no decay on biases, norms, scales and what `still` names.

    Every trainable parameter stands in exactly one group.

    Args:
        still: ends of names that get no decay either, e.g. a token table of which a batch uses few
            rows.
    """
    decayed, rest = [], []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            spared = parameter.ndim < 2 or name.endswith(still)
            (rest if spared else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0}]


def warmup_cosine(optimizer: torch.optim.Optimizer, steps: int, warmup: float) -> dict:
    """Linear warm-up over a share of the steps, then a cosine to zero; stepped per batch.

    The peak is the optimiser's own rate, reached at the end of the warm-up.
    """
    rising = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class EpochData(L.LightningDataModule):
    """A loader built anew for each epoch: a resumed fit reads what an unbroken one reads."""

    def __init__(self, make: Callable[[int], DataLoader]):
        super().__init__()
        self.make = make

    def train_dataloader(self) -> DataLoader:
        """The loader of the epoch that the trainer stands at."""
        return self.make(self.trainer.current_epoch)


class _Journal(L.Callback):
    """Reseeds each step; writes history.csv, a log line and last.ckpt at each epoch's end."""

    def __init__(self, run: Run, key: str):
        self.run, self.key = run, key
        self.last = run.folder / "checkpoints" / "last.ckpt"
        self.rows: list[dict[str, float]] = []
        self.rate = 0.0  # of the last step

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        # Lightning keeps no state of random generators: dropout and the like would go on otherwise
        # after a resume.
        step = self.run.params.seed * 1_000_003 + trainer.global_step * 7919
        torch.manual_seed(step)
        np.random.seed(step % 2**32)
        random.seed(step)
        self.rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_epoch_end(self, trainer: L.Trainer, *_: object) -> None:
        row = {"epoch": trainer.current_epoch, "lr": self.rate}
        logged = trainer.callback_metrics
        twice = {f"{name}_{part}" for name in logged for part in ("step", "epoch")}  # if both are
        row |= {name: float(value) for name, value in logged.items() if name not in twice}
        self.rows.append(row)
        self.run.save_table("history", pd.DataFrame(self.rows))
        said = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
        self.run.logger.info("epoch %d of %d: %s", row["epoch"] + 1, trainer.max_epochs, said)

        def fill(path: Path) -> None:
            trainer.save_checkpoint(path)
            _seal(path)

        files.write(self.last, fill)

    def on_save_checkpoint(self, trainer: L.Trainer, module: object, checkpoint: dict) -> None:
        checkpoint["clipfh"] = {"key": self.key, "history": self.rows}

    def on_load_checkpoint(self, trainer: L.Trainer, module: object, checkpoint: dict) -> None:
        self.rows = checkpoint["clipfh"]["history"]


def fit(
    method: L.LightningModule,
    train: Callable[[int], DataLoader],
    run: Run,
    key: str,
    epochs: int,
    precision: str = "32",
    device: str = "auto",
) -> pd.DataFrame:
    """Train, or take up a fit that was cut short, or take the weights of one that was finished.

    `method.encoder` holds the weights of the last epoch afterwards, in eval mode on the CPU; they
    stand in checkpoints/best.safetensors, with the key.

    Args:
        method: trained in place; draws nothing at random outside its steps.
        train: epoch -> loader; the same epoch gives the same batches.
        run: its folder keeps history.csv and checkpoints/.
        key: runs.key of what decides the weights; other weights are not taken up.
        epochs: of the whole fit, also when it is resumed.

    Returns:
        History, one row an epoch: `epoch` from 0, `lr` of its last step, and the mean over the
        epoch of all that the method logs.
    """
    best, history = run.folder / "checkpoints" / "best.safetensors", run.folder / "history.csv"
    if history.is_file() and backbones.restore(method.encoder, best, key):
        run.logger.info("weights of these parameters and this code are there; nothing is trained")
    else:
        if best.is_file():
            run.logger.info("checkpoints/best.safetensors is of another fit or damaged: made again")
        _train(method, train, run, key, epochs, precision, device)
        backbones.save(method.encoder, best, key)
    method.eval()
    return pd.read_csv(history)


def _train(
    method: L.LightningModule,
    train: Callable[[int], DataLoader],
    run: Run,
    key: str,
    epochs: int,
    precision: str,
    device: str,
) -> None:
    journal = _Journal(run, key)
    resumed = _can_resume(journal.last, run, key)
    interrupt = signal.getsignal(signal.SIGINT)
    with _quiet():
        trainer = L.Trainer(
            max_epochs=epochs,
            accelerator=DEVICE[device],
            devices=1,
            precision=PRECISION[precision],
            deterministic=True,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            reload_dataloaders_every_n_epochs=1,
            plugins=[LightningEnvironment()],  # a fit is one process, also within a Slurm job
            callbacks=[journal, TQDMProgressBar()],
        )
        method.train()  # Lightning leaves modules in the mode that they are in
        try:
            trainer.fit(method, EpochData(train), ckpt_path=str(journal.last) if resumed else None)
        except SystemExit as error:
            if not isinstance(error.__context__, KeyboardInterrupt):
                raise
            signal.signal(signal.SIGINT, interrupt)  # Lightning makes a notebook deaf to Ctrl-C
            raise KeyboardInterrupt("the next fit of these parameters goes on from here") from None


@contextmanager
def _quiet() -> Iterator[None]:
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


def _seal(checkpoint: Path) -> None:
    """Put the SHA-256 of a checkpoint behind it, as the comment that a zip file may end with.

    So both are moved into place as one. Torch and its check sums pass over many a changed bit.
    """
    with checkpoint.open("r+b") as file:
        file.seek(-2, os.SEEK_END)  # the length of the comment, 0 until now
        file.write(HEX.to_bytes(2, "little"))
    content = files.sha256(checkpoint)
    with checkpoint.open("ab") as file:
        file.write(content.encode())


def _is_sealed(checkpoint: Path) -> bool:
    content = np.memmap(checkpoint, np.uint8, "r")
    return hashlib.sha256(content[:-HEX]).hexdigest().encode() == content[-HEX:].tobytes()


def _can_resume(checkpoint: Path, run: Run, key: str) -> bool:
    """Whether a checkpoint of this very fit is there; a damaged one is told of."""
    if not checkpoint.is_file():
        return False
    try:
        if not _is_sealed(checkpoint):
            raise ValueError("it is not what was written")
        found = torch.load(checkpoint, map_location="cpu", weights_only=True)["clipfh"]["key"]
    except Exception as error:  # a damaged file can make a reader raise nearly anything
        reason = next(iter(str(error).splitlines()), repr(error))
        run.logger.warning("checkpoints/last.ckpt is damaged, the fit starts anew (%s)", reason)
        return False
    if found == key:
        run.logger.info("taking up the fit at checkpoints/last.ckpt")
    return found == key
