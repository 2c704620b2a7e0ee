"""Does the recommended recipe still help when the models train three times as long?"""

_base_ = 'wta_models.py'
name = 'wta_models_long'
title = 'Three models, three times the updates, with and without pasted defects on the cutting inserts'
text = (
    'The models and settings of wta_models.py with 1,500 updates instead of 500. `..._kept`: half of the draws are '
    'real images, a quarter clean ones with real defects blended in, a quarter clean ones. Chosen on validation, '
    'tested once; calibrated values use offsets fitted on validation.'
)
iterations = 1500
