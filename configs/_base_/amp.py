# Mixed precision, as `tools/train.py --amp`: float16 with loss scaling on a GPU, bfloat16 on a CPU that has it.
amp = True
