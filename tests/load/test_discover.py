"""What `nndiag init` finds in a folder, by reading only."""

from nndiag.load.discover import discover


def test_a_training_script_and_its_log_are_found(tmp_path):
    (tmp_path / "train.py").write_text(
        "raise SystemExit('must not run')\n"
        "class Net(nn.Module):\n    def __init__(self, width=64): ...\n"
        "def make_loader(): ...\ndef val_loader(): ...\ndef test_data(): ...\ndef main(): ...\n"
    )
    (tmp_path / "log.csv").write_text("step,train_loss\n0,1.0\n")
    (tmp_path / "table.csv").write_text("a,b\n0,1\n")
    found = discover(tmp_path)
    assert found.models == ("train.py:Net",)
    assert found.data == ("train.py:make_loader",)
    assert found.curves == ("log.csv",)
