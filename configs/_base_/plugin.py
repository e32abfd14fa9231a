# What every config of this package has, whatever its backbone.
custom_imports = dict(imports=['lip_mmdet.plugin'], allow_failed_imports=False)

# What MMDetection would leave out of the data, or learn wrongly, is said before it starts. A killed
# run goes on with --resume, to the bits of one left alone. Hooks of yours fit into `default_hooks`,
# under any name: `custom_hooks` of yours would be instead of these.
custom_hooks = [dict(type='CheckDataHook'), dict(type='LIPResumeHook')]

# COCO scores at most 1, 10 and 100 detections an image; MMDetection's default reports AP50, AP75
# and the area figures with 1000.
coco_limits = dict(proposal_nums=(1, 10, 100))
