# What a policy is learned with: pastes made on the device; a third of the images real, a third pasted, a third clean.
synthesis = dict(where='device', ratio=dict(real=1, synthetic=1, clean=1))
