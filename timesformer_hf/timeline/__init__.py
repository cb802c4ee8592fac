"""
What happens when: windows over long videos and live streams, the segments that follow from them, and their files.

May import: `data`, `inference`, `model`, `output` and `video`. Start with `video_timeline.py`.
"""
