"""flash_attn.h for Python's ctypes: the structs field by field, and two ways to attend over PyTorch's tensors.

`Attention` is a plan with its workspace, on CPUs and GPUs, with every forward feature; `Call` plans anew at each call, on CPUs.
Only what the peer benchmarks need; the layouts are checked against the library when it is loaded. Knows nothing of benchmarks.
"""
import ctypes as c
import math

MAX_RANK = 4
DTYPES = {"f32": 1, "f16": 2, "bf16": 3}
# PyTorch's names of dtypes; the 64-bit words of a tree mask come as int64.
TENSOR_DTYPES = {"torch.float32": 1, "torch.float16": 2, "torch.bfloat16": 3, "torch.int32": 6, "torch.int64": 7, "torch.bool": 8}
MASK_FULL, MASK_CAUSAL, MASK_TREE = 0, 1, 2
DIAGONAL_BOTTOM_RIGHT, DIAGONAL_TOP_LEFT = 0, 1
KV_PAGED = 1
DEVICE_CPU, DEVICE_CUDA = 0, 1
RUN_NO_COMPILE = 1
DIRECTION_BACKWARD = 1
FLAG_DETERMINISTIC = 1
# Vectors of int32 that only a bit of the description announces.
INPUT_BITS = {"cu_seqlens_q": 1, "cu_seqlens_k": 2, "seqused_q": 4, "seqused_k": 8, "leftpad_k": 16, "cache_batch_idx": 32}


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


class Workspace(c.Structure):
    _fields_ = (_fields(c.c_uint32, "struct_size reserved") + [("scratch", c.c_void_p), ("scratch_bytes", c.c_size_t)]
                + [("state", c.c_void_p), ("state_bytes", c.c_size_t)])


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
        self.lib.fa_plan_workspace.argtypes = [c.c_void_p] * 3
        self.lib.fa_prepare.argtypes = [c.c_void_p] * 2
        self.lib.fa_state_init.argtypes = [c.c_void_p, c.c_void_p, c.c_size_t, c.c_void_p]
        self.lib.fa_run.argtypes = [c.c_void_p] * 4 + [c.c_uint32]
        self.lib.fa_version.restype = c.c_uint32
        for kind, init in ((AttentionDesc, self.lib.fa_attention_desc_init), (AttentionArgs, self.lib.fa_attention_args_init),
                           (Workspace, self.lib.fa_workspace_init)):
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


def describe(library, tensors, options):
    """The description of a problem: tensors by their names in it, in the library's order ([b, s, h, d]; a base may be promised to
    lie on 16 bytes, as PyTorch's allocations do), and its plain fields. Tensors of PyTorch's device "meta" will do."""
    desc = AttentionDesc()
    library.check(library.lib.fa_attention_desc_init(c.byref(desc)))
    desc.device_type = DEVICE_CPU if tensors["q"].device.type == "cpu" else DEVICE_CUDA
    for name, tensor in tensors.items():
        if name in INPUT_BITS:
            desc.inputs |= INPUT_BITS[name]
        elif name != "tree_sizes":
            shape, strides = tuple(tensor.shape), tuple(tensor.stride())
            setattr(desc, name, TensorDesc(TENSOR_DTYPES[str(tensor.dtype)], len(shape), (c.c_int64 * MAX_RANK)(*shape),
                                           (c.c_int64 * MAX_RANK)(*strides), 0))
    for name, value in options.items():
        setattr(desc, name, value)
    return desc


class Plan:
    """A plan of the library. Making one touches no device; prepare() compiles and loads, and may be called from any thread."""

    def __init__(self, library, desc):
        self._library = library
        self.handle = c.c_void_p()
        library.check(library.lib.fa_plan_create(c.byref(desc), c.byref(self.handle)))

    def __del__(self):
        self._library.lib.fa_plan_destroy(self.handle)

    def kernel(self):
        return self._library.lib.fa_plan_kernel(self.handle).decode()

    def workspace(self):
        scratch, state = c.c_size_t(), c.c_size_t()
        self._library.check(self._library.lib.fa_plan_workspace(self.handle, c.byref(scratch), c.byref(state)))
        return scratch.value, state.value

    def prepare(self, context=None):
        self._library.check(self._library.lib.fa_prepare(self.handle, context))


class Attention:
    """A prepared plan with workspace and pointers; each call queues one run on PyTorch's current stream (or runs, on a CPU)."""

    def __init__(self, library, tensors, options=None, dropout_seed=0, plan=None):
        import torch

        self._library, self._torch, self.tensors = library, torch, dict(tensors)
        self._is_cuda = tensors["q"].device.type == "cuda"
        if plan is None:
            plan = Plan(library, describe(library, tensors, options or {}))
            plan.prepare()
        self.plan = plan
        self.args = AttentionArgs()
        library.check(library.lib.fa_attention_args_init(c.byref(self.args)))
        self.args.dropout_seed = dropout_seed
        for name, tensor in tensors.items():
            setattr(self.args, name, tensor.data_ptr())
        self._make_workspace(tensors["q"].device)
        self._run = library.lib.fa_run
        self._pointers = (plan.handle, c.addressof(self.args), c.addressof(self.workspace))

    def _make_workspace(self, device):
        scratch, state = self.plan.workspace()
        self.workspace = Workspace()
        self._library.check(self._library.lib.fa_workspace_init(c.byref(self.workspace)))
        # A tensor's start may have any alignment on a CPU; the library asks for 64 bytes.
        self._memory = self._torch.empty(scratch + state + 192, dtype=self._torch.uint8, device=device)
        begin = (self._memory.data_ptr() + 63) // 64 * 64
        self.workspace.scratch, self.workspace.scratch_bytes = begin, scratch
        self.workspace.state, self.workspace.state_bytes = begin + (scratch + 63) // 64 * 64, state
        if state:
            self._library.check(self._library.lib.fa_state_init(self.plan.handle, self.workspace.state, state, self._stream()))

    def _stream(self):
        return self._torch.cuda.current_stream().cuda_stream if self._is_cuda else None

    def __call__(self):
        if self._run(*self._pointers, self._stream(), RUN_NO_COMPILE) != 0:
            self._library.check(1)
        return self.tensors["o"]


def _tensor(tensor, dtype):
    """A [batch, head, row, dim] tensor of PyTorch's order as the library's [batch, row, head, dim]."""
    b, h, s, d = tensor.shape
    strides = tensor.stride()
    order = (strides[0], strides[2], strides[1], strides[3])
    return TensorDesc(DTYPES[dtype], 4, (c.c_int64 * 4)(b, s, h, d), (c.c_int64 * 4)(*order), 0)


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
