"""Loss curves from the logs that trainers write."""

import json

import numpy as np
import pytest

from nndiag.core.errors import NndiagError, UsageError
from nndiag.load.curves import load_curve


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return str(path)


def test_a_csv_column_with_its_steps_and_digits(tmp_path):
    curve = load_curve(
        write(tmp_path, "run.csv", "epoch,step,val_loss,train_loss\n0,10,3,2.30\n0,20,3,2.25\n") + ":train_loss"
    )
    assert curve.values.tolist() == [2.30, 2.25]
    assert curve.steps.tolist() == [10, 20]
    assert curve.rounding == pytest.approx(0.005)


def test_the_training_loss_is_taken_when_no_column_is_named(tmp_path):
    assert load_curve(write(tmp_path, "run.csv", "step,val_loss,loss\n0,1,2\n1,1,3\n")).values.tolist() == [2, 3]


@pytest.mark.parametrize(
    "text",
    [
        "Epoch,Train Loss,Val Loss\n0,2,3\n1,3,3\n",
        '"Step","run-1 - train/loss","run-1 - train/loss__MIN","run-1 - train/loss__MAX"\n0,2,1,4\n1,3,1,4\n',
        "Wall time,Step,Value\n1.5e9,0,2\n1.5e9,1,3\n",
    ],
)
def test_the_columns_of_other_loggers(tmp_path, text):
    curve = load_curve(write(tmp_path, "run.csv", text))
    assert curve.values.tolist() == [2, 3]
    assert curve.steps.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("iter 0: loss 2.31, time 5.2ms\niter 10: loss 2.1, time 5.0ms\n", [0, 10]),
        ("step 0: train loss 2.31, val loss 3.5\nstep 250: train loss 2.1, val loss 3.1\n", [0, 250]),
        ("Train Epoch: 1 [0/60000 (0%)]\tLoss: 2.31\nTrain Epoch: 1 [640/60000 (1%)]\tLoss: 2.1\n", [1, 2]),
        ("{'loss': 2.31, 'epoch': 0.1}\nsaving …\n{'loss': 2.1, 'epoch': 0.2}\n", [1, 3]),
    ],
)
def test_what_a_script_printed(tmp_path, text, steps):
    curve = load_curve(write(tmp_path, "train.log", text))
    assert curve.values.tolist() == [2.31, 2.1]
    assert curve.steps.tolist() == steps
    assert curve.rounding == pytest.approx(0.005)


def test_a_printed_nan_names_its_line(tmp_path):
    with pytest.raises(NndiagError, match="nan at line 2"):
        load_curve(write(tmp_path, "train.log", "epoch 1 loss 2.3\nepoch 2 loss nan\nepoch 3 loss nan\n"))


def test_two_runs_in_one_export_are_asked_about(tmp_path):
    text = '"Step","a - train/loss","b - train/loss"\n0,2,1\n1,3,1\n'
    with pytest.raises(UsageError, match="which column"):
        load_curve(write(tmp_path, "run.csv", text))


def test_lightnings_empty_cells_are_no_values(tmp_path):
    text = "epoch,step,train_loss_epoch,val_loss\n0,9,,1.5\n0,9,2.0,\n1,19,,1.4\n1,19,1.8,\n"
    curve = load_curve(write(tmp_path, "metrics.csv", text) + ":train_loss_epoch")
    assert curve.values.tolist() == [2.0, 1.8]
    assert curve.steps.tolist() == [9, 19]


def test_hugging_faces_trainer_state(tmp_path):
    mean = {"train_loss": 2.2, "train_runtime": 9.0, "step": 20}  # the summary of a run that has ended
    log = [{"loss": 2.3, "step": 10}, {"eval_loss": 9.0, "step": 10}, {"loss": 2.1, "step": 20}, mean]
    state = {"log_history": log}
    curve = load_curve(write(tmp_path, "trainer_state.json", state))
    assert curve.values.tolist() == [2.3, 2.1]
    assert curve.steps.tolist() == [10, 20]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("history.json", {"loss": [2.3, 2.1], "accuracy": [0.1, 0.2]}),
        ("log.jsonl", '{"step": 1, "loss": 2.3}\n{"step": 2}\n{"step": 3, "loss": 2.1}\n'),
        ("list.json", [2.3, 2.1]),
        ("records.json", [{"loss": 2.3}, {"loss": 2.1}]),
        ("plain.txt", "2.3\n2.1\n"),
    ],
)
def test_other_logs(tmp_path, name, content):
    assert load_curve(write(tmp_path, name, content)).values.tolist() == [2.3, 2.1]


def test_a_saved_array(tmp_path):
    np.save(tmp_path / "losses.npy", [2.3, 2.1])
    assert load_curve(str(tmp_path / "losses.npy")).values.tolist() == [2.3, 2.1]


@pytest.mark.parametrize(
    ("column", "unit"), [("train_ppl", "perplexity"), ("val_bpc", "bits"), ("train_loss", ""), ("orbits", "")]
)
def test_a_name_may_tell_the_unit(tmp_path, column, unit):
    assert load_curve(write(tmp_path, "run.csv", f"{column},x\n3.5,1\n3.4,2\n") + f":{column}").unit == unit


@pytest.mark.parametrize("kind", ["scalars", "tensors"])
def test_tensorboard_events(tmp_path, kind):
    pytest.importorskip("tensorboard")
    from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path))
    for step, loss in enumerate([2.5, 2.25]):
        if kind == "scalars":
            item = summary_pb2.Summary.Value(tag="train/loss", simple_value=loss)
        else:
            tensor = tensor_pb2.TensorProto(
                dtype=types_pb2.DT_FLOAT, tensor_shape=tensor_shape_pb2.TensorShapeProto(), float_val=[loss]
            )
            item = summary_pb2.Summary.Value(tag="train/loss", tensor=tensor)
        writer.add_event(event_pb2.Event(step=step, wall_time=1.0 + step, summary=summary_pb2.Summary(value=[item])))
    writer.close()
    assert load_curve(f"{tmp_path}:train/loss").values.tolist() == [2.5, 2.25]


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("step,a,b\n0,1,2\n1,2,3\n", UsageError, "which column"),
        ("step,loss\n0,2.3\n", NndiagError, "1 value"),
        ("step,loss\n0,2.3\n1,inf\n", NndiagError, "inf at line 3"),
        ("step,loss\n0,2.3\n1,x\n", NndiagError, "line 3"),
    ],
)
def test_what_is_no_curve_says_why(tmp_path, text, error, said):
    with pytest.raises(error, match=said):
        load_curve(write(tmp_path, "run.csv", text))
