import pandas as pd
import pytest

PLAIN = {
    "batch": 1,
    "in_channels": 16,
    "out_channels": 32,
    "height": 14,
    "kernel_size": 3,
    "stride": 1,
    "padding": 1,
    "groups": 1,
    "precision": "fp16",
    "latency_us": 10.0,
}


def frame(*changes, drop=(), **everywhere):
    """Return plain rows, one per dictionary of changes; ``everywhere`` is in each, ``drop`` in none."""
    rows = [{**PLAIN, **everywhere, **change} for change in changes or ({},)]
    return pd.DataFrame(rows).drop(columns=list(drop))


def probe():
    """Return rows that look like those of the traced ONNX Runtime probe."""
    helper, main = "void nhwcAddPaddingKernel<__half, __half>(int, int,", "sm80_xmma_fprop_implicit_gemm"
    row = {
        "batch": 8,
        "in_channels": 256,
        "height": 14,
        "out_channels": 4,
        "kernel_size": 3,
        "stride": 1,
        "groups": 1,
        "conv_us": 13.95,
        "conv_p10_us": 13.8,
        "conv_p90_us": 14.2,
        "bias_us": 1.9,
        "relu_us": 1.25,
        "transpose_in_us": 2.25,
        "transpose_out_us": 1.5,
        "conv_kernels": 3,
        "conv_kernel_names": f"{helper};{main};{helper}",
    }
    other = {**row, "kernel_size": 1, "conv_us": 9.0, "conv_kernels": 1, "conv_kernel_names": main}
    again = {**row, "conv_us": 14.25, "conv_p10_us": 13.9, "conv_p90_us": 14.6, "bias_us": 1.95}
    return pd.DataFrame([row, {**other, "conv_p10_us": 8.9, "conv_p90_us": 9.5}, again])


class Rows:
    plain = PLAIN
    frame = staticmethod(frame)
    probe = staticmethod(probe)


@pytest.fixture(scope="session")
def rows():
    return Rows


@pytest.fixture
def saved(tmp_path):
    """Return what writes a frame to a file of rows and gives its path."""

    def save(data, name="rows.parquet"):
        path = tmp_path / name
        if name.endswith(".parquet"):
            data.to_parquet(path)
        else:
            data.to_csv(path, index=False)
        return path

    return save
