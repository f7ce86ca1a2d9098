import hashlib
import math
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_fit
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_fit import EPOCHS, LR, STEPS, WHAT, fit

from clipfh_lib import files
from clipfh_lib.models import backbones, optimisers
from clipfh_lib.schema import ModelParams


def weights(run):
    """Key and tensors of a run's best weights."""
    path = run.folder / "checkpoints" / "best.safetensors"
    with safe_open(path, "pt") as file:
        key = file.metadata()["key"]
    return key, {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}


@pytest.fixture
def unbroken(drawn):
    return fit(drawn, "unbroken")


def test_a_fit_keeps_the_weights_it_ends_with_and_its_history(unbroken, drawn):
    run, method, history = unbroken
    key, kept = weights(run)
    assert key == files.digest(WHAT)
    assert kept == {n: t.numpy().tobytes() for n, t in method.encoder.state_dict().items()}
    assert not method.training and not method.encoder.training
    pd.testing.assert_frame_equal(history, pd.read_csv(run.folder / "history.csv"))
    assert history["epoch"].tolist() == list(range(EPOCHS))
    assert history["train/step"].tolist() == [STEPS * e + (STEPS - 1) / 2 for e in range(EPOCHS)]
    assert list(history) == ["epoch", "lr", "train/loss", "train/step"]
    assert history["train/loss"].tolist() == pytest.approx(
        np.reshape(method.losses, (EPOCHS, STEPS)).mean(axis=1).tolist()
    )
    assert history["train/loss"].iloc[-1] < history["train/loss"].iloc[0]
    assert history["lr"].tolist() == pytest.approx(
        np.reshape(method.rates, (EPOCHS, STEPS)).max(axis=1).tolist()
    )
    log = (run.folder / "log.txt").read_text()
    assert log.count(f"of {EPOCHS}: lr ") == EPOCHS and f"epoch {EPOCHS} of {EPOCHS}" in log


def test_a_fit_trains_in_train_mode_though_the_encoder_comes_in_eval_mode(unbroken):
    _, method, _ = unbroken
    assert not torch.equal(method.encoder[1].running_mean, torch.zeros(8))


def test_the_rate_rises_to_the_configured_one_and_falls_along_a_cosine(unbroken):
    rates, steps = unbroken[1].rates, EPOCHS * STEPS
    assert len(rates) == steps == 20
    assert rates[:4] == pytest.approx([LR / 4, LR / 2, LR * 3 / 4, LR])  # a fifth of the steps
    assert max(rates) == LR
    cosine = [LR * (1 + math.cos(math.pi * k / 16)) / 2 for k in range(16)]
    assert rates[4:] == pytest.approx(cosine) and rates[-1] > 0


def test_every_trainable_parameter_stands_in_one_group_and_only_matrices_decay():
    encoder, _ = backbones.load(ModelParams(name="demo_clip", weights="none"))
    encoder.visual.proj.requires_grad_(False)
    decayed, rest = optimisers.groups(encoder, 0.2, ("token_embedding.weight",))
    assert decayed["weight_decay"] == 0.2 and rest["weight_decay"] == 0
    names = {p: name for name, p in encoder.named_parameters() if p.requires_grad}
    there = [names[p] for p in [*decayed["params"], *rest["params"]]]
    assert sorted(there) == sorted(names.values()) and "visual.proj" not in there
    assert len(there) > 80
    spared = {names[p] for p in rest["params"]}
    assert {"token_embedding.weight", "logit_scale", "visual.class_embedding"} <= spared
    for name in names.values():
        if name.endswith("bias") or ".ln_" in name or "ln_final" in name:
            assert name in spared, name
    assert {"visual.conv1.weight", "text_projection", "positional_embedding"}.isdisjoint(spared)


def test_the_same_seed_trains_the_same_weights_and_another_seed_others(unbroken, drawn):
    _, expected = weights(unbroken[0])
    torch.randn(3)  # the state of the global generators does not count
    np.random.rand(3)
    assert weights(fit(drawn, "again")[0])[1] == expected
    assert weights(fit(drawn, "other", seed=1)[0])[1] != expected


def test_a_fit_killed_in_an_epoch_goes_on_and_ends_with_the_same_bits(unbroken, drawn):
    expected = unbroken[0]
    program = [sys.executable, tiny_fit.__file__, drawn, "killed", str(STEPS + 3)]
    slurm = {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "job"}
    done = subprocess.run(program, env={**os.environ, **slurm}, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    said = (done.stdout + done.stderr).replace("\r", "\n").splitlines()
    assert not [line for line in said if line.strip() and "decode" not in line]  # nobody watches
    folder = Path("killed", *expected.folder.parts[-3:])
    assert len(pd.read_csv(folder / "history.csv")) == 1
    run, method, history = fit(drawn, "killed")
    assert run.folder == folder.resolve()
    assert len(method.rates) == EPOCHS * STEPS - STEPS  # the first epoch is not done again
    assert "taking up the fit" in (folder / "log.txt").read_text()
    assert weights(run) == weights(expected)
    pd.testing.assert_frame_equal(history, pd.read_csv(expected.folder / "history.csv"))
    assert not list(folder.rglob(".writing-*"))


def test_a_fit_that_is_interrupted_by_hand_stays_interruptible_and_goes_on(unbroken, drawn):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(drawn, "stopped", stop=2 * STEPS + 1, how="interrupt")
    assert signal.getsignal(signal.SIGINT) is before
    run, method, _ = fit(drawn, "stopped")
    assert len(method.rates) == 2 * STEPS and weights(run) == weights(unbroken[0])


def test_a_finished_fit_is_not_trained_again(unbroken, drawn):
    run, method, history = fit(drawn, "unbroken")
    assert method.rates == [] and not method.encoder.training
    assert weights(run) == weights(unbroken[0])
    pd.testing.assert_frame_equal(history, unbroken[2])
    trained = unbroken[1].encoder.state_dict()
    assert all(torch.equal(t, trained[n]) for n, t in method.encoder.state_dict().items())


def test_another_key_trains_anew(unbroken, drawn):
    _, before = weights(unbroken[0])
    run, method, history = fit(drawn, "unbroken", WHAT | {"fit.lr": LR / 2}, lr=LR / 2)
    key, others = weights(run)
    assert key != files.digest(WHAT) and len(method.rates) == EPOCHS * STEPS == 20
    assert others != before
    assert max(method.rates) == LR / 2 and len(history) == EPOCHS


@pytest.mark.parametrize("damage", ["cut", "one bit"])
def test_a_damaged_checkpoint_starts_the_fit_anew_and_is_told_of(unbroken, drawn, damage):
    with pytest.raises(KeyboardInterrupt):
        fit(drawn, "damaged", stop=STEPS + 1, how="interrupt")
    folder = Path("damaged", *unbroken[0].folder.parts[-3:])
    last = folder / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    else:
        tensor = torch.load(last, weights_only=True)["state_dict"]["encoder.5.weight"]
        content[content.index(tensor.numpy().tobytes()) + 100] ^= 1
    last.write_bytes(content)
    run, method, history = fit(drawn, "damaged")
    assert "last.ckpt is damaged" in (folder / "log.txt").read_text()
    assert len(method.rates) == EPOCHS * STEPS and len(history) == EPOCHS
    assert weights(run) == weights(unbroken[0])


def test_weights_that_were_cut_short_are_made_again_from_the_checkpoint(unbroken, drawn):
    expected = weights(unbroken[0])
    best = unbroken[0].folder / "checkpoints" / "best.safetensors"
    best.write_bytes(best.read_bytes()[:50])
    run, method, _ = fit(drawn, "unbroken")
    assert method.rates == [] and weights(run) == expected
    assert "of another fit or damaged: made again" in (run.folder / "log.txt").read_text()


def test_a_checkpoint_with_its_hash_behind_it_is_still_a_zip_file_that_torch_reads(unbroken):
    last = unbroken[0].folder / "checkpoints" / "last.ckpt"
    with zipfile.ZipFile(last) as archive:
        assert archive.testzip() is None
        assert archive.comment.decode() == hashlib.sha256(last.read_bytes()[:-64]).hexdigest()
    assert torch.load(last, weights_only=True)["clipfh"]["what"] == WHAT
