# Validate and save an exponential moving average of the weights, over about the last 1 / momentum iterations.
ema = dict(momentum=0.002)
