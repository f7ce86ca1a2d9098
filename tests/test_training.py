"""What a fit does while nobody disturbs it, and what it says when it cannot go on."""

import math
import os
import pty
import re
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_fit
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_fit import EPOCHS, LR, RISES_AND_FALLS, STEPS, WHAT, fit, scripted, validated
from torch import nn

from clipfh_lib import files
from clipfh_lib.files import InputError
from clipfh_lib.methods.training import Check
from clipfh_lib.models import backbones
from clipfh_lib.schema import ModelParams


def weights(run):
    """Key and tensors of a run's best weights."""
    path = run.folder / "checkpoints" / "best.safetensors"
    with safe_open(path, "pt") as file:
        key = file.metadata()["key"]
    return key, {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}


def log(run):
    return (run.folder / "log.txt").read_text()


def held(module):
    return {name: tensor.numpy().tobytes() for name, tensor in module.state_dict().items()}


@pytest.fixture
def unbroken(drawn):
    return fit(drawn, "unbroken")


# --- history and weights -------------------------------------------------------------------------


def test_a_fit_keeps_the_weights_it_ends_with_and_its_history(unbroken, drawn):
    run, method, history = unbroken
    key, kept = weights(run)
    assert key == files.digest(WHAT)
    assert kept == held(method.encoder)
    assert not method.training and not method.encoder.training
    pd.testing.assert_frame_equal(history, pd.read_csv(run.folder / "history.csv"))
    assert history["epoch"].tolist() == list(range(EPOCHS))
    assert history["train/step"].tolist() == [STEPS * e + (STEPS - 1) / 2 for e in range(EPOCHS)]
    assert list(history) == ["epoch", "lr", "train/loss", "train/step"]
    losses = np.reshape(method.losses, (EPOCHS, STEPS)).mean(axis=1)
    assert history["train/loss"].tolist() == pytest.approx(losses.tolist())
    assert history["train/loss"].iloc[-1] < history["train/loss"].iloc[0]
    said = re.findall(rf"epoch \d of {EPOCHS}: lr .*, train/step .* images/s, 0 s left\)", log(run))
    assert len(said) == EPOCHS
    assert run.facts["best_epoch"] == EPOCHS - 1 and run.facts["resumed_at"] == []
    assert run.facts["fit_threads"] == 1 and run.facts["fit_seconds"] >= 0


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


def test_the_history_has_the_highest_rate_of_each_epoch_and_named_group(unbroken, drawn):
    highest = np.reshape(unbroken[1].rates, (EPOCHS, STEPS)).max(axis=1)
    assert unbroken[2]["lr"].tolist() == pytest.approx(highest.tolist())
    assert unbroken[2]["lr"].max() == LR  # what the recipe says
    _, _, history = fit(drawn, "heads", heads=True)
    assert list(history)[:3] == ["epoch", "lr", "lr/heads"]
    assert history["lr"].tolist() == pytest.approx(highest.tolist())
    assert history["lr/heads"].tolist() == pytest.approx((2 * highest).tolist())


def test_the_same_seed_trains_the_same_weights_and_another_seed_others(unbroken, drawn):
    _, expected = weights(unbroken[0])
    torch.randn(3)  # the state of the global generators does not count
    np.random.rand(3)
    assert weights(fit(drawn, "again")[0])[1] == expected
    assert weights(fit(drawn, "other", seed=1)[0])[1] != expected


def test_what_comes_after_a_fit_is_computed_as_before(drawn):
    before = torch.are_deterministic_algorithms_enabled()
    seen = []
    fit(drawn, "one", at={0: lambda: seen.append(torch.are_deterministic_algorithms_enabled())})
    assert seen == [True] and torch.are_deterministic_algorithms_enabled() is before is False
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_a_finished_fit_is_not_trained_again_and_writes_nothing(drawn):
    first, before, history = validated(drawn, "done")
    names = [path for path in first.folder.rglob("*") if path.is_file()]
    stood = {path: path.stat().st_mtime_ns for path in names}
    run, method, again = validated(drawn, "done")
    changed = {path.name for path in stood if path.stat().st_mtime_ns != stood[path]}
    assert changed == {"log.txt", "params.yaml"}  # of the run, not of the fit
    assert {path for path in run.folder.rglob("*") if path.is_file()} == set(names)
    assert method.rates == [] and not method.encoder.training
    assert run.facts == first.facts and run.facts["best_epoch"] == 1
    pd.testing.assert_frame_equal(again, history)
    assert held(method.encoder) == held(before.encoder)
    assert held(method.heads) == held(before.heads)


def test_a_history_that_was_changed_is_written_again_from_the_checkpoint(drawn):
    first, _, history = validated(drawn, "done")
    expected = weights(first)
    (first.folder / "history.csv").write_text("epoch\n0\n")
    run, method, again = validated(drawn, "done")
    pd.testing.assert_frame_equal(again, history)
    assert method.rates == [] and weights(run) == expected


def test_tensorboard_has_every_number_of_the_history_once(drawn):
    run, _, history = validated(drawn, "board", check=scripted(RISES_AND_FALLS, every=3))
    board = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert set(board.Tags()["scalars"]) == set(history) - {"epoch"}
    for name in set(history) - {"epoch"}:
        rows, points = history.dropna(subset=[name]), board.Scalars(name)
        assert [point.step for point in points] == rows["epoch"].tolist()
        assert [point.value for point in points] == pytest.approx(rows[name].tolist(), rel=1e-6)


# --- validation ----------------------------------------------------------------------------------


def test_the_best_epoch_is_kept_as_a_copy_and_not_as_the_last(drawn):
    run, method, history = validated(drawn, "best")
    assert history["val/mAP"].tolist() == RISES_AND_FALLS  # the fourth epoch only ties
    assert run.facts["best_epoch"] == 1

    def of(epoch):
        path = run.folder / "checkpoints" / f"epoch_{epoch:03d}.ckpt"
        state = torch.load(path, weights_only=True)["state_dict"]
        return {
            name.removeprefix("encoder."): tensor.numpy().tobytes()
            for name, tensor in state.items()
        }

    last, best = of(EPOCHS - 1), of(1)
    assert all(best[name] != last[name] for name in best if "num_batches" not in name)
    assert (
        weights(run)[1]
        == best
        == {
            **held(method.encoder),
            **{f"heads.{name}": value for name, value in held(method.heads).items()},
        }
    )
    assert weights(run)[0] == files.digest(WHAT)


@pytest.mark.parametrize(
    "by, values, best",
    [
        ("loss", [3.0, 1.0, 2.0, 1.0], 1),
        ("accuracy", [0.1, 0.2, 0.9, 0.9], 2),
        ("last", [0.9, 0.2, 0.3, 0.1], 3),
        ("mAP", [math.nan, 0.2, math.nan, 0.1], 1),
    ],
)
def test_a_loss_is_better_when_lower_and_all_else_when_higher(drawn, by, values, best):
    run, method, history = fit(drawn, "by", check=scripted(values, by))
    assert run.facts["best_epoch"] == best
    kept = load_file(run.folder / "checkpoints" / "best.safetensors")
    sums = sum(float(tensor.double().sum()) for tensor in kept.values())
    assert sums == pytest.approx(history["val/weights"].iloc[best], abs=1e-6)
    assert weights(run)[1] == held(method.encoder)


def test_epochs_without_validation_have_empty_cells_and_the_last_has_one(drawn):
    run, method, history = fit(drawn, "every", check=scripted([0.9, 0.1, 0.2, 0.3], every=2))
    assert history["val/mAP"].isna().tolist() == [True, False, True, False]
    assert run.facts["best_epoch"] == 3  # the first epoch was not looked at
    _, _, history = fit(drawn, "last", check=scripted([0.9, 0.1, 0.2, 0.3], every=3))
    assert history["val/mAP"].isna().tolist() == [True, True, False, False]


def test_a_fit_ends_when_the_measure_gains_no_more_and_is_finished_then(drawn):
    check = scripted([0.2, 0.5, 0.5, 0.1, 0.9, 0.9], patience=2)
    run, method, history = fit(drawn, "patience", loop={"epochs": 6}, check=check)
    assert len(history) == 4 and run.facts["best_epoch"] == 1
    assert "the fit ends here: 2 validations without a gain in mAP since epoch 2" in log(run)
    kept = weights(run)
    assert kept[1] == held(method.encoder)
    (run.folder / "checkpoints" / "fit.json").unlink()  # as if it had been killed at its end
    again, method, _ = fit(drawn, "patience", loop={"epochs": 6}, check=check)
    assert method.rates == [] and weights(again) == kept


def test_a_measure_may_move_the_encoder_and_change_its_mode(drawn):
    modes = []

    class Frozen(tiny_fit.TinyFit):
        def on_train_start(self):
            self.encoder[1].eval()  # as a frozen batch norm has it

        def training_step(self, batch, number):
            modes.append((self.training, self.encoder[0].training, self.encoder[1].training))
            return super().training_step(batch, number)

    def check(method):
        def measure():
            modes.append(("measured", method.encoder.training, torch.is_grad_enabled()))
            method.encoder.train()
            return {"mAP": 0.5}

        return Check(measure, "mAP", every=1, patience=9)

    fit(drawn, "modes", kind=Frozen, check=check, loop={"epochs": 2})
    steps = [(True, True, False)] * STEPS
    assert modes == [*steps, ("measured", False, False)] * 2


def test_weights_with_heads_load_into_a_plain_encoder(tmp_path):
    for name in ("demo_clip", "timm/mobilenetv2_050"):
        encoder, _ = backbones.load(ModelParams(name=name, weights="none"), seed=3)
        path = tmp_path / "best.safetensors"
        backbones.save(encoder, path, "key", nn.Linear(3, 2))
        assert {"heads.weight", "heads.bias"} < set(load_file(path))
        found, _ = backbones.load(ModelParams(name=name, weights=str(path)))
        assert backbones.sha256(found) == backbones.sha256(encoder)
        other, heads = backbones.load(ModelParams(name=name, weights="none"))[0], nn.Linear(3, 2)
        assert not backbones.restore(other, path, "other key", heads)
        assert backbones.sha256(other) != backbones.sha256(encoder)
        assert backbones.restore(other, path, "key", heads)
        assert backbones.sha256(other) == backbones.sha256(encoder)
        assert torch.equal(heads.weight, load_file(path)["heads.weight"])


# --- steps ---------------------------------------------------------------------------------------


def test_gradients_of_small_batches_add_up_to_those_of_a_large_one(drawn):
    _, large, _ = fit(drawn, "large", plain=True, batches=2)
    _, small, _ = fit(drawn, "small", plain=True, batches=4, loop={"accumulate": 2})
    _, plain, _ = fit(drawn, "plain", plain=True, batches=4)
    for name, tensor in large.encoder.state_dict().items():
        other = small.encoder.state_dict()[name]
        torch.testing.assert_close(other, tensor, rtol=1e-4, atol=1e-6, msg=name)
        assert not torch.allclose(plain.encoder.state_dict()[name], tensor, atol=1e-4)


def test_batches_of_one_step_draw_different_noise_and_the_same_in_another_fit(drawn):
    def numbers(outputs):
        seen = []
        at = dict.fromkeys(range(20), lambda: seen.append((torch.rand(1).item(), np.random.rand())))
        fit(drawn, outputs, at=at, loop={"accumulate": 5})
        return seen

    first = numbers("one")
    torch.manual_seed(99)
    assert len(set(first)) == len({b for _, b in first}) == 20 and first == numbers("two")


def test_a_gradient_is_cut_to_the_norm_that_was_asked_for(unbroken, drawn):
    run, method, _ = fit(drawn, "clipped", loop={"clip": 0.05})
    assert max(method.norms) < 0.05 * 1.0001 < 0.1 < min(unbroken[1].norms)
    assert weights(run)[1] != weights(unbroken[0])[1]


def test_bf16_trains_on_a_cpu_and_its_weights_are_kept_whole(unbroken, drawn):
    run, method, history = fit(drawn, "bf16", loop={"precision": "bf16"})
    assert {t.dtype for t in method.encoder.state_dict().values()} == {torch.float32, torch.int64}
    assert weights(run)[1] != weights(unbroken[0])[1]
    expected = unbroken[2]["train/loss"].to_numpy()
    np.testing.assert_allclose(history["train/loss"].to_numpy(), expected, rtol=0.02)


def test_half_precision_on_a_cpu_is_told_with_the_way_out(drawn):
    with pytest.raises(InputError, match="fit.precision: .* choose bf16"):
        fit(drawn, "half", loop={"precision": "16"})


# --- when it cannot go on ------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_fit_before_the_step(unbroken, drawn, value):
    folder = Path("spoilt", *unbroken[0].folder.parts[-3:])
    with pytest.raises(InputError) as error:
        fit(drawn, "spoilt", spoil={STEPS + 2: lambda loss: loss * value})
    said = str(error.value)
    assert f"the loss is {value} in epoch 2 of {EPOCHS}, batch 3 (images Hands/Hand_" in said
    assert "fit.lr" in said and "fit.clip 1" in said and "\n" not in said
    bad = pd.read_csv(folder / "bad_batch.csv")
    order = np.random.default_rng([0, 1]).permutation(53)[20:30].tolist()
    names = tiny_fit.make_table(drawn)["path"]
    assert bad["row"].tolist() == order and bad["image_id"].tolist() == names[order].tolist()
    run, method, _ = fit(drawn, "spoilt")
    assert len(method.rates) == (EPOCHS - 1) * STEPS  # the checkpoint of the first epoch is sound
    assert weights(run) == weights(unbroken[0]) and not (folder / "bad_batch.csv").exists()


def test_a_gradient_that_is_no_number_in_the_last_step_spoils_no_checkpoint(unbroken, drawn):
    with pytest.raises(
        InputError, match="a weight is no finite number .* in epoch 2 of 4, batch 5"
    ):
        fit(drawn, "spoilt", spoil={2 * STEPS - 1: lambda loss: loss + (loss * 0).sqrt()})
    run, method, _ = fit(drawn, "spoilt")
    assert len(method.rates) == (EPOCHS - 1) * STEPS and weights(run) == weights(unbroken[0])


@pytest.mark.parametrize("where", ["gpu", "cpu"])
def test_a_full_memory_is_told_with_the_ways_out(drawn, where):
    def fill():
        if where == "gpu":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        torch.empty(2**50)  # four petabytes

    with pytest.raises(InputError) as error:
        fit(drawn, "full", at={3: fill})
    said = str(error.value)
    assert "out of memory on cpu: make the batch smaller (fit.batch_size 32)" in said
    assert "fit.accumulate" in said and "fit.precision bf16" in said and "\n" not in said

    def check(method):
        return Check(fill, "mAP", 1, 9)

    with pytest.raises(InputError, match="out of memory on cpu in the validation: .*embed.batch"):
        fit(drawn, "full", check=check)


def test_an_error_of_the_method_stays_what_it_is(drawn):
    def fail():
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="^shapes do not fit$"):
        fit(drawn, "wrong", at={3: fail})


# --- a bar where somebody watches ----------------------------------------------------------------


def test_a_terminal_shows_a_bar_with_loss_rate_and_time_left(drawn):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (30, 200))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import tiny_fit\n"
        "tiny_fit.fit(sys.argv[2], 'bar', loop={'epochs': 2})"
    )
    program = [sys.executable, "-c", code, str(Path(tiny_fit.__file__).parent), drawn]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=theirs) as running:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # all was read
            while part := os.read(ours, 65536):
                shown += part
        os.close(ours)
        assert running.wait() == 0 and running.stdout.read() == b""
    lines = re.split("[\r\n]+", shown.decode())
    end = rf"{STEPS}/{STEPS} \[.*it/s, train/loss.*=1\.\d+, lr=0\.\d+, fit=0 s left"
    assert any(re.search("epoch 2 of 2: 100%.*" + end, line) for line in lines), lines


def test_a_step_costs_little_more_than_that_of_a_bare_loop(drawn):
    """Milliseconds of a processor; where nothing else runs about 1.5 (a step of the demo: 300)."""

    def bare(steps):
        method = tiny_fit.TinyFit().train()
        images, targets = torch.rand(2, 3, 16, 16), torch.arange(2)
        optimizer = torch.optim.AdamW(method.encoder.parameters(), lr=LR)
        for _ in range(steps):
            loss = nn.functional.cross_entropy(method.encoder(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def whole(epochs):
        outputs = f"epochs{epochs}-{time.monotonic_ns()}"
        fit(drawn, outputs, batches=26, loop={"epochs": epochs})

    def fastest(call, amount):
        took = []
        for _ in range(2):
            began = time.process_time()
            call(amount)
            took.append(time.process_time() - began)
        return min(took)

    steps = 10 * 26
    more = fastest(whole, 11) - fastest(whole, 1) - fastest(bare, steps)
    assert more / steps < 0.006
