"""What entropy-floor reads, by the names that files give to things."""

import numpy as np
import pytest

from nndiag.core.errors import NndiagError, UsageError
from nndiag.load.bundled import digits
from nndiag.load.labels import entropy_inputs


def test_an_archive_gives_labels_and_the_inputs_beside_them(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 2)), y=[0, 1, 2])
    inputs = entropy_inputs(str(tmp_path / "a.npz"))
    assert inputs["labels"].whole().tolist() == [0, 1, 2]
    assert inputs["x"].shape == (3, 2)


def test_unnamed_arrays_are_inputs_and_labels_in_that_order(tmp_path):
    np.savez(tmp_path / "a.npz", np.zeros((3, 2)), np.array([0, 1, 2]))
    assert entropy_inputs(str(tmp_path / "a.npz"))["labels"].whole().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "spec", "expected"),
    [
        ("id,feature,label\n0,3.5,1\n1,2.5,0\n", "", [[1], [0]]),
        ("label,p0,p1\n1,0.4,0.6\n0,0.7,0.3\n", ":p0,p1", [[0.4, 0.6], [0.7, 0.3]]),
        ("file,p0,p1\na,0.4,0.6\nb,0.7,0.3\n", "", [[0.4, 0.6], [0.7, 0.3]]),
    ],
)
def test_columns_of_labels_are_found(tmp_path, text, spec, expected):
    (tmp_path / "t.csv").write_text(text)
    assert entropy_inputs(f"{tmp_path}/t.csv{spec}")["labels"].whole().tolist() == expected


def test_class_weights_come_as_a_list_or_a_file(tmp_path):
    np.save(tmp_path / "w.npy", [1.0, 2.5])
    assert entropy_inputs(None, class_weights="1,2.5")["class_weights"] == [1.0, 2.5]
    assert entropy_inputs(None, class_weights=str(tmp_path / "w.npy"))["class_weights"] == [1.0, 2.5]


@pytest.mark.parametrize("weights", ["1,x", "0,0", "1,nan"])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(UsageError):
        entropy_inputs(None, class_weights=weights)


def test_stdin_is_read_for_one_thing_only():
    with pytest.raises(UsageError):
        entropy_inputs("-", predictions="-")


def test_the_bundled_digits_are_the_ones_that_scikit_learn_ships():
    from sklearn.datasets import load_digits

    ours, theirs = digits(), load_digits()
    assert np.array_equal(ours.x * 16, theirs.data)
    assert np.array_equal(ours.y, theirs.target)
    assert ours.soft.sum(1) == pytest.approx(np.ones(1797), abs=1e-12)


def test_class_names_become_ids_in_the_order_of_the_names(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(
        "id,label\n" + "".join(f"{i},{name}\n" for i, name in enumerate(["dog", "cat", "cat", "owl", "dog"] * 2))
    )
    for spec in (str(path), f"{path}:label"):
        source = entropy_inputs(spec)["labels"]
        assert source.whole().tolist() == [1, 0, 0, 2, 1] * 2
        assert source.columns == ("cat", "dog", "owl")


def test_a_text_of_its_own_in_every_row_is_no_class(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("label\n" + "".join(f"image{i}\n" for i in range(20)))
    with pytest.raises(NndiagError, match="no classes"):
        entropy_inputs(str(path))
