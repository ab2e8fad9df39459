"""Forensic realism: detectors of generated pictures, what they can be fooled by, and training one of one's own.

The score of every detector is the log-odds that the picture is *real*: higher is more real, 0 is undecided. No sigmoid
is taken, because strong detectors saturate. A rise says something only where `check.check_detector` finds the detector
informative and no control raises it as much.
"""
