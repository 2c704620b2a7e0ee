# Beside the real training data: a packed set of generated images (tools/generate.py pack).
generated = dict(folder='data/generated/relabelled', ratio=dict(real=3, generated=1))
