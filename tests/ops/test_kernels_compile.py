"""Every kernel compiles for a GPU, whichever of its integers is 1: Triton makes that a constant,
which the interpreter does not.

The compiler is this file run as a program, since the other tests interpret kernels.
"""

import os
import subprocess
import sys

import pytest

TYPES = {
    **dict.fromkeys(("similarity",), "*i32"),
    **dict.fromkeys(("x_counts", "y_counts", "x_ids", "y_ids", "x_left", "y_left"), "*i64"),
    **dict.fromkeys(("ids", "others"), "*i64"),
    **dict.fromkeys(("x_real", "y_real", "real", "others_real"), "*i1"),
    **dict.fromkeys(("x", "y", "weights", "i2t_weights", "t2i_weights"), "*bf16"),
    **dict.fromkeys(("counts", "num", "x_num", "y_num"), "*i32"),
}
INTEGERS = (
    "rows num_p num_n half texts columns n_stride_p n_stride_i p_stride_i p_stride_n chunks "
    "splits per_split eighths strip num_parts size stride width "
    "x_stride_r x_stride_g y_stride_c y_stride_g num_ids num_left"
).split()
MATCHING = ("reduce", "combine", "weigh")
CONTRAST = ("count", "negatives", "log_sum_exp", "positives", "aligned_positives", "weights")
SIZES = {"CHUNK": 24, "BLOCK_N": 32, "BLOCK_K": 64, "PLACE_BITS": 8, "PARTS": 4, "SIZE": 64}
SIZES |= {"FEW": 128, "DEPTH": 64}
CASES = [([], True), ([], False), (INTEGERS, True), (["num_p"], False), (["num_n"], False)]
SWITCHES = ("EXACT", "WHOLE", "RAGGED", "KEEP", "MASKED", "SAME", "ADD", "LEFT")


def compiled(kernel, ones: list[str], **constants) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compiled_for

    places = "*u8" if kernel.__name__ == "weigh" else "*i16"
    types = {
        **TYPES,
        **dict.fromkeys(("first_n", "first_p"), places),
        **dict.fromkeys(INTEGERS, "i32"),
    }
    names = kernel.arg_names
    constants |= {name: 1 for name in ones if name in names}
    signature = {
        name: "constexpr" if name in constants else types.get(name, "*fp32") for name in names
    }
    values = {(names.index(name),): value for name, value in constants.items()}
    compiled_for(ASTSource(kernel, signature, values, {}), target=GPUTarget("cuda", 90, 32))


def work() -> None:
    import triton.language as tl

    from intarsia.ops import contrast_kernels, matching_kernels

    fixed = {**SIZES, "FLOAT": tl.bfloat16, "PTX": True, "COMPILED": True}
    for name in (*MATCHING, *CONTRAST):
        kernel = getattr(matching_kernels if name in MATCHING else contrast_kernels, name)
        for ones, switch in CASES:
            constants = {**fixed, **dict.fromkeys(SWITCHES, switch)}
            constants = {key: constants[key] for key in constants if key in kernel.arg_names}
            if not ones or set(ones) & set(kernel.arg_names):
                compiled(kernel, ones, **constants)


def test_every_kernel_compiles_for_a_gpu(tmp_path):
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


if __name__ == "__main__":
    work()
