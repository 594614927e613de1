"""What part does a call play in the network: affine map, activation, normaliser, dropout, shape?"""

from __future__ import annotations

from torch import nn
from torch.nn.modules import activation, dropout, padding, pooling
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

AFFINE, RECURRENT, ATTENTION, EMBEDDING = "affine", "recurrent", "attention", "embedding"
NORMALISER, ACTIVATION, DROPOUT, POOL = "normaliser", "activation", "dropout", "pool"
SHAPE, ADD, MUL, MATMUL, REDUCE, RANDOM, OTHER = "shape", "add", "mul", "matmul", "reduce", "random", "other"

WEIGHTED = frozenset({AFFINE, RECURRENT, EMBEDDING, ATTENTION})
PASSIVE = frozenset({SHAPE, DROPOUT, POOL})  # what a unit's identity survives

_WORDS = {
    AFFINE: "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d bilinear addmm addmv",
    RECURRENT: "lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell",
    ATTENTION: "scaled_dot_product_attention multi_head_attention_forward",
    EMBEDDING: "embedding embedding_bag",
    NORMALISER: "batch_norm layer_norm group_norm instance_norm rms_norm local_response_norm normalize",
    ACTIVATION: (
        "relu relu6 gelu silu mish elu selu celu leaky_relu prelu rrelu sigmoid logsigmoid tanh softplus "
        "softsign tanhshrink hardtanh hardswish hardsigmoid hardshrink softshrink threshold glu softmax "
        "log_softmax softmin gumbel_softmax sin cos exp expit clamp clamp_min"
    ),
    DROPOUT: "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout",
    POOL: (
        "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
        "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
        "boolean_dispatch lp_pool2d _max_pool2d max_pool2d_with_indices interpolate upsample"
    ),
    SHAPE: (
        "view reshape transpose permute flatten unflatten squeeze unsqueeze getitem contiguous clone to float "
        "double half bfloat16 type type_as t T mT H swapaxes swapdims movedim expand expand_as repeat chunk "
        "split unbind unfold fold narrow index_select gather take select detach cat concat stack hstack "
        "vstack pad roll flip rearrange data real view_as reshape_as tensor_split repeat_interleave "
        "pixel_shuffle pixel_unshuffle cuda cpu alias atleast_1d atleast_2d masked_fill where as_strided "
        "broadcast_to slice ravel requires_grad_ setitem"
    ),
    ADD: "add sub rsub subtract",
    MUL: "mul div multiply divide",
    MATMUL: "matmul bmm mm einsum baddbmm tensordot mv dot inner outer",
    REDUCE: "mean sum amax amin max min logsumexp var std norm prod cumsum any all argmax",
    RANDOM: (
        "bernoulli rand randn rand_like randn_like randint randperm multinomial normal uniform exponential "
        "native_dropout randint_like"
    ),
}
_FUNCTIONS = {word: role for role, words in _WORDS.items() for word in words.split()}

_ACTIVATIONS = tuple(
    item
    for name, item in vars(activation).items()
    if isinstance(item, type) and issubclass(item, nn.Module) and name in activation.__all__
)
_MODULES: tuple[tuple[tuple[type, ...], str], ...] = (
    ((nn.MultiheadAttention,), ATTENTION),
    ((nn.Linear, _ConvNd, nn.Bilinear), AFFINE),
    ((nn.RNNBase, nn.RNNCellBase), RECURRENT),
    ((nn.Embedding, nn.EmbeddingBag), EMBEDDING),
    ((_BatchNorm, _InstanceNorm, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.RMSNorm), NORMALISER),
    ((dropout._DropoutNd,), DROPOUT),  # noqa: SLF001 - the one base that all of torch's dropouts share
    (_ACTIVATIONS, ACTIVATION),
    (
        tuple(item for name, item in vars(pooling).items() if isinstance(item, type) and name in pooling.__all__),
        POOL,
    ),
    (
        tuple(item for name, item in vars(padding).items() if isinstance(item, type) and name in padding.__all__),
        SHAPE,
    ),
    ((nn.Flatten, nn.Unflatten, nn.Identity, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle), SHAPE),
    ((nn.Upsample,), POOL),
)


def role_of_module(module: nn.Module) -> str:
    """Return the role of a module by its class; classes of other packages by what their names promise."""
    for kinds, role in _MODULES:
        if isinstance(module, kinds):
            return role
    name = type(module).__name__
    if type(module).__module__.startswith("torch.nn.utils."):
        return OTHER  # parametrisations work on weights: _WeightNorm normalises no signal
    if name.endswith(("Norm", "Norm1d", "Norm2d", "RMSNorm", "LayerNorm")):
        return NORMALISER
    if name == "Conv1D":  # Hugging Face's: a linear map with a transposed weight
        return AFFINE
    if name.endswith("Activation") or type(module).__module__.startswith("transformers.activations"):
        return ACTIVATION
    return OTHER


def role_of_function(op: str, *, activations: int, weights: int) -> str:
    """Return the role of a torch function.

    Args:
        op: Its bare name.
        activations: How many of its tensor arguments depend on the model's inputs.
        weights: How many are parameters.
    """
    role = _FUNCTIONS.get(op, OTHER)
    if role is MATMUL and weights:
        return AFFINE
    if role in {ADD, MUL} and activations < 2:
        return OTHER if weights else SHAPE  # a constant shift or scale moves no unit into another
    return role
