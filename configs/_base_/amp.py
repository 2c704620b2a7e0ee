# Mixed precision, as `tools/train.py --amp`: float16 with loss scaling; needs a GPU.
amp = True
