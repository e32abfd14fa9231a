# What every config of this package has, whatever its backbone.
custom_imports = dict(imports=['lip_mmdet.plugin'], allow_failed_imports=False)

# What MMDetection would leave out of the data, or learn wrongly, is said before it starts.
custom_hooks = [dict(type='CheckDataHook')]

# COCO scores at most 1, 10 and 100 detections an image; MMDetection's default reports AP50, AP75
# and the area figures with 1000.
coco_limits = dict(proposal_nums=(1, 10, 100))
