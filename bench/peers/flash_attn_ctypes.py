"""flash_attn.h for Python's ctypes: the structs field by field, and one call that attends over PyTorch CPU tensors.

Only what the peer benchmarks need; the layouts are checked against the library when it is loaded. Knows nothing of benchmarks.
"""
import ctypes as c
import math

MAX_RANK = 4
DTYPES = {"f32": 1, "f16": 2, "bf16": 3}
MASK_FULL, MASK_CAUSAL = 0, 1
DEVICE_CPU = 0


class TensorDesc(c.Structure):
    _fields_ = [("dtype", c.c_int32), ("rank", c.c_int32), ("shape", c.c_int64 * MAX_RANK), ("stride", c.c_int64 * MAX_RANK),
                ("alignment", c.c_int64)]


def _fields(kind, names):
    return [(name, kind) for name in names.split()]


class AttentionDesc(c.Structure):
    _fields_ = (
        _fields(c.c_uint32, "struct_size flags inputs")
        + _fields(c.c_int32, "direction device_type device_index kv_layout mask_kind diagonal num_threads sm_limit num_splits")
        + _fields(c.c_int64, "batch max_s_q max_s_k split_size diagonal_offset window_left window_right first_keys chunk")
        + _fields(c.c_float, "scale softcap dropout_p")
        + _fields(c.c_int32, "reserved")
        + _fields(TensorDesc, "q k v o lse block_table alibi bias mask tree_mask sink k_new v_new rotary_cos rotary_sin "
                              "q_descale k_descale v_descale dout dq dk dv dlse dbias dsink dslopes")
        + _fields(c.c_char_p, "kernel isa score_mod"))


class AttentionArgs(c.Structure):
    _fields_ = (
        _fields(c.c_uint32, "struct_size reserved")
        + _fields(c.c_void_p, "q k v o lse cu_seqlens_q cu_seqlens_k seqused_q seqused_k leftpad_k cache_batch_idx block_table "
                              "k_ptrs v_ptrs mask_kinds diagonal_offsets tree_sizes alibi bias mask tree_mask sink")
        + _fields(c.c_uint64, "dropout_seed dropout_offset")
        + _fields(c.c_void_p, "dropout_seed_ptr dropout_offset_ptr k_cache_out v_cache_out k_new v_new cu_seqlens_k_new "
                              "seqlens_rotary rotary_cos rotary_sin q_descale k_descale v_descale dout dq dk dv dlse dbias dsink "
                              "dslopes"))


class Library:
    """libflash_attn.so; every failure is an exception with the library's own message."""

    def __init__(self, path):
        self.lib = c.CDLL(str(path))
        self.lib.fa_last_error.restype = c.c_char_p
        self.lib.fa_cpu_isa_name.restype = c.c_char_p
        self.lib.fa_plan_kernel.restype = c.c_char_p
        self.lib.fa_plan_kernel.argtypes = [c.c_void_p]
        self.lib.fa_plan_destroy.argtypes = [c.c_void_p]
        self.lib.fa_plan_destroy.restype = None
        self.lib.fa_version.restype = c.c_uint32
        for kind, init in ((AttentionDesc, self.lib.fa_attention_desc_init), (AttentionArgs, self.lib.fa_attention_args_init)):
            # Room for a library whose struct is larger than the one mirrored here: then the sizes differ, and that is refused.
            memory = c.create_string_buffer(4 * c.sizeof(kind))
            self.check(init(memory))
            size = c.c_uint32.from_buffer(memory).value
            if size != c.sizeof(kind):
                raise RuntimeError(f"{kind.__name__} has {c.sizeof(kind)} bytes here but {size} in {path}")

    def check(self, status):
        if status != 0:
            raise RuntimeError(self.lib.fa_last_error().decode())

    def version(self):
        number = self.lib.fa_version()
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"

    def set_num_threads(self, threads):
        self.check(self.lib.fa_set_num_threads(c.c_int32(threads)))

    def isa_names(self):
        names = []
        while (name := self.lib.fa_cpu_isa_name(c.c_int32(len(names)))) is not None:
            names.append(name.decode())
        return names

    def device_text(self):
        buffer = c.create_string_buffer(1 << 16)
        self.check(self.lib.fa_device_text(DEVICE_CPU, 0, buffer, c.c_size_t(len(buffer)), None))
        return dict(line.split(": ", 1) for line in buffer.value.decode().splitlines() if ": " in line)


def _tensor(tensor, dtype):
    """A [batch, head, row, dim] tensor of PyTorch's order as the library's [batch, row, head, dim]."""
    b, h, s, d = tensor.shape
    strides = tensor.stride()
    return TensorDesc(DTYPES[dtype], 4, (c.c_int64 * 4)(b, s, h, d), (c.c_int64 * 4)(strides[0], strides[2], strides[1], strides[3]), 0)


class Call:
    """One problem, ready to run as often as wanted: each call plans and runs, as a caller without a plan does."""

    def __init__(self, library, q, k, v, dtype, causal=False, isa=None):
        import torch

        self.library = library
        self.tensors = (q, k, v)
        self.out = torch.empty(q.shape[0], q.shape[1], q.shape[2], v.shape[3], dtype=q.dtype)
        self.desc, self.args = AttentionDesc(), AttentionArgs()
        library.check(library.lib.fa_attention_desc_init(c.byref(self.desc)))
        library.check(library.lib.fa_attention_args_init(c.byref(self.args)))
        for name, tensor in zip(("q", "k", "v", "o"), (q, k, v, self.out)):
            setattr(self.desc, name, _tensor(tensor, dtype))
            setattr(self.args, name, tensor.data_ptr())
        self.desc.mask_kind = MASK_CAUSAL if causal else MASK_FULL
        self.desc.scale = 1.0 / math.sqrt(q.shape[3])
        self.desc.isa = isa.encode() if isa else None
        self._function = library.lib.fa_attention
        self._pointers = (c.byref(self.desc), c.byref(self.args), None)

    def kernel(self):
        plan = c.c_void_p()
        self.library.check(self.library.lib.fa_plan_create(c.byref(self.desc), c.byref(plan)))
        name = self.library.lib.fa_plan_kernel(plan).decode()
        self.library.lib.fa_plan_destroy(plan)
        return name

    def __call__(self):
        if self._function(*self._pointers) != 0:
            self.library.check(1)
        return self.out
