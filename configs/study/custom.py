# A study of your own: copy this file, set what is above the line, and run from the project's root
#   python tools/study.py my_study.py
# It trains each detector once for each seed, and says by how much they differ and how sure that is.
name = 'mine'
results = 'studies/mine'  # detections, annotations, figures and tables; small enough to commit
plain = 'plain.py'  # configs as seen from this file: a detector of yours
lip = 'lip.py'  # and the same with LIP
seeds = [0, 1, 2]
max_dets = 100  # detections of an image that count; see max_per_img of the configs, too

# --- nothing below needs an edit ---------------------------------------------------------------
arms = [
    dict(name='plain', config=plain, seeds=seeds),
    dict(name='lip', config=lip, seeds=seeds),
]
compared = [('lip', 'plain')]
