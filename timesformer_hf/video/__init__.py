"""
From video files to `pixel_values`: frames are chosen, decoded, resized, cropped and normalised.

These files may import only each other, and only as `from .sibling import`, because transformers copies them into the
folder of a saved model. Start with `video_processing_timesformer.py`, and for decoding alone with `video_decoding.py`.
A video file goes through these files, in this order:

- `video_sources` and `video_downloads`: a path, URL, bytes or object becomes a file that can seek
- `safe_opening` (with `index_size` and `video_options`): only containers, within limits
- `video_stream`: which stream, its frame rate and times
- `video_packets`: which frames the packets promise. `picture_order` knows the order of display, with `nal_units`,
  `nal_order` and `coded_headers` for H.264 and HEVC, and `av1_units` for AV1
- `video_sampling`: which frames are chosen
- `decoding_plan`: which stretches are decoded, by how many decoders
- `video_decoding`, with `decoder_output` (the check against the promise) and `damaged_packets`
- `frame_colours`, `display_orientation` and `frame_sizes`: RGB, upright, all of one size
- `clip_processing` and `multi_view`: resizing, crops, views

`video_errors` and `printable` are about messages.
"""
