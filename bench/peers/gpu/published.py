"""FlashAttention-3 (its main branch of August 2026) over cuDNN 9.19 (through PyTorch 2.11), bf16, both measured in one run
on one NVIDIA H200: TFLOP/s of either. Power and clocks move each figure by several percent from run to run, the quotient less:
times a run's own cuDNN it stands for FlashAttention-3 where that is not installed. Data only.
"""

LENGTHS = (512, 2048, 8192, 16384)

# (head dim, causal): (cuDNN, FlashAttention-3) at each of LENGTHS; 16384 tokens in all, 2048 / head dim heads.
TFLOPS = {
    (64, False): ((385, 330), (446, 465), (459, 521), (446, 522)),
    (64, True): ((260, 223), (378, 412), (438, 498), (469, 519)),
    (128, False): ((521, 509), (639, 635), (599, 670), (617, 680)),
    (128, True): ((335, 325), (504, 564), (535, 641), (560, 676)),
    (256, False): ((520, 526), (635, 694), (655, 725), (660, 738)),
    (256, True): ((339, 339), (523, 618), (628, 756), (613, 714)),
}

BACKWARD_TFLOPS = {
    (64, False): ((282, 327), (422, 472), (448, 512), (446, 519)),
    (64, True): ((167, 196), (323, 407), (422, 505), (436, 531)),
    (128, False): ((342, 355), (486, 531), (521, 586), (535, 593)),
    (128, True): ((213, 224), (407, 480), (512, 573), (517, 593)),
    (256, False): ((238, 290), (346, 426), (355, 452), (353, 456)),
    (256, True): ((178, 198), (320, 371), (418, 444), (407, 455)),
}


def best_over_cudnn(d, causal, length, table=None):
    """What the best of the two reached, over cuDNN: at least 1."""
    cudnn, fa3 = (table or TFLOPS)[d, causal][LENGTHS.index(length)]
    return max(1.0, fa3 / cudnn)
