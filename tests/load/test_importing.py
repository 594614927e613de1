"""Files of packages, with relative imports and without, and folders that are importable as long as a run lasts."""

from __future__ import annotations

import sys

import pytest

from nndiag.core.errors import NndiagError
from nndiag.load.model import load_model

LAYERS = "import torch.nn as nn\n\ndef block():\n    return nn.Linear(4, 4)\n"
MODEL = "{how}\n\ndef build():\n    return block()\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("/init", "/__init__")
        path = path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("how", "target"),
    [
        ("from .layers import block", "src/vision/model.py:build"),
        ("from vision.layers import block", "src/vision/model.py:build"),
        ("from ..layers import block", "src/vision/heads/model.py:build"),
        ("from vision.layers import block", "src/vision/heads/model.py:build"),
    ],
)
def test_a_file_inside_a_package_imports_its_siblings(folder, how, target):
    write(folder, src__vision__init="", src__vision__layers=LAYERS, src__vision__heads__init="")
    path = folder / target.rpartition(":")[0]
    path.write_text(MODEL.format(how=how))
    assert load_model(target).make().out_features == 4


@pytest.mark.parametrize("name", ["parts", "code"])  # the second is a module of the standard library too
def test_relative_imports_need_no_init_file(folder, name):
    write(folder, **{f"{name}__layers": LAYERS, f"{name}__model": MODEL.format(how="from .layers import block")})
    assert load_model(f"{name}/model.py:build").make().out_features == 4


def test_a_package_that_cannot_be_imported_is_named_with_its_line(folder):
    write(folder, broken__init="import nowhere_at_all\n", broken__model=MODEL.format(how="from .layers import block"))
    with pytest.raises(NndiagError, match=r"No module named 'nowhere_at_all' \(broken/__init__.py:1\)"):
        load_model("broken/model.py:build")


def test_a_module_below_src_is_pointed_at(folder):
    write(folder, src__vision__model=LAYERS)
    with pytest.raises(NndiagError) as caught:
        load_model("vision.model:block")
    assert caught.value.hint == "did you mean src/vision/model.py:…?"


def test_two_folders_may_each_have_helpers_of_one_name_imported_late(folder):
    late = "def build():\n    import helpers\n    import torch.nn as nn\n    return nn.Linear(4, helpers.WIDTH)\n"
    write(folder, one__model=late, one__helpers="WIDTH = 1\n", two__model=late, two__helpers="WIDTH = 2\n")
    assert load_model("one/model.py:build").make().out_features == 1
    assert load_model("two/model.py:build").make().out_features == 2


def test_modules_of_a_run_in_another_directory_are_forgotten(folder, tmp_path_factory, monkeypatch):
    write(folder, first__init="", first__model=MODEL.format(how="from .layers import block"), first__layers=LAYERS)
    load_model("first/model.py:build")
    assert "first.layers" in sys.modules
    other = tmp_path_factory.mktemp("other")
    monkeypatch.chdir(other)
    write(other, alone=LAYERS)
    load_model("alone.py:block")
    assert "first.layers" not in sys.modules
    assert str(folder) not in sys.path
