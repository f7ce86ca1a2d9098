"""Fits that were killed, changed or damaged: they end with the same bits, or say why not."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import tiny_fit
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_fit import EPOCHS, LR, STEPS, WHAT, fit, scripted, validated

from clipfh_lib import files
from clipfh_lib.files import InputError
from clipfh_lib.methods import training
from clipfh_lib.models import checkpoints

MOMENTS = ["step03", "step07", *(f"write{number:02d}" for number in range(1, 18)), "full04"]


def weights(run):
    """Key and tensors of a run's best weights."""
    path = run.folder / "checkpoints" / "best.safetensors"
    with safe_open(path, "pt") as file:
        key = file.metadata()["key"]
    return key, {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}


def log(run):
    return (run.folder / "log.txt").read_text()


def stop():
    raise KeyboardInterrupt


@pytest.fixture
def unbroken(drawn):
    return fit(drawn, "unbroken")


@pytest.fixture
def chosen(drawn):
    """As unbroken, with heads, validation, and checkpoints of all epochs."""
    return validated(drawn, "chosen")


# --- killed --------------------------------------------------------------------------------------


def test_a_fit_killed_at_any_moment_goes_on_and_ends_with_the_same_bits(chosen, drawn):
    program = [sys.executable, tiny_fit.__file__, drawn, "killed", *MOMENTS]
    slurm = {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "job"}
    done = subprocess.run(program, env={**os.environ, **slurm}, capture_output=True, text=True)
    said = done.stdout.splitlines()
    where = dict(line.split() for line in said if line.count(" ") == 1)
    assert where["write06"] == "last.ckpt" and where["write07"] == "epoch_001.ckpt"
    assert where["write08"] == "best.safetensors" == where["write17"]
    assert {line.split(" ended by ")[0] for line in said if "ended by 9" in line} == {*MOMENTS[:-1]}
    quiet = [line for line in done.stderr.replace("\r", "\n").splitlines() if "decode" not in line]
    assert not "".join(quiet).strip()  # no bar where nobody watches, no word of Lightning's
    full = next(line for line in said if line.startswith("full04 said"))
    assert "last.ckpt cannot be written (" in full and "what stood there is kept" in full

    expected, text = weights(chosen[0]), (chosen[0].folder / "history.csv").read_bytes()
    for moment in MOMENTS:
        run, method, history = validated(drawn, f"killed/{moment}")
        assert weights(run) == expected, moment
        head = method.state_dict()["heads.0.weight"].numpy()
        assert head.tobytes() == expected[1]["heads.0.weight"], moment
        pd.testing.assert_frame_equal(history, chosen[2])
        assert (run.folder / "history.csv").read_bytes() == text, moment
        assert len(list(run.folder.glob("checkpoints/*"))) == EPOCHS + 3, moment
        assert run.facts["best_epoch"] == 1
        first = EPOCHS - len(method.rates) // STEPS  # no epoch is done again that need not be
        assert method.epochs == list(range(first, EPOCHS)), moment
        assert run.facts["resumed_at"] == ([first] if 0 < first < EPOCHS else []), moment
        board = EventAccumulator(str(run.folder / "tensorboard")).Reload()
        assert [point.step for point in board.Scalars("train/loss")] == list(range(EPOCHS)), moment


def test_a_fit_that_is_interrupted_by_hand_stays_interruptible_and_goes_on(unbroken, drawn):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(drawn, "stopped", at={2 * STEPS + 1: stop})
    assert signal.getsignal(signal.SIGINT) is before
    run, method, _ = fit(drawn, "stopped")
    assert len(method.rates) == 2 * STEPS and weights(run) == weights(unbroken[0])


def test_a_plateau_remembers_what_it_saw_and_the_rate_that_it_set(drawn):
    values = [0.5, 0.4, 0.3, 0.2]  # each is worse than the first
    how = {"check": scripted(values), "plateau": True}
    expected, _, history = fit(drawn, "plateau", **how)
    assert history["lr"].tolist() == pytest.approx([LR, LR, LR / 2, LR / 4])
    with pytest.raises(KeyboardInterrupt):
        fit(drawn, "stopped", at={2 * STEPS: stop}, **how)
    run, method, resumed = fit(drawn, "stopped", **how)
    assert method.plateau.best == 0.5 and len(method.rates) == 2 * STEPS
    pd.testing.assert_frame_equal(resumed, history)
    assert weights(run) == weights(expected)


def test_another_number_of_threads_is_told(drawn, caplog):
    with pytest.raises(KeyboardInterrupt):
        fit(drawn, "threads", at={0: lambda: time.sleep(0.3), 2 * STEPS: stop})
    count = torch.get_num_threads()
    try:
        torch.set_num_threads(count + 1)
        run, _, _ = fit(drawn, "threads")
    finally:
        torch.set_num_threads(count)
    assert f"the fit began with {count} threads and goes on with {count + 1}: its" in log(run)
    assert run.facts["fit_threads"] == count + 1 and run.facts["resumed_at"] == [2]
    assert run.facts["fit_seconds"] >= 0.3  # before and after


# --- damaged -------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "one bit", "of older code"])
def test_a_damaged_checkpoint_starts_the_fit_anew_and_is_told_of(unbroken, drawn, damage):
    with pytest.raises(KeyboardInterrupt):
        fit(drawn, "damaged", at={STEPS + 1: stop})
    folder = Path("damaged", *unbroken[0].folder.parts[-3:])
    last = folder / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "one bit":
        tensor = torch.load(last, weights_only=True)["state_dict"]["encoder.5.weight"]
        content[content.index(tensor.numpy().tobytes()) + 100] ^= 1
    last.write_bytes(content)
    if damage == "of older code":
        checkpoints.write(last, lambda path: torch.save({"clipfh": {"key": "k"}}, path))
    run, method, history = fit(drawn, "damaged")
    assert "checkpoints/last.ckpt is damaged (" in log(run) and "starts anew" in log(run)
    assert len(method.rates) == EPOCHS * STEPS and len(history) == EPOCHS
    assert weights(run) == weights(unbroken[0]) and run.facts["resumed_at"] == []


def test_weights_that_were_cut_short_are_made_again_from_the_checkpoint(unbroken, drawn):
    expected = weights(unbroken[0])
    best = unbroken[0].folder / "checkpoints" / "best.safetensors"
    best.write_bytes(best.read_bytes()[:50])
    run, method, _ = fit(drawn, "unbroken")
    assert method.rates == [] and weights(run) == expected
    assert "of another fit or damaged: made again" in log(run)


def test_a_fit_that_starts_anew_starts_from_the_weights_that_it_was_given(chosen, drawn):
    """Its finished weights are whole, and yet of no use."""
    expected = weights(chosen[0])
    (chosen[0].folder / "history.csv").write_text("epoch\n0\n")
    (chosen[0].folder / "checkpoints" / "last.ckpt").unlink()
    run, method, history = validated(drawn, "chosen")
    assert len(method.rates) == EPOCHS * STEPS and weights(run) == expected
    pd.testing.assert_frame_equal(history, chosen[2])


def test_a_full_disk_at_a_resume_is_told_and_leaves_what_is_there(chosen, drawn, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        validated(drawn, "full", at={2 * STEPS: stop})
    folder = Path("full", *chosen[0].folder.parts[-3:]).resolve() / "checkpoints"
    (folder / "best.safetensors").unlink()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(InputError, match="No space left on device"):
        patch.setattr(training.backbones, "save_file", full)
        validated(drawn, "full")
    run, method, _ = validated(drawn, "full")
    assert method.epochs == [2, 3] and weights(run) == weights(chosen[0])


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("damage", ["gone", "one bit", "of another epoch"])
def test_best_weights_that_are_gone_come_from_their_epoch_or_the_fit_starts_anew(
    chosen, drawn, kept, damage
):
    """Stopped in the last epoch, when the best weights so far are those of the second."""
    loop = {"keep_epochs": kept}
    with pytest.raises(KeyboardInterrupt):
        validated(drawn, "stopped", at={3 * STEPS: stop}, loop=loop)
    folder = Path("stopped", *chosen[0].folder.parts[-3:]) / "checkpoints"
    best = folder / "best.safetensors"
    assert best.is_file() and weights_key(best) != weights(chosen[0])[0]  # not yet the end
    if damage == "gone":
        best.unlink()
    elif damage == "one bit":
        content = bytearray(best.read_bytes())
        content[-100] ^= 1
        best.write_bytes(content)
    else:
        method = tiny_fit.TinyFit(heads=True)
        key = weights_key(best).replace("epoch 1", "epoch 0")
        training.backbones.save(method.kept, best, key, method.heads)
    run, method, history = validated(drawn, "stopped", loop=loop)
    assert len(method.rates) == (1 if kept else EPOCHS) * STEPS
    assert ("needs the best weights until then, of epoch 1" in log(run)) == (not kept)
    assert ("the fit starts anew" in log(run)) == (not kept)
    assert weights(run) == weights(chosen[0])
    pd.testing.assert_frame_equal(history, chosen[2])


def test_what_is_left_of_another_fit_goes_when_a_fit_starts_anew(chosen, drawn):
    folder = chosen[0].folder
    with pytest.raises(KeyboardInterrupt):
        validated(drawn, "chosen", what=WHAT | {"fit.lr": 1}, at={0: stop})
    assert not list(folder.rglob("best.safetensors")) and not list(folder.rglob("fit.json"))
    assert len(list(folder.glob("tensorboard/*"))) == 1  # of the new one


def weights_key(path):
    with safe_open(path, "pt") as file:
        return file.metadata()["key"]


def test_a_checkpoint_with_its_hash_behind_it_is_still_a_zip_file_that_torch_reads(unbroken):
    last = unbroken[0].folder / "checkpoints" / "last.ckpt"
    with zipfile.ZipFile(last) as archive:
        assert archive.testzip() is None
        assert archive.comment.decode() == hashlib.sha256(last.read_bytes()[:-64]).hexdigest()
    assert torch.load(last, weights_only=True)["clipfh"]["what"] == WHAT
    assert checkpoints.read(last)["epoch"] == EPOCHS - 1


# --- of other parameters -------------------------------------------------------------------------


def test_a_fit_of_other_parameters_is_not_taken_up_and_the_difference_is_shown(unbroken, drawn):
    _, before = weights(unbroken[0])
    other = WHAT | {"fit.lr": LR / 2, "code.clipfh_lib.models.losses": "2", "new": "x"}
    del other["split"]
    run, method, history = fit(drawn, "unbroken", other, lr=LR / 2)
    key, others = weights(run)
    assert key != files.digest(WHAT) and len(method.rates) == EPOCHS * STEPS == 20
    assert others != before
    assert max(method.rates) == LR / 2 and len(history) == EPOCHS
    assert (
        "last.ckpt is of other parameters (fit.lr: 0.01 there, 0.005 here; split: s there, nothing "
        "here; new: nothing there, x here; code: models.losses); the fit starts anew"
    ) in log(run)
    board = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert len(board.Scalars("lr")) == EPOCHS and board.Scalars("lr")[0].value < LR


def test_numbered_checkpoints_are_kept_only_when_asked_for(unbroken, chosen):
    def kept(run):
        return sorted(path.name for path in (run.folder / "checkpoints").glob("*.ckpt"))

    assert kept(unbroken[0]) == ["last.ckpt"]
    numbered = [f"epoch_{epoch:03d}.ckpt" for epoch in range(EPOCHS)]
    assert kept(chosen[0]) == [*numbered, "last.ckpt"]
    for epoch, name in enumerate(numbered):
        assert checkpoints.read(chosen[0].folder / "checkpoints" / name)["epoch"] == epoch


@pytest.mark.parametrize("absolute", [True, False])
def test_a_fit_starts_from_a_numbered_checkpoint_in_another_run(chosen, drawn, project, absolute):
    third = chosen[0].folder / "checkpoints" / "epoch_002.ckpt"
    path = third if absolute else third.relative_to(project)
    loop = {"resume_from": str(path)}
    run, method, history = validated(drawn, "from", loop=loop)
    assert method.epochs == [3] and run.facts["resumed_at"] == [3]
    assert weights(run) == weights(chosen[0])  # of the second epoch, from the checkpoint beside
    pd.testing.assert_frame_equal(history, chosen[2])
    again, method, _ = validated(drawn, "from", loop=loop)
    assert method.epochs == [] and weights(again) == weights(chosen[0])
    (run.folder / "checkpoints" / "fit.json").unlink()
    again, method, _ = validated(drawn, "from", loop={})  # and without, from its last one
    assert method.epochs == [] and weights(again) == weights(chosen[0])


def test_a_fit_from_a_numbered_checkpoint_goes_on_from_its_own_last_one(chosen, drawn):
    first = chosen[0].folder / "checkpoints" / "epoch_000.ckpt"
    loop = {"resume_from": str(first)}
    with pytest.raises(KeyboardInterrupt):
        validated(drawn, "from", at={3 * STEPS: stop}, loop=loop)
    run, method, history = validated(drawn, "from", loop=loop)
    assert method.epochs == [3] and run.facts["resumed_at"] == [1, 3]
    assert weights(run) == weights(chosen[0])
    pd.testing.assert_frame_equal(history, chosen[2])


def test_a_numbered_checkpoint_comes_before_a_later_last_one(chosen, drawn):
    with pytest.raises(KeyboardInterrupt):
        validated(drawn, "back", at={3 * STEPS: stop})
    first = Path("back", *chosen[0].folder.parts[-3:], "checkpoints", "epoch_000.ckpt").resolve()
    run, method, history = validated(drawn, "back", loop={"resume_from": str(first)})
    assert method.epochs == [1, 2, 3] and run.facts["resumed_at"] == [1]
    assert weights(run) == weights(chosen[0])
    pd.testing.assert_frame_equal(history, chosen[2])


def test_a_numbered_checkpoint_that_does_not_fit_is_refused_with_the_reason(chosen, drawn):
    folder = chosen[0].folder / "checkpoints"
    third = folder / "epoch_002.ckpt"

    def refused(**how):
        with pytest.raises(InputError, match="^fit.resume_from: ") as error:
            validated(drawn, "from", **{"loop": {"resume_from": str(third)}} | how)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "there is no file" in refused(loop={"resume_from": "outputs/none.ckpt"})
    other = WHAT | {"fit.lr": 0.5}
    assert "of other parameters (fit.lr: 0.01 there, 0.5 here)" in refused(what=other)
    (folder / "epoch_001.ckpt").rename(folder / "elsewhere")
    assert "needs the best weights until then, of epoch 1" in refused()
    third.write_bytes(third.read_bytes()[:-1])
    assert "is damaged (it is not what was written)" in refused()
    assert not list(Path("from").rglob("best.safetensors"))


def test_a_checkpoint_with_two_names_is_one_file(tmp_path):
    source = checkpoints.write(tmp_path / "last.ckpt", lambda path: torch.save({"a": 1}, path))
    copy = checkpoints.copy(source, tmp_path / "epoch_000.ckpt")
    assert copy.samefile(source)
    checkpoints.write(source, lambda path: torch.save({"a": 2}, path))
    assert (checkpoints.read(copy), checkpoints.read(source)) == ({"a": 1}, {"a": 2})


def test_without_hard_links_a_checkpoint_is_copied(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links on this disk")

    source = checkpoints.write(tmp_path / "last.ckpt", lambda path: torch.save({"a": 1}, path))
    monkeypatch.setattr(os, "link", refuse)
    assert checkpoints.read(checkpoints.copy(source, tmp_path / "b.ckpt")) == {"a": 1}
