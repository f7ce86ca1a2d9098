"""One Lightning fit: optimiser groups, schedule, history, resume after a kill, weights kept."""

import math
import random
import warnings
from collections.abc import Callable
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader

from clipfh_lib import files
from clipfh_lib.models import backbones
from clipfh_lib.runs import Run

PRECISION = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
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
    """Reseeds each step, and at each epoch's end writes history.csv, a log line and last.ckpt."""

    def __init__(self, run: Run, key: str, seed: int):
        self.run, self.key, self.seed = run, key, seed
        self.rows: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        step = self.seed * 1_000_003 + trainer.global_step * 7919
        torch.manual_seed(step)
        np.random.seed(step % 2**32)
        random.seed(step)

    def on_train_epoch_end(self, trainer: L.Trainer, *_: object) -> None:
        row = {"epoch": trainer.current_epoch, "lr": trainer.optimizers[0].param_groups[0]["lr"]}
        logged = trainer.callback_metrics.items()
        row |= {name: float(value) for name, value in logged if not name.endswith("_step")}
        self.rows.append(row)
        self.run.save_table("history", pd.DataFrame(self.rows))
        said = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
        self.run.logger.info("epoch %d of %d: %s", row["epoch"] + 1, trainer.max_epochs, said)

    def on_save_checkpoint(self, trainer: L.Trainer, module: object, checkpoint: dict) -> None:
        checkpoint["clipfh"] = {"key": self.key, "history": self.rows}

    def on_load_checkpoint(self, trainer: L.Trainer, module: object, checkpoint: dict) -> None:
        self.rows = checkpoint["clipfh"]["history"]


class _KeepLast(L.Callback):
    """Writes checkpoints/last.ckpt at each epoch's end, whole or not at all."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_epoch_end(self, trainer: L.Trainer, *_: object) -> None:
        files.write(self.path, lambda temporary: trainer.save_checkpoint(temporary))


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

    `method.encoder` holds the weights of the last epoch afterwards; they stand in
    checkpoints/best.safetensors, with the key.

    Args:
        method: trained in place; draws nothing at random outside its steps.
        train: epoch -> loader; the same epoch gives the same batches.
        run: its folder keeps history.csv and checkpoints/.
        key: runs.key of what decides the weights; other weights are not taken up.
        epochs: of the whole fit, also when it is resumed.

    Returns:
        History, one row an epoch.
    """
    last = run.folder / "checkpoints" / "last.ckpt"
    best = run.folder / "checkpoints" / "best.safetensors"
    if best.is_file() and backbones.read_metadata(best).get("key") == key:
        target = method.encoder
        target.load_state_dict(backbones.read_state(best))
        run.logger.info("weights of these parameters and this code are there; nothing is trained")
        return pd.read_csv(run.folder / "history.csv")
    resumed = _key(last) == key
    if resumed:
        run.logger.info("taking up the fit at checkpoints/last.ckpt")
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
        callbacks=[_Journal(run, key, run.params.seed), _KeepLast(last)],
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        trainer.fit(method, EpochData(train), ckpt_path=str(last) if resumed else None)
    backbones.save(method.encoder, best, {"key": key})
    return pd.read_csv(run.folder / "history.csv")


def _key(checkpoint: Path) -> str | None:
    if not checkpoint.is_file():
        return None
    try:
        return torch.load(checkpoint, map_location="cpu", weights_only=True)["clipfh"]["key"]
    except Exception:  # damaged, or of another version: the fit starts anew
        return None
