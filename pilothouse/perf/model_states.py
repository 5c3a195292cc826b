"""What layers keep of a running sequence whatever its length: recurrent states, and last inputs of convolutions."""

from pilothouse.perf.config_fields import Fields
from pilothouse.perf.model_layers import Layer, Mixer
from pilothouse.perf.model_shapes import attention_shape, delta_shape, kimi_shape, mamba1_shape, mamba2_shape

STATE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
INPUT_BYTES = 2  # of an activation: a convolution's last inputs, and states where nobody says


def state_bytes(fields: Fields, layers: list[Layer], hidden: int) -> float:
    """What all layers keep of one running sequence, however short: recurrent states, and last inputs."""
    return sum(_state(fields, mixer, hidden) for layer in layers for mixer in layer.mixers)


def _state(fields: Fields, mixer: Mixer, hidden: int) -> float:
    past = fields.number("linear_conv_kernel_dim", "mamba_d_conv", "conv_kernel", default=4) - 1
    match mixer:
        case Mixer.DELTA:
            keys, values, heads, key, value = delta_shape(fields)
            return heads * key * value * _width(fields) + (2 * keys + values) * past * INPUT_BYTES
        case Mixer.KIMI:
            heads, width = kimi_shape(fields)
            return heads * width * width * 4 + 3 * heads * width * past * INPUT_BYTES
        case Mixer.LIGHTNING:
            shape = attention_shape(fields, Mixer.FULL)
            return shape.heads * shape.key * shape.key * INPUT_BYTES
        case Mixer.MAMBA2:
            heads, width, state, groups = mamba2_shape(fields)
            kept = (heads * width + 2 * groups * state) * past * INPUT_BYTES
            return heads * width * state * _width(fields) + kept
        case Mixer.MAMBA1:
            inner, state, _ = mamba1_shape(fields, hidden)
            return inner * (state * _width(fields) + past * INPUT_BYTES)
        case Mixer.CONVOLUTION:
            return hidden * (fields.number("conv_L_cache", default=3) - 1) * INPUT_BYTES
    return 0.0


def _width(fields: Fields) -> int:
    """Of one value of a recurrent state [bytes]: as declared, else as activations are, which is what vLLM takes."""
    said = fields.word("mamba_ssm_dtype") or fields.word("mamba_ssm_cache_dtype")
    return STATE_BYTES.get(said, INPUT_BYTES)
