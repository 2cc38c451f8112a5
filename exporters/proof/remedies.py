"""Remedies: what usually helps when a converter refuses an operator, or a file computes something else."""

from __future__ import annotations

import re

TABLE = (  # pattern of "operator · message", lower case; the first that matches is told
    (
        r"data-dependent|guardondata|could not guard|control flow|unhinted|bool\(\) of|unbackedsym|tensor\.item|_local_scalar_dense",
        "the network decides on values of its tensors, which no fixed graph can: use torch.where(condition, a, b) for "
        "if, a fixed number of steps for while, shapes in place of .item() and masks in place of nonzero()",
    ),
    (
        r"constraints violated|dynamic shape|specializ|free dimensions|convert_shape|symint|is not a constant dimension",
        "a free dimension is used as if it were fixed: keep sizes in the graph (x.shape[2], not an int of before), "
        "name only those that may vary (dynamic=…), or give sizes as buckets",
    ),
    (
        r"output_padding|mhlo\.convolution|convtranspose|conv_transpose|convolution_backward",
        "transposed convolutions with output_padding or groups are refused by some converters: enlarge by "
        "interpolate(scale_factor=2) or pixel_shuffle and convolve after it, or drop output_padding and crop",
    ),
    (
        r"instance_norm|instancenorm",
        "InstanceNorm: use track_running_stats=True and fold it, or write it out as (x − mean) / sqrt(var + eps) over "
        "height and width",
    ),
    (r"leaky_relu|leakyrelu|rrelu", "leaky ReLU: write it as torch.maximum(x, slope * x), which is the same"),
    (
        r"complex|fft|stft|istft|view_as_complex|polar|linalg_eig",
        "complex numbers have no place in these formats: compute with real and imaginary parts (cos and sin for "
        "rotary positions), or move the transform out of the network",
    ),
    (
        r"int64|\bi64\b|\blong\b|overflow",
        "64-bit integers: indices that fit 32 bits can be .to(torch.int32) from the start; TFLite takes int32",
    ),
    (
        r"float64|double|\bf64\b",
        "double precision: module.float(), and float32 constants (torch.tensor(x, dtype=torch.float32))",
    ),
    (
        r"grid_sampl",
        "grid_sample: where the grid is regular, interpolate does the same; else keep to ONNX and OpenVINO",
    ),
    (
        r"unique|nonzero|masked_select|topk|\bsort\b|argsort|multinomial|nms",
        "the size of its answer depends on values: move the choice out of the network, and give back scores",
    ),
    (
        r"lstm|gru|rnn",
        "recurrent layers: export one step with its state as an input and an output, and loop outside",
    ),
    (
        r"dropout|rand|bernoulli|normal_|uniform_",
        "randomness: module.eval(), and noise as an input of the network",
    ),
    (
        r"batch_norm|batchnorm|running_mean",
        "batch norm in training mode computes with the batch: module.eval()",
    ),
    (
        r"out of memory|sigkill|bad_alloc|cannot allocate",
        "too little memory: export fewer formats at a time, smaller buckets, or on a larger machine",
    ),
    (
        r"no onnx function found|lowering not found|not supported|unsupported|no conversion|not implemented|legalize|"
        r"couldn't translate|no decompositions|cannot create .* layer",
        "this operator is unknown to the converter: write it with simpler ones (additions, products, matmul, exp), or "
        "leave it to the program around the network",
    ),
)
PARITY = (
    "is the module in eval() and free of randomness, of counters that a call changes, and of control flow on values "
    "(if, .item(), torch.compiler.is_exporting())?"
)


def remedy(*words: str) -> str:
    """What usually helps, told from operators, classes and messages; "" where nothing is known."""
    text = " · ".join(words).lower()
    return next((help for pattern, help in TABLE if re.search(pattern, text)), "")
