"""Every training times the machine's products and copies once: in tests for milliseconds, not for two seconds."""

from seodang.train import throughput

BRIEF = {
    "SECONDS_PER_SIZE": 0.01,
    "CPU_SIZES": (256,),
    "MEMORY_BYTES": {**throughput.MEMORY_BYTES, "cpu": 2**22},
}
