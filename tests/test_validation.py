"""Evaluation between the steps of a training: its numbers, and what it must not change."""

import dataclasses
import json
import re
import types

import numpy as np
import published
import pytest
import tensorflow.compat.v1 as tf
from helpers import assert_equal_to_the_last_bit, evaluate, final, recorded_losses, run_graph, save_network, train

from cifar10 import evaluation, exporting, serving, validation
from cifar10.errors import RunError
from cifar10.runs import checkpoints, history, journal
from cifar10.runs import run as run_module
from cifar10.runs.run import Run

FLAGS = {"eval_every_steps": 5, "keep_best": True}


@pytest.fixture(scope="module")
def evaluated(synthetic_dir, tmp_path_factory):
    """The train_dir of a run of 12 steps, evaluated after 5, 10 and 12, with all its checkpoints."""
    train_dir = tmp_path_factory.mktemp("evaluated") / "train"
    train(synthetic_dir, train_dir, max_steps=12, save_checkpoint_steps=1, keep_checkpoints=0, **FLAGS)
    return train_dir


def evaluations(train_dir):
    lines = map(json.loads, (train_dir / history.METRICS).read_text().splitlines())
    return [line for line in lines if "precision" in line]


@pytest.mark.slow
def test_a_training_that_is_evaluated_ends_with_the_same_bits(evaluated, synthetic_dir, tmp_path):
    train(synthetic_dir, tmp_path / "plain", max_steps=12)
    assert recorded_losses(evaluated) == recorded_losses(tmp_path / "plain")
    assert_equal_to_the_last_bit(final(evaluated), final(tmp_path / "plain"))


@pytest.mark.slow
def test_its_precision_is_what_the_evaluation_script_finds_in_the_checkpoints(evaluated, synthetic_dir, tmp_path):
    """All 2,000 test images, with the moving averages; the line, the event file and the metrics say the same."""
    found = evaluations(evaluated)
    assert [(line["step"], line["images"], line["of"]) for line in found] == [(s, "test", 2000) for s in (5, 10, 12)]
    in_file = {}
    for path in (evaluated / validation.FOLDER).glob("events.out.tfevents.*"):
        for event in tf.train.summary_iterator(str(path)):
            in_file.update({(value.tag, event.step): value.simple_value for value in event.summary.value})
    for line in found[1:]:
        alone = tmp_path / str(line["step"])
        alone.mkdir()
        for file in evaluated.glob(f"model.ckpt-{line['step']}.*"):
            (alone / file.name).write_bytes(file.read_bytes())
        (result,) = evaluate(synthetic_dir, alone, tmp_path / "eval", num_examples=None)
        assert (line["step"], line["correct"], line["of"]) == (result.step, result.correct, result.total)
        np.testing.assert_allclose(in_file["Precision @ 1", line["step"]], line["precision"], rtol=1e-6)
        assert ("recall/disc", line["step"]) in in_file


@pytest.mark.slow
def test_it_prints_the_tutorials_line_and_its_time_is_not_the_trainings(synthetic_dir, tmp_path, capsys, monkeypatch):
    """On a clock that each look moves by half a second, and an evaluation by a day."""

    class Clock:
        now = 0.0

        def monotonic(self):
            self.now += 0.5
            return self.now

    clock, report = Clock(), evaluation.report

    def slow_report(*arguments):
        clock.now += 86_400.0
        return report(*arguments)

    monkeypatch.setattr(evaluation, "report", slow_report)
    for module in (validation, run_module):
        monkeypatch.setattr(module, "time", clock)
    train(synthetic_dir, tmp_path, max_steps=4, eval_every_steps=2, save_summaries_steps=1)
    lines = capsys.readouterr().out.splitlines()
    assert [bool(re.match(published.PRECISION_LINE, line)) for line in lines] == 2 * [False, False, True]
    lines = [json.loads(line) for line in (tmp_path / history.METRICS).read_text().splitlines()]
    assert max(line["sec_per_batch"] for line in lines if "loss" in line) < 60
    assert min(line["secs"] for line in lines if "precision" in line) > 86_400


@pytest.mark.slow
def test_the_best_checkpoint_is_a_folder_that_all_scripts_take(evaluated, synthetic_dir, tmp_path):
    best = max(evaluations(evaluated), key=lambda line: line["correct"])  # of equal ones the first
    folder = evaluated / validation.BEST
    assert checkpoints.paths(str(folder)) == [str(folder / f"model.ckpt-{best['step']}")]
    assert history.recorded(str(folder), "dataset") == "synthetic"
    assert f"| precision | {best['correct']} of 2000 test images |" in exporting.model_card(
        serving.TrainedNetwork(checkpoints.paths(str(folder))[0], ("a",)), {}
    )
    (result,) = evaluate(synthetic_dir, folder, tmp_path, num_examples=None)
    assert (result.step, result.correct) == (best["step"], best["correct"])
    reader, same = (tf.train.load_checkpoint(f"{d}/model.ckpt-{best['step']}") for d in (folder, evaluated))
    for name in same.get_variable_to_shape_map():
        np.testing.assert_array_equal(reader.get_tensor(name), same.get_tensor(name))


def test_a_training_ends_with_its_precision_and_the_best_one(tmp_path):
    found = dict(zip(range(1, 5), (10, 30, 30, 20), strict=True))
    stopped_at(tmp_path, found, 0, max_steps=4)
    journal.Journal(str(tmp_path / history.METRICS)).append(  # as of steps that were done again
        {"precision": 1, "step": 9, "images": "test", "correct": 1, "of": 1}
    )
    between = validation.Validation(None, "test", None, 1, keep_best=True)
    run = types.SimpleNamespace(
        train_dir=str(tmp_path / "run"), step=4, evaluations=lambda: history.evaluations(str(tmp_path))
    )
    (tmp_path / "run").mkdir()
    line = "Precision on test images: 0.200; best: 0.300, of step 2"
    for step, where in ((1, ""), (2, f", which is in {tmp_path}/run/best")):  # of which the first is an older one's
        save_network(tmp_path / "run" / "best", [step])
        assert between.summary(run) == line + where
    assert dataclasses.replace(between, keep_best=False).summary(run) == line
    assert dataclasses.replace(between, images="held_out").summary(run) is None


@pytest.mark.slow
def test_held_out_images_are_the_last_of_the_training_set(synthetic_dir, tmp_path):
    """They are the default where there are any; all 100 have labels that the evaluation script counts alike."""
    train(synthetic_dir, tmp_path / "train", max_steps=3, num_held_out=100, eval_every_steps=3)
    (line,) = evaluations(tmp_path / "train")
    assert (line["images"], line["of"]) == ("held_out", 100)
    (result,) = evaluate(synthetic_dir, tmp_path / "train", tmp_path / "eval", eval_data="held_out", num_examples=None)
    assert result.correct == line["correct"]


class Evaluator:
    """Finds precisions that are given, of 100 images."""

    restored = ()

    def __init__(self, found):
        self.graph = tf.Graph()
        self._found = found

    def evaluate_values(self, values, step):
        return evaluation.Result(step, self._found[step], 100), b""

    def close(self):
        pass


def stopped_at(train_dir, found, patience, max_steps=9):
    """Trains what is no network, evaluated after each step with {step: correct} found; returns the last step."""
    with Run(str(train_dir)) as run, tf.Graph().as_default():
        step = tf.train.get_or_create_global_step()
        between = validation.Validation(None, "test", lambda _: Evaluator(found), 1, True, patience)
        run_graph(run, step.assign_add(1), tf.constant(1.0), between, max_steps=max_steps, save_summaries_steps=0)
        return run.step


def test_training_stops_when_precision_has_not_risen_for_so_many_evaluations(tmp_path, capsys):
    found = dict(zip(range(1, 10), (10, 30, 20, 30, 40, 39, 40, 38, 50), strict=True))
    assert stopped_at(tmp_path / "two", found, 2) == 4
    assert (
        "Stopped at step 4: no precision above 0.300, of step 2, in 2 evaluations in a row" in capsys.readouterr().out
    )
    assert stopped_at(tmp_path / "three", found, 3) == 8
    assert stopped_at(tmp_path / "never", found, 0) == 9
    assert [checkpoints.step(p) for p in checkpoints.paths(str(tmp_path / "three" / "best"))] == [5]
    assert history.is_final(str(tmp_path / "three"), 8)  # so the evaluation beside it ends as well


def test_a_run_that_goes_on_remembers_what_was_best(tmp_path, capsys):
    """Interrupted after 3 steps, patience 3: as uninterrupted; begun again once it has stopped, it trains no step."""
    found = dict(zip(range(1, 10), (10, 30, 20, 30, 25, 39, 40, 38, 50), strict=True))
    assert stopped_at(tmp_path, found, 3, max_steps=3) == 3
    assert stopped_at(tmp_path, found, 3) == 5
    assert stopped_at(tmp_path, found, 3) == 5
    assert capsys.readouterr().out.count("Stopped at step 5: ") == 2
    assert stopped_at(tmp_path, found, 4, max_steps=6) == 6


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"keep_best": True}, "--keep_best: nothing is evaluated while training; give --eval_every_steps too"),
        ({"early_stopping": 2}, "--early_stopping: nothing is evaluated while training; give --eval_every_steps too"),
        ({"eval_data": "test"}, "--eval_data: nothing is evaluated while training; give --eval_every_steps too"),
        (
            {"eval_every_steps": 5, "eval_data": "held_out"},
            "--eval_data=held_out: no images are held out; give --num_held_out too",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(flags, message, synthetic_dir, tmp_path):
    with pytest.raises(RunError) as error:
        train(synthetic_dir, tmp_path / "train", max_steps=1, **flags)
    assert str(error.value) == message and not (tmp_path / "train").exists()


def test_a_best_checkpoint_that_cannot_be_written_ends_nothing(tmp_path, capsys):
    found = dict.fromkeys(range(1, 10), 10)
    tmp_path.joinpath("best").write_text("a file")
    tmp_path.joinpath(history.RECORD).write_text("")
    assert stopped_at(tmp_path, found, 0) == 9
    assert "best: cannot be written (" in capsys.readouterr().out
