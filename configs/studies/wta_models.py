"""Does the recommended recipe help models of different size on the cutting inserts?"""

_base_ = '_base_/wta_frozen.py'
name = 'wta_models'
title = 'Three models with and without pasted defects on the cutting inserts'
text = (
    'Three segmentors on frozen ImageNet backbones (`weights/`): FPN on MobileNetV2 (2.3 M parameters, the last stage '
    'learns), FPN on a ResNet-18 without its fourth stage (3.1 M), and the larger head of DeepLabV3+ on the same (6.3 '
    'M). Crop 256, batch 4, softmax focal loss with alpha .1 .3 .6, bfloat16, equal updates. `..._kept`: half of the '
    'draws are real images, a quarter clean ones with real defects blended in, a quarter clean ones (the ratio of the '
    'configs). Chosen on validation, tested once; calibrated values use offsets fitted on validation.'
)
factor = dict(name='model and synthesis', keys=['model*', '*synthesis*', '*sampler*', '*dataset*', '*custom_hooks*'])
baseline = 'fpn_r18'

_models, _weights = 'configs/_base_/models', 'configs/_base_/weights'
_settings = dict(
    fpn_r18=[f'{_weights}/resnet18-l3_file.py'],
    fpn_mobilenetv2=[f'{_models}/fpn_mobilenetv2_frozen.py', f'{_weights}/mobilenetv2_file.py'],
    deeplabv3plus_r18=[f'{_models}/deeplabv3plus_r18-l3_frozen.py', f'{_weights}/resnet18-l3_file.py'],
)
_notes = dict(fpn_r18='FPN, ResNet-18', fpn_mobilenetv2='FPN, MobileNetV2', deeplabv3plus_r18='DeepLabV3+, ResNet-18')
arms, pairs = {}, []
for _name, _bases in _settings.items():
    arms[_name] = dict(bases=_bases, note=f'{_notes[_name]}, no synthesis')
    arms[f'{_name}_kept'] = dict(
        bases=[*_bases, 'configs/_base_/synthesis/paste_poisson.py'], note='half real, a quarter pasted'
    )
    pairs.append((_name, f'{_name}_kept'))
