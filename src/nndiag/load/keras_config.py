"""What may a Keras file name? Only what is listed here: names found inside a file are text, and no code of its own."""

from __future__ import annotations

import json
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiag.core.errors import NndiagError
from nndiag.lab.watch.blame import said
from nndiag.load.door import inspect, open_zip, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONFIG_BYTES = 64 << 20
# Keras's own layers, without those that hold or fetch code: Lambda, TorchModuleWrapper, TFSMLayer, JaxLayer, FlaxLayer.
_LAYERS = frozenset(
    """
    Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D
    AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add AdditiveAttention AlphaDropout Attention AugMix
    AutoContrast Average AveragePooling1D AveragePooling2D AveragePooling3D BatchNormalization Bidirectional
    CategoryEncoding CenterCrop Concatenate Conv1D Conv1DTranspose Conv2D Conv2DTranspose Conv3D Conv3DTranspose
    ConvLSTM1D ConvLSTM2D ConvLSTM3D Cropping1D Cropping2D Cropping3D CutMix Dense DepthwiseConv1D DepthwiseConv2D
    Discretization Dot Dropout ELU EinsumDense Embedding Equalization Flatten GRU GRUCell GaussianDropout GaussianNoise
    GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D
    GlobalMaxPooling3D GroupNormalization GroupQueryAttention GroupedQueryAttention
    Hashing HashedCrossing Identity InputLayer IntegerLookup
    LSTM LSTMCell LayerNormalization LeakyReLU Masking MaxPooling1D MaxPooling2D MaxPooling3D Maximum MelSpectrogram
    Minimum MixUp MultiHeadAttention Multiply Normalization PReLU Permute Pipeline RMSNormalization RNN RandAugment
    RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop RandomElasticTransform
    RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert RandomPerspective
    RandomPosterization RandomRotation RandomSaturation RandomSharpness RandomShear RandomTranslation RandomZoom ReLU
    RepeatVector Rescaling Reshape Resizing ReversibleEmbedding STFTSpectrogram SeparableConv1D SeparableConv2D
    SimpleRNN SimpleRNNCell Softmax Solarization SpatialDropout1D SpatialDropout2D SpatialDropout3D
    SpectralNormalization StackedRNNCells StringLookup Subtract TextVectorization ThresholdedReLU TimeDistributed
    UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
    """.split()  # noqa: SIM905 - two hundred quotes would hide the names
)
_MODELS = frozenset({"Sequential", "Functional", "Model"})
_VALUES = frozenset({"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"})
_HELPERS = (
    "keras.initializers", "keras.regularizers", "keras.constraints", "keras.activations", "keras.dtype_policies",
    "keras.quantizers", "keras.random", "keras.losses", "keras.metrics", "keras.optimizers",
    "keras.optimizers.schedules",
)  # fmt: skip
_OPERATIONS = ("keras.src.ops.", "keras.ops.")
_FUNCTIONS = ("builtins", "keras.activations", "keras.ops", "keras.losses", "keras.metrics", "keras.initializers")
_ENDINGS = (
    zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, EOFError, ValueError, RecursionError,
)  # fmt: skip


def check_file(target: str, *, trust: bool) -> None:
    """Look at a file before Keras does: is it whole, and does its config name nothing but layers of Keras's own?

    Raises:
        NndiagError: It is damaged, no Keras file, or names something that is not on the list and is not trusted.
    """
    opened = inspect(target)
    if opened.kind == "hdf5":
        config = _config_in_h5(target)
    elif opened.kind in {"keras", "zip"}:
        config = _config_in_zip(target)
    else:
        raise NndiagError(f"'{target}' is {opened.kind}, not a Keras file", hint="write it with model.save(…)")
    if not trust:
        for problem in strangers(config):
            raise NndiagError(
                f"'{target}' names {problem}, which is code or may run some",
                hint="give the model as file.py:build, which is your own code; or --trust what the file names",
            )


def strangers(config: Any) -> Iterator[str]:
    """Yield whatever a config names that is no layer, initializer or function of Keras known to hold no code."""
    todo: list[Any] = [config]
    while todo:
        item = todo.pop()
        if isinstance(item, list):
            todo += item
        elif isinstance(item, dict):
            if "class_name" in item and not _known(item):
                yield _described(item)
            todo += [value for key, value in item.items() if key != "compile_config"]  # optimizer and loss: not loaded


def _known(item: dict[str, Any]) -> bool:
    kind, module = item["class_name"], item.get("module")
    if not isinstance(kind, str) or ">" in f"{kind}{item.get('registered_name') or ''}":
        return False
    if module is None:  # values, and whole .h5 files
        return kind in _LAYERS or kind in _MODELS or kind in _VALUES or _is_helper(kind)
    if not isinstance(module, str):
        return False
    if kind == "function":
        return module in _FUNCTIONS and isinstance(item.get("config"), str) and item["config"].isidentifier()
    allowed = {"keras.layers": _LAYERS, "keras": _MODELS | {"DTypePolicy"}, "keras.models": _MODELS}.get(module)
    if module.startswith("keras.src.models."):
        allowed = _MODELS
    if allowed is not None:
        return kind in allowed
    return module in _HELPERS or (module.startswith(_OPERATIONS) and kind.isidentifier())


def _is_helper(kind: str) -> bool:
    """Whether an .h5 file, which gives no module, names an initializer, regularizer, constraint or operation."""
    import keras

    homes = (keras.initializers, keras.regularizers, keras.constraints)
    operations = {item.__name__ for item in keras.Operation.__subclasses__() if item.__module__.startswith(_OPERATIONS)}
    return kind in operations | {"DTypePolicy"} or any(isinstance(getattr(home, kind, None), type) for home in homes)


def _described(item: dict[str, Any]) -> str:
    kind, module, inner = str(item.get("class_name")), item.get("module"), item.get("config")
    name = shown(str(inner.get("name", "") if isinstance(inner, dict) else inner))
    if kind in {"Lambda", "__lambda__"}:
        return f"a Lambda layer '{name}'"
    if kind == "function":
        return f"the function '{name}' of {shown(str(module))}"
    home = f" of {shown(str(module))}" if module else ""
    return f"{shown(kind)}{home}" + (f" ('{name}')" if name else "")


def _config_in_zip(target: str) -> Any:
    opened = inspect(target)
    try:
        with open_zip(opened) as archive:
            if (bad := archive.testzip()) is not None:
                raise NndiagError(f"'{target}' is damaged: '{shown(bad)}' fails its checksum", hint="write it again")
            return json.loads(archive.read("config.json"))
    except _ENDINGS as bad:
        raise NndiagError(f"'{target}' is damaged: {said(bad)}", hint="write it again") from bad
    except KeyError as missing:
        raise NndiagError(
            f"'{target}' is a zip file without Keras's config.json", hint="write it with model.save('model.keras')"
        ) from missing


def _config_in_h5(target: str) -> Any:
    if find_spec("h5py") is None:
        raise NndiagError(".h5 files need h5py, which is not installed", hint="pip install 'nndiag[keras]'")
    import h5py

    try:
        with h5py.File(Path(target), "r") as file:
            text = file.attrs.get("model_config")
            if text is None:
                raise NndiagError(
                    f"'{target}' holds weights without a model", hint="save both: model.save('model.keras')"
                )
            text = text.decode() if isinstance(text, bytes) else str(text)
            return json.loads(text[:_CONFIG_BYTES])
    except (OSError, ValueError, RuntimeError, KeyError, RecursionError) as broken:
        raise NndiagError(f"'{target}' is damaged: {shown(said(broken), 120)}", hint="write it again") from broken
